/*
 * What was counted, for the metrics: one for each process that counts, emptied into the database's pgpoll.counters by whoever writes
 * for it (a manager for its workers: stats_writer.h; a worker alone for itself: listener_direct.h).
 *
 * Counting is cheap because nobody else writes to a process's counters but for the manager's look once a second: an addition is one
 * locked instruction on a cache line of its own, about ten of them a poll, all together well below a microsecond.
 *
 * What was counted in the last second before a process ends or is replaced is lost: the metrics are for rates, not for accounts.
 *
 * The names that the numbers have in pgpoll.counters stand in counters.c; none comes from a client, so their number is bounded.
 */
#ifndef PGPOLL_COUNTERS_H
#define PGPOLL_COUNTERS_H

#include "api/page.h"
#include "core/error.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct json_object;

enum { COUNTER_WAIT_BUCKETS = 8, COUNTER_LATENCY_BUCKETS = 13 };

enum counters_number {
    COUNTER_POLLS, /* by enum error: what they came to */
    COUNTER_MESSAGES = COUNTER_POLLS + ERROR_COUNT,
    COUNTER_BYTES,
    COUNTER_RING_PAGES,
    COUNTER_TABLE_PAGES,
    COUNTER_GAPS, /* by enum gap */
    COUNTER_RECONNECTS = COUNTER_GAPS + GAP_COUNT,
    COUNTER_LOG_LINES_LOST,
    COUNTER_WAIT_MS, /* sums, and after each how many fell into which bucket */
    COUNTER_WAITS,
    COUNTER_LATENCY_MS = COUNTER_WAITS + COUNTER_WAIT_BUCKETS,
    COUNTER_LATENCIES,
    COUNTER_COUNT = COUNTER_LATENCIES + COUNTER_LATENCY_BUCKETS
};

struct counters {
    _Atomic int fresh; /* set after something was counted, cleared before that is taken */
    _Atomic uint64_t numbers[COUNTER_COUNT];
};

static inline void counters_add(struct counters *counters, int number, uint64_t amount)
{
    (void)atomic_fetch_add_explicit(&counters->numbers[number], amount, memory_order_relaxed);
    atomic_store_explicit(&counters->fresh, 1, memory_order_release);
}

/* Add one duration to the histogram of waits, or of delivery latencies. ms >= 0. */
void counters_add_wait(struct counters *counters, int64_t ms);
void counters_add_latency(struct counters *counters, int64_t ms);

/* Adds what one has counted to the other, and empties it. false: there was nothing. */
bool counters_take(struct counters *into, struct counters *from);

void counters_clear(struct counters *counters);

/*
 * [{"metric", "label", "n"}, ...] for pgpoll.write_listener(): what is not zero or, with all, everything, so that a metric is
 * there from the beginning. A new tree, owned by the caller; NULL: out of memory.
 */
struct json_object *counters_json(const struct counters *counters, bool all);

#endif
