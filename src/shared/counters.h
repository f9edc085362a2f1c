/*
 * Counters for the metrics. Each process that counts has one set, which needs no constructor but zeroed
 * memory. Its counts are moved to the database's table pgpoll.counters: a manager does so for its workers
 * (stats_writer.h), a lone worker for itself (source_direct.h).
 *
 * Counting is cheap, because only its own process writes to a set, apart from the manager once a second. An
 * addition is one locked instruction; the about ten additions of a poll take well below a microsecond.
 *
 * What is counted in the last second of a process that is killed or replaced is lost: metrics are for rates,
 * not for accounting.
 *
 * counters.c has the names of the counters in pgpoll.counters. None comes from a client, so the number of
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
    COUNTER_ACCESS_CALLS,      /* of can_poll() and authenticate() */
    COUNTER_ACCESS_REMEMBERED, /* answers that were remembered, so that nobody was called */
    COUNTER_ACCESS_FORGOTTEN,  /* remembered answers that were dropped before their time */
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

/* Moves all counts from one set to another. false: there was nothing to move. */
bool counters_take(struct counters *into, struct counters *from);

/* Sets all counts to 0. */
void counters_clear(struct counters *counters);

/*
 * Builds [{"metric", "label", "n"}, ...], for a report (stats_report.h). It has the counters that
 * are not zero, or with all every counter, so that each metric exists from the start. A new tree, owned by
 * the caller; NULL: out of memory.
 */
struct json_object *counters_json(const struct counters *counters, bool all);

#endif
