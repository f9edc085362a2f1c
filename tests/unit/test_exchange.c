/* With a server that says nothing: what answers is for the tests with a database. */
#include "exchange.h"

#include "clock.h"
#include "database.h"
#include "fake_clock.h"
#include "silence.h"
#include "suites.h"

/* Begins, and is given up when its time is over. Returns why. */
static const char *run_out_of_time(struct exchange *exchange, struct database *database)
{
    const int64_t now_ms = clock_monotonic_ms();

    CU_ASSERT(statement_add_int4(exchange_add(exchange, "SELECT $1"), 1));
    CU_ASSERT_EQUAL(exchange_begin(exchange, database, now_ms, 400), ERROR_PENDING);
    CU_ASSERT_EQUAL(exchange_step(exchange, true, now_ms + 1), ERROR_PENDING); /* it is connected, and sends */
    CU_ASSERT_EQUAL(exchange_step(exchange, false, now_ms + 399), ERROR_PENDING);
    CU_ASSERT(exchange->running && exchange_due_ms(exchange) <= now_ms + 400);
    CU_ASSERT_EQUAL(exchange_step(exchange, false, now_ms + 400), ERROR_DATABASE_AWAY);
    CU_ASSERT(!exchange->running && database_pollfd(database).fd < 0);
    CU_ASSERT_EQUAL(exchange_step(exchange, true, now_ms + 2000), ERROR_PENDING); /* nothing is under way */
    exchange_end(exchange);
    return database_error(database);
}

/* A second connection only to replace a session that does not end by itself, and never a third. */
static void gives_up_when_time_is_up(void)
{
    struct exchange exchange = { 0 };
    struct database *database = database_new(400);
    int silent = silence_begin();

    CU_ASSERT_FATAL(database != NULL);
    fake_clock_stop();
    CU_ASSERT_STRING_EQUAL(run_out_of_time(&exchange, database), "no connection in time");
    fake_clock_advance(50);
    CU_ASSERT_STRING_EQUAL(run_out_of_time(&exchange, database), "an earlier session has not ended");
    fake_clock_advance(500);
    CU_ASSERT_STRING_EQUAL(run_out_of_time(&exchange, database), "no connection in time");
    fake_clock_advance(60000);
    CU_ASSERT_STRING_EQUAL(run_out_of_time(&exchange, database), "an earlier session has not ended");
    silence_end(silent); /* which closes both of them */
    silent = silence_begin();
    CU_ASSERT_STRING_EQUAL(run_out_of_time(&exchange, database), "no connection in time");
    database_free(database);
    fake_clock_restore();
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
