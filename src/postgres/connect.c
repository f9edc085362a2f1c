#include "core/background.h"
#include "core/clock.h"
#include "postgres/addresses.h"
#include "postgres/database.h"
#include "postgres/database_state.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum {
    SCHEMA_UNUSABLE = -1, /* instead of a version: there is no schema that the role may use */
    FRESH_MS = 10000      /* how long resolved host names are valid */
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

static enum error connect_start(struct database *database)
{
    static const char *const keywords[] = {
        "service", "fallback_application_name", "client_encoding", "host", "hostaddr", "port", NULL
    };
    const struct addresses *addresses = database->addresses;
    const char *const values[] = {
        database->service,         "pgpoll", "UTF8", addresses_host(addresses), addresses_hostaddr(addresses),
        addresses_port(addresses), NULL
    };

    if (*addresses_error(addresses)) {
        database_close(database, addresses_error(addresses));
        connect_drop_addresses(database);
        return ERROR_DATABASE_AWAY;
    }
    database->connection = PQconnectStartParams(keywords, values, 0);
    connect_drop_addresses(database);
    if (!database->connection)
        return database_fail(database, ERROR_MEMORY, "out of memory");
    database->state = CONNECTING;
    if (PQstatus(database->connection) == CONNECTION_BAD)
        return database_lose(database);
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

enum error connect_step_resolving(struct database *database)
{
    if (!background_is_done(database->resolver))
        return ERROR_PENDING;
    return connect_start(database);
}

/*
 * Starts to resolve the host names. If an earlier attempt has left a resolver, uses that, unless its results
 * are older than FRESH_MS.
 */
static enum error resolve_start(struct database *database)
{
    if (background_is_done(database->resolver) &&
        clock_monotonic_ms() > addresses_resolved_ms(database->addresses) + FRESH_MS)
        connect_drop_addresses(database);
    if (!database->addresses)
        database->addresses = addresses_new(database->options);
    if (!database->addresses)
        return database_fail(database, ERROR_MEMORY, "out of memory");
    if (!addresses_need_resolver(database->addresses))
        return connect_start(database);
    if (!database->resolver)
        database->resolver = background_start(resolve, free_addresses, database->addresses);
    if (!database->resolver) {
        database_close(database, strerror(errno));
        connect_drop_addresses(database);
        return ERROR_DATABASE_AWAY;
    }
    database->state = RESOLVING;
    return connect_step_resolving(database);
}

enum error connect_step_ending(struct database *database)
{
    if (session_may_connect(database))
        return resolve_start(database);
    database->state = ENDING;
    return ERROR_PENDING;
}

enum error connect_check_start(struct database *database, enum state state)
{
    database->state = state;
    database->check = (struct pipeline){ .statements = &database->check_statement,
                                         .count = 1,
                                         .results = &database->check_result };
    return pipeline_start(database, &database->check);
}

/*
 * Makes a statement that reads the schema's version and the backend's identity, and sets the session's
 * settings, so that those of the role do not matter. They are not sent as startup parameters, because
 * PgBouncer would reject those.
 *  - read committed: assigning positions needs a snapshot taken after its lock.
 *  - lock_timeout, statement_timeout: a little below the client's own timeout.
 *  - tcp_*: the server detects a dead client about as soon as the client detects a dead server.
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
        " set_config('tcp_keepalives_idle', '30', false), set_config('tcp_keepalives_interval', '10', false),"
        " set_config('tcp_keepalives_count', '3', false), set_config('tcp_user_timeout', '60s', false),"
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
    database->polling = PQconnectPoll(database->connection);
    if (database->polling == PGRES_POLLING_READING || database->polling == PGRES_POLLING_WRITING)
        return ERROR_PENDING;
    if (database->polling != PGRES_POLLING_OK || PQsetnonblocking(database->connection, 1) != 0 ||
        PQenterPipelineMode(database->connection) != 1)
        return database_lose(database);
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
    if (database->ended_count == 0 || database->ended[0].backend.pid == 0)
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
        return error;
    left = database_int4(database->check_result, 0, 0);
    PQclear(database->check_result);
    database->check_result = NULL;
    if (left > 0)
        return connect_check_start(database, REPLACING);
    session_forget(database, 0);
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
        return error;
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
