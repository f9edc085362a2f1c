#include "postgres/database.h"

#include "core/background.h"
#include "core/clock.h"
#include "core/log.h"
#include "core/wait.h"
#include "postgres/database_state.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>

enum { CANCEL_MS = 500 }; /* how long database_free() waits for a cancel request to be sent */

struct database *database_new(int64_t query_timeout_ms)
{
    struct database *database = calloc(1, sizeof *database);

    if (database)
        database->query_timeout_ms = query_timeout_ms;
    return database;
}

void database_set_asynchronous_commit(struct database *database)
{
    database->asynchronous_commit = true;
}

/*
 * Sets a variable of the environment, or removes it if value is NULL. Unless before is NULL, stores a copy of
 * what it was, which the caller frees. Returns false if out of memory.
 */
static bool set_variable(const char *name, const char *value, char **before)
{
    const char *now = getenv(name);

    if (before)
        *before = now ? strdup(now) : NULL;
    if (before && now && !*before)
        return false;
    return (value ? setenv(name, value, 1) : unsetenv(name)) == 0;
}

bool database_use_service(struct database *database, const char *service)
{
    static const char SERVICE[] = "PGSERVICE", ATTRIBUTES[] = "PGTARGETSESSIONATTRS";
    char *service_before = NULL, *attributes_before = NULL;
    bool restored;

    /*
     * PQconndefaults() reads the service file only for the service in PGSERVICE. PGTARGETSESSIONATTRS is for
     * the other sessions and usually excludes standbys, but this service may be one.
     */
    if (set_variable(SERVICE, service, &service_before) && set_variable(ATTRIBUTES, NULL, &attributes_before))
        database->options = PQconndefaults();
    restored = set_variable(SERVICE, service_before, NULL);
    restored = set_variable(ATTRIBUTES, attributes_before, NULL) && restored;
    database->service = service;
    free(service_before);
    free(attributes_before);
    return restored && database->options;
}

void database_free(struct database *database)
{
    if (!database)
        return;
    database_close(database, NULL);
    if (database->canceller)
        background_wait(database->canceller, clock_monotonic_ms() + CANCEL_MS);
    background_free(database->canceller);
    while (database->ended_count > 0)
        session_forget(database, &database->ended[0]);
    connect_drop_addresses(database);
    statement_release(&database->check_statement);
    PQconninfoFree(database->options);
    free(database);
}

enum error database_begin(struct database *database, const struct statement *statements, int count,
                          PGresult **results)
{
    enum error error;

    for (int i = 0; i < count; i++)
        results[i] = NULL;
    database->error[0] = database->sqlstate[0] = '\0';
    database->failed = -1;
    database->timed_out = false;
    database->asked = (struct pipeline){ .statements = statements, .count = count, .results = results };
    if (database->state == CLOSED)
        return connect_begin(database);
    error = identify_check(database);
    return error ? error : pipeline_start_asked(database);
}

enum error database_step(struct database *database)
{
    enum error error = ERROR_PENDING;

    switch (database->state) {
    case ENDING:
        return connect_step_ending(database);
    case RESOLVING:
        return connect_step_resolving(database);
    case CONNECTING:
        return connect_step_connecting(database);
    case CHECKING:
        return connect_step_checking(database);
    case IDENTIFYING:
        return connect_step_identifying(database);
    case REPLACING:
        return connect_step_replacing(database);
    case RUNNING:
        error = pipeline_step(database, &database->asked);
        if (error != ERROR_PENDING && database->state == RUNNING)
            database->state = IDLE;
        if (error == ERROR_NONE)
            connect_remember(database);
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

    if (database->state == ENDING)
        fd.fd = session_newest_ended(database)->fd;
    else if (database->state == RESOLVING)
        fd.fd = background_fd(database->resolver);
    else if (database->state == CONNECTING)
        fd.events = database->polling == PGRES_POLLING_WRITING ? POLLOUT : POLLIN;
    /* not everything was sent; the next step sends more */
    else if (database->state != IDLE && PQflush(database->connection) == 1)
        fd.events = POLLIN | POLLOUT;
    return fd;
}

int64_t database_due_ms(const struct database *database)
{
    if (database->state == ENDING)
        return clock_min(database->look_ms, database->host_due_ms);
    if (database->state == RESOLVING && background_is_lost(database->resolver))
        return 0;
    return database->state == CONNECTING ? database->host_due_ms : INT64_MAX;
}

bool database_is_resolving(const struct database *database)
{
    return database->state == RESOLVING;
}

/* Waits until a step is due. Returns false if the deadline came first. */
static bool wait_ready(const struct database *database, int64_t deadline_ms)
{
    const struct pollfd fd = database_pollfd(database);
    const int64_t due_ms = database_due_ms(database);

    return (fd.fd >= 0 && wait_for_fd(fd.fd, fd.events, clock_min(deadline_ms, due_ms))) ||
           (due_ms <= deadline_ms && clock_monotonic_ms() >= due_ms);
}

enum error database_run(struct database *database, const struct statement *statements, int count,
                        PGresult **results, int64_t deadline_ms)
{
    enum error error = database_begin(database, statements, count, results);

    while (error == ERROR_PENDING) {
        if (wait_ready(database, deadline_ms)) {
            error = database_step(database);
        } else {
            database_give_up(database);
            error = ERROR_DATABASE_AWAY;
        }
    }
    return error;
}

enum error database_probe(struct database *database, int64_t deadline_ms)
{
    struct statement nothing;
    PGresult *result = NULL;
    enum error error;

    statement_init(&nothing, "SELECT");
    error = database_run(database, &nothing, 1, &result, deadline_ms);
    PQclear(result);
    return error;
}

enum error database_consume(struct database *database)
{
    if (database->state == CLOSED)
        return ERROR_DATABASE_AWAY;
    if (PQconsumeInput(database->connection) == 0 || PQsocket(database->connection) < 0)
        return database_lose(database);
    return ERROR_NONE;
}

PGnotify *database_notification(struct database *database)
{
    return database->connection ? PQnotifies(database->connection) : NULL;
}

bool database_bool(const PGresult *result, int row, int column)
{
    return *PQgetvalue(result, row, column) == 1;
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
    return PQntuples(result) == 1 && !PQgetisnull(result, 0, 0) && database_bool(result, 0, 0);
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

enum error database_wait_news(struct database *database, const struct interrupts *interrupts,
                              int64_t deadline_ms)
{
    enum error error = database->state == CLOSED ? ERROR_DATABASE_AWAY : ERROR_NONE;

    /* Notifications also arrive together with results, so check before sleeping. */
    while (!error && !drop_notifications(database)) {
        /* PQsocket() is called each time, because a lost connection has no socket. */
        error = wait_for_event(interrupts, PQsocket(database->connection), POLLIN, deadline_ms);
        if (!error)
            error = database_consume(database);
    }
    return error;
}

bool database_is_connected(const struct database *database)
{
    return database->connection;
}

bool database_is_pooled(const struct database *database)
{
    return database->connection && database->pooled;
}

bool database_is_primary(const struct database *database)
{
    return database->connection && !database->reached.standby;
}

const char *database_host(const struct database *database)
{
    return database->connection ? PQhost(database->connection) : "";
}

const char *database_port(const struct database *database)
{
    return database->connection ? PQport(database->connection) : "";
}

const char *database_error(const struct database *database)
{
    return database->error;
}

int database_failed(const struct database *database)
{
    return database->failed;
}

enum error database_name_error(const struct database *database, enum error error, enum error failed,
                               enum error timed_out)
{
    if (database->timed_out)
        return timed_out;
    return error == ERROR_DATABASE_QUERY ? failed : error;
}

const char *database_sqlstate(const struct database *database)
{
    return database->sqlstate;
}

void database_note_read_only(bool *noted, bool read_only)
{
    if (read_only && !*noted)
        log_write(LOG_LEVEL_WARNING,
                  "the database is read-only (default_transaction_read_only): new messages are not "
                  "delivered and statistics are not updated until it is writable again");
    else if (*noted && !read_only)
        log_write(LOG_LEVEL_INFO, "the database is writable again");
    *noted = read_only;
}
