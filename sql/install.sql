-- Installs pgpoll in the database that psql is connected to, or upgrades it:  psql -f sql/install.sql
--
-- Run it as the role that is to own the schema. That role needs CREATE on the database and, for the first
-- installation in the cluster, CREATEROLE. It is safe to run this script again.
\set ON_ERROR_STOP on
\set QUIET on
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SET standard_conforming_strings = on;
SET plpgsql.extra_warnings = 'none'; -- the database may have other defaults for functions of its own
SET plpgsql.extra_errors = 'none';
SET search_path = pg_catalog, pg_temp; -- names must not find objects that others put into public
-- If a long transaction holds a lock, this script fails. Without the limit it would wait, and publishers
-- would wait behind its lock request.
SET lock_timeout = '3s';
SET statement_timeout = 0; -- an upgrade may build an index; a default for other sessions would be too short
\ir version.sql
SELECT :SERVER_VERSION_NUM < 140000 AS server_too_old \gset
\if :server_too_old
    SELECT format('DO %L', format('BEGIN RAISE %L; END',
        format('pgpoll needs PostgreSQL 14 or later, this is %s', :'SERVER_VERSION_NAME'))) \gexec
\endif
BEGIN;
-- Other installations come first, and publishers do not wait behind this lock request.
SET LOCAL lock_timeout = '1min';
SELECT pg_advisory_xact_lock(hashtext('pgpoll.install')) \g /dev/null
SET LOCAL lock_timeout = '3s';

SELECT pg_encoding_to_char(encoding) <> 'UTF8' AS not_utf8
FROM pg_database WHERE datname = current_database() \gset
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
        'the pgpoll schema in this database has version %s, newer than these scripts (version %s):'
        ' use the scripts of the newer pgpoll', :installed, :schema_version))) \gexec
\endif

\ir roles.sql
\if :older
    -- Sessions lock a view before its tables, so a lock on this one comes before those on tables: see the
    -- lock order in tables.sql. views.sql creates it again.
    DROP VIEW IF EXISTS pgpoll.feed_messages;
    -- These locks keep prune() and publishing transactions out during an upgrade. Reads continue until a
    -- table is altered: see the lock order in tables.sql. prune() of versions before 3 locks retention first,
    -- so an upgrade from these versions does so, too.
    SELECT :installed < 3 AS retention_first \gset
    \if :retention_first
        LOCK TABLE pgpoll.retention IN SHARE ROW EXCLUSIVE MODE;
    \endif
    LOCK TABLE pgpoll.messages, pgpoll.retention IN SHARE ROW EXCLUSIVE MODE;
    \ir upgrade.sql
\endif
\ir tables.sql
\ir watch_tables.sql
\ir functions/retained_topics.sql
\ir views.sql
\ir functions/channel.sql
\ir functions/ring_doorbell.sql
\ir functions/replicate_message.sql
\ir functions/note_deletion.sql
\ir functions/truncate_messages.sql
\ir functions/mute_doorbell.sql
\ir functions/unmute_doorbell.sql
\ir functions/message_bytes.sql
\ir functions/adopt_messages.sql
\ir functions/assign_backlog.sql
\ir functions/all_numbered.sql
\ir functions/assign_batch.sql
\ir functions/assign_positions.sql
\ir functions/read_feed.sql
\ir functions/new_messages.sql
\ir functions/newest_positions.sql
\ir triggers.sql
\ir functions/can_poll.sql
\ir functions/is_open_to_all.sql
\ir functions/refused_topic.sql
\ir functions/authenticate.sql
\ir functions/has_authenticate.sql
\ir functions/listen.sql
\ir functions/catch_up.sql
\ir functions/cursor.sql
\ir functions/write_statistics.sql
\ir functions/sweep_waiters.sql
\ir functions/note_position.sql
\ir functions/position_at.sql
\ir functions/prune.sql
\ir functions/prune_part.sql
\ir functions/prune_topics.sql
\ir functions/schema_version.sql
\ir functions/topic_sizes.sql
\ir functions/without_position.sql
\ir watch_views.sql
\ir functions/metrics.sql
\ir functions/problems.sql
\ir functions/try_position.sql
\ir descriptions.sql
\ir grants.sql
COMMIT;
\if :older
    -- A program checks the version when it connects. Close its connections, so that it checks again.
    DO $$
    BEGIN
        PERFORM pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'pgpoll' AND pid <> pg_backend_pid();
    EXCEPTION WHEN insufficient_privilege THEN
        RAISE WARNING 'could not close the connections of running pgpoll programs'
            USING HINT = 'Reload them, so that they notice the new version of the schema.';
    END $$;
\endif
