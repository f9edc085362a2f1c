#include "shared/counters.h"

#include "core/json_build.h"

#include <json-c/json.h>
#include <stdio.h>

/*
 * Upper bounds of the histograms' buckets in milliseconds; the last bucket has none. A bucket's label is its
 * bound in seconds. Most waits last until their timeout of 30 s or 60 s and a few milliseconds more, so those
 * values would be bad bounds.
 */
static const int64_t wait_bounds_ms[COUNTER_WAIT_BUCKETS] = { 100,   500,   1000,  5000,
                                                              15000, 35000, 65000, INT64_MAX };
static const int64_t latency_bounds_ms[COUNTER_LATENCY_BUCKETS] = { 1,    2,     5,        10,  25,
                                                                    50,   100,   250,      500, 1000,
                                                                    2500, 15000, INT64_MAX };

static void observe(struct counters *counters, int sum, const int64_t *bounds_ms, int64_t ms)
{
    int bucket = 0;

    while (ms > bounds_ms[bucket])
        bucket++;
    counters_add(counters, sum, (uint64_t)ms);
    counters_add(counters, sum + 1 + bucket, 1);
}

void counters_add_wait(struct counters *counters, int64_t ms)
{
    observe(counters, COUNTER_WAIT_MS, wait_bounds_ms, ms);
}

void counters_add_latency(struct counters *counters, int64_t ms)
{
    observe(counters, COUNTER_LATENCY_MS, latency_bounds_ms, ms);
}

/*
 * A process never counts more than this between two calls of counters_take(). Greater values are ignored: a
 * broken worker may have written anything, and the database's counters are bigint.
 */
static const uint64_t PLAUSIBLE = UINT64_C(1) << 40;

bool counters_take(struct counters *into, struct counters *from)
{
    if (!atomic_load(&from->fresh) || !atomic_exchange(&from->fresh, 0))
        return false;
    for (int i = 0; i < COUNTER_COUNT; i++)
        if (atomic_load_explicit(&from->numbers[i], memory_order_relaxed)) {
            const uint64_t taken = atomic_exchange_explicit(&from->numbers[i], 0, memory_order_relaxed);

            if (taken <= PLAUSIBLE)
                counters_add(into, i, taken);
        }
    return true;
}

void counters_clear(struct counters *counters)
{
    for (int i = 0; i < COUNTER_COUNT; i++)
        atomic_store_explicit(&counters->numbers[i], 0, memory_order_relaxed);
    atomic_store(&counters->fresh, 0);
}

/* ---- the names in pgpoll.counters */

struct writer {
    const struct counters *counters;
    struct json_object *rows;
    bool all, made;
};

static void put(struct writer *writer, int number, const char *metric, const char *label)
{
    uint64_t n = atomic_load_explicit(&writer->counters->numbers[number], memory_order_relaxed);
    struct json_object *row;

    if (!writer->made || (n == 0 && !writer->all))
        return;
    row = json_object_new_object();
    writer->made = json_build_add_item(writer->rows, row) &&
                   json_build_add_member(row, "metric", json_object_new_string(metric)) &&
                   json_build_add_member(row, "label", json_object_new_string(label)) &&
                   json_build_add_member(row, "n", json_object_new_uint64(n));
}

static void put_histogram(struct writer *writer, int sum, const int64_t *bounds_ms, const char *metric)
{
    char label[32];
    int bucket = 0;

    put(writer, sum, metric, "sum");
    for (; bounds_ms[bucket] != INT64_MAX; bucket++) {
        (void)snprintf(label, sizeof label, "%g", (double)bounds_ms[bucket] / 1000);
        put(writer, sum + 1 + bucket, metric, label);
    }
    put(writer, sum + 1 + bucket, metric, "+Inf");
}

struct json_object *counters_json(const struct counters *counters, bool all)
{
    struct writer writer = { counters, json_object_new_array(), all, true };

    if (!writer.rows)
        return NULL;
    for (int i = 0; i < ERROR_COUNT; i++)
        if (i != ERROR_PENDING)
            put(&writer, COUNTER_POLLS + i, "polls", error_name((enum error)i));
    put(&writer, COUNTER_MESSAGES, "delivered_messages", "");
    put(&writer, COUNTER_BYTES, "delivered_bytes", "");
    put(&writer, COUNTER_RING_PAGES, "pages", "window");
    put(&writer, COUNTER_TABLE_PAGES, "pages", "table");
    for (int i = GAP_NONE + 1; i < GAP_COUNT; i++)
        put(&writer, COUNTER_GAPS + i, "gaps", gap_name((enum gap)i));
    put(&writer, COUNTER_ACCESS_CALLS, "access_answers", "function");
    put(&writer, COUNTER_ACCESS_REMEMBERED, "access_answers", "memory");
    put(&writer, COUNTER_ACCESS_FORGOTTEN, "access_answers_forgotten", "");
    put(&writer, COUNTER_RECONNECTS, "listener_reconnects", "");
    put(&writer, COUNTER_LOG_LINES_LOST, "log_lines_lost", "");
    put_histogram(&writer, COUNTER_WAIT_MS, wait_bounds_ms, "wait_seconds");
    put_histogram(&writer, COUNTER_LATENCY_MS, latency_bounds_ms, "delivery_latency_seconds");
    if (!writer.made) {
        json_object_put(writer.rows);
        return NULL;
    }
    return writer.rows;
}
