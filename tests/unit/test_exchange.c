/* With a server that says nothing: what answers is for the tests with a database. */
#include "exchange.h"

#include "database.h"
#include "silence.h"
#include "suites.h"

static void gives_up_when_time_is_up(void)
{
    struct exchange exchange = { 0 };
    struct database *database = database_new();
    int silent = silence_begin();

    CU_ASSERT_FATAL(database != NULL);
    for (int64_t now_ms = 5000; now_ms <= 9000; now_ms += 4000) { /* and can be used again */
        CU_ASSERT(statement_add_int4(exchange_add(&exchange, "SELECT $1"), 1));
        CU_ASSERT_EQUAL(exchange_begin(&exchange, database, now_ms, 1000), ERROR_PENDING);
        CU_ASSERT_EQUAL(exchange_step(&exchange, false, now_ms + 999), ERROR_PENDING);
        CU_ASSERT(exchange.running && exchange.due_ms == now_ms + 1000);
        CU_ASSERT_EQUAL(exchange_step(&exchange, false, now_ms + 1000), ERROR_DATABASE_AWAY);
        CU_ASSERT_STRING_EQUAL(database_error(database), "no answer in time");
        CU_ASSERT(!exchange.running && database_pollfd(database).fd < 0);
        CU_ASSERT_EQUAL(exchange_step(&exchange, true, now_ms + 2000), ERROR_PENDING); /* nothing is under way */
        exchange_end(&exchange);
    }
    database_free(database);
    silence_end(silent);
}

static void asks_nothing_without_statements(void)
{
    struct exchange exchange = { 0 };

    CU_ASSERT_EQUAL(exchange_begin(&exchange, NULL, 5000, 1000), ERROR_NONE);
    CU_ASSERT_EQUAL(exchange_step(&exchange, true, 9000), ERROR_PENDING);
    exchange_end(&exchange);
}

CU_TestInfo exchange_tests[] = { { "gives up when time is up", gives_up_when_time_is_up },
                                 { "asks nothing without statements", asks_nothing_without_statements },
                                 CU_TEST_INFO_NULL };
