-- Installs pgpoll in the database psql is connected to, or brings it up to date:  psql -f sql/install.sql
-- Run it as the role that shall own it (it needs CREATE on the database, and CREATEROLE the first time). Safe to repeat.
\set ON_ERROR_STOP on
\set QUIET on
SET client_min_messages = warning;
SET search_path = pg_catalog, pg_temp; -- whoever may create in public has no say in what names mean here
BEGIN;
SELECT pg_advisory_xact_lock(hashtext('pgpoll.install')) \g /dev/null

SELECT pg_encoding_to_char(encoding) <> 'UTF8' AS not_utf8 FROM pg_database WHERE datname = current_database() \gset
\if :not_utf8
    DO 'BEGIN RAISE ''pgpoll needs a database with encoding UTF8''; END';
\endif

CREATE SCHEMA IF NOT EXISTS pgpoll;

SELECT to_regprocedure('pgpoll.schema_version()') IS NOT NULL AS installed \gset
\if :installed
    SELECT pgpoll.schema_version() > 2 AS newer \gset
    \if :newer
        DO 'BEGIN RAISE ''the pgpoll schema here is newer than this script (version 2)''; END';
    \endif
\endif

\ir roles.sql
\ir tables.sql
\ir watch_tables.sql
\ir views.sql
\ir functions/ring_doorbell.sql
\ir functions/replicate_message.sql
\ir functions/mute_doorbell.sql
\ir functions/unmute_doorbell.sql
\ir functions/adopt_messages.sql
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
\ir functions/sweep_waiters.sql
\ir functions/prune.sql
\ir functions/schema_version.sql
\ir watch_views.sql
\ir functions/metrics.sql
\ir grants.sql
COMMIT;
