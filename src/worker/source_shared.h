/*
 * The message source of a worker that has a manager. It has no database connection. It reads the message
 * ring, and asks a reader process to read from the table what the ring does not hold (read_channel.h). It
 * asks the manager for what only the database knows: whether the user may poll, and where topics begin that
 * are new to the ring (scoreboard.h). A signal wakes it (latch.h).
 */
#ifndef PGPOLL_SOURCE_SHARED_H
#define PGPOLL_SOURCE_SHARED_H

#include "worker/message_source.h"

struct config;
struct scoreboard;

/*
 * Creates the source of the calling worker process. worker is the index of its slot in the scoreboard. config
 * and scoreboard are borrowed for the life of the source. Free it with its operation free(). Returns NULL if
 * out of memory.
 */
struct message_source *source_shared_new(const struct config *config, struct scoreboard *scoreboard,
                                         int worker);

#endif
