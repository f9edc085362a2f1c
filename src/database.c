#include "database.h"

#include "clock.h"
#include "statement.h"

#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum state {
    CLOSED,
    CONNECTING,
    CHECKING, /* connected, asking for the schema's version */
    IDLE,
    RUNNING
};

enum { SCHEMA_UNUSABLE = -1 }; /* in place of a version */

/* Statements under way and what came of them. */
struct pipeline {
    const struct statement *statements;
    int count;
    PGresult **results;
    int received;
    enum error outcome; /* the first error */
};

struct database {
    const char *service; /* NULL or "": none of its own */
    PGconn *connection;  /* NULL when CLOSED; non-blocking and in pipeline mode from CHECKING on */
    enum state state;
    PostgresPollingStatusType polling; /* while CONNECTING */
    struct pipeline asked;             /* by the caller */
    struct pipeline check;             /* by us */
    struct statement version_statement;
    PGresult *version_result;
    char error[512];
};

static enum error fail(struct database *database, enum error error, const char *text)
{
    (void)snprintf(database->error, sizeof database->error, "%s", text);
    database->error[strcspn(database->error, "\n")] = '\0';
    return error;
}

static void drop_results(struct pipeline *pipeline)
{
    for (int i = 0; i < pipeline->count; i++) {
        PQclear(pipeline->results[i]);
        pipeline->results[i] = NULL;
    }
    pipeline->count = 0;
}

struct database *database_new(void)
{
    struct database *database = calloc(1, sizeof *database);

    if (database)
        /* Whatever the role's default: positions are given in a snapshot from after a lock. */
        statement_init(
            &database->version_statement,
            "SELECT pgpoll.schema_version() FROM set_config('default_transaction_isolation', 'read committed', false)");
    return database;
}

void database_free(struct database *database)
{
    if (!database)
        return;
    database_close(database, NULL);
    statement_release(&database->version_statement);
    free(database);
}

void database_set_service(struct database *database, const char *service)
{
    database->service = service;
}

void database_close(struct database *database, const char *text)
{
    if (text)
        (void)fail(database, ERROR_DATABASE_AWAY, text);
    drop_results(&database->asked);
    drop_results(&database->check);
    PQfinish(database->connection);
    database->connection = NULL;
    database->state = CLOSED;
}

/* The connection is of no use any more. */
static enum error lose(struct database *database)
{
    database_close(database, PQerrorMessage(database->connection));
    return ERROR_DATABASE_AWAY;
}

/* A server that goes down says so in a notice while we are idle; that it is gone we see for ourselves. */
static void ignore_notice(void *context, const PGresult *result)
{
    (void)context;
    (void)result;
}

/* ---- a pipeline: send everything, then collect a result and the end of a transaction for each statement */

static enum error pipeline_start(struct database *database, struct pipeline *pipeline)
{
    static const int binary[STATEMENT_MAX_PARAMETERS] = { 1, 1, 1, 1, 1, 1, 1 };

    for (int i = 0; i < pipeline->count; i++) {
        const struct statement *statement = &pipeline->statements[i];

        if (!PQsendQueryParams(database->connection, statement->sql, statement->count, statement->types,
                               statement->values, statement->lengths, binary, 1) ||
            !PQpipelineSync(database->connection))
            return lose(database);
    }
    return ERROR_PENDING;
}

/* Whether another try may succeed: shut down, out of resources, conflict, cancelled, read-only as on a standby (manual, appendix A). */
static bool is_passing(const char *sqlstate)
{
    static const char *const classes[] = { "08", "25", "40", "53", "55", "57", "58" };

    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++)
        if (strncmp(sqlstate, classes[i], 2) == 0)
            return true;
    return false;
}

/* As fail(), with what the server says: the message and, if there is one and it is wanted, the hint. */
static enum error fail_with(struct database *database, enum error error, const PGresult *result, bool hint_wanted)
{
    const char *message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
    const char *hint = hint_wanted ? PQresultErrorField(result, PG_DIAG_MESSAGE_HINT) : NULL;
    char text[sizeof database->error];

    if (!message)
        return fail(database, error, PQerrorMessage(database->connection));
    (void)snprintf(text, sizeof text, "%s%s%s", message, hint ? ": " : "", hint ? hint : "");
    return fail(database, error, text);
}

/* Takes over the result of the statement whose turn it is; after its first one that is not NULL, all are dropped. */
static void pipeline_take(struct database *database, struct pipeline *pipeline, PGresult *result)
{
    PGresult **slot = &pipeline->results[pipeline->received];
    ExecStatusType status = PQresultStatus(result);

    if (*slot) {
        PQclear(result);
    } else if (status == PGRES_TUPLES_OK || status == PGRES_COMMAND_OK) {
        *slot = result;
    } else if (result) {
        const char *sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);

        if (!pipeline->outcome)
            pipeline->outcome =
                fail_with(database, !sqlstate || is_passing(sqlstate) ? ERROR_DATABASE_AWAY : ERROR_DATABASE_QUERY,
                          result, pipeline == &database->asked);
        PQclear(result);
    }
}

/* Collects what has arrived; ERROR_PENDING: not all yet. */
static enum error pipeline_step(struct database *database, struct pipeline *pipeline)
{
    bool readable = PQconsumeInput(database->connection) == 1;

    if (readable && PQflush(database->connection) < 0)
        return lose(database);
    while (pipeline->received < pipeline->count) {
        PGresult *result;

        if (readable && PQisBusy(database->connection))
            return ERROR_PENDING;
        result = PQgetResult(database->connection); /* of a broken connection: what had arrived, then the reason */
        if (PQresultStatus(result) == PGRES_PIPELINE_SYNC) {
            PQclear(result);
            pipeline->received++;
            continue;
        }
        pipeline_take(database, pipeline, result);
        if (PQstatus(database->connection) == CONNECTION_BAD) {
            if (!pipeline->outcome)
                return lose(database);
            database_close(database, NULL); /* the server said why */
            return pipeline->outcome == ERROR_DATABASE_QUERY ? ERROR_DATABASE_AWAY : pipeline->outcome;
        }
    }
    if (!pipeline->outcome) {
        pipeline->count = 0; /* the results are the caller's now */
    } else {
        drop_results(pipeline);
        if (pipeline->outcome == ERROR_DATABASE_AWAY)
            database_close(database, NULL);
    }
    return pipeline->outcome;
}

/* ---- connecting */

static enum error connect_start(struct database *database)
{
    static const char *const keywords[] = { "fallback_application_name", "client_encoding", "service", NULL };
    const char *const values[] = { "pgpoll", "UTF8", database->service, NULL };

    database->connection = PQconnectStartParams(keywords, values, 0);
    if (!database->connection)
        return fail(database, ERROR_MEMORY, "out of memory");
    if (PQstatus(database->connection) == CONNECTION_BAD)
        return lose(database);
    (void)PQsetNoticeReceiver(database->connection, ignore_notice, NULL);
    database->state = CONNECTING;
    database->polling = PGRES_POLLING_WRITING;
    return ERROR_PENDING;
}

static enum error connect_step(struct database *database)
{
    database->polling = PQconnectPoll(database->connection);
    if (database->polling == PGRES_POLLING_READING || database->polling == PGRES_POLLING_WRITING)
        return ERROR_PENDING;
    if (database->polling != PGRES_POLLING_OK || PQsetnonblocking(database->connection, 1) != 0 ||
        PQenterPipelineMode(database->connection) != 1)
        return lose(database);
    database->state = CHECKING;
    database->check = (struct pipeline){ &database->version_statement, 1, &database->version_result, 0, ERROR_NONE };
    return pipeline_start(database, &database->check);
}

/* Says what to do about a schema of this version, or about one that could not be asked (missing, or closed to this role). */
static enum error refuse_schema(struct database *database, int version)
{
    const char *name = PQdb(database->connection);
    char text[sizeof database->error];

    if (version == SCHEMA_UNUSABLE)
        (void)snprintf(
            text, sizeof text,
            "no pgpoll schema that role %.63s can use in database %.63s (%.150s): run pgpoll-setup --role %.63s %.63s",
            PQuser(database->connection), name, database->error, PQuser(database->connection), name);
    else if (version < PGPOLL_SCHEMA_VERSION)
        (void)snprintf(text, sizeof text,
                       "the pgpoll schema in database %.63s has version %d, this program needs version %d: "
                       "to upgrade it, run pgpoll-setup %.63s",
                       name, version, PGPOLL_SCHEMA_VERSION, name);
    else
        (void)snprintf(text, sizeof text,
                       "the pgpoll schema in database %.63s has version %d, this program (pgpoll " PGPOLL_VERSION
                       ") only knows version %d: install the pgpoll that upgraded it, then reload",
                       name, version, PGPOLL_SCHEMA_VERSION);
    database_close(database, text);
    return ERROR_SCHEMA;
}

/* Once a connection: is there a schema of ours, and of our version? */
static enum error check_step(struct database *database)
{
    enum error error = pipeline_step(database, &database->check);
    int32_t version;

    if (error == ERROR_DATABASE_QUERY)
        return refuse_schema(database, SCHEMA_UNUSABLE);
    if (error)
        return error;
    version = database_int4(database->version_result, 0, 0);
    PQclear(database->version_result);
    database->version_result = NULL;
    if (version != PGPOLL_SCHEMA_VERSION)
        return refuse_schema(database, version);
    database->state = RUNNING;
    return pipeline_start(database, &database->asked);
}

/* ---- what callers see */

enum error database_begin(struct database *database, const struct statement *statements, int count, PGresult **results)
{
    for (int i = 0; i < count; i++)
        results[i] = NULL;
    database->error[0] = '\0';
    database->asked = (struct pipeline){ statements, count, results, 0, ERROR_NONE };
    if (database->state == CLOSED)
        return connect_start(database);
    database->state = RUNNING;
    return pipeline_start(database, &database->asked);
}

enum error database_step(struct database *database)
{
    enum error error = ERROR_PENDING;

    switch (database->state) {
    case CONNECTING:
        return connect_step(database);
    case CHECKING:
        return check_step(database);
    case RUNNING:
        error = pipeline_step(database, &database->asked);
        if (error != ERROR_PENDING && database->state == RUNNING)
            database->state = IDLE;
        return error;
    case CLOSED:
    case IDLE:
        break;
    }
    return ERROR_NONE;
}

struct pollfd database_pollfd(const struct database *database)
{
    struct pollfd fd = { .fd = PQsocket(database->connection), .events = POLLIN };

    if (database->state == CONNECTING)
        fd.events = database->polling == PGRES_POLLING_WRITING ? POLLOUT : POLLIN;
    /* Pipelined statements may be more than the socket takes at once; what was not sent goes out with the next step. */
    else if (database->state != IDLE && PQflush(database->connection) == 1)
        fd.events = POLLIN | POLLOUT;
    return fd;
}

static bool wait_ready(const struct database *database, int64_t deadline_ms)
{
    struct pollfd fd = database_pollfd(database);
    int ready;

    do {
        int64_t left_ms = deadline_ms - clock_monotonic_ms();
        ready = fd.fd < 0 ? 0 : poll(&fd, 1, left_ms > 0 ? (int)left_ms : 0);
    } while (ready < 0 && errno == EINTR);
    return ready > 0;
}

enum error database_run(struct database *database, const struct statement *statements, int count, PGresult **results,
                        int64_t deadline_ms)
{
    enum error error = database_begin(database, statements, count, results);

    while (error == ERROR_PENDING) {
        if (wait_ready(database, deadline_ms)) {
            error = database_step(database);
        } else {
            database_close(database, database->state == CONNECTING ? "no connection in time" : "no answer in time");
            error = ERROR_DATABASE_AWAY;
        }
    }
    return error;
}

enum error database_consume(struct database *database)
{
    if (database->state == CLOSED)
        return ERROR_DATABASE_AWAY;
    if (PQconsumeInput(database->connection) == 0 || PQsocket(database->connection) < 0)
        return lose(database);
    return ERROR_NONE;
}

PGnotify *database_notification(struct database *database)
{
    return database->connection ? PQnotifies(database->connection) : NULL;
}

int32_t database_int4(const PGresult *result, int row, int column)
{
    uint32_t big_endian;

    memcpy(&big_endian, PQgetvalue(result, row, column), sizeof big_endian);
    return (int32_t)be32toh(big_endian);
}

int64_t database_int8(const PGresult *result, int row, int column)
{
    uint64_t big_endian;

    memcpy(&big_endian, PQgetvalue(result, row, column), sizeof big_endian);
    return (int64_t)be64toh(big_endian);
}

bool database_is_true(const PGresult *result)
{
    return PQntuples(result) == 1 && !PQgetisnull(result, 0, 0) && *PQgetvalue(result, 0, 0) == 1;
}

static bool drop_notifications(struct database *database)
{
    bool any = false;
    PGnotify *notification;

    while ((notification = database_notification(database))) {
        any = true;
        PQfreemem(notification);
    }
    return any;
}

enum error database_wait_news(struct database *database, const struct interrupts *interrupts, int64_t deadline_ms)
{
    enum error error = database->state == CLOSED ? ERROR_DATABASE_AWAY : ERROR_NONE;

    /* Notifications also arrive along with results, so look before sleeping. */
    while (!error && !drop_notifications(database)) {
        /* The socket is asked for each time: a lost connection has none. */
        error = interrupts_wait(interrupts, PQsocket(database->connection), POLLIN, deadline_ms);
        if (!error)
            error = database_consume(database);
    }
    return error;
}

bool database_is_connected(const struct database *database)
{
    return database->connection;
}

const char *database_error(const struct database *database)
{
    return database->error;
}
