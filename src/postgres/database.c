#include "postgres/database.h"

#include "core/background.h"
#include "core/clock.h"
#include "postgres/addresses.h"
#include "postgres/statement.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum state {
    CLOSED,
    ENDING,    /* an earlier session's backend may still live */
    RESOLVING, /* host names */
    CONNECTING,
    CHECKING,  /* connected, asking for the schema's version */
    REPLACING, /* terminating an earlier session's backend */
    IDLE,
    RUNNING
};

enum { SCHEMA_UNUSABLE = -1 }; /* in place of a version */

enum {
    ENDED_MAX = 2,        /* sessions that were given up and may still have a backend */
    EXIT_MS = 500,        /* after which a backend does not exit by itself */
    LOOK_MS = 100,        /* between looks at several such sessions */
    DEAD_PEER_MS = 25000, /* a peer that acknowledges nothing for so long has no backend for us either */
    FRESH_MS = 10000,     /* how long resolved names are good for */
    CANCEL_MS = 500       /* a process that ends waits so long for its cancel request to be sent */
};

/* Statements under way and what came of them. */
struct pipeline {
    const struct statement *statements;
    int count;
    PGresult **results;
    int received;
    enum error outcome; /* the first error */
};

/* By which a session is known to others: process ids are used again. */
struct backend {
    int32_t pid; /* 0: not known, or a pooler's */
    int64_t started_us;
};

/* A session that was given up. */
struct ended {
    int fd; /* its socket */
    struct backend backend;
    int64_t since_ms;
};

struct database {
    int64_t query_timeout_ms;
    bool bookkeeping;
    PGconn *connection; /* NULL up to CONNECTING; non-blocking and in pipeline mode from CHECKING on */
    enum state state;
    PostgresPollingStatusType polling; /* while CONNECTING */
    struct addresses *addresses; /* from RESOLVING on, until they are used; the resolver's while it runs */
    struct background *resolver;
    struct backend backend;
    struct ended ended[ENDED_MAX]; /* oldest first */
    int ended_count;
    int64_t look_ms; /* at them, while ENDING */
    struct background *canceller;
    struct pipeline asked; /* by the caller */
    struct pipeline check; /* by us */
    struct statement check_statement;
    PGresult *check_result;
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

struct database *database_new(int64_t query_timeout_ms)
{
    struct database *database = calloc(1, sizeof *database);

    if (database)
        database->query_timeout_ms = query_timeout_ms;
    return database;
}

void database_set_bookkeeping(struct database *database)
{
    database->bookkeeping = true;
}

/* ---- sessions that were given up */

/* Without a sign of life from the peer, TCP itself gives the socket up. */
static void watch_peer(int fd)
{
    static const struct {
        int level, name, value;
    } options[] = { { SOL_SOCKET, SO_KEEPALIVE, 1 },
                    { IPPROTO_TCP, TCP_KEEPIDLE, DEAD_PEER_MS / 1000 - 15 },
                    { IPPROTO_TCP, TCP_KEEPINTVL, 5 },
                    { IPPROTO_TCP, TCP_KEEPCNT, 3 },
                    { IPPROTO_TCP, TCP_USER_TIMEOUT, DEAD_PEER_MS } };

    for (size_t i = 0; i < sizeof options / sizeof *options;
         i++) /* of a Unix socket there is nothing to set */
        (void)setsockopt(fd, options[i].level, options[i].name, &options[i].value, sizeof options[i].value);
}

static void send_cancel(void *cancel)
{
    char error[256];

    (void)PQcancel(cancel, error, (int)sizeof error);
}

static void free_cancel(void *cancel)
{
    PQfreeCancel(cancel);
}

/* PQcancel() makes a connection of its own, and blocks. One at a time: where it takes long, another one does, too. */
static void cancel_statement(struct database *database)
{
    PGcancel *cancel;

    if (database->canceller && !background_is_done(database->canceller))
        return;
    background_leave(database->canceller);
    cancel = PQgetCancel(database->connection);
    database->canceller = cancel ? background_start(send_cancel, free_cancel, cancel) : NULL;
    if (!database->canceller)
        PQfreeCancel(cancel);
}

/* Whether the server has closed it. What it still sent is dropped. */
static bool is_over(int fd)
{
    char dropped[4096];
    ssize_t got;

    do
        got = recv(fd, dropped, sizeof dropped, MSG_DONTWAIT);
    while (got > 0 || (got < 0 && errno == EINTR));
    return got == 0 || errno != EAGAIN;
}

static void forget_ended(struct database *database, int number)
{
    (void)close(database->ended[number].fd);
    database->ended_count--;
    memmove(&database->ended[number], &database->ended[number + 1],
            (size_t)(database->ended_count - number) * sizeof *database->ended);
}

/* Whether a connection may be opened: nothing is left of those before, or it is to see to the one that does not end by itself. */
static bool may_connect(struct database *database)
{
    for (int i = database->ended_count - 1; i >= 0; i--)
        if (is_over(database->ended[i].fd))
            forget_ended(database, i);
    database->look_ms = clock_monotonic_ms() + LOOK_MS;
    return database->ended_count == 0 ||
           (database->ended_count == 1 && clock_monotonic_ms() >= database->ended[0].since_ms + EXIT_MS);
}

static bool is_busy(const struct database *database)
{
    const struct pipeline *pipeline = database->state == RUNNING ? &database->asked : &database->check;

    return PQstatus(database->connection) == CONNECTION_OK && pipeline->received < pipeline->count;
}

/*
 * Ends the session. Its socket stays open beside libpq's, which PQfinish() closes. A session with something under way is to read nothing
 * more after it; then PQfinish() cannot write to it either, which would block where the peer does not read.
 */
static void end_session(struct database *database)
{
    const ConnStatusType status = PQstatus(database->connection);
    const int socket = PQsocket(database->connection);
    int fd = -1;

    if (is_busy(database))
        cancel_statement(database);
    if (is_busy(database) || status != CONNECTION_OK)
        (void)shutdown(socket, SHUT_WR);
    if (socket >= 0 && status != CONNECTION_STARTED) /* while connect(2) is under way there is no backend */
        fd = fcntl(socket, F_DUPFD_CLOEXEC, 0);
    if (fd >= 0) {
        watch_peer(fd);
        database->ended[database->ended_count++] =
            (struct ended){ fd, database->backend, clock_monotonic_ms() };
    }
    PQfinish(database->connection);
    database->connection = NULL;
    database->backend = (struct backend){ 0 };
}

void database_close(struct database *database, const char *text)
{
    if (text)
        (void)fail(database, ERROR_DATABASE_AWAY, text);
    if (database->connection)
        end_session(database);
    drop_results(&database->asked);
    drop_results(&database->check);
    database->state = CLOSED;
}

void database_give_up(struct database *database)
{
    static const char *const texts[] = {
        [ENDING] = "an earlier session has not ended",
        [RESOLVING] = "no host name was resolved in time",
        [CONNECTING] = "no connection in time",
        [CHECKING] = "no answer in time",
        [REPLACING] = "an earlier session could not be terminated",
        [RUNNING] = "no answer in time",
        [IDLE] = "no answer in time",
        [CLOSED] = "no connection",
    };

    database_close(database, texts[database->state]);
}

static void drop_addresses(struct database *database)
{
    if (database->resolver)
        background_leave(database->resolver); /* they are its own */
    else
        addresses_free(database->addresses);
    database->resolver = NULL;
    database->addresses = NULL;
}

void database_free(struct database *database)
{
    if (!database)
        return;
    database_close(database, NULL);
    if (database->canceller)
        background_wait(database->canceller, clock_monotonic_ms() + CANCEL_MS);
    background_leave(database->canceller);
    while (database->ended_count > 0)
        forget_ended(database, 0);
    drop_addresses(database);
    statement_release(&database->check_statement);
    free(database);
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

/* Notes the first error of all, with what the server says: the message and, if the caller asked, the hint. */
static void pipeline_fail(struct database *database, struct pipeline *pipeline, const PGresult *result)
{
    const char *sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);
    const char *message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
    const char *hint = pipeline == &database->asked ? PQresultErrorField(result, PG_DIAG_MESSAGE_HINT) : NULL;
    char text[sizeof database->error];

    if (pipeline->outcome)
        return;
    (void)snprintf(text, sizeof text, "%s%s%s", message ? message : PQerrorMessage(database->connection),
                   hint ? ": " : "", hint ? hint : "");
    pipeline->outcome =
        fail(database, !sqlstate || is_passing(sqlstate) ? ERROR_DATABASE_AWAY : ERROR_DATABASE_QUERY, text);
}

/*
 * Takes over a result of the statement whose turn it is. Its rows may be followed by an error: that of its COMMIT, which undoes all
 * it did.
 */
static void pipeline_take(struct database *database, struct pipeline *pipeline, PGresult *result)
{
    PGresult **slot = &pipeline->results[pipeline->received];
    const ExecStatusType status = PQresultStatus(result);
    const bool succeeded = status == PGRES_TUPLES_OK || status == PGRES_COMMAND_OK;

    if (result && !succeeded)
        pipeline_fail(database, pipeline, result);
    if (succeeded && !*slot)
        *slot = result;
    else
        PQclear(result);
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
        result =
            PQgetResult(database->connection); /* of a broken connection: what had arrived, then the reason */
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
    static const char *const keywords[] = {
        "fallback_application_name", "client_encoding", "host", "hostaddr", "port", NULL
    };
    const struct addresses *addresses = database->addresses;
    const char *const values[] = {
        "pgpoll", "UTF8", addresses_host(addresses), addresses_hostaddr(addresses), addresses_port(addresses),
        NULL
    };

    if (*addresses_error(addresses)) {
        database_close(database, addresses_error(addresses));
        drop_addresses(database);
        return ERROR_DATABASE_AWAY;
    }
    database->connection = PQconnectStartParams(keywords, values, 0);
    drop_addresses(database);
    if (!database->connection)
        return fail(database, ERROR_MEMORY, "out of memory");
    database->state = CONNECTING;
    if (PQstatus(database->connection) == CONNECTION_BAD)
        return lose(database);
    (void)PQsetNoticeReceiver(database->connection, ignore_notice, NULL);
    database->polling = PGRES_POLLING_WRITING;
    return ERROR_PENDING;
}

static void resolve(void *addresses)
{
    addresses_resolve(addresses);
}

static void free_addresses(void *addresses)
{
    addresses_free(addresses);
}

static enum error resolve_step(struct database *database)
{
    if (!background_is_done(database->resolver))
        return ERROR_PENDING;
    return connect_start(database);
}

/* A resolver that an earlier attempt did not wait for goes on; what it found long ago is of no use. */
static enum error resolve_start(struct database *database)
{
    if (background_is_done(database->resolver) &&
        clock_monotonic_ms() > addresses_resolved_ms(database->addresses) + FRESH_MS)
        drop_addresses(database);
    if (!database->addresses)
        database->addresses = addresses_new();
    if (!database->addresses)
        return fail(database, ERROR_MEMORY, "out of memory");
    if (!addresses_need_resolver(database->addresses))
        return connect_start(database);
    if (!database->resolver)
        database->resolver = background_start(resolve, free_addresses, database->addresses);
    if (!database->resolver) {
        database_close(database, strerror(errno));
        drop_addresses(database);
        return ERROR_DATABASE_AWAY;
    }
    database->state = RESOLVING;
    return resolve_step(database);
}

static enum error end_step(struct database *database)
{
    if (may_connect(database))
        return resolve_start(database);
    database->state = ENDING;
    return ERROR_PENDING;
}

static enum error check_start(struct database *database, enum state state)
{
    database->state = state;
    database->check =
        (struct pipeline){ &database->check_statement, 1, &database->check_result, 0, ERROR_NONE };
    return pipeline_start(database, &database->check);
}

/*
 * The schema's version, the backend's name, and settings, whatever the role's are. (At the start of a session PgBouncer would refuse
 * them.) Positions are given in a snapshot from after a lock. The server notices a dead peer about as soon as we do. A session that
 * LISTENs is idle most of the time, and statement_timeout bounds each of its transactions.
 */
static bool make_version_statement(struct database *database)
{
    struct statement *statement = &database->check_statement;

    statement_release(statement);
    statement_init(
        statement,
        "SELECT pgpoll.schema_version(), a.pid, (extract(epoch FROM a.backend_start) * 1000000)::bigint,"
        " set_config('default_transaction_isolation', 'read committed', false),"
        " set_config('lock_timeout', $1::text, false), set_config('statement_timeout', $2::text, false),"
        " set_config('tcp_keepalives_idle', '30', false), set_config('tcp_keepalives_interval', '10', false),"
        " set_config('tcp_keepalives_count', '3', false), set_config('tcp_user_timeout', '60s', false),"
        " set_config('idle_session_timeout', '0', false),"
        " CASE WHEN current_setting('transaction_timeout', true) <> '0'" /* from PostgreSQL 17 on */
        " THEN set_config('transaction_timeout', '0', false) END,"
        " CASE WHEN $3 > 0 THEN set_config('synchronous_commit', 'off', false) END"
        " FROM pg_stat_get_activity(pg_backend_pid()) a");
    return statement_add_int8(statement, database->query_timeout_ms * 8 / 10) &&
           statement_add_int8(statement, database->query_timeout_ms * 9 / 10) &&
           statement_add_int8(statement, database->bookkeeping);
}

/* Terminates the session that was given up, if it is still there, and counts it then, a little later. */
static bool make_terminate_statement(struct database *database)
{
    struct statement *statement = &database->check_statement;

    statement_release(statement);
    statement_init(statement,
                   "SELECT count(*)::integer"
                   " FROM (SELECT pg_terminate_backend(a.pid), pg_sleep(0.05) FROM pg_stat_get_activity($1) a"
                   "       WHERE (extract(epoch FROM a.backend_start) * 1000000)::bigint = $2 OFFSET 0) b");
    return statement_add_int4(statement, database->ended[0].backend.pid) &&
           statement_add_int8(statement, database->ended[0].backend.started_us);
}

static enum error refuse_server(struct database *database)
{
    const char *version = PQparameterStatus(database->connection, "server_version");
    char text[sizeof database->error];

    (void)snprintf(text, sizeof text,
                   "pgpoll needs PostgreSQL 14 or later, the server of database %.63s is %.31s",
                   PQdb(database->connection), version ? version : "unknown");
    database_close(database, text);
    return ERROR_SCHEMA;
}

static enum error connect_step(struct database *database)
{
    database->polling = PQconnectPoll(database->connection);
    if (database->polling == PGRES_POLLING_READING || database->polling == PGRES_POLLING_WRITING)
        return ERROR_PENDING;
    if (database->polling != PGRES_POLLING_OK || PQsetnonblocking(database->connection, 1) != 0 ||
        PQenterPipelineMode(database->connection) != 1)
        return lose(database);
    if (PQserverVersion(database->connection) < 140000)
        return refuse_server(database);
    if (!make_version_statement(database)) {
        database_close(database, "out of memory");
        return ERROR_MEMORY;
    }
    return check_start(database, CHECKING);
}

/* Says what to do about a schema of this version, or about one that could not be asked (missing, or closed to this role). */
static enum error refuse_schema(struct database *database, int version)
{
    const char *name = PQdb(database->connection);
    char text[sizeof database->error];

    if (version == SCHEMA_UNUSABLE)
        (void)snprintf(text, sizeof text,
                       "no pgpoll schema that role %.63s can use in database %.63s (%.150s): run "
                       "pgpoll-setup --role %.63s %.63s",
                       PQuser(database->connection), name, database->error, PQuser(database->connection),
                       name);
    else if (version < PGPOLL_SCHEMA_VERSION)
        (void)snprintf(text, sizeof text,
                       "the pgpoll schema in database %.63s has version %d, this program needs version %d: "
                       "to upgrade it, run pgpoll-setup %.63s",
                       name, version, PGPOLL_SCHEMA_VERSION, name);
    else
        (void)snprintf(
            text, sizeof text,
            "the pgpoll schema in database %.63s has version %d, this program (pgpoll " PGPOLL_VERSION
            ") only knows version %d: install the pgpoll that upgraded it, then reload",
            name, version, PGPOLL_SCHEMA_VERSION);
    database_close(database, text);
    return ERROR_SCHEMA;
}

static enum error run_asked(struct database *database)
{
    database->state = RUNNING;
    return pipeline_start(database, &database->asked);
}

/* Only a session that gave its name can be terminated, and only by its own server: a failover left it behind elsewhere. */
static enum error replace_start(struct database *database)
{
    if (database->ended_count == 0 || database->ended[0].backend.pid == 0)
        return run_asked(database);
    if (!make_terminate_statement(database)) {
        database_close(database, "out of memory");
        return ERROR_MEMORY;
    }
    return check_start(database, REPLACING);
}

/* Until it has gone. */
static enum error replace_step(struct database *database)
{
    enum error error = pipeline_step(database, &database->check);
    int32_t left;

    if (error == ERROR_DATABASE_QUERY) /* it may not terminate anybody, so both stay */
        return run_asked(database);
    if (error)
        return error;
    left = database_int4(database->check_result, 0, 0);
    PQclear(database->check_result);
    database->check_result = NULL;
    if (left > 0)
        return check_start(database, REPLACING);
    forget_ended(database, 0);
    return run_asked(database);
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
    version = database_int4(database->check_result, 0, 0);
    database->backend = (struct backend){ database_int4(database->check_result, 0, 1),
                                          database_int8(database->check_result, 0, 2) };
    if (database->backend.pid != PQbackendPID(database->connection))
        database->backend.pid = 0; /* a pooler's: it serves others too */
    PQclear(database->check_result);
    database->check_result = NULL;
    if (version != PGPOLL_SCHEMA_VERSION)
        return refuse_schema(database, version);
    return replace_start(database);
}

/* ---- what callers see */

enum error database_begin(struct database *database, const struct statement *statements, int count,
                          PGresult **results)
{
    for (int i = 0; i < count; i++)
        results[i] = NULL;
    database->error[0] = '\0';
    database->asked = (struct pipeline){ statements, count, results, 0, ERROR_NONE };
    return database->state == CLOSED ? end_step(database) : run_asked(database);
}

enum error database_step(struct database *database)
{
    enum error error = ERROR_PENDING;

    switch (database->state) {
    case ENDING:
        return end_step(database);
    case RESOLVING:
        return resolve_step(database);
    case CONNECTING:
        return connect_step(database);
    case CHECKING:
        return check_step(database);
    case REPLACING:
        return replace_step(database);
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

    if (database->state == ENDING)
        fd.fd = database->ended[database->ended_count - 1].fd;
    else if (database->state == RESOLVING)
        fd.fd = background_fd(database->resolver);
    else if (database->state == CONNECTING)
        fd.events = database->polling == PGRES_POLLING_WRITING ? POLLOUT : POLLIN;
    /* Pipelined statements may be more than the socket takes at once; what was not sent goes out with the next step. */
    else if (database->state != IDLE && PQflush(database->connection) == 1)
        fd.events = POLLIN | POLLOUT;
    return fd;
}

int64_t database_due_ms(const struct database *database)
{
    if (database->state != ENDING)
        return INT64_MAX;
    return database->ended_count == 1 ? database->ended[0].since_ms + EXIT_MS : database->look_ms;
}

bool database_is_resolving(const struct database *database)
{
    return database->state == RESOLVING;
}

/* Until a step is due; false: not by the deadline. */
static bool wait_ready(const struct database *database, int64_t deadline_ms)
{
    struct pollfd fd = database_pollfd(database);
    const int64_t due_ms = database_due_ms(database);
    int ready;

    do {
        int64_t left_ms = clock_min(deadline_ms, due_ms) - clock_monotonic_ms();
        ready = fd.fd < 0 ? 0 : poll(&fd, 1, left_ms > 0 ? (int)left_ms : 0);
    } while (ready < 0 && errno == EINTR);
    return ready > 0 || (due_ms <= deadline_ms && clock_monotonic_ms() >= due_ms);
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

enum error database_wait_news(struct database *database, const struct interrupts *interrupts,
                              int64_t deadline_ms)
{
    enum error error = database->state == CLOSED ? ERROR_DATABASE_AWAY : ERROR_NONE;

    /* Notifications also arrive along with results, so look before sleeping. */
    while (!error && !drop_notifications(database)) {
        /* The socket is asked for each time: a lost connection has none. */
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

const char *database_error(const struct database *database)
{
    return database->error;
}
