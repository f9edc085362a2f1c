/*
 * Counters for the metrics. Each process that counts has one set of counters, which begins as zeroed memory.
 * The counts are moved to the database's table pgpoll.counters: by the manager for its workers
 * (stats_writer.h), by a lone worker for itself (source_direct.h).
 *
 * Counting is cheap, because only the set's own process writes to it, apart from the manager once a second.
 * An addition is one locked instruction; the about ten additions of a poll take well below a microsecond.
 *
 * If a process is killed or replaced, its counts of the last second are lost. That is acceptable, because
 * metrics are for rates, not for accounting.
 *
 * counters.c has the names of the counters in pgpoll.counters. No name comes from a client, so the number of
 * rows is bounded.
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
    COUNTER_POLLS, /* one for each enum error: the poll's outcome */
    COUNTER_MESSAGES = COUNTER_POLLS + ERROR_COUNT,
    COUNTER_BYTES,
    COUNTER_RING_PAGES,
    COUNTER_TABLE_PAGES,
    COUNTER_GAPS, /* one for each enum gap */
    COUNTER_RECONNECTS = COUNTER_GAPS + GAP_COUNT,
    COUNTER_ACCESS_CALLS, /* calls of can_poll() and authenticate() */
    /* answers that were found in the access memory, so that no function was called */
    COUNTER_ACCESS_REMEMBERED,
    COUNTER_ACCESS_FORGOTTEN, /* answers that the access memory dropped before their time */
    COUNTER_LOG_LINES_LOST,
    COUNTER_WAIT_MS, /* a histogram: the sum, followed by the counts of its buckets */
    COUNTER_WAITS,
    COUNTER_LATENCY_MS = COUNTER_WAITS + COUNTER_WAIT_BUCKETS,
    COUNTER_LATENCIES,
    COUNTER_COUNT = COUNTER_LATENCIES + COUNTER_LATENCY_BUCKETS
};

struct counters {
    _Atomic int fresh; /* set after each addition, cleared before the counts are taken */
    _Atomic uint64_t numbers[COUNTER_COUNT];
};

/* Adds to one counter: an enum counters_number, plus the error or gap where there is one counter for each. */
static inline void counters_add(struct counters *counters, int number, uint64_t amount)
{
    (void)atomic_fetch_add_explicit(&counters->numbers[number], amount, memory_order_relaxed);
    atomic_store_explicit(&counters->fresh, 1, memory_order_release);
}

/* Add one duration to the histogram of waits, or to that of delivery latencies. ms >= 0. */
void counters_add_wait(struct counters *counters, int64_t ms);
void counters_add_latency(struct counters *counters, int64_t ms);

/* Moves all counts from one set to another. Returns false if there was nothing to move. */
bool counters_take(struct counters *into, struct counters *from);

/* Sets all counts to 0. */
void counters_clear(struct counters *counters);

/*
 * Builds [{"metric", "label", "n"}, ...] for a report (stats_report.h). The array has the counters that are
 * not zero. If all is set, it has every counter, so that each metric exists from the start. Returns a new
 * tree, which the caller owns, or NULL if out of memory.
 */
struct json_object *counters_json(const struct counters *counters, bool all);

#endif
