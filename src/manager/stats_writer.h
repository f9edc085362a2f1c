/*
 * Writes the manager's statistics to the database: the polls that wait (pgpoll.waiters), the counters
 * (pgpoll.counters), and how many workers run, how many are idle and whether LISTEN delivers
 * (pgpoll.listeners). It writes what has changed, at most once a second. Every five seconds it writes in any
 * case, and sends a heartbeat: a NOTIFY that the relay must receive (announcements.h).
 *
 * After PGPOLL_IDLE_S without a poll, the manager is quiet: the statistics writer reports that, and writes
 * nothing more until the next poll begins. While the manager is quiet, the relay looks at the database only
 * once a minute.
 *
 * The statistics writer has a connection of its own, so that messages never wait for statistics. Part of the
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

/* config and scoreboard are borrowed until stats_writer_free(). Returns NULL if out of memory. */
struct stats_writer *stats_writer_new(const struct config *config, struct scoreboard *scoreboard);
void stats_writer_free(struct stats_writer *writer);

/*
 * The next stats_writer_step() is due when poll(2) reports this descriptor, or at this time (monotonic ms).
 */
struct pollfd stats_writer_pollfd(const struct stats_writer *writer);
int64_t stats_writer_due_ms(const struct stats_writer *writer);

/* Does what is due. ready: whether poll(2) has reported the descriptor. */
void stats_writer_step(struct stats_writer *writer, bool ready);

/*
 * For a manager that ends: writes the last counters and deletes the manager's rows, so that the manager does
 * not look as if it had been killed. Waits for the database until deadline_ms (monotonic) at the latest. Does
 * nothing without a connection.
 */
void stats_writer_finish(struct stats_writer *writer, int64_t deadline_ms);

#endif
