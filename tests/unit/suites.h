/*
 * The suites that main.c runs. Each file of tests has one suite, an array that ends with CU_TEST_INFO_NULL.
 */
#ifndef PGPOLL_SUITES_H
#define PGPOLL_SUITES_H

#include <CUnit/CUnit.h>

extern CU_TestInfo cursor_tests[];
extern CU_TestInfo topic_tests[];
extern CU_TestInfo utf8_tests[];
extern CU_TestInfo json_text_tests[];
extern CU_TestInfo poll_request_tests[];
extern CU_TestInfo config_tests[];
extern CU_TestInfo cors_tests[];
extern CU_TestInfo message_tests[];
extern CU_TestInfo page_tests[];
extern CU_TestInfo answer_tests[];
extern CU_TestInfo statement_tests[];
extern CU_TestInfo catch_up_tests[];
extern CU_TestInfo backoff_tests[];
extern CU_TestInfo wait_tests[];
extern CU_TestInfo poll_waiter_tests[];
extern CU_TestInfo notify_throttle_tests[];
extern CU_TestInfo read_pace_tests[];
extern CU_TestInfo message_ring_tests[];
extern CU_TestInfo topic_table_tests[];
extern CU_TestInfo stress_tests[];
extern CU_TestInfo source_shared_tests[];
extern CU_TestInfo read_channel_tests[];
extern CU_TestInfo reader_pool_tests[];
extern CU_TestInfo allocation_failures_tests[];
extern CU_TestInfo counters_tests[];
extern CU_TestInfo stats_report_tests[];
extern CU_TestInfo poll_counters_tests[];
extern CU_TestInfo query_batch_tests[];
extern CU_TestInfo addresses_tests[];
extern CU_TestInfo timeline_tests[];
extern CU_TestInfo server_memory_tests[];
extern CU_TestInfo subscriptions_tests[];
extern CU_TestInfo inspection_tests[];
extern CU_TestInfo spare_workers_tests[];
extern CU_TestInfo authorizer_tests[];
extern CU_TestInfo scoreboard_tests[];
extern CU_TestInfo worker_queue_tests[];
extern CU_TestInfo access_memory_tests[];
extern CU_TestInfo host_metrics_tests[];
extern CU_TestInfo host_state_tests[];
extern CU_TestInfo notify_tests[];
extern CU_TestInfo host_report_tests[];

#endif
