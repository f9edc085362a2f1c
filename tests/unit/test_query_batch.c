/* Tests with a server that never answers. Answers are tested with a real database (tests/e2e). */
#include "postgres/query_batch.h"

#include "core/clock.h"
#include "expect.h"
#include "fake_clock.h"
#include "postgres/database.h"
#include "silence.h"
#include "suites.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <sys/socket.h>

/* Lets time pass and takes a step. */
static enum error step_after(struct query_batch *batch, int64_t ms)
{
    fake_clock_advance(ms);
    return query_batch_step(batch, false, clock_monotonic_ms());
}

/* Begins a batch and lets its deadline pass. Returns the text of the error. */
static const char *run_out_of_time(struct query_batch *batch, struct database *database)
{
    const int64_t now_ms = clock_monotonic_ms();

    struct statement *statement = query_batch_add(batch);

    statement_init(statement, "SELECT $1");
    CU_ASSERT(statement_add_int4(statement, 1));
    CU_ASSERT_EQUAL(query_batch_begin(batch, database, now_ms, 400), ERROR_PENDING);
    fake_clock_advance(1);
    CU_ASSERT_EQUAL(query_batch_step(batch, true, now_ms + 1),
                    ERROR_PENDING); /* the batch has connected and sends */
    CU_ASSERT_EQUAL(step_after(batch, 398), ERROR_PENDING);
    CU_ASSERT(batch->running && query_batch_due_ms(batch) <= now_ms + 400);
    CU_ASSERT_EQUAL(step_after(batch, 1), ERROR_DATABASE_AWAY);
    CU_ASSERT(!batch->running && database_pollfd(database).fd < 0);
    CU_ASSERT_EQUAL(query_batch_step(batch, true, now_ms + 2000), ERROR_PENDING); /* no query is running */
    query_batch_end(batch);
    return database_error(database);
}

static int own_port(int fd)
{
    struct sockaddr_in address;
    socklen_t size = sizeof address;

    CU_ASSERT_EQUAL(getsockname(fd, (struct sockaddr *)&address, &size), 0);
    return ntohs(address.sin_port);
}

/* Expects an error that says, after this beginning, that the server has only accepted the connection. */
static void expect_silence(const char *actual, const char *beginning, int port, int ms)
{
    char expected[256];

    (void)snprintf(expected, sizeof expected,
                   "%sthe server at host 127.0.0.1 port %d has accepted the connection, but not answered "
                   "within %d ms",
                   beginning, port, ms);
    EXPECT_TEXT(actual, expected);
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
    expect_silence(run_out_of_time(&batch, database), "", own_port(silent), 399);
    fake_clock_advance(50);
    CU_ASSERT_STRING_EQUAL(run_out_of_time(&batch, database),
                           "the backend of an earlier session has not exited");
    fake_clock_advance(500);
    expect_silence(run_out_of_time(&batch, database), "", own_port(silent), 399);
    fake_clock_advance(60000);
    CU_ASSERT_STRING_EQUAL(run_out_of_time(&batch, database),
                           "the backend of an earlier session has not exited");
    silence_end(silent); /* the server closes both connections */
    silent = silence_begin();
    expect_silence(run_out_of_time(&batch, database), "", own_port(silent), 399);
    database_free(database);
    fake_clock_restore();
    silence_end(silent);
}

static int peer_port(const struct database *database)
{
    struct sockaddr_in address = { .sin_port = 0 };
    socklen_t size = sizeof address;

    CU_ASSERT_EQUAL(getpeername(database_pollfd(database).fd, (struct sockaddr *)&address, &size), 0);
    return ntohs(address.sin_port);
}

static void begin(struct query_batch *batch, struct database *database)
{
    struct statement *statement = query_batch_add(batch);

    statement_init(statement, "SELECT $1");
    CU_ASSERT(statement_add_int4(statement, 1));
    CU_ASSERT_EQUAL(query_batch_begin(batch, database, clock_monotonic_ms(), 6000), ERROR_PENDING);
}

/* An attempt gives the first host a third of its time and the second one the rest. The next begins there. */
static void goes_on_with_the_next_host(void)
{
    struct query_batch batch = { 0 };
    struct database *database = database_new(6000);
    int fds[3], second;

    CU_ASSERT_FATAL(database != NULL);
    silence_of_the_first_begin(fds);
    second = own_port(fds[2]);
    fake_clock_stop();
    begin(&batch, database);
    CU_ASSERT_EQUAL(query_batch_due_ms(&batch), clock_monotonic_ms() + 2000);
    CU_ASSERT_EQUAL(step_after(&batch, 1999), ERROR_PENDING);
    CU_ASSERT_EQUAL(query_batch_due_ms(&batch), clock_monotonic_ms() + 1);
    CU_ASSERT_EQUAL(step_after(&batch, 1), ERROR_PENDING);
    CU_ASSERT_EQUAL(peer_port(database), second);
    CU_ASSERT_EQUAL(query_batch_step(&batch, true, clock_monotonic_ms()), ERROR_PENDING);
    CU_ASSERT_EQUAL(query_batch_due_ms(&batch), clock_monotonic_ms() + 4000); /* TCP has connected */
    CU_ASSERT_EQUAL(step_after(&batch, 4000), ERROR_DATABASE_AWAY);
    expect_silence(database_error(database), "no connection to 127.0.0.1 in time; ", second, 4000);
    query_batch_end(&batch);

    fake_clock_advance(500); /* the session that was given up may be replaced */
    begin(&batch, database);
    CU_ASSERT_EQUAL(peer_port(database), second);
    query_batch_end(&batch);
    database_free(database);
    fake_clock_restore();
    silence_of_the_first_end(fds);
}

static void sends_nothing_without_statements(void)
{
    struct query_batch batch = { 0 };

    CU_ASSERT_EQUAL(query_batch_begin(&batch, NULL, 5000, 1000), ERROR_NONE);
    CU_ASSERT_EQUAL(query_batch_step(&batch, true, 9000), ERROR_PENDING);
    query_batch_end(&batch);
}

CU_TestInfo query_batch_tests[] = { { "goes on with the next host", goes_on_with_the_next_host },
                                    { "closes the connection at the deadline",
                                      closes_the_connection_at_the_deadline },
                                    { "sends nothing without statements", sends_nothing_without_statements },
                                    CU_TEST_INFO_NULL };
