#include "database.h"

#include "clock.h"
#include "statement.h"

#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct database {
    PGconn *connection; /* NULL: none; otherwise usable, non-blocking and in pipeline mode */
    char error[512];
};

struct database *database_new(void)
{
    return calloc(1, sizeof(struct database));
}

void database_free(struct database *database)
{
    if (!database)
        return;
    database_close(database);
    free(database);
}

bool database_is_connected(const struct database *database)
{
    return database->connection;
}

void database_close(struct database *database)
{
    PQfinish(database->connection);
    database->connection = NULL;
}

const char *database_error(const struct database *database)
{
    return database->error;
}

static enum error fail(struct database *database, enum error error, const char *text)
{
    (void)snprintf(database->error, sizeof database->error, "%s", text);
    database->error[strcspn(database->error, "\n")] = '\0';
    return error;
}

/* The connection is of no use any more. */
static enum error fail_away(struct database *database, const char *text)
{
    (void)fail(database, ERROR_DATABASE_AWAY, text);
    database_close(database);
    return ERROR_DATABASE_AWAY;
}

/* A server that goes down says so in a notice while we are idle; that it is gone we see for ourselves. */
static void ignore_notice(void *context, const PGresult *result)
{
    (void)context;
    (void)result;
}

static bool wait_socket(PGconn *connection, short events, int64_t deadline_ms)
{
    struct pollfd fd = { .fd = PQsocket(connection), .events = events };
    int ready;

    do {
        int64_t left_ms = deadline_ms - clock_monotonic_ms();
        ready = fd.fd < 0 ? 0 : poll(&fd, 1, left_ms > 0 ? (int)left_ms : 0);
    } while (ready < 0 && errno == EINTR);
    return ready > 0;
}

static PGconn *connect_start(void)
{
    static const char *const keywords[] = { "fallback_application_name", "client_encoding", NULL };
    static const char *const values[] = { "pgpoll", "UTF8", NULL };

    return PQconnectStartParams(keywords, values, 0);
}

/* Opens the connection; it is not yet known to lead to a schema of ours. */
static enum error connect_finish(struct database *database, int64_t deadline_ms)
{
    PostgresPollingStatusType state = PGRES_POLLING_WRITING;

    database->connection = connect_start();
    if (!database->connection)
        return fail(database, ERROR_MEMORY, "out of memory");
    (void)PQsetNoticeReceiver(database->connection, ignore_notice, NULL);
    while (PQstatus(database->connection) != CONNECTION_BAD &&
           (state == PGRES_POLLING_READING || state == PGRES_POLLING_WRITING)) {
        if (!wait_socket(database->connection, state == PGRES_POLLING_READING ? POLLIN : POLLOUT, deadline_ms))
            return fail_away(database, "no connection in time");
        state = PQconnectPoll(database->connection);
    }
    if (state != PGRES_POLLING_OK || PQsetnonblocking(database->connection, 1) != 0 ||
        PQenterPipelineMode(database->connection) != 1)
        return fail_away(database, PQerrorMessage(database->connection));
    return ERROR_NONE;
}

/* The next result, NULL at the end of a statement's; *error tells whether it came at all. */
static PGresult *next_result(struct database *database, int64_t deadline_ms, enum error *error)
{
    int unsent = PQflush(database->connection);

    while (unsent == 1 || (unsent == 0 && PQisBusy(database->connection))) {
        if (!wait_socket(database->connection, (short)(unsent ? POLLIN | POLLOUT : POLLIN), deadline_ms)) {
            *error = fail_away(database, "no answer in time");
            return NULL;
        }
        if (PQconsumeInput(database->connection) == 0)
            break; /* what had arrived before may still be an answer; if not, the result says why */
        unsent = PQflush(database->connection);
    }
    return PQgetResult(database->connection);
}

/* Whether another try may succeed: shut down, out of resources, conflict, cancelled (manual, appendix A). */
static bool is_passing(const char *sqlstate)
{
    static const char *const classes[] = { "08", "40", "53", "55", "57", "58" };

    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++)
        if (strncmp(sqlstate, classes[i], 2) == 0)
            return true;
    return false;
}

/* Takes over the result of one statement; *keep gets it when it is good. */
static enum error take_result(struct database *database, PGresult *result, PGresult **keep)
{
    const char *sqlstate, *message;
    enum error error = ERROR_NONE;

    switch (PQresultStatus(result)) {
    case PGRES_TUPLES_OK:
    case PGRES_COMMAND_OK:
        *keep = result;
        return ERROR_NONE;
    default:
        sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);
        message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
        error = !sqlstate || is_passing(sqlstate) ? ERROR_DATABASE_AWAY : ERROR_DATABASE_QUERY;
        (void)fail(database, error, message ? message : PQerrorMessage(database->connection));
        PQclear(result);
        return error;
    }
}

/* Reads one statement's result and the end of its transaction. */
static enum error receive(struct database *database, PGresult **keep, int64_t deadline_ms)
{
    enum error error = ERROR_NONE, outcome = ERROR_NONE;
    PGresult *result;

    for (;;) {
        result = next_result(database, deadline_ms, &error);
        if (error)
            return error;
        if (!result && PQstatus(database->connection) == CONNECTION_BAD)
            return fail_away(database, PQerrorMessage(database->connection));
        if (PQresultStatus(result) == PGRES_PIPELINE_SYNC) {
            PQclear(result);
            return outcome;
        }
        if (result && !outcome)
            outcome = take_result(database, result, keep);
        else
            PQclear(result);
    }
}

static enum error exchange(struct database *database, const struct statement *statements, int count, PGresult **results,
                           int64_t deadline_ms)
{
    static const int binary[STATEMENT_MAX_PARAMETERS] = { 1, 1, 1, 1, 1, 1 };
    enum error error = ERROR_NONE;

    for (int i = 0; i < count; i++)
        if (!PQsendQueryParams(database->connection, statements[i].sql, statements[i].count, statements[i].types,
                               statements[i].values, statements[i].lengths, binary, 1) ||
            !PQpipelineSync(database->connection))
            return fail_away(database, PQerrorMessage(database->connection));
    for (int i = 0; i < count; i++) {
        enum error one = receive(database, &results[i], deadline_ms);

        if (one && !error)
            error = one;
        if (!database->connection)
            break;
    }
    /* A backend that was told to end may still have answered. */
    if (error == ERROR_DATABASE_AWAY)
        database_close(database);
    return error;
}

/* One statement more than a poll needs, once a connection. */
static enum error check_schema(struct database *database, int64_t deadline_ms)
{
    struct statement statement;
    PGresult *result = NULL;
    enum error error;
    char text[128];
    uint32_t version;

    statement_init(&statement, "SELECT pgpoll.schema_version()");
    error = exchange(database, &statement, 1, &result, deadline_ms);
    if (error == ERROR_DATABASE_QUERY) {
        /* Missing, or out of bounds for this role; the server's message says which. */
        (void)snprintf(text, sizeof text, "no pgpoll schema to use here: %.90s", database->error);
        error = fail(database, ERROR_SCHEMA, text);
    } else if (!error) {
        memcpy(&version, PQgetvalue(result, 0, 0), sizeof version);
        version = be32toh(version);
        (void)snprintf(text, sizeof text, "the pgpoll schema has version %u, this program needs version %d", version,
                       DATABASE_SCHEMA_VERSION);
        if (version != DATABASE_SCHEMA_VERSION)
            error = fail(database, ERROR_SCHEMA, text);
    }
    PQclear(result);
    if (error)
        database_close(database);
    return error;
}

enum error database_run(struct database *database, const struct statement *statements, int count, PGresult **results,
                        int64_t deadline_ms)
{
    enum error error = ERROR_NONE;

    for (int i = 0; i < count; i++)
        results[i] = NULL;
    database->error[0] = '\0';
    if (!database->connection) {
        error = connect_finish(database, deadline_ms);
        if (!error)
            error = check_schema(database, deadline_ms);
    }
    if (!error)
        error = exchange(database, statements, count, results, deadline_ms);
    for (int i = 0; error && i < count; i++) {
        PQclear(results[i]);
        results[i] = NULL;
    }
    return error;
}

static bool take_notifications(PGconn *connection)
{
    bool any = false;
    PGnotify *notification;

    while ((notification = PQnotifies(connection))) {
        any = true;
        PQfreemem(notification);
    }
    return any;
}

enum error database_wait_news(struct database *database, const struct interrupts *interrupts, int64_t deadline_ms)
{
    enum error error = ERROR_NONE;

    if (!database->connection)
        return ERROR_DATABASE_AWAY;
    /* Notifications also arrive along with results, so look before sleeping. */
    while (!error && !take_notifications(database->connection)) {
        /* PQsocket is asked each time: a lost connection has none. */
        error = interrupts_wait(interrupts, PQsocket(database->connection), POLLIN, deadline_ms);
        if (!error && (PQconsumeInput(database->connection) == 0 || PQsocket(database->connection) < 0))
            error = fail_away(database, PQerrorMessage(database->connection));
    }
    return error;
}
