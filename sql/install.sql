-- Installs pgpoll in the database psql is connected to, or brings it up to date:  psql -f sql/install.sql
-- Run it as the role that shall own it (it needs CREATE on the database, and CREATEROLE the first time). Safe to repeat.
\set ON_ERROR_STOP on
\set QUIET on
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SET standard_conforming_strings = on;
SET search_path = pg_catalog, pg_temp; -- whoever may create in public has no say in what names mean here
-- Rather fail than hold up publishers behind a transaction that stays open.
SET lock_timeout = '3s';
\ir version.sql
SELECT :SERVER_VERSION_NUM < 140000 AS server_too_old \gset
\if :server_too_old
    SELECT format('DO %L', format('BEGIN RAISE %L; END',
        format('pgpoll needs PostgreSQL 14 or later, this is %s', :'SERVER_VERSION_NAME'))) \gexec
\endif
BEGIN;
SELECT pg_advisory_xact_lock(hashtext('pgpoll.install')) \g /dev/null

SELECT pg_encoding_to_char(encoding) <> 'UTF8' AS not_utf8 FROM pg_database WHERE datname = current_database() \gset
\if :not_utf8
    DO 'BEGIN RAISE ''pgpoll needs a database with encoding UTF8''; END';
\endif

CREATE SCHEMA IF NOT EXISTS pgpoll;

SELECT to_regprocedure('pgpoll.schema_version()') IS NULL AS fresh \gset
\if :fresh
    \set installed :schema_version
\else
    SELECT pgpoll.schema_version() AS installed \gset
\endif
SELECT :installed > :schema_version AS newer, :installed < :schema_version AS older \gset
\if :newer
    SELECT format('DO %L', format('BEGIN RAISE %L; END', format(
        'the pgpoll schema here has version %s, newer than these scripts (version %s): use those of the pgpoll that made it',
        :installed, :schema_version))) \gexec
\endif

\ir roles.sql
\if :older
    -- While an upgrade runs nobody prunes and no transaction that publishes is under way. What reads goes on,
    -- until something is altered: see the lock order in tables.sql. Before version 3 prune() locked retention
    -- first.
    SELECT :installed < 3 AS retention_first \gset
    \if :retention_first
        LOCK TABLE pgpoll.retention IN SHARE ROW EXCLUSIVE MODE;
    \endif
    LOCK TABLE pgpoll.messages, pgpoll.retention IN SHARE ROW EXCLUSIVE MODE;
    \ir upgrade.sql
\endif
\ir tables.sql
\ir watch_tables.sql
\ir views.sql
\ir functions/channel.sql
\ir functions/ring_doorbell.sql
\ir functions/replicate_message.sql
\ir functions/truncate_messages.sql
\ir functions/mute_doorbell.sql
\ir functions/unmute_doorbell.sql
\ir functions/adopt_messages.sql
\ir functions/assign_backlog.sql
\ir functions/assign_batch.sql
\ir functions/assign_positions.sql
\ir functions/new_messages.sql
\ir triggers.sql
\ir functions/can_poll.sql
\ir functions/may_poll.sql
\ir functions/is_open_to_all.sql
\ir functions/listen.sql
\ir functions/unlisten.sql
\ir functions/catch_up.sql
\ir functions/begin_wait.sql
\ir functions/end_wait.sql
\ir functions/write_waiters.sql
\ir functions/write_listener.sql
\ir functions/end_listener.sql
\ir functions/sweep_waiters.sql
\ir functions/prune.sql
\ir functions/schema_version.sql
\ir watch_views.sql
\ir functions/metrics.sql
\ir functions/problems.sql
\ir functions/try_position.sql
\ir grants.sql
COMMIT;
\if :older
    -- A program looks at the version once a connection. Those that run still have to see that it is another now.
    DO $$
    BEGIN
        PERFORM pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'pgpoll' AND pid <> pg_backend_pid();
    EXCEPTION WHEN insufficient_privilege THEN
        RAISE WARNING 'running workers could not be told of the new version, reload them';
    END $$;
\endif
