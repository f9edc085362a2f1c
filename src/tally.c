#include "tally.h"

#include "clock.h"
#include "cursor.h"
#include "json_tree.h"
#include "poll_waiter.h"

#include <json-c/json.h>
#include <stdio.h>

/*
 * Upper bounds of the buckets, in milliseconds; of the last one: none. A label is the bound in seconds. Waits mostly last until their
 * timeout and a little more, 30 s or 60 s, so those are no bounds.
 */
static const int64_t wait_bounds_ms[TALLY_WAIT_BUCKETS] = { 100, 500, 1000, 5000, 15000, 35000, 65000, INT64_MAX };
static const int64_t latency_bounds_ms[TALLY_LATENCY_BUCKETS] = { 1,   2,   5,    10,   25,    50,       100,
                                                                  250, 500, 1000, 2500, 15000, INT64_MAX };

static void observe(struct tally *tally, int sum, const int64_t *bounds_ms, int64_t ms)
{
    int bucket = 0;

    while (ms > bounds_ms[bucket])
        bucket++;
    tally_add(tally, sum, (uint64_t)ms);
    tally_add(tally, sum + 1 + bucket, 1);
}

void tally_poll(struct tally *tally, const struct poll_waiter *waiter, enum error outcome)
{
    const struct page *page = &waiter->page;

    if (waiter->waits_since_ms)
        observe(tally, TALLY_WAIT_MS, wait_bounds_ms, clock_monotonic_ms() - waiter->waits_since_ms);
    if (outcome == ERROR_NONE) {
        tally_add(tally, TALLY_MESSAGES, (uint64_t)page->message_count);
        tally_add(tally, TALLY_BYTES, (uint64_t)printbuf_length(page->messages));
        /* Of a message that was there before its poll, the age tells about the client. The two clocks may differ. */
        if (waiter->waits_since_ms && page->message_count > 0)
            observe(tally, TALLY_LATENCY_MS, latency_bounds_ms,
                    clock_max(clock_wall_ms() - cursor_position_ms(page->first), 0));
    }
    for (int i = 0; outcome != ERROR_CLIENT_GONE && i < page->topic_count; i++)
        if (waiter->states[i].gap != GAP_NONE)
            tally_add(tally, TALLY_GAPS + (int)waiter->states[i].gap, 1);
    tally_add(tally, TALLY_POLLS + (int)outcome, 1);
}

/* More than any process counts between two looks. A broken one may have written anything; the database's counters are bigint. */
static const uint64_t PLAUSIBLE = UINT64_C(1) << 40;

bool tally_take(struct tally *into, struct tally *from)
{
    if (!atomic_load(&from->fresh) || !atomic_exchange(&from->fresh, 0))
        return false;
    for (int i = 0; i < TALLY_COUNT; i++)
        if (atomic_load_explicit(&from->numbers[i], memory_order_relaxed)) {
            const uint64_t taken = atomic_exchange_explicit(&from->numbers[i], 0, memory_order_relaxed);

            if (taken <= PLAUSIBLE)
                tally_add(into, i, taken);
        }
    return true;
}

void tally_clear(struct tally *tally)
{
    for (int i = 0; i < TALLY_COUNT; i++)
        atomic_store_explicit(&tally->numbers[i], 0, memory_order_relaxed);
    atomic_store(&tally->fresh, 0);
}

/* ---- names */

struct writer {
    const struct tally *tally;
    struct json_object *rows;
    bool all, made;
};

static void put(struct writer *writer, int number, const char *metric, const char *label)
{
    uint64_t n = atomic_load_explicit(&writer->tally->numbers[number], memory_order_relaxed);
    struct json_object *row;

    if (!writer->made || (n == 0 && !writer->all))
        return;
    row = json_object_new_object();
    writer->made = json_tree_add_item(writer->rows, row) &&
                   json_tree_add_member(row, "metric", json_object_new_string(metric)) &&
                   json_tree_add_member(row, "label", json_object_new_string(label)) &&
                   json_tree_add_member(row, "n", json_object_new_uint64(n));
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

struct json_object *tally_json(const struct tally *tally, bool all)
{
    struct writer writer = { tally, json_object_new_array(), all, true };

    if (!writer.rows)
        return NULL;
    for (int i = 0; i < ERROR_COUNT; i++)
        if (i != ERROR_PENDING)
            put(&writer, TALLY_POLLS + i, "polls", error_name((enum error)i));
    put(&writer, TALLY_MESSAGES, "delivered_messages", "");
    put(&writer, TALLY_BYTES, "delivered_bytes", "");
    put(&writer, TALLY_WINDOW_PAGES, "pages", "window");
    put(&writer, TALLY_TABLE_PAGES, "pages", "table");
    for (int i = GAP_NONE + 1; i < GAP_COUNT; i++)
        put(&writer, TALLY_GAPS + i, "gaps", gap_name((enum gap)i));
    put(&writer, TALLY_RECONNECTS, "listener_reconnects", "");
    put(&writer, TALLY_LOG_LINES_LOST, "log_lines_lost", "");
    put_histogram(&writer, TALLY_WAIT_MS, wait_bounds_ms, "wait_seconds");
    put_histogram(&writer, TALLY_LATENCY_MS, latency_bounds_ms, "delivery_latency_seconds");
    if (!writer.made) {
        json_object_put(writer.rows);
        return NULL;
    }
    return writer.rows;
}
