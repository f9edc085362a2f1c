#include "check.h"

#include "clock.h"
#include "config.h"
#include "database.h"

#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum {
    DELIVERY_MS = 3000, /* a notification may take */
    CLOCK_MS = 2000,    /* the database's clock may differ from ours */
    MANAGER_CONNECTIONS = 3
};

/* A queue is nearly always empty; this much of it is 80 MB that somebody does not read. */
static const double QUEUE_USED = 0.01;

enum kind { OK, NOTE, WRONG };

struct check {
    const struct config *config;
    FILE *out;
    PGconn *connection;
    bool silent; /* the database: there is no point in asking more */
    int wrong;
};

static void say(struct check *check, enum kind kind, const char *format, ...) __attribute__((format(printf, 3, 4)));
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

/* ---- asking the database */

/* In one line. */
static void say_failure(struct check *check, const char *what, const char *message)
{
    say(check, WRONG, "%s: %.*s", what, (int)strcspn(message, "\n"), message);
}

static PGconn *connect_now(const struct config *config)
{
    static const char *const keywords[] = { "fallback_application_name", "client_encoding", "connect_timeout", NULL };
    char seconds[8];
    const char *const values[] = { "pgpoll check", "UTF8", seconds, NULL };

    (void)snprintf(seconds, sizeof seconds, "%d", (int)clock_max(config->query_timeout_s, 2));
    return PQconnectdbParams(keywords, values, 0);
}

/* Waits until there is something to read; false: not in time. */
static bool wait_input(PGconn *connection, int64_t deadline_ms)
{
    struct pollfd fd = { .fd = PQsocket(connection), .events = POLLIN };
    int64_t left_ms = deadline_ms - clock_monotonic_ms();

    return left_ms > 0 && poll(&fd, 1, (int)left_ms) > 0 && PQconsumeInput(connection) == 1;
}

/* Runs one statement with at most one parameter; NULL: it failed, and that was said. */
static PGresult *run(struct check *check, PGconn *connection, const char *sql, const char *parameter)
{
    const int64_t deadline_ms = clock_monotonic_ms() + check->config->query_timeout_s * 1000;
    const char *const values[] = { parameter };
    PGresult *result = NULL, *next;

    if (check->silent)
        return NULL;
    if (PQsendQueryParams(connection, sql, parameter ? 1 : 0, NULL, values, NULL, NULL, 0)) {
        while (PQisBusy(connection))
            if (!wait_input(connection, deadline_ms)) {
                say(check, WRONG, "the database did not answer within %" PRId64 " s: %s",
                    check->config->query_timeout_s, sql);
                check->silent = true;
                return NULL;
            }
        result = PQgetResult(connection);
        while ((next = PQgetResult(connection)))
            PQclear(next);
    }
    if (PQresultStatus(result) == PGRES_TUPLES_OK || PQresultStatus(result) == PGRES_COMMAND_OK)
        return result;
    say_failure(check, sql, result ? PQresultErrorMessage(result) : PQerrorMessage(connection));
    PQclear(result);
    return NULL;
}

/* One row of columns, for the caller to clear; NULL: there is none, and that was said. */
static PGresult *ask(struct check *check, const char *sql)
{
    PGresult *result = run(check, check->connection, sql, NULL);

    if (result && PQntuples(result) != 1) {
        say(check, WRONG, "an odd answer from the database: %s", sql);
        PQclear(result);
        return NULL;
    }
    return result;
}

static const char *text(const PGresult *result, int column)
{
    return PQgetvalue(result, 0, column);
}

static bool is_true(const PGresult *result, int column)
{
    return *text(result, column) == 't';
}

static bool is_empty(const PGresult *result, int column)
{
    return *text(result, column) == '\0';
}

/* ---- what is looked at; false: there is no point in going on */

static bool check_connection(struct check *check)
{
    PGresult *result;

    check->connection = connect_now(check->config);
    if (PQstatus(check->connection) != CONNECTION_OK) {
        say_failure(check, "cannot connect to the database", PQerrorMessage(check->connection));
        say(check, NOTE, "PGHOST, PGPORT, PGDATABASE, PGUSER, PGPASSFILE and PGSERVICE say where it is and who asks");
        return false;
    }
    result = ask(check, "SELECT current_setting('server_version'), current_user, rolsuper FROM pg_roles"
                        " WHERE rolname = current_user");
    if (!result)
        return false;
    say(check, OK, "connected to database %s at %s port %s as role %s; PostgreSQL %s", PQdb(check->connection),
        PQhost(check->connection), PQport(check->connection), text(result, 1), text(result, 0));
    if (is_true(result, 2))
        say(check, NOTE, "role %s is a superuser; the workers need no more than GRANT pgpoll_poller", text(result, 1));
    PQclear(result);
    return true;
}

static bool check_primary(struct check *check)
{
    PGresult *result = ask(
        check, "SELECT pg_is_in_recovery(), current_setting('transaction_read_only') = 'on',"
               " current_setting('synchronous_standby_names') <> '' AND current_setting('synchronous_commit') <> 'off'"
               " AND NOT EXISTS (SELECT FROM pg_stat_get_wal_senders()),"
               " current_setting('synchronous_commit') = 'off'");
    bool primary;

    if (!result)
        return false;
    primary = !is_true(result, 0);
    if (!primary)
        say(check, WRONG,
            "this server is a standby, where LISTEN is refused: have PGHOST name the primary"
            " (or several, with PGTARGETSESSIONATTRS=read-write)");
    else if (is_true(result, 1))
        say(check, WRONG,
            "this role's transactions are read-only (default_transaction_read_only): nothing can be"
            " published, and no statistics written");
    if (is_true(result, 2))
        say(check, WRONG,
            "synchronous_standby_names asks for a standby and none is connected: every COMMIT waits,"
            " and so does every NOTIFY");
    if (is_true(result, 3))
        say(check, NOTE,
            "synchronous_commit is off: a crash of PostgreSQL may undo what was committed and not yet delivered");
    primary = primary && !is_true(result, 1) && !is_true(result, 2);
    PQclear(result);
    return primary;
}

static bool check_schema(struct check *check)
{
    PGresult *result =
        ask(check, "SELECT to_regnamespace('pgpoll') IS NOT NULL, current_user,"
                   " (SELECT has_schema_privilege(oid, 'USAGE') FROM pg_namespace WHERE nspname = 'pgpoll')");
    bool usable = result && is_true(result, 0) && is_true(result, 2);
    long version;

    if (result && !is_true(result, 0))
        say(check, WRONG, "database %s has no schema pgpoll: run pgpoll-setup %s", PQdb(check->connection),
            PQdb(check->connection));
    else if (result && !usable)
        say(check, WRONG, "role %s may not use schema pgpoll: GRANT pgpoll_poller TO \"%s\"", text(result, 1),
            text(result, 1));
    PQclear(result);
    if (!usable)
        return false;
    result = ask(check, "SELECT pgpoll.schema_version()");
    if (!result)
        return false;
    version = strtol(text(result, 0), NULL, 10);
    usable = version == PGPOLL_SCHEMA_VERSION;
    if (usable)
        say(check, OK, "schema pgpoll, version %s", text(result, 0));
    else
        say(check, WRONG, "schema pgpoll has version %s, this program works with %d: %s", text(result, 0),
            PGPOLL_SCHEMA_VERSION,
            version < PGPOLL_SCHEMA_VERSION ? "run the pgpoll-setup that came with it"
                                            : "install the program that came with it");
    PQclear(result);
    return usable;
}

/* Whether this role may do what pgpoll_poller may. */
static bool check_rights(struct check *check)
{
    PGresult *result = ask(check, "SELECT coalesce(string_agg(p.proname, ', ' ORDER BY p.proname), ''), current_user"
                                  " FROM pg_proc p JOIN pg_roles r ON r.rolname = 'pgpoll_poller'"
                                  " WHERE p.pronamespace = 'pgpoll'::regnamespace"
                                  " AND has_function_privilege(r.oid, p.oid, 'EXECUTE')"
                                  " AND NOT has_function_privilege(p.oid, 'EXECUTE')");
    bool may = result && is_empty(result, 0);

    if (may)
        say(check, OK, "role %s may do what a worker does", text(result, 1));
    else if (result)
        say(check, WRONG, "role %s may not call %s: GRANT pgpoll_poller TO \"%s\"", text(result, 1), text(result, 0),
            text(result, 1));
    PQclear(result);
    return may;
}

static void check_can_poll(struct check *check)
{
    PGresult *result = run(check, check->connection, "SELECT pgpoll.can_poll('', 'pgpoll check')", NULL);

    if (result)
        say(check, OK, "pgpoll.can_poll() answers: who is not authenticated %s poll a topic called 'pgpoll check'",
            is_true(result, 0) ? "may" : "may not");
    else
        say(check, NOTE, "pgpoll.can_poll() is yours to repair; while it fails, polls are answered with 503");
    PQclear(result);
}

/* ---- LISTEN */

static bool hears(PGconn *connection)
{
    const int64_t deadline_ms = clock_monotonic_ms() + DELIVERY_MS;
    PGnotify *notification;

    (void)PQconsumeInput(connection);
    while (!(notification = PQnotifies(connection)))
        if (!wait_input(connection, deadline_ms))
            return false;
    PQfreemem(notification);
    return true;
}

/*
 * Two connections: through a transaction-mode pooler a session hears what it notifies itself of, while on the way there and back it
 * happens to have the same server connection.
 */
static void check_listen(struct check *check)
{
    PGconn *other = connect_now(check->config);
    char channel[40], listen[64], unlisten[64];
    PGresult *listening = NULL, *notified = NULL;
    int64_t began_ms;

    (void)snprintf(channel, sizeof channel, "pgpoll_check_%d", (int)getpid());
    (void)snprintf(listen, sizeof listen, "LISTEN %s", channel);
    (void)snprintf(unlisten, sizeof unlisten, "UNLISTEN %s", channel);
    if (PQstatus(other) != CONNECTION_OK) {
        say_failure(check, "cannot open a second connection", PQerrorMessage(other));
        goto out;
    }
    listening = run(check, check->connection, listen, NULL);
    began_ms = clock_monotonic_ms();
    notified = listening ? run(check, other, "SELECT pg_notify($1, '')", channel) : NULL;
    if (notified && hears(check->connection))
        say(check, OK, "LISTEN delivers: a notification took %" PRId64 " ms", clock_monotonic_ms() - began_ms);
    else if (notified)
        say(check, WRONG,
            "LISTEN delivers nothing: is PGHOST a pooler in transaction mode? The workers must connect to"
            " PostgreSQL itself (or through one in session mode)");
    if (listening)
        PQclear(run(check, check->connection, unlisten, NULL));
out:
    PQclear(listening);
    PQclear(notified);
    PQfinish(other);
}

static void check_queue(struct check *check)
{
    PGresult *result = ask(check, "SELECT pg_notification_queue_usage()");

    if (result && strtod(text(result, 0), NULL) >= QUEUE_USED)
        say(check, WRONG,
            "the NOTIFY queue is %.0f %% full: some session, perhaps in another database, LISTENs and does"
            " not read; at 100 %% publishers' COMMITs fail",
            strtod(text(result, 0), NULL) * 100);
    PQclear(result);
}

/* ---- publishers */

static void check_publishing(struct check *check)
{
    PGresult *result =
        ask(check, "SELECT coalesce(string_agg(tgname, ', '), '') FROM pg_trigger"
                   " WHERE tgrelid = (SELECT oid FROM pg_class WHERE relname = 'messages'"
                   " AND relnamespace = 'pgpoll'::regnamespace) AND NOT tgisinternal AND tgenabled = 'D'");

    if (result && !is_empty(result, 0))
        say(check, WRONG, "trigger %s on pgpoll.messages is disabled: what is published is not delivered",
            text(result, 0));
    PQclear(result);
    result =
        ask(check, "SELECT count(DISTINCT l.pid), coalesce(string_agg(DISTINCT b.pid::text, ', '), '')"
                   " FROM pg_locks l CROSS JOIN LATERAL unnest(pg_blocking_pids(l.pid)) AS b (pid)"
                   " WHERE NOT l.granted AND l.waitstart < clock_timestamp() - interval '1 second' AND (l.relation IN"
                   " (SELECT oid FROM pg_class WHERE relnamespace = 'pgpoll'::regnamespace) OR"
                   " (l.locktype, l.database, l.classid, l.objid) = ('object', 0, 'pg_database'::regclass, 0))");
    if (result && !is_empty(result, 1))
        say(check, WRONG,
            "process %s of PostgreSQL keeps others waiting for more than a second (%s now): see pgpoll.held_up",
            text(result, 1), text(result, 0));
    PQclear(result);
    result = ask(check, "SELECT EXISTS (SELECT FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid"
                        " WHERE r.rolname = 'pgpoll_publisher')");
    if (result && !is_true(result, 0))
        say(check, NOTE, "nobody may publish but the schema's owner: GRANT pgpoll_publisher TO whoever shall");
    PQclear(result);
}

/* ---- this host */

static void check_clock(struct check *check)
{
    int64_t before_ms = clock_wall_ms(), ahead_ms;
    PGresult *result = ask(check, "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint");

    if (!result)
        return;
    ahead_ms = strtoll(text(result, 0), NULL, 10) - (before_ms + clock_wall_ms()) / 2;
    if (llabs(ahead_ms) > CLOCK_MS)
        say(check, NOTE,
            "the database's clock is %.1f s %s this host's: delivery is not affected, but latencies in the"
            " metrics, and cursors that are times, are as wrong",
            (double)llabs(ahead_ms) / 1000, ahead_ms > 0 ? "ahead of" : "behind");
    PQclear(result);
}

static void check_connections(struct check *check)
{
    const int64_t wanted = check->config->connections + MANAGER_CONNECTIONS;
    PGresult *result = ask(check, "SELECT CASE WHEN rolconnlimit < 0 THEN 1000000 ELSE rolconnlimit END,"
                                  " current_setting('max_connections')::integer"
                                  " - current_setting('superuser_reserved_connections')::integer"
                                  " FROM pg_roles WHERE rolname = current_user");

    for (int i = 0; result && i < 2; i++)
        if (strtoll(text(result, i), NULL, 10) < wanted)
            say(check, WRONG,
                "%s allows %s connections, this manager and its workers may need %" PRId64 " (PGPOLL_CONNECTIONS"
                " and %d)",
                i == 0 ? "the role's CONNECTION LIMIT" : "max_connections", text(result, i), wanted,
                MANAGER_CONNECTIONS);
    PQclear(result);
}

static void check_limits(struct check *check)
{
    const rlim_t processes = (rlim_t)check->config->workers * 21 / 20 + 1;
    const rlim_t files = (rlim_t)check->config->workers * 5 / 2;
    struct rlimit limit;

    if (getuid() != 0 && getrlimit(RLIMIT_NPROC, &limit) == 0 && limit.rlim_cur < processes)
        say(check, WRONG, "%" PRId64 " workers are about %ju processes, and this user may have %ju (ulimit -u)",
            check->config->workers, (uintmax_t)processes, (uintmax_t)limit.rlim_cur);
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_max < files)
        say(check, NOTE,
            "for %" PRId64 " polls the web server needs %ju file descriptors, and a process started here may"
            " have %ju (ulimit -Hn)",
            check->config->workers, (uintmax_t)files, (uintmax_t)limit.rlim_max);
}

bool check_run(const struct config *config, FILE *out)
{
    struct check check = { .config = config, .out = out };

    if (config->workers > 0)
        check_limits(&check);
    if (check_connection(&check) && check_primary(&check) && check_schema(&check) && check_rights(&check)) {
        check_can_poll(&check);
        check_publishing(&check); /* before LISTEN, which would wait for what it finds */
        check_listen(&check);
        check_queue(&check);
        check_clock(&check);
        if (config->workers > 0)
            check_connections(&check);
    }
    PQfinish(check.connection);
    if (check.wrong)
        (void)fprintf(out, "%d thing%s wrong\n", check.wrong, check.wrong == 1 ? " is" : "s are");
    else
        (void)fprintf(out, "nothing is wrong that shows from here\n");
    return check.wrong == 0;
}
