#include "shared/counters.h"

#include "expect.h"
#include "suites.h"

#include <json-c/json.h>
#include <string.h>

static struct counters counters;

/* Returns the value of the counter with this metric and label, or -1 if there is no such counter. */
static int64_t number(const char *metric, const char *label, bool all)
{
    struct json_object *rows = counters_json(&counters, all);
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

static void names_stand_for_outcomes_and_gaps(void)
{
    counters_clear(&counters);
    counters_add(&counters, COUNTER_POLLS + (int)ERROR_CLIENT_GONE, 2);
    counters_add(&counters, COUNTER_GAPS + (int)GAP_EXPIRED, 1);
    CU_ASSERT_EQUAL(number("polls", "client_gone", false), 2);
    CU_ASSERT_EQUAL(number("gaps", "expired", false), 1);
    CU_ASSERT_EQUAL(number("polls", "timeout", false), -1);
    CU_ASSERT_EQUAL(number("polls", "timeout", true), 0);
    EXPECT(number("polls", "pending", true) == -1 && number("gaps", "none", true) == -1,
           "neither is an outcome");
}

static void durations_fall_into_buckets(void)
{
    static const struct {
        int64_t waited_ms;
        const char *bucket;
    } rows[] = { { 0, "0.1" },    { 100, "0.1" },  { 101, "0.5" },
                 { 30003, "35" }, { 60002, "65" }, { 70000, "+Inf" } };

    for (size_t i = 0; i < COUNT(rows); i++) {
        counters_clear(&counters);
        counters_add_wait(&counters, rows[i].waited_ms);
        EXPECT(number("wait_seconds", rows[i].bucket, false) == 1, "%d ms", (int)rows[i].waited_ms);
        EXPECT(number("wait_seconds", "sum", true) == rows[i].waited_ms, "%d ms", (int)rows[i].waited_ms);
    }
    counters_add_latency(&counters, 400);
    counters_add_latency(&counters, 3600000);
    CU_ASSERT_EQUAL(number("delivery_latency_seconds", "0.5", false), 1);
    CU_ASSERT_EQUAL(number("delivery_latency_seconds", "+Inf", false), 1);
    CU_ASSERT_EQUAL(number("delivery_latency_seconds", "sum", false), 3600400);
}

static void taking_empties(void)
{
    static struct counters other;

    counters_clear(&counters);
    counters_clear(&other);
    EXPECT(!counters_take(&other, &counters), "nothing was counted");
    counters_add(&counters, COUNTER_MESSAGES, 3);
    EXPECT(counters_take(&other, &counters) && !counters_take(&other, &counters), "once");
    counters_add(&counters, COUNTER_MESSAGES, 4);
    CU_ASSERT_TRUE(counters_take(&other, &counters));
    CU_ASSERT_EQUAL(atomic_load(&other.numbers[COUNTER_MESSAGES]), 7);
    CU_ASSERT_EQUAL(atomic_load(&counters.numbers[COUNTER_MESSAGES]), 0);
}

CU_TestInfo counters_tests[] = {
    { "names stand for outcomes and gaps", names_stand_for_outcomes_and_gaps },
    { "durations fall into buckets", durations_fall_into_buckets },
    { "taking empties", taking_empties },
    CU_TEST_INFO_NULL,
};
