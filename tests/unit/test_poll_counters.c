#include "worker/poll_counters.h"

#include "core/clock.h"
#include "expect.h"
#include "fake_clock.h"
#include "shared/counters.h"
#include "suites.h"
#include "worker/poll_waiter.h"

static struct counters counters;

/*
 * Counts a poll that waited for waited_ms (-1: it did not wait). If outcome is ERROR_NONE, its answer has one
 * message of two bytes, which is age_ms old.
 */
static void count_poll(int64_t waited_ms, int64_t age_ms, enum error outcome, enum gap gap)
{
    struct poll_gap reported = { .gap = gap };
    struct poll_waiter waiter = { .gaps = &reported };

    fake_clock_stop();
    waiter.waits_since_ms = waited_ms < 0 ? 0 : clock_monotonic_ms();
    CU_ASSERT_TRUE_FATAL(page_init(&waiter.page, 1));
    if (outcome == ERROR_NONE)
        CU_ASSERT_TRUE(page_add_json(&waiter.page, 0, (clock_wall_ms() - age_ms) << 16, "{}", 2));
    fake_clock_advance(waited_ms < 0 ? 0 : waited_ms);
    poll_counters_add(&counters, &waiter, outcome);
    fake_clock_restore();
    page_release(&waiter.page);
}

static uint64_t counted(int number)
{
    return atomic_load(&counters.numbers[number]);
}

/* Returns how many durations are counted in the histogram whose buckets follow the counter sum. */
static uint64_t observed(int sum, int buckets)
{
    uint64_t n = 0;

    for (int i = 1; i <= buckets; i++)
        n += counted(sum + i);
    return n;
}

static void a_poll_is_counted_by_its_outcome(void)
{
    counters_clear(&counters);
    count_poll(-1, 0, ERROR_NONE, GAP_EXPIRED);
    count_poll(-1, 0, ERROR_NONE, GAP_NONE);
    count_poll(-1, 0, ERROR_CLIENT_GONE, GAP_UNKNOWN);
    CU_ASSERT_EQUAL(counted(COUNTER_POLLS + (int)ERROR_NONE), 2);
    CU_ASSERT_EQUAL(counted(COUNTER_POLLS + (int)ERROR_CLIENT_GONE), 1);
    CU_ASSERT_EQUAL(counted(COUNTER_MESSAGES), 2);
    CU_ASSERT_EQUAL(counted(COUNTER_BYTES), 4);
    CU_ASSERT_EQUAL(counted(COUNTER_GAPS + (int)GAP_EXPIRED), 1);
    EXPECT(counted(COUNTER_GAPS + (int)GAP_UNKNOWN) == 0, "a client that left was told nothing");
}

static void the_wait_is_counted_if_there_was_one(void)
{
    counters_clear(&counters);
    count_poll(-1, 0, ERROR_TIMEOUT, GAP_NONE);
    CU_ASSERT_EQUAL(observed(COUNTER_WAIT_MS, COUNTER_WAIT_BUCKETS), 0);
    count_poll(30003, 0, ERROR_TIMEOUT, GAP_NONE);
    count_poll(20, 0, ERROR_NONE, GAP_NONE);
    CU_ASSERT_EQUAL(observed(COUNTER_WAIT_MS, COUNTER_WAIT_BUCKETS), 2);
    CU_ASSERT_EQUAL(counted(COUNTER_WAIT_MS), 30023);
}

static void latency_is_counted_for_messages_that_ended_a_wait(void)
{
    counters_clear(&counters);
    count_poll(-1, 400, ERROR_NONE, GAP_NONE);
    EXPECT(observed(COUNTER_LATENCY_MS, COUNTER_LATENCY_BUCKETS) == 0,
           "the message was there before the poll");
    count_poll(10, 400, ERROR_NONE, GAP_NONE);
    CU_ASSERT_EQUAL(observed(COUNTER_LATENCY_MS, COUNTER_LATENCY_BUCKETS), 1);
    CU_ASSERT_EQUAL(counted(COUNTER_LATENCY_MS), 400);
    count_poll(10, -3600000, ERROR_NONE, GAP_NONE);
    EXPECT(counted(COUNTER_LATENCY_MS) == 400, "the database's clock is ahead");
    CU_ASSERT_EQUAL(observed(COUNTER_LATENCY_MS, COUNTER_LATENCY_BUCKETS), 2);
}

static void a_gap_without_a_message_has_no_latency(void)
{
    struct poll_gap reported = { .gap = GAP_EXPIRED };
    struct poll_waiter waiter = { .gaps = &reported, .waits_since_ms = 1 };

    counters_clear(&counters);
    CU_ASSERT_TRUE_FATAL(page_init(&waiter.page, 1));
    poll_counters_add(&counters, &waiter, ERROR_NONE);
    page_release(&waiter.page);
    CU_ASSERT_EQUAL(counted(COUNTER_POLLS + (int)ERROR_NONE), 1);
    CU_ASSERT_EQUAL(counted(COUNTER_GAPS + (int)GAP_EXPIRED), 1);
    CU_ASSERT_EQUAL(observed(COUNTER_LATENCY_MS, COUNTER_LATENCY_BUCKETS), 0);
}

CU_TestInfo poll_counters_tests[] = {
    { "a poll is counted by its outcome", a_poll_is_counted_by_its_outcome },
    { "the wait is counted if there was one", the_wait_is_counted_if_there_was_one },
    { "latency is counted for messages that ended a wait",
      latency_is_counted_for_messages_that_ended_a_wait },
    { "a gap without a message has no latency", a_gap_without_a_message_has_no_latency },
    CU_TEST_INFO_NULL,
};
