/*
 * A reader: a process that reads pages of the table for the workers of a host, one page at a time
 * (read_channel.h). It keeps its database connection until no question has come for a second. The manager
 * starts readers (reader_pool.h). A reader ends when all workers have ended. If the manager has died before,
 * the reader goes on, because the workers need it for their last polls.
 *
 * If PGPOLL_CATCH_UP_SERVICE names a standby, the reader reads old pages there, and all others from the
 * primary (ARCHITECTURE.md, "Pages from a standby").
 */
#ifndef PGPOLL_READER_H
#define PGPOLL_READER_H

struct config;

/*
 * Answers the questions in this queue until all workers have closed it. servers: the manager's memory for
 * server_memory_share(). state: the memory for reader_state_join(). Returns the exit status; errors are
 * logged.
 */
int reader_run(const struct config *config, int queue, int servers, int state);

#endif
