/*
 * What the manager writes down: which of its workers' polls wait (pgpoll.waiters), what they counted (pgpoll.counters), how many of
 * them are free and whether LISTEN delivers (pgpoll.listeners). In batches, at most one a second and, when nothing changed, one in
 * five seconds, over a connection of its own, so that news never wait for it. Driven by the manager's loop; never blocks.
 */
#ifndef PGPOLL_STATS_WRITER_H
#define PGPOLL_STATS_WRITER_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

struct config;
struct scoreboard;
struct stats_writer;

/* config and scoreboard are borrowed for its life. NULL: out of memory. */
struct stats_writer *stats_writer_new(const struct config *config, struct scoreboard *scoreboard);
void stats_writer_free(struct stats_writer *writer);

/* What to wait for before the next step: as of poll(2), and until when (monotonic ms). */
struct pollfd stats_writer_pollfd(const struct stats_writer *writer);
int64_t stats_writer_due_ms(const struct stats_writer *writer);

/* Does what there is to do. ready: the socket is. */
void stats_writer_step(struct stats_writer *writer, bool ready);

/*
 * For a manager that ends: writes the last counts and deletes the manager's rows, so that it does not look like one
 * that is missing. Waits for the database, until deadline_ms at the latest. Does nothing without a connection.
 */
void stats_writer_finish(struct stats_writer *writer, int64_t deadline_ms);

#endif
