#include "tally.h"

#include "clock.h"
#include "expect.h"
#include "fake_clock.h"
#include "poll_waiter.h"
#include "suites.h"

#include <json-c/json.h>
#include <string.h>

static struct tally tally;

/* A poll that waited so long, and was answered with one message of this age; -1: it did not wait. */
static void count_poll(int64_t waited_ms, int64_t age_ms, enum error outcome, enum gap gap)
{
    struct poll_state state = { .gap = gap };
    struct poll_waiter waiter = { .states = &state };

    fake_clock_stop();
    waiter.waits_since_ms = waited_ms < 0 ? 0 : clock_monotonic_ms();
    CU_ASSERT_TRUE_FATAL(page_init(&waiter.page, 1));
    if (outcome == ERROR_NONE)
        CU_ASSERT_TRUE(page_add_json(&waiter.page, 0, (clock_wall_ms() - age_ms) << 16, "{}", 2));
    fake_clock_advance(waited_ms < 0 ? 0 : waited_ms);
    tally_poll(&tally, &waiter, outcome);
    fake_clock_restore();
    page_release(&waiter.page);
}

/* The number with this name; -1: not there. */
static int64_t number(const char *metric, const char *label, bool all)
{
    struct json_object *rows = tally_json(&tally, all);
    int64_t n = -1;

    for (size_t i = 0; i < json_object_array_length(rows); i++) {
        struct json_object *row = json_object_array_get_idx(rows, i);

        if (strcmp(json_object_get_string(json_object_object_get(row, "metric")), metric) == 0 &&
            strcmp(json_object_get_string(json_object_object_get(row, "label")), label) == 0)
            n = json_object_get_int64(json_object_object_get(row, "n"));
    }
    json_object_put(rows);
    return n;
}

static void a_poll_is_counted_by_its_outcome(void)
{
    tally_clear(&tally);
    count_poll(-1, 0, ERROR_NONE, GAP_EXPIRED);
    count_poll(-1, 0, ERROR_NONE, GAP_NONE);
    count_poll(-1, 0, ERROR_CLIENT_GONE, GAP_UNKNOWN);
    CU_ASSERT_EQUAL(number("polls", "ok", false), 2);
    CU_ASSERT_EQUAL(number("polls", "client_gone", false), 1);
    CU_ASSERT_EQUAL(number("delivered_messages", "", false), 2);
    CU_ASSERT_EQUAL(number("delivered_bytes", "", false), 4);
    CU_ASSERT_EQUAL(number("gaps", "expired", false), 1);
    EXPECT(number("gaps", "unknown", false) == -1, "who is gone was told nothing");
    EXPECT(number("delivery_latency_seconds", "sum", true) == 0, "a message that was there before tells nothing");
    CU_ASSERT_EQUAL(number("polls", "timeout", false), -1);
    CU_ASSERT_EQUAL(number("polls", "timeout", true), 0);
    EXPECT(number("polls", "pending", true) == -1 && number("gaps", "none", true) == -1, "neither is an outcome");
}

static void waits_and_latencies_fall_into_buckets(void)
{
    static const struct {
        int64_t waited_ms;
        const char *bucket;
    } rows[] = { { 0, "0.1" }, { 100, "0.1" }, { 101, "0.5" }, { 30003, "35" }, { 60002, "65" }, { 70000, "+Inf" } };

    for (size_t i = 0; i < COUNT(rows); i++) {
        tally_clear(&tally);
        count_poll(rows[i].waited_ms, 0, ERROR_TIMEOUT, GAP_NONE);
        EXPECT(number("wait_seconds", rows[i].bucket, false) == 1, "%d ms", (int)rows[i].waited_ms);
        EXPECT(number("wait_seconds", "sum", true) == rows[i].waited_ms, "%d ms", (int)rows[i].waited_ms);
    }
    tally_clear(&tally);
    count_poll(10, 400, ERROR_NONE, GAP_NONE);
    CU_ASSERT_EQUAL(number("delivery_latency_seconds", "0.5", false), 1);
    count_poll(10, 3600000, ERROR_NONE, GAP_NONE);
    CU_ASSERT_EQUAL(number("delivery_latency_seconds", "+Inf", false), 1);
    tally_clear(&tally);
    count_poll(10, -3600000, ERROR_NONE, GAP_NONE);
    EXPECT(number("delivery_latency_seconds", "0.001", false) == 1, "the database's clock is ahead");
}

static void a_gap_without_a_message_has_no_latency(void)
{
    struct poll_state state = { .gap = GAP_EXPIRED };
    struct poll_waiter waiter = { .states = &state, .waits_since_ms = 1 };

    tally_clear(&tally);
    CU_ASSERT_TRUE_FATAL(page_init(&waiter.page, 1));
    tally_poll(&tally, &waiter, ERROR_NONE);
    page_release(&waiter.page);
    CU_ASSERT_EQUAL(number("polls", "ok", false), 1);
    CU_ASSERT_EQUAL(number("gaps", "expired", false), 1);
    CU_ASSERT_EQUAL(number("delivery_latency_seconds", "sum", true), 0);
}

static void taking_empties(void)
{
    static struct tally other;

    tally_clear(&tally);
    tally_clear(&other);
    EXPECT(!tally_take(&other, &tally), "nothing was counted");
    tally_add(&tally, TALLY_MESSAGES, 3);
    EXPECT(tally_take(&other, &tally) && !tally_take(&other, &tally), "once");
    tally_add(&tally, TALLY_MESSAGES, 4);
    CU_ASSERT_TRUE(tally_take(&other, &tally));
    CU_ASSERT_EQUAL(atomic_load(&other.numbers[TALLY_MESSAGES]), 7);
    CU_ASSERT_EQUAL(atomic_load(&tally.numbers[TALLY_MESSAGES]), 0);
}

CU_TestInfo tally_tests[] = {
    { "a poll is counted by its outcome", a_poll_is_counted_by_its_outcome },
    { "waits and latencies fall into buckets", waits_and_latencies_fall_into_buckets },
    { "a gap without a message has no latency", a_gap_without_a_message_has_no_latency },
    { "taking empties", taking_empties },
    CU_TEST_INFO_NULL,
};
