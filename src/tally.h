/*
 * What was counted, for the metrics: one for each process that counts, emptied into the database's pgpoll.counters by whoever writes
 * for it (a manager for its workers: stats_writer.h; a worker alone for itself: listener_direct.h).
 *
 * Counting is cheap because nobody else writes to a process's tally but for the manager's look once a second: an addition is one
 * locked instruction on a cache line of its own, about ten of them a poll, all together well below a microsecond.
 *
 * What was counted in the last second before a process ends or is replaced is lost: the metrics are for rates, not for accounts.
 *
 * The names that the numbers have in pgpoll.counters stand in tally.c; none comes from a client, so their number is bounded.
 */
#ifndef PGPOLL_TALLY_H
#define PGPOLL_TALLY_H

#include "error.h"
#include "page.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct json_object;
struct poll_waiter;

enum { TALLY_WAIT_BUCKETS = 8, TALLY_LATENCY_BUCKETS = 13 };

enum tally_number {
    TALLY_POLLS, /* by enum error: what they came to */
    TALLY_MESSAGES = TALLY_POLLS + ERROR_COUNT,
    TALLY_BYTES,
    TALLY_WINDOW_PAGES,
    TALLY_TABLE_PAGES,
    TALLY_GAPS, /* by enum gap */
    TALLY_RECONNECTS = TALLY_GAPS + GAP_COUNT,
    TALLY_LOG_LINES_LOST,
    TALLY_WAIT_MS, /* sums, and after each how many fell into which bucket */
    TALLY_WAITS,
    TALLY_LATENCY_MS = TALLY_WAITS + TALLY_WAIT_BUCKETS,
    TALLY_LATENCIES,
    TALLY_COUNT = TALLY_LATENCIES + TALLY_LATENCY_BUCKETS
};

struct tally {
    _Atomic int fresh; /* set after something was counted, cleared before that is taken */
    _Atomic uint64_t numbers[TALLY_COUNT];
};

static inline void tally_add(struct tally *tally, int number, uint64_t amount)
{
    (void)atomic_fetch_add_explicit(&tally->numbers[number], amount, memory_order_relaxed);
    atomic_store_explicit(&tally->fresh, 1, memory_order_release);
}

/* Counts a poll whose answer is out. */
void tally_poll(struct tally *tally, const struct poll_waiter *waiter, enum error outcome);

/* Adds what one has counted to the other, and empties it. false: there was nothing. */
bool tally_take(struct tally *into, struct tally *from);

void tally_clear(struct tally *tally);

/*
 * [{"metric", "label", "n"}, ...] for pgpoll.write_listener(): what is not zero or, with all, everything, so that a metric is
 * there from the beginning. A new tree, owned by the caller; NULL: out of memory.
 */
struct json_object *tally_json(const struct tally *tally, bool all);

#endif
