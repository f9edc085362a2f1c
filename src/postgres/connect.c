#include "core/background.h"
#include "core/clock.h"
#include "core/wait.h"
#include "postgres/addresses.h"
#include "postgres/database.h"
#include "postgres/database_state.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum {
    SCHEMA_UNUSABLE = -1, /* instead of a version: there is no schema that the role may use */
    FRESH_MS = 10000,     /* how long resolved host names are valid */
    PATIENCE_MS = 1000,   /* the shortest time for TCP to connect to one of several addresses */
    KEEPALIVES = 3        /* after so many keepalives without an answer a server counts as silent */
};

void connect_drop_addresses(struct database *database)
{
    if (database->resolver)
        background_free(database->resolver); /* the resolver owns the addresses */
    else
        addresses_free(database->addresses);
    database->resolver = NULL;
    database->addresses = NULL;
}

/*
 * Ignores the server's notices, for example about a shutdown, because the loss of the connection is noticed
 * anyway.
 */
static void ignore_notice(void *context, const PGresult *result)
{
    (void)context;
    (void)result;
}

/* ---- one address after the other */

static int attempts(const struct database *database)
{
    return addresses_count(database->addresses) *
           (addresses_options(database->addresses)->prefer_standby ? 2 : 1);
}

/*
 * Returns how long the attempt waits for an address before it goes on with the next one, or INT64_MAX. Unless
 * the operator has set connect_timeout, this is a share of the time for a connection and the statements after
 * it, and counts only until TCP has connected: otherwise a server that is slow to authenticate would never be
 * reached.
 */
static int64_t patience_ms(const struct database *database)
{
    const long timeout_s = addresses_options(database->addresses)->connect_timeout_s;

    if (timeout_s != ADDRESSES_NOT_SET)
        return timeout_s > 0 ? timeout_s * 1000 : INT64_MAX;
    if (database->tried + 1 == attempts(database))
        return INT64_MAX;
    return clock_max(database->query_timeout_ms / (addresses_count(database->addresses) + 1), PATIENCE_MS);
}

/* Returns the address that is tried. */
static const struct address *tried_address(const struct database *database)
{
    return addresses_at(database->addresses, database->first + database->tried);
}

static void choose_address(struct database *database)
{
    const struct address *address = tried_address(database);
    const int64_t patience = patience_ms(database);

    database->server = address->server;
    database->address = address->id;
    database->next_address = addresses_at(database->addresses, database->first + database->tried + 1)->id;
    database->host_due_ms = patience == INT64_MAX ? INT64_MAX : clock_monotonic_ms() + patience;
}

/*
 * Returns the target_session_attrs for this address, or NULL for libpq's own value. prefer-standby is two
 * rounds, as in libpq: first for a standby, then for any server. For a service, the value of the environment
 * does not count.
 */
static const char *session_attributes(const struct database *database)
{
    if (!addresses_options(database->addresses)->prefer_standby)
        return database->options ? addresses_option(database->options, "target_session_attrs") : NULL;
    return database->tried < addresses_count(database->addresses) ? "standby" : "any";
}

/* libpq's parameters that make TCP find out in time that a server has fallen silent. */
struct silence_limits {
    char keepalive_s[24], count[24], user_timeout_ms[24];
};

/*
 * Keepalives notice a silent server while the session is idle or waits for an answer. The user timeout does
 * it while data that was sent is not acknowledged, when the kernel sends no keepalives. One of the two may
 * begin when the other is nearly over, so each gets about half of query_timeout_ms.
 */
static struct silence_limits silence_limits(int64_t query_timeout_ms)
{
    struct silence_limits limits = { "", "", "" };

    (void)snprintf(limits.keepalive_s, sizeof limits.keepalive_s, "%" PRId64,
                   clock_max(query_timeout_ms / 5000, 1));
    (void)snprintf(limits.count, sizeof limits.count, "%d", KEEPALIVES);
    (void)snprintf(limits.user_timeout_ms, sizeof limits.user_timeout_ms, "%" PRId64,
                   clock_max(query_timeout_ms / 2, 1000));
    return limits;
}

/* Begins to connect to the address. Returns ERROR_PENDING, ERROR_DATABASE_AWAY or ERROR_MEMORY. */
static enum error connect_start(struct database *database)
{
    static const char *const keywords[] = { "service",
                                            "fallback_application_name",
                                            "client_encoding",
                                            "host",
                                            "hostaddr",
                                            "port",
                                            "target_session_attrs",
                                            "keepalives_idle",
                                            "keepalives_interval",
                                            "keepalives_count",
                                            "tcp_user_timeout",
                                            NULL };
    const struct address *address = tried_address(database);
    const struct addresses_options *set = addresses_options(database->addresses);
    const struct silence_limits limits = silence_limits(database->query_timeout_ms);
    const char *const values[] = { database->service,
                                   "pgpoll",
                                   "UTF8",
                                   address->host,
                                   address->hostaddr,
                                   address->port,
                                   session_attributes(database),
                                   set->keepalives_idle ? NULL : limits.keepalive_s,
                                   set->keepalives_interval ? NULL : limits.keepalive_s,
                                   set->keepalives_count ? NULL : limits.count,
                                   set->tcp_user_timeout ? NULL : limits.user_timeout_ms,
                                   NULL };

    database->connection = PQconnectStartParams(keywords, values, 0);
    if (!database->connection)
        return ERROR_MEMORY;
    database->state = CONNECTING;
    database->accepted_ms = 0;
    if (PQstatus(database->connection) == CONNECTION_BAD)
        return ERROR_DATABASE_AWAY;
    (void)PQsetNoticeReceiver(database->connection, ignore_notice, NULL);
    database->polling = PGRES_POLLING_WRITING;
    return ERROR_PENDING;
}

/* Begins with the chosen address. Returns ERROR_PENDING, ERROR_DATABASE_AWAY or ERROR_MEMORY. */
static enum error start_address(struct database *database)
{
    enum error error = ERROR_PENDING;

    database->state = ENDING;
    if (session_may_connect(database))
        error = connect_start(database);
    if (error == ERROR_DATABASE_AWAY)
        session_add_reason(database, PQerrorMessage(database->connection));
    return error;
}

enum error connect_go_on(struct database *database, enum error error)
{
    while (error == ERROR_DATABASE_AWAY && database->tried + 1 < attempts(database)) {
        session_end(database);
        database->tried++;
        choose_address(database);
        error = start_address(database);
    }
    if (error != ERROR_PENDING)
        database_close(database, error == ERROR_MEMORY ? "out of memory" : NULL);
    return error;
}

enum error connect_try_next(struct database *database, const char *reason)
{
    session_add_reason(database, reason);
    return connect_go_on(database, ERROR_DATABASE_AWAY);
}

bool connect_name_silence(const struct database *database, char *text, size_t size)
{
    if (database->accepted_ms == 0)
        return false;
    (void)snprintf(text, size,
                   "the server at host %.100s port %.10s has accepted the connection, but not answered"
                   " within %" PRId64 " ms",
                   database_host(database), database_port(database),
                   clock_monotonic_ms() - database->accepted_ms);
    return true;
}

/* The address has not answered in its time: goes on with the next one. */
static enum error skip_silent(struct database *database)
{
    const struct address *address = tried_address(database);
    char text[256];

    if (!connect_name_silence(database, text, sizeof text))
        (void)snprintf(text, sizeof text, "no connection to %.100s%s%.100s in time",
                       address->host ? address->host : "", address->host && address->hostaddr ? " at " : "",
                       address->hostaddr ? address->hostaddr : "");
    addresses_avoid(database->list, database->address, database->next_address);
    return connect_try_next(database, text);
}

void connect_run_out(const struct database *database)
{
    if (database->tried > 0)
        addresses_prefer(database->list, database->address);
    else
        addresses_avoid(database->list, database->address, database->next_address);
}

void connect_remember(struct database *database)
{
    if (!database->addresses) /* not the first statements of the session */
        return;
    addresses_prefer(database->list, database->address);
    connect_drop_addresses(database);
    database->tried = 0;
}

enum error connect_step_ending(struct database *database)
{
    if (session_may_connect(database))
        return connect_go_on(database, start_address(database));
    if (clock_monotonic_ms() < database->host_due_ms)
        return ERROR_PENDING;
    return connect_try_next(database, "the backend of an earlier session has not exited");
}

static enum error addresses_start(struct database *database)
{
    if (*addresses_error(database->addresses)) {
        database_close(database, addresses_error(database->addresses));
        connect_drop_addresses(database);
        return ERROR_DATABASE_AWAY;
    }
    database->list = addresses_list(database->addresses);
    database->first = addresses_first(database->addresses);
    database->tried = 0;
    choose_address(database);
    return connect_go_on(database, start_address(database));
}

/* ---- host names */

static void resolve(void *addresses)
{
    addresses_resolve(addresses);
}

static void free_addresses(void *addresses)
{
    addresses_free(addresses);
}

enum error connect_step_resolving(struct database *database)
{
    if (background_is_lost(database->resolver))
        return connect_begin(database);
    if (!background_is_done(database->resolver))
        return ERROR_PENDING;
    return addresses_start(database);
}

/* Whether the resolver that an earlier attempt has left is of no use. */
static bool is_useless(const struct database *database)
{
    return background_is_lost(database->resolver) ||
           (background_is_done(database->resolver) &&
            clock_monotonic_ms() > addresses_resolved_ms(database->addresses) + FRESH_MS);
}

/*
 * Starts to resolve the host names. If an earlier attempt has left a resolver, uses that, unless its results
 * are older than FRESH_MS or this process was forked from its process.
 */
enum error connect_begin(struct database *database)
{
    if (database->resolver && is_useless(database))
        connect_drop_addresses(database);
    if (!database->addresses)
        database->addresses = addresses_new(database->options);
    if (!database->addresses)
        return database_fail(database, ERROR_MEMORY, "out of memory");
    if (!addresses_need_resolver(database->addresses)) {
        addresses_resolve(database->addresses);
        return addresses_start(database);
    }
    if (!database->resolver)
        database->resolver = background_start(resolve, free_addresses, database->addresses);
    if (!database->resolver) {
        database_close(database, strerror(errno));
        return ERROR_DATABASE_AWAY;
    }
    database->state = RESOLVING;
    return connect_step_resolving(database);
}

/* ---- the first statements of a session */

enum error connect_check_start(struct database *database, enum state state)
{
    database->state = state;
    database->check = (struct pipeline){ .statements = &database->check_statement,
                                         .count = 1,
                                         .results = &database->check_result };
    return connect_go_on(database, pipeline_start(database, &database->check));
}

/*
 * Makes a statement that reads the schema's version and the backend's identity, and sets the session's
 * settings, so that those of the role do not matter. They are not sent as startup parameters, because
 * PgBouncer would reject those.
 *  - read committed: assigning positions needs a snapshot taken after its lock.
 *  - lock_timeout, statement_timeout: a little below the client's own timeout.
 *  - tcp_*: the server ends the session of a client that has been silent for 25 s (DEAD_PEER_MS).
 *  - idle_session_timeout, transaction_timeout: off, because a LISTENing session is idle most of the time,
 *    and statement_timeout already limits each transaction.
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
        " set_config('tcp_keepalives_idle', '10', false), set_config('tcp_keepalives_interval', '5', false),"
        " set_config('tcp_keepalives_count', '3', false), set_config('tcp_user_timeout', '25s', false),"
        " set_config('idle_session_timeout', '0', false),"
        " CASE WHEN current_setting('transaction_timeout', true) <> '0'" /* exists since PostgreSQL 17 */
        " THEN set_config('transaction_timeout', '0', false) END,"
        " CASE WHEN $3 > 0 THEN set_config('synchronous_commit', 'off', false) END"
        " FROM pg_stat_get_activity(pg_backend_pid()) a");
    return statement_add_int8(statement, database->query_timeout_ms * 8 / 10) &&
           statement_add_int8(statement, database->query_timeout_ms * 9 / 10) &&
           statement_add_int8(statement, database->asynchronous_commit);
}

/*
 * Makes a statement that terminates the backend of the oldest given-up session, and waits 50 ms for the
 * backend to exit. The statement's result is 1 if it found the backend, else 0.
 */
static bool make_terminate_statement(struct database *database)
{
    const struct ended *ended = session_oldest_ended(database);
    struct statement *statement = &database->check_statement;

    statement_release(statement);
    statement_init(statement,
                   "SELECT count(*)::integer"
                   " FROM (SELECT pg_terminate_backend(a.pid), pg_sleep(0.05) FROM pg_stat_get_activity($1) a"
                   "       WHERE (extract(epoch FROM a.backend_start) * 1000000)::bigint = $2 OFFSET 0) b");
    return statement_add_int4(statement, ended->backend.pid) &&
           statement_add_int8(statement, ended->backend.started_us);
}

static enum error refuse_server(struct database *database)
{
    const char *version = PQparameterStatus(database->connection, "server_version");
    char text[sizeof database->error];

    (void)snprintf(
        text, sizeof text,
        "pgpoll needs PostgreSQL 14 or later, but the server of database %.63s has version %.31s: upgrade "
        "the server",
        PQdb(database->connection), version ? version : "unknown");
    database_close(database, text);
    return ERROR_SCHEMA;
}

enum error connect_step_connecting(struct database *database)
{
    const struct pollfd fd = database_pollfd(database);

    /* PQconnectPoll() must not be called before the socket is ready. */
    if (wait_for_fd(fd.fd, fd.events, 0))
        database->polling = PQconnectPoll(database->connection);
    else if (clock_monotonic_ms() >= database->host_due_ms)
        return skip_silent(database);
    if (PQstatus(database->connection) != CONNECTION_STARTED) { /* the server is there */
        database->accepted_ms = clock_monotonic_ms();
        if (addresses_options(database->addresses)->connect_timeout_s == ADDRESSES_NOT_SET)
            database->host_due_ms = INT64_MAX;
    }
    if (database->polling == PGRES_POLLING_READING || database->polling == PGRES_POLLING_WRITING)
        return ERROR_PENDING;
    if (database->polling != PGRES_POLLING_OK || PQsetnonblocking(database->connection, 1) != 0 ||
        PQenterPipelineMode(database->connection) != 1)
        return connect_try_next(database, PQerrorMessage(database->connection));
    if (PQserverVersion(database->connection) < 140000)
        return refuse_server(database);
    if (!make_version_statement(database)) {
        database_close(database, "out of memory");
        return ERROR_MEMORY;
    }
    return connect_check_start(database, CHECKING);
}

/*
 * Closes the connection with a message that says what to do about a schema of this version. SCHEMA_UNUSABLE
 * means that the schema is missing or the role may not use it.
 */
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
        (void)snprintf(text, sizeof text,
                       "the pgpoll schema in database %.63s has version %d, this program (pgpoll %s) "
                       "only knows version %d: install the pgpoll that upgraded it, then reload",
                       name, version, PGPOLL_VERSION, PGPOLL_SCHEMA_VERSION);
    database_close(database, text);
    return ERROR_SCHEMA;
}

/*
 * Starts to terminate the backend of the given-up session, if there is one and its backend is known.
 * Otherwise starts the caller's statements. After a failover the backend is on another server, and the
 * terminating statement finds nothing.
 */
enum error connect_replace_start(struct database *database)
{
    const struct ended *ended = session_oldest_ended(database);

    if (!ended || ended->backend.pid == 0)
        return pipeline_start_asked(database);
    if (!make_terminate_statement(database)) {
        database_close(database, "out of memory");
        return ERROR_MEMORY;
    }
    return connect_check_start(database, REPLACING);
}

/* Repeats the terminating statement until the backend has exited, and then starts the caller's statements. */
enum error connect_step_replacing(struct database *database)
{
    enum error error = pipeline_step(database, &database->check);
    int32_t left;

    if (error == ERROR_DATABASE_QUERY) /* the role may not terminate the backend, so both sessions stay */
        return pipeline_start_asked(database);
    if (error)
        return connect_go_on(database, error);
    left = database_int4(database->check_result, 0, 0);
    PQclear(database->check_result);
    database->check_result = NULL;
    if (left > 0)
        return connect_check_start(database, REPLACING);
    session_forget(database, session_oldest_ended(database));
    return pipeline_start_asked(database);
}

/* Checks the schema's version, once per connection, and notes the backend's identity. */
enum error connect_step_checking(struct database *database)
{
    enum error error = pipeline_step(database, &database->check);
    int32_t version;

    if (error == ERROR_DATABASE_QUERY)
        return refuse_schema(database, SCHEMA_UNUSABLE);
    if (error)
        return connect_go_on(database, error);
    version = database_int4(database->check_result, 0, 0);
    database->backend = (struct backend){ database_int4(database->check_result, 0, 1),
                                          database_int8(database->check_result, 0, 2) };
    database->pooled = database->backend.pid != PQbackendPID(database->connection);
    if (database->pooled)
        /* a pooler's backend: not ours to terminate, because it serves other clients too */
        database->backend.pid = 0;
    PQclear(database->check_result);
    database->check_result = NULL;
    if (version != PGPOLL_SCHEMA_VERSION)
        return refuse_schema(database, version);
    return identify_start(database);
}
