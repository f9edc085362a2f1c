#include "shared/stats_report.h"

#include "expect.h"
#include "suites.h"

#include <json-c/json.h>
#include <stdio.h>
#include <unistd.h>

static struct stats_report report;

/* Compares the finished report, apart from its process id. The report must be complete JSON. */
static void expect_report(const struct stats_gauges *gauges, bool ends, const char *expected)
{
    const char *text = stats_report_finish(&report, gauges, ends);
    struct json_object *json = json_tokener_parse(text ? text : "");

    EXPECT(json_object_get_int(json_object_object_get(json, "pid")) == (int)getpid(), "%s", text);
    json_object_object_del(json, "pid");
    EXPECT_JSON(json, expected);
    stats_report_release(&report);
}

static void a_lone_worker_reports_itself(void)
{
    report.counters_began = true;
    CU_ASSERT_TRUE(
        stats_report_add_began(&report, 7, json_tokener_parse("[\"a\",\"b\"]"), "192.0.2.1", "ann", 10, 990));
    expect_report(NULL, false,
                  "{\"workers\":1,\"began\":[{\"topics\":[\"a\",\"b\"],\"pid\":7,\"client\":\"192.0.2.1\","
                  "\"remote_user\":\"ann\","
                  "\"waited_ms\":10,\"left_ms\":990}],\"counts\":[],\"ends\":false}");
    CU_ASSERT_TRUE(stats_report_add_ended(&report, 7));
    expect_report(NULL, true, "{\"workers\":1,\"ended\":[7],\"counts\":[],\"ends\":true}");
}

static void a_manager_reports_its_workers(void)
{
    const struct stats_gauges gauges = { 20, 15, true, true };

    report.counters_began = true;
    expect_report(&gauges, false,
                  "{\"workers\":20,\"free_workers\":15,\"hears\":true,\"quiet\":true,\"counts\":[],"
                  "\"ends\":false}");
}

static void an_address_is_cleaned(void)
{
    report.counters_began = true;
    CU_ASSERT_TRUE(stats_report_add_began(&report, 7, json_object_new_array(), "1\n\x80\"", "\xff", 0, 0));
    expect_report(
        NULL, false,
        "{\"workers\":1,\"began\":[{\"topics\":[],\"pid\":7,\"client\":\"1??\\\"\",\"remote_user\":\"\","
        "\"waited_ms\":0,"
        "\"left_ms\":0}],\"counts\":[],\"ends\":false}");
}

static size_t reported_counts(void)
{
    struct json_object *json = json_tokener_parse(stats_report_finish(&report, NULL, false));
    const size_t count = json_object_array_length(json_object_object_get(json, "counts"));

    json_object_put(json);
    return count;
}

static void counts_are_reported_until_they_are_written(void)
{
    report.counters_began = false;
    CU_ASSERT(reported_counts() > 30); /* the first report has every counter, so that each metric exists */
    stats_report_written(&report);
    CU_ASSERT_EQUAL(reported_counts(), 0);
    counters_add(&report.counters, COUNTER_MESSAGES, 3);
    CU_ASSERT_EQUAL(reported_counts(), 1);
    stats_report_release(&report);
    CU_ASSERT_EQUAL(reported_counts(), 1); /* counted again, because that report was not written */
    stats_report_written(&report);
    CU_ASSERT_EQUAL(reported_counts(), 0);
    stats_report_release(&report);
}

CU_TestInfo stats_report_tests[] = {
    { "a lone worker reports itself", a_lone_worker_reports_itself },
    { "a manager reports its workers", a_manager_reports_its_workers },
    { "an address is cleaned", an_address_is_cleaned },
    { "counts are reported until they are written", counts_are_reported_until_they_are_written },
    CU_TEST_INFO_NULL,
};
