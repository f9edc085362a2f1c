#include "manager/check.h"

#include "api/poll_request.h"
#include "core/clock.h"
#include "core/config.h"
#include "core/wait.h"
#include "postgres/calls.h"
#include "postgres/database.h"
#include "postgres/statement.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum {
    DELIVERY_MS = 3000, /* how long to wait for a notification */
    CLOCK_MS = 2000,    /* largest accepted difference between the database's clock and this host's */
    /* connections of the relay and the statistics writer; those of the authorizer are added */
    MANAGER_CONNECTIONS = 2
};

enum kind { OK, NOTE, WRONG };

struct check {
    const struct config *config;
    FILE *out;
    struct database *database;
    int wrong;
};

static void say(struct check *check, enum kind kind, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void say(struct check *check, enum kind kind, const char *format, ...)
{
    static const char *const words[] = { "ok", "note", "WRONG" };
    va_list arguments;

    check->wrong += kind == WRONG;
    (void)fprintf(check->out, "%-6s ", words[kind]);
    va_start(arguments, format);
    (void)vfprintf(check->out, format, arguments);
    va_end(arguments);
    (void)fputc('\n', check->out);
}

/*
 * Runs the statement, with PGPOLL_QUERY_TIMEOUT_S as its time limit, and releases it. Returns the result,
 * which the caller clears, or NULL if the statement failed. Then this function has printed the reason after
 * failure, a clause such as "LISTEN fails".
 */
static PGresult *run(struct check *check, struct database *database, struct statement *statement,
                     const char *failure)
{
    const int64_t deadline_ms = clock_monotonic_ms() + check->config->query_timeout_s * 1000;
    PGresult *result = NULL;

    if (database_run(database, statement, 1, &result, deadline_ms) != ERROR_NONE) {
        result = NULL;
        say(check, WRONG, "%s: %s%s", failure, database_error(database),
            clock_monotonic_ms() < deadline_ms ? "" : " (PGPOLL_QUERY_TIMEOUT_S)");
    }
    statement_release(statement);
    return result;
}

static PGresult *ask(struct check *check, void (*call)(struct statement *), const char *failure)
{
    struct statement statement;

    call(&statement);
    return run(check, check->database, &statement, failure);
}

static const char *text(const PGresult *result, int row, int column)
{
    return PQgetvalue(result, row, column);
}

/* ---- the checks; a check that returns false makes the checks after it pointless */

/*
 * Connects to the database, which includes a check of the schema's version. Prints what it is connected to.
 */
static bool check_connection(struct check *check)
{
    const int64_t before_ms = clock_wall_ms();
    PGresult *result = ask(check, call_connection, "cannot connect");
    int64_t ahead_ms;

    if (!result) {
        say(check, NOTE,
            "PGHOST, PGPORT, PGDATABASE, PGUSER, PGPASSFILE and PGSERVICE say where to connect and as whom.");
        return false;
    }
    say(check, OK, "Connected to database %s at %s as role %s; PostgreSQL %s, pgpoll schema version %d.",
        text(result, 0, 0), text(result, 0, 1), text(result, 0, 2), text(result, 0, 3),
        PGPOLL_SCHEMA_VERSION);
    if (*text(result, 0, 4))
        say(check, NOTE,
            "Role %s is a superuser. The workers need no more than: GRANT pgpoll_poller TO your_role;",
            text(result, 0, 2));
    ahead_ms = database_int8(result, 0, 5) - (before_ms + clock_wall_ms()) / 2;
    if (llabs(ahead_ms) > CLOCK_MS)
        say(check, NOTE,
            "The database's clock is %.1f s %s this host's. Messages are delivered as usual, but latencies "
            "in the"
            " metrics, and cursors that are times, are wrong by as much. Synchronize the clocks.",
            (double)llabs(ahead_ms) / 1000, ahead_ms > 0 ? "ahead of" : "behind");
    PQclear(result);
    return true;
}

/* Checks that this role may call every function that role pgpoll_poller may call. */
static bool check_rights(struct check *check)
{
    PGresult *result = ask(check, call_missing_rights, "cannot read the role's rights");
    bool may = result && !*text(result, 0, 0);

    if (may)
        say(check, OK, "Role %s has the rights of a worker.", text(result, 0, 1));
    else if (result)
        say(check, WRONG, "Role %s may not call %s. GRANT pgpoll_poller TO %s;", text(result, 0, 1),
            text(result, 0, 0), text(result, 0, 1));
    PQclear(result);
    return may;
}

/* Prints the problems that pgpoll.problems() finds. Returns false if numbering and LISTEN cannot be tried. */
static bool check_problems(struct check *check)
{
    struct statement statement;
    PGresult *result = NULL;
    bool blocking = false;

    if (call_problems(&statement, check->config->host, (int32_t)check->config->workers,
                      (int32_t)check->config->connections + MANAGER_CONNECTIONS,
                      (int32_t)check->config->access_connections))
        result = run(check, check->database, &statement, "pgpoll.problems() fails");
    for (int i = 0; i < PQntuples(result); i++) {
        say(check, strcmp(text(result, i, 0), "WRONG") == 0 ? WRONG : NOTE, "%s", text(result, i, 1));
        blocking = blocking || *text(result, i, 2);
    }
    if (blocking)
        say(check, NOTE,
            "Numbering and LISTEN are not tried, because they would wait or fail for that reason.");
    PQclear(result);
    return result && !blocking;
}

static void check_can_poll(struct check *check)
{
    PGresult *result = ask(check, call_can_poll, "pgpoll.can_poll() fails");

    if (result)
        say(check, OK, "pgpoll.can_poll() answers: an unauthenticated client %s poll topic 'pgpoll check'.",
            database_is_true(result) ? "may" : "may not");
    else
        say(check, NOTE, "Correct pgpoll.can_poll(). While it fails, polls are answered with 503.");
    PQclear(result);
}

static void check_numbering(struct check *check)
{
    PGresult *result = ask(check, call_try_position, "No message can be given a position");

    if (result && PQgetisnull(result, 0, 0))
        say(check, OK, "A message is published and numbered, and taken back.");
    else if (result)
        say(check, WRONG, "%s", text(result, 0, 0));
    PQclear(result);
}

/* ---- LISTEN */

static bool hears(struct database *database)
{
    const int64_t deadline_ms = clock_monotonic_ms() + DELIVERY_MS;
    PGnotify *notification = NULL;

    while (database_consume(database) == ERROR_NONE && !(notification = database_notification(database))) {
        const struct pollfd fd = database_pollfd(database);

        if (!wait_for_fd(fd.fd, fd.events, deadline_ms))
            break;
    }
    PQfreemem(notification);
    return notification;
}

/*
 * Checks that LISTEN delivers. This takes two connections: through a pooler in transaction mode, a client may
 * receive its own NOTIFY if it happens to get the same server connection twice, although LISTEN does not
 * work.
 */
static void check_listen(struct check *check)
{
    struct database *other = database_new(check->config->query_timeout_s * 1000);
    struct statement listen, notify;
    char name[64];
    const struct poll_topic topic = {
        .name = name, .length = (size_t)snprintf(name, sizeof name, "pgpoll check %d", (int)getpid())
    };
    PGresult *listening = NULL, *notified = NULL;
    int64_t began_ms = 0;

    if (other && call_listen_to_topic(&listen, &topic))
        listening = run(check, check->database, &listen, "LISTEN fails");
    if (listening) {
        call_notify_topic(&notify, name);
        began_ms = clock_monotonic_ms();
        notified = run(check, other, &notify, "A second connection cannot NOTIFY");
    }
    if (notified && hears(check->database))
        say(check, OK, "LISTEN delivers: a notification took %" PRId64 " ms.",
            clock_monotonic_ms() - began_ms);
    else if (notified)
        say(check, WRONG,
            "LISTEN delivers nothing. PGHOST may be a pooler in transaction mode: connect to PostgreSQL "
            "itself, or"
            " through a pooler in session mode.");
    PQclear(listening);
    PQclear(notified);
    database_free(other);
}

/* ---- the readers */

static const char *describe(const struct database *database)
{
    if (!database_is_primary(database))
        return "a standby";
    return database_is_pooled(database) ? "the primary, through a pooler" : "the primary";
}

/* Checks that readers can use PGPOLL_CATCH_UP_SERVICE, if it is set. */
static void check_catch_up_service(struct check *check)
{
    const char *service = check->config->catch_up_service;
    const int64_t timeout_ms = check->config->query_timeout_s * 1000;
    struct database *database = *service ? database_new(timeout_ms) : NULL;

    if (!*service)
        return;
    if (!database || !database_use_service(database, service))
        say(check, WRONG, "out of memory");
    else if (database_probe(database, clock_monotonic_ms() + timeout_ms) != ERROR_NONE)
        say(check, WRONG, "PGPOLL_CATCH_UP_SERVICE=%s cannot be used: %s", service, database_error(database));
    else
        say(check, OK, "PGPOLL_CATCH_UP_SERVICE=%s leads to %s.", service, describe(database));
    database_free(database);
}

/* ---- this host */

static void check_limits(struct check *check)
{
    const rlim_t processes = (rlim_t)check->config->workers * 21 / 20 + 1;
    const rlim_t files = (rlim_t)check->config->workers * 5 / 2;
    struct rlimit limit;

    if (getuid() != 0 && getrlimit(RLIMIT_NPROC, &limit) == 0 && limit.rlim_cur < processes)
        say(check, WRONG,
            "%" PRId64
            " polls need about %ju processes, and this user may have %ju. Raise ulimit -u, or lower"
            " PGPOLL_WORKERS.",
            check->config->workers, (uintmax_t)processes, (uintmax_t)limit.rlim_cur);
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_max < files)
        say(check, NOTE,
            "For %" PRId64
            " polls the web server needs %ju file descriptors, and a process started here may have %ju"
            " (ulimit -Hn).",
            check->config->workers, (uintmax_t)files, (uintmax_t)limit.rlim_max);
}

bool check_run(const struct config *config, FILE *out)
{
    struct check check = { .config = config,
                           .out = out,
                           .database = database_new(config->query_timeout_s * 1000) };

    if (config->workers > 0)
        check_limits(&check);
    if (!check.database) {
        say(&check, WRONG, "out of memory");
    } else if (check_connection(&check) && check_rights(&check)) {
        const bool usable = check_problems(&check);

        check_can_poll(&check);
        check_catch_up_service(&check);
        if (usable) {
            check_numbering(&check);
            check_listen(&check);
        }
    }
    database_free(check.database);
    if (check.wrong)
        (void)fprintf(out, "%d problem%s found.\n", check.wrong, check.wrong == 1 ? "" : "s");
    else
        (void)fprintf(out, "No problems found.\n");
    return check.wrong == 0;
}
