-- Version 1 of the schema, kept by tests/sql/schemas/save.
\set ON_ERROR_STOP on
\set QUIET on
\set schema_version 1
CREATE SCHEMA pgpoll;
-- Three group roles; an operator grants them to login roles. They belong to the cluster, so another database may have made them.
DO $$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['pgpoll_publisher', 'pgpoll_poller', 'pgpoll_monitor'] LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = role_name) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
        END IF;
    END LOOP;
END $$;
-- What publishers insert into. Append-only: a message is sent once, as its transaction left it.
CREATE TABLE IF NOT EXISTS pgpoll.messages (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic      text COLLATE "C" NOT NULL,
    payload    json NOT NULL,
    metadata   json,
    created_at timestamptz NOT NULL DEFAULT now() CHECK (isfinite(created_at)),
    -- The same rule as topic_check() in src/topic.c.
    CONSTRAINT messages_topic_length CHECK (char_length(topic) BETWEEN 1 AND 255),
    CONSTRAINT messages_topic_control CHECK (topic !~ '[\u0001-\u001f\u007f-\u009f]'),
    CONSTRAINT messages_topic_blank CHECK (topic ~ '[^ \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]')
);

-- The order of delivery: one narrow row per committed message, written at commit by pgpoll.assign_position().
-- No foreign key: it would lock the message's row while every other publisher waits, and an operator may delete a message.
CREATE TABLE IF NOT EXISTS pgpoll.feed (
    topic      text COLLATE "C" NOT NULL,
    position   bigint NOT NULL,   -- milliseconds since 1970 << 16 | n
    message_id bigint NOT NULL,   -- messages.id
    bytes      integer NOT NULL,  -- of payload and metadata, for the page's budget
    PRIMARY KEY (topic, position)
);

-- The last position given; set under commit_lock only. A sequence, because it must outlive a rollback.
CREATE SEQUENCE IF NOT EXISTS pgpoll.last_position AS bigint MINVALUE 0 START 0;

-- Held from assign_position() to the end of the commit. Private and empty: nobody else can hold it.
CREATE TABLE IF NOT EXISTS pgpoll.commit_lock () WITH (autovacuum_enabled = off);

-- How far each topic was pruned: every position up to this one is gone.
CREATE TABLE IF NOT EXISTS pgpoll.retention (
    topic     text COLLATE "C" PRIMARY KEY,
    pruned_to bigint NOT NULL
);

-- One row per waiting poll. Not logged: after a crash nobody waits.
CREATE UNLOGGED TABLE IF NOT EXISTS pgpoll.waiters (
    host        text NOT NULL,
    pid         integer NOT NULL,      -- of the worker, on that host
    backend_pid integer NOT NULL,      -- of the connection that speaks for it: no backend, no waiter
    topics      text[] COLLATE "C" NOT NULL,
    client      text NOT NULL,         -- address
    started_at  timestamptz NOT NULL,
    deadline    timestamptz NOT NULL,
    seen_at     timestamptz NOT NULL,
    PRIMARY KEY (host, pid)
);
-- Gives a message its position in the order of delivery, at commit.
--
-- Why readers miss nothing: the lock is taken by a deferred trigger, before anything of the commit is visible, and is
-- released after all of it is. So who takes the lock later gets the higher position, and a snapshot that sees a position
-- sees every lower one. An identity column cannot do that: its values are given before the commit and become visible
-- in another order.
--
-- Positions grow through clock steps, crashes, failover to a lagging standby and restored backups, because they are at
-- least the clock and at least the last one plus one.
CREATE OR REPLACE FUNCTION pgpoll.assign_position() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '10s'   -- a publisher's COMMIT fails rather than wait longer for another's
-- Always by the index. Reading all of a small table would make serializable publishers fail each other, and a session keeps
-- such a plan while the table grows.
SET enable_seqscan = off
SET jit = off
AS $$
DECLARE
    message record;
    next_position bigint;
BEGIN
    LOCK TABLE pgpoll.commit_lock IN SHARE UPDATE EXCLUSIVE MODE;

    -- The row as the transaction leaves it: NEW is the row as inserted, and may have been changed or deleted since.
    -- Under the lock, though it could come before: serializable publishers that read while others insert fail each other.
    SELECT m.topic, octet_length(m.payload::text)::bigint + coalesce(octet_length(m.metadata::text), 0) AS bytes
      INTO message
      FROM pgpoll.messages m WHERE m.id = NEW.id;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;

    SELECT greatest(s.last_value + 1, (extract(epoch FROM clock_timestamp()) * 1000)::bigint << 16)
      INTO next_position
      FROM pgpoll.last_position s;
    PERFORM setval('pgpoll.last_position', next_position);

    INSERT INTO pgpoll.feed (topic, position, message_id, bytes)
    VALUES (message.topic, next_position, NEW.id, least(message.bytes, 2147483647));

    PERFORM pg_notify('pgpoll_' || md5(message.topic), next_position::text);
    RETURN NULL;
END $$;
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_trigger
                   WHERE tgrelid = 'pgpoll.messages'::regclass AND tgname = 'assign_position') THEN
        CREATE CONSTRAINT TRIGGER assign_position AFTER INSERT ON pgpoll.messages
            DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION pgpoll.assign_position();
    END IF;
    -- ALWAYS: also for rows that logical replication applies. Only where it is not so: this waits for every open publisher.
    IF EXISTS (SELECT FROM pg_catalog.pg_trigger
               WHERE tgrelid = 'pgpoll.messages'::regclass AND tgname = 'assign_position' AND tgenabled <> 'A') THEN
        ALTER TABLE pgpoll.messages ENABLE ALWAYS TRIGGER assign_position;
    END IF;
END $$;
-- Yours to replace (CREATE OR REPLACE FUNCTION): may this user poll this topic? It is asked for every topic of every poll.
-- remote_user is what the web server authenticated, '' when nobody. Installing again keeps your version.
DO $do$
BEGIN
    IF to_regprocedure('pgpoll.can_poll(text, text)') IS NULL THEN
        CREATE FUNCTION pgpoll.can_poll(remote_user text, topic text) RETURNS boolean
        LANGUAGE sql STABLE
        AS 'SELECT true';
    END IF;
END $do$;
-- Whether can_poll() allows every one of these topics. NULL from can_poll() means no.
CREATE OR REPLACE FUNCTION pgpoll.may_poll(remote_user text, topics text[]) RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    topic text;
BEGIN
    FOREACH topic IN ARRAY topics LOOP
        IF pgpoll.can_poll(remote_user, topic) IS NOT TRUE THEN
            RETURN false;
        END IF;
    END LOOP;
    RETURN true;
END $$;
-- Whether can_poll() is still as it came: then there is no need to ask it.
CREATE OR REPLACE FUNCTION pgpoll.is_open_to_all() RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p.prosrc = 'SELECT true' AND l.lanname = 'sql'
    FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
    WHERE p.oid = to_regprocedure('pgpoll.can_poll(text, text)')
$$;
-- LISTENs on the channel of each topic and tells which channel that is, in the order of the topics. Commit it before you read:
-- a message committed before the LISTEN took effect is announced to nobody.
CREATE OR REPLACE FUNCTION pgpoll.listen(topics text[]) RETURNS SETOF text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    topic text;
BEGIN
    FOREACH topic IN ARRAY topics LOOP
        EXECUTE format('LISTEN %I', 'pgpoll_' || md5(topic));
        RETURN NEXT 'pgpoll_' || md5(topic);
    END LOOP;
END $$;
-- Undoes listen() for these topics.
CREATE OR REPLACE FUNCTION pgpoll.unlisten(topics text[]) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    topic text;
BEGIN
    FOREACH topic IN ARRAY topics LOOP
        EXECUTE format('UNLISTEN %I', 'pgpoll_' || md5(topic));
    END LOOP;
END $$;
-- One page of messages after the given positions, all topics merged in commit order, read in one snapshot.
--
-- topics and positions belong together by index; a NULL position means from now. max_messages and max_bytes (payload and
-- metadata, as text) bound the page; a first message that alone is larger is sent all the same.
--
-- Rows, told apart by created_at and payload:
--   topic    (no created_at) one per topic, in order: position is where its reading starts, gap is NULL, 'expired'
--            (messages after the requested position were pruned) or 'ahead' (no such position was ever given),
--            oldest the first position still there, looked up only where it may be asked for
--   message  in order of position
--   more     (created_at, no payload) at most one, last: there is at least one more message
CREATE OR REPLACE FUNCTION pgpoll.catch_up(topics text[], positions bigint[], max_messages integer, max_bytes bigint)
RETURNS TABLE (topic_no integer, "position" bigint, created_at timestamptz, payload json, metadata json, gap text, oldest bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
-- The one good plan: feed's primary key, then messages' primary key, whatever the statistics say today.
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET jit = off
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT t.no::integer,
           CASE WHEN t.requested IS NULL OR t.requested > t.last_position THEN t.newest
                ELSE greatest(t.requested, t.pruned_to) END,
           NULL::timestamptz, NULL::json, NULL::json,
           CASE WHEN t.requested > t.last_position THEN 'ahead'
                WHEN t.requested < t.pruned_to THEN 'expired' END,
           CASE WHEN t.requested > t.last_position OR t.requested < t.pruned_to OR t.requested = 0 THEN
               (SELECT f.position FROM pgpoll.feed f WHERE f.topic = t.topic ORDER BY f.position LIMIT 1) END
    FROM (SELECT r.no, r.topic, r.requested, s.last_value AS last_position,
                 coalesce(p.pruned_to, 0) AS pruned_to,
                 greatest(p.pruned_to,
                          (SELECT f.position FROM pgpoll.feed f WHERE f.topic = r.topic ORDER BY f.position DESC LIMIT 1),
                          0) AS newest
          FROM unnest(topics, positions) WITH ORDINALITY AS r (topic, requested, no)
          CROSS JOIN pgpoll.last_position s
          LEFT JOIN pgpoll.retention p ON p.topic = r.topic) t
    ORDER BY t.no;

    RETURN QUERY
    SELECT p.no::integer, p.position, p.created_at,
           CASE WHEN p.fits THEN p.payload END, CASE WHEN p.fits THEN p.metadata END, NULL, NULL::bigint
    FROM (SELECT c.*,
                 c.n <= max_messages AND (c.total <= max_bytes OR c.n = 1) AS fits,
                 c.n - 1 <= max_messages AND (c.total - c.bytes <= max_bytes OR c.n <= 2) AS previous_fits
          FROM (SELECT m.*, row_number() OVER page AS n, sum(m.bytes) OVER page AS total
                FROM (SELECT r.no, f.position, f.bytes, f.created_at, f.payload, f.metadata
                      FROM unnest(topics, positions) WITH ORDINALITY AS r (topic, requested, no)
                      CROSS JOIN LATERAL
                          (SELECT f.position, f.bytes, m.created_at, m.payload, m.metadata
                           FROM pgpoll.feed f JOIN pgpoll.messages m ON m.id = f.message_id
                           WHERE f.topic = r.topic AND f.position > r.requested
                           ORDER BY f.position LIMIT max_messages + 1) f
                      ORDER BY f.position LIMIT max_messages + 1) m
                WINDOW page AS (ORDER BY m.position ROWS UNBOUNDED PRECEDING)) c) p
    WHERE p.previous_fits
    ORDER BY p.position;
END $$;
-- A worker that speaks for itself (direct mode) enters its poll into the statistics, and again from time to time while it waits.
-- The worker tells times as durations, so that its clock does not matter.
CREATE OR REPLACE FUNCTION pgpoll.begin_wait(host text, pid integer, topics text[], client text, waited_ms bigint, left_ms bigint)
RETURNS void
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO pgpoll.waiters (host, pid, backend_pid, topics, client, started_at, deadline, seen_at)
    VALUES ($1, $2, pg_backend_pid(), $3, $4,
            now() - $5 * interval '1 millisecond', now() + $6 * interval '1 millisecond', now())
    ON CONFLICT (host, pid) DO UPDATE
    SET (backend_pid, topics, client, started_at, deadline, seen_at)
      = (excluded.backend_pid, excluded.topics, excluded.client, excluded.started_at, excluded.deadline, excluded.seen_at);
$$;
-- Undoes listen() and begin_wait() of this session. A LISTENing session that nobody reads holds up the whole cluster's
-- notification queue, so a worker calls this before it goes back to accept.
CREATE OR REPLACE FUNCTION pgpoll.end_wait(host text, pid integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UNLISTEN *;
    DELETE FROM pgpoll.waiters w WHERE w.host = $1 AND w.pid = $2;
END $$;
-- A manager enters the polls of its workers into the statistics, a batch at a time.
-- began: [{"pid", "topics", "client", "waited_ms", "left_ms"}, ...]; ended: workers that wait no more.
CREATE OR REPLACE FUNCTION pgpoll.write_waiters(host text, began json, ended json) RETURNS void
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    DELETE FROM pgpoll.waiters w
    USING json_array_elements_text($3) AS e (pid)
    WHERE w.host = $1 AND w.pid = e.pid::integer;

    INSERT INTO pgpoll.waiters (host, pid, backend_pid, topics, client, started_at, deadline, seen_at)
    SELECT $1, b.pid, pg_backend_pid(), b.topics, b.client,
           now() - b.waited_ms * interval '1 millisecond', now() + b.left_ms * interval '1 millisecond', now()
    FROM json_to_recordset($2) AS b (pid integer, topics text[], client text, waited_ms bigint, left_ms bigint)
    ON CONFLICT (host, pid) DO UPDATE
    SET (backend_pid, topics, client, started_at, deadline, seen_at)
      = (excluded.backend_pid, excluded.topics, excluded.client, excluded.started_at, excluded.deadline, excluded.seen_at);
$$;
-- Deletes the rows of polls that cannot be waiting any more: their connection is gone, or they are long overdue.
CREATE OR REPLACE FUNCTION pgpoll.sweep_waiters() RETURNS void
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    DELETE FROM pgpoll.waiters w
    WHERE w.deadline < now() - interval '1 minute'
       OR NOT EXISTS (SELECT FROM pg_stat_get_activity(w.backend_pid));
$$;
-- Deletes messages committed longer ago than keep, oldest first in each topic and at most batch of them, and records how far
-- each topic was pruned. Returns the number deleted: call it until that is 0. Safe while everything runs.
CREATE OR REPLACE FUNCTION pgpoll.prune(keep interval, batch integer DEFAULT 5000) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET jit = off
AS $$
DECLARE
    -- The age is that of the commit, not of created_at: a transaction may have been open for longer than keep.
    -- Never before 1970, where the shift would overflow.
    before bigint := greatest((extract(epoch FROM clock_timestamp() - keep) * 1000)::bigint, 0) << 16;
    deleted integer;
BEGIN
    IF keep IS NULL OR keep < interval '0' THEN
        RAISE EXCEPTION 'keep must be an interval of at least 0' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF batch IS NULL OR batch < 1 THEN
        RAISE EXCEPTION 'batch must be at least 1' USING ERRCODE = 'invalid_parameter_value';
    END IF;

    -- One at a time, so that 0 means that nothing is left.
    LOCK TABLE pgpoll.retention IN SHARE ROW EXCLUSIVE MODE;

    WITH RECURSIVE topics (topic) AS (
        (SELECT f.topic FROM pgpoll.feed f ORDER BY f.topic LIMIT 1)
        UNION ALL
        SELECT (SELECT f.topic FROM pgpoll.feed f WHERE f.topic > t.topic ORDER BY f.topic LIMIT 1)
        FROM topics t WHERE t.topic IS NOT NULL
    ), old AS MATERIALIZED (
        SELECT f.topic, f.position, f.message_id
        FROM topics t
        CROSS JOIN LATERAL (SELECT f.topic, f.position, f.message_id FROM pgpoll.feed f
                            WHERE f.topic = t.topic AND f.position < before
                            ORDER BY f.position LIMIT batch) f
        LIMIT batch
    ), from_feed AS (
        DELETE FROM pgpoll.feed f USING old WHERE f.topic = old.topic AND f.position = old.position
    ), from_messages AS (
        DELETE FROM pgpoll.messages m USING old WHERE m.id = old.message_id
    ), recorded AS (
        INSERT INTO pgpoll.retention AS r (topic, pruned_to)
        SELECT old.topic, max(old.position) FROM old GROUP BY old.topic
        ON CONFLICT (topic) DO UPDATE SET pruned_to = excluded.pruned_to
    )
    SELECT count(*) INTO deleted FROM old;
    RETURN deleted;
END $$;
-- Workers refuse to serve a schema of another version.
\set body 'SELECT ' :schema_version
CREATE OR REPLACE FUNCTION pgpoll.schema_version() RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS :'body';
-- The polls that wait now: a killed worker's row stops counting with its connection.
CREATE OR REPLACE VIEW pgpoll.live_waiters AS
SELECT w.*
FROM pgpoll.waiters w
WHERE w.deadline > now() - interval '5 seconds'
  AND EXISTS (SELECT FROM pg_stat_get_activity(w.backend_pid));

CREATE OR REPLACE VIEW pgpoll.topic_waiters AS
SELECT t.topic, count(*) AS waiters, min(w.started_at) AS longest_since
FROM pgpoll.live_waiters w CROSS JOIN LATERAL unnest(w.topics) AS t (topic)
GROUP BY t.topic;

-- What GET /messages/poll/stats answers.
CREATE OR REPLACE VIEW pgpoll.stats AS
SELECT (SELECT count(*) FROM pgpoll.live_waiters) AS active_waiters,
       count(*) AS subscribed_topics,
       coalesce(json_object_agg(t.topic, t.waiters ORDER BY t.waiters DESC, t.topic), '{}') AS topic_subscriber_counts
FROM pgpoll.topic_waiters t;
-- Nobody has what is not granted here. catch_up(), begin_wait(), end_wait() and sweep_waiters() run with their owner's rights,
-- so that a poller needs none on the tables.
REVOKE ALL ON SCHEMA pgpoll FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA pgpoll FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA pgpoll FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA pgpoll FROM PUBLIC;

GRANT USAGE ON SCHEMA pgpoll TO pgpoll_publisher, pgpoll_poller, pgpoll_monitor;

GRANT INSERT (topic, payload, metadata) ON pgpoll.messages TO pgpoll_publisher;

GRANT EXECUTE ON FUNCTION
    pgpoll.schema_version(),
    pgpoll.can_poll(text, text),
    pgpoll.may_poll(text, text[]),
    pgpoll.is_open_to_all(),
    pgpoll.listen(text[]),
    pgpoll.unlisten(text[]),
    pgpoll.catch_up(text[], bigint[], integer, bigint),
    pgpoll.begin_wait(text, integer, text[], text, bigint, bigint),
    pgpoll.end_wait(text, integer),
    pgpoll.write_waiters(text, json, json),
    pgpoll.sweep_waiters()
TO pgpoll_poller;
GRANT SELECT ON pgpoll.stats TO pgpoll_poller;

GRANT EXECUTE ON FUNCTION pgpoll.schema_version() TO pgpoll_monitor;
GRANT SELECT ON pgpoll.stats, pgpoll.topic_waiters, pgpoll.live_waiters, pgpoll.waiters TO pgpoll_monitor;
