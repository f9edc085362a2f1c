/*
 * Writes the manager's statistics to the database: the polls that wait (pgpoll.waiters), the counters
 * (pgpoll.counters), and how many workers run and are idle and whether LISTEN delivers (pgpoll.listeners). It
 * writes what has changed, at most once a second, and a heartbeat every five seconds. If there was no poll
 * for PGPOLL_IDLE_S, it says so in a last report, and is quiet until the next poll; the relay then looks at
 * the database once a minute. Its connection is its own, so that messages never wait for it. Part of the
 * manager, which creates, drives and frees it. Never blocks, except in stats_writer_finish(). Logs its errors
 * itself.
 */
#ifndef PGPOLL_STATS_WRITER_H
#define PGPOLL_STATS_WRITER_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

struct config;
struct scoreboard;
struct stats_writer;

/* config and scoreboard are borrowed until stats_writer_free(). NULL: out of memory. */
struct stats_writer *stats_writer_new(const struct config *config, struct scoreboard *scoreboard);
void stats_writer_free(struct stats_writer *writer);

/*
 * What to wait for before the next stats_writer_step(): a descriptor as for poll(2), and a time (monotonic
 * ms).
 */
struct pollfd stats_writer_pollfd(const struct stats_writer *writer);
int64_t stats_writer_due_ms(const struct stats_writer *writer);

/* Does what is due. ready: poll(2) has reported the descriptor. */
void stats_writer_step(struct stats_writer *writer, bool ready);

/*
 * For a manager that ends: writes the last counters and deletes the manager's rows, so that it does not look
 * like a manager that has died. Waits for the database until deadline_ms (monotonic) at most. Does nothing
 * without a connection.
 */
void stats_writer_finish(struct stats_writer *writer, int64_t deadline_ms);

#endif
