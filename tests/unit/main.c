/* Runs the unit tests. They need only the library: no database, no web server, no files, and little time. */
#include "suites.h"

#include <CUnit/Basic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#define SUITE(tests) #tests, NULL, NULL, NULL, NULL, tests

int main(void)
{
    CU_SuiteInfo suites[] = {
        { SUITE(cursor_tests) },
        { SUITE(topic_tests) },
        { SUITE(utf8_tests) },
        { SUITE(json_text_tests) },
        { SUITE(poll_request_tests) },
        { SUITE(config_tests) },
        { SUITE(cors_tests) },
        { SUITE(message_tests) },
        { SUITE(page_tests) },
        { SUITE(answer_tests) },
        { SUITE(statement_tests) },
        { SUITE(catch_up_tests) },
        { SUITE(backoff_tests) },
        { SUITE(wait_tests) },
        { SUITE(poll_waiter_tests) },
        { SUITE(message_ring_tests) },
        { SUITE(topic_table_tests) },
        { SUITE(stress_tests) },
        { SUITE(source_shared_tests) },
        { SUITE(read_channel_tests) },
        { SUITE(reader_pool_tests) },
        { SUITE(allocation_failures_tests) },
        { SUITE(notify_throttle_tests) },
        { SUITE(read_pace_tests) },
        { SUITE(counters_tests) },
        { SUITE(stats_report_tests) },
        { SUITE(query_batch_tests) },
        { SUITE(authorizer_tests) },
        { SUITE(scoreboard_tests) },
        { SUITE(worker_queue_tests) },
        { SUITE(access_memory_tests) },
        { SUITE(addresses_tests) },
        { SUITE(timeline_tests) },
        { SUITE(server_memory_tests) },
        { SUITE(subscriptions_tests) },
        { SUITE(inspection_tests) },
        { SUITE(spare_workers_tests) },
        { SUITE(poll_counters_tests) },
        { SUITE(host_metrics_tests) },
        { SUITE(host_state_tests) },
        { SUITE(notify_tests) },
        { SUITE(host_report_tests) },
        CU_SUITE_INFO_NULL,
    };
    bool passed;

    if (CU_initialize_registry() != CUE_SUCCESS || CU_register_suites(suites) != CUE_SUCCESS) {
        (void)fprintf(stderr, "%s\n", CU_get_error_msg());
        return EXIT_FAILURE;
    }
    CU_basic_set_mode(CU_BRM_NORMAL);
    passed = CU_basic_run_tests() == CUE_SUCCESS && CU_get_number_of_tests_failed() == 0 &&
             CU_get_number_of_suites_failed() == 0 && CU_get_number_of_tests_run() > 0;
    CU_cleanup_registry();
    return passed ? EXIT_SUCCESS : EXIT_FAILURE;
}
