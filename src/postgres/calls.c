#include "postgres/calls.h"

#include "postgres/statement.h"

#include <stddef.h>

/*
 * A condition for statements that write. On a database with default_transaction_read_only it is false, so the
 * statements are skipped. On a standby it is true, so the statements fail.
 */
#define WRITABLE "(current_setting('transaction_read_only') = 'off' OR pg_is_in_recovery())"

/* ---- access */

bool call_refused_topic(struct statement *statement, const char *remote_user, const struct poll_topic *topics,
                        int count)
{
    statement_init(statement, "SELECT pgpoll.refused_topic($1, $2)");
    statement_add_text(statement, remote_user);
    return statement_add_topics(statement, topics, count);
}

void call_authenticate(struct statement *statement, const char *authorization)
{
    statement_init(statement, "SELECT pgpoll.authenticate($1)");
    statement_add_text(statement, authorization);
}

void call_has_authenticate(struct statement *statement)
{
    statement_init(statement, "SELECT pgpoll.has_authenticate()");
}

void call_is_open_to_all(struct statement *statement)
{
    statement_init(statement, "SELECT pgpoll.is_open_to_all(), NOT pgpoll.has_authenticate()");
}

/* ---- statistics */

static void add_report(struct statement *statement, const char *host, const char *report)
{
    statement_add_text(statement, host);
    statement_add_text(statement, report);
}

void call_write_statistics(struct statement *statement, const char *host, const char *report)
{
    statement_init(statement, "SELECT pgpoll.write_statistics($1, $2::json)");
    add_report(statement, host, report);
}

bool call_begin_wait(struct statement *statement, const struct poll_topic *topics, int count,
                     const char *host, const char *report)
{
    statement_init(statement, "SELECT pgpoll.write_statistics($1, $2::json) FROM pgpoll.listen($3) LIMIT 1");
    add_report(statement, host, report);
    return statement_add_topics(statement, topics, count);
}

void call_sweep_waiters(struct statement *statement)
{
    statement_init(statement, "SELECT pgpoll.sweep_waiters() WHERE " WRITABLE);
}

/* ---- notifications */

void call_listen_to_batches(struct statement *statement)
{
    statement_init(statement, "LISTEN pgpoll");
}

void call_unlisten(struct statement *statement)
{
    statement_init(statement, "UNLISTEN *");
}

bool call_listen_to_topic(struct statement *statement, const struct poll_topic *topic)
{
    statement_init(statement, "SELECT pgpoll.listen($1, false),"
                              " concat(pg_postmaster_start_time(), ' ', 'pgpoll.messages'::regclass::oid)");
    return statement_add_topics(statement, topic, 1);
}

void call_notify_topic(struct statement *statement, const char *topic)
{
    statement_init(statement, "SELECT pg_notify(pgpoll.channel($1), '')");
    statement_add_text(statement, topic);
}

void call_set_plans(struct statement *statement)
{
    statement_init(statement, "SELECT set_config(s.name, s.setting, false) FROM (VALUES"
                              " ('row_security', 'off'), ('plan_cache_mode', 'force_generic_plan'),"
                              " ('enable_seqscan', 'off'), ('enable_bitmapscan', 'off'),"
                              " ('enable_hashjoin', 'off'), ('enable_mergejoin', 'off'), ('jit', 'off'))"
                              " AS s (name, setting)");
}

void call_lead(struct statement *statement)
{
    statement_init(statement, "SELECT pg_try_advisory_lock(1885827180, 2)");
}

bool call_mute_doorbell(struct statement *statement, int32_t ms)
{
    statement_init(statement, "SELECT pgpoll.mute_doorbell($1) WHERE " WRITABLE);
    return statement_add_int4(statement, ms);
}

void call_unmute_doorbell(struct statement *statement)
{
    statement_init(statement, "SELECT pgpoll.unmute_doorbell() WHERE " WRITABLE);
}

/* ---- pgpoll.fcgi --check */

void call_connection(struct statement *statement)
{
    statement_init(
        statement,
        "SELECT current_database(), coalesce(host(inet_server_addr()) || ' port ' ||"
        " inet_server_port(), 'a Unix socket'), session_user::text, current_setting('server_version'),"
        " CASE WHEN rolsuper THEN 'yes' ELSE '' END,"
        " (extract(epoch FROM clock_timestamp()) * 1000)::bigint"
        " FROM pg_roles WHERE rolname = session_user");
}

void call_missing_rights(struct statement *statement)
{
    statement_init(
        statement,
        "SELECT coalesce(string_agg(p.proname, ', ' ORDER BY p.proname), ''), quote_ident(session_user)"
        " FROM pg_proc p JOIN pg_roles r ON r.rolname = 'pgpoll_poller'"
        " WHERE p.pronamespace = 'pgpoll'::regnamespace"
        " AND has_function_privilege(r.oid, p.oid, 'EXECUTE')"
        " AND NOT has_function_privilege(p.oid, 'EXECUTE')");
}

bool call_problems(struct statement *statement, const char *host, int32_t workers, int32_t connections,
                   int32_t access_connections)
{
    statement_init(statement,
                   "SELECT severity, message, blocking FROM pgpoll.problems($1, $2, $3 + CASE"
                   " WHEN pgpoll.is_open_to_all() AND NOT pgpoll.has_authenticate() THEN 1 ELSE $4 END)");
    statement_add_text(statement, host);
    return statement_add_int4(statement, workers) && statement_add_int4(statement, connections) &&
           statement_add_int4(statement, access_connections);
}

void call_can_poll(struct statement *statement)
{
    statement_init(statement, "SELECT pgpoll.can_poll('', 'pgpoll check')");
}

void call_try_position(struct statement *statement)
{
    statement_init(statement, "SELECT pgpoll.try_position()");
}
