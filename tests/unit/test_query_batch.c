/* Tests with a server that never answers. Answers are tested with a real database (tests/e2e). */
#include "postgres/query_batch.h"

#include "core/clock.h"
#include "fake_clock.h"
#include "postgres/database.h"
#include "silence.h"
#include "suites.h"

/* Begins a batch and lets its deadline pass. Returns the text of the error. */
static const char *run_out_of_time(struct query_batch *batch, struct database *database)
{
    const int64_t now_ms = clock_monotonic_ms();

    struct statement *statement = query_batch_add(batch);

    statement_init(statement, "SELECT $1");
    CU_ASSERT(statement_add_int4(statement, 1));
    CU_ASSERT_EQUAL(query_batch_begin(batch, database, now_ms, 400), ERROR_PENDING);
    CU_ASSERT_EQUAL(query_batch_step(batch, true, now_ms + 1),
                    ERROR_PENDING); /* the batch has connected and sends */
    CU_ASSERT_EQUAL(query_batch_step(batch, false, now_ms + 399), ERROR_PENDING);
    CU_ASSERT(batch->running && query_batch_due_ms(batch) <= now_ms + 400);
    CU_ASSERT_EQUAL(query_batch_step(batch, false, now_ms + 400), ERROR_DATABASE_AWAY);
    CU_ASSERT(!batch->running && database_pollfd(database).fd < 0);
    CU_ASSERT_EQUAL(query_batch_step(batch, true, now_ms + 2000), ERROR_PENDING); /* no query is running */
    query_batch_end(batch);
    return database_error(database);
}

/*
 * After the deadline, a second connection is opened only to replace a session that does not end by itself,
 * and never a third.
 */
static void closes_the_connection_at_the_deadline(void)
{
    struct query_batch batch = { 0 };
    struct database *database = database_new(400);
    int silent = silence_begin();

    CU_ASSERT_FATAL(database != NULL);
    fake_clock_stop();
    CU_ASSERT_STRING_EQUAL(run_out_of_time(&batch, database), "no connection in time");
    fake_clock_advance(50);
    CU_ASSERT_STRING_EQUAL(run_out_of_time(&batch, database),
                           "the backend of an earlier session has not exited");
    fake_clock_advance(500);
    CU_ASSERT_STRING_EQUAL(run_out_of_time(&batch, database), "no connection in time");
    fake_clock_advance(60000);
    CU_ASSERT_STRING_EQUAL(run_out_of_time(&batch, database),
                           "the backend of an earlier session has not exited");
    silence_end(silent); /* the server closes both connections */
    silent = silence_begin();
    CU_ASSERT_STRING_EQUAL(run_out_of_time(&batch, database), "no connection in time");
    database_free(database);
    fake_clock_restore();
    silence_end(silent);
}

static void sends_nothing_without_statements(void)
{
    struct query_batch batch = { 0 };

    CU_ASSERT_EQUAL(query_batch_begin(&batch, NULL, 5000, 1000), ERROR_NONE);
    CU_ASSERT_EQUAL(query_batch_step(&batch, true, 9000), ERROR_PENDING);
    query_batch_end(&batch);
}

CU_TestInfo query_batch_tests[] = { { "closes the connection at the deadline",
                                      closes_the_connection_at_the_deadline },
                                    { "sends nothing without statements", sends_nothing_without_statements },
                                    CU_TEST_INFO_NULL };
