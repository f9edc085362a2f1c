-- Version 2 of the schema, kept by tests/sql/schemas/save.
\set ON_ERROR_STOP on
\set QUIET on
\set schema_version 2
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
-- What a topic may be: the same rule as topic_check() in src/topic.c. Domains, because the CHECK constraints of a table are parsed anew
-- for every INSERT. Separate from CREATE DOMAIN, and NOT VALID, for upgrades/2.sql: what is there passed the same rules.
SELECT to_regtype('pgpoll.topic_name') IS NULL AS missing \gset
\if :missing
    CREATE DOMAIN pgpoll.topic_name AS text COLLATE "C";
    CREATE DOMAIN pgpoll.finite_timestamptz AS timestamptz;
\endif
SELECT NOT EXISTS (SELECT FROM pg_constraint WHERE contypid = 'pgpoll.topic_name'::regtype) AS missing \gset
\if :missing
    ALTER DOMAIN pgpoll.topic_name ADD CONSTRAINT topic_length CHECK (char_length(value) BETWEEN 1 AND 255) NOT VALID;
    ALTER DOMAIN pgpoll.topic_name ADD CONSTRAINT topic_control CHECK (value !~ '[\u0001-\u001f\u007f-\u009f]') NOT VALID;
    ALTER DOMAIN pgpoll.topic_name ADD CONSTRAINT topic_blank
        CHECK (value ~ '[^ \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]') NOT VALID;
    ALTER DOMAIN pgpoll.finite_timestamptz ADD CONSTRAINT is_finite CHECK (isfinite(value)) NOT VALID;
\endif

-- What publishers insert into. Append-only: a message is sent once, as its transaction left it.
CREATE TABLE IF NOT EXISTS pgpoll.messages (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic      pgpoll.topic_name NOT NULL,
    payload    json NOT NULL,
    metadata   json,
    created_at pgpoll.finite_timestamptz NOT NULL DEFAULT now(),
    -- Whose transaction it is, by which pgpoll.assign_positions() finds it. NULL: its position was given long ago.
    xid        xid8 DEFAULT pg_current_xact_id()
);
SELECT to_regclass('pgpoll.messages_xid') IS NULL AS missing \gset
\if :missing
    CREATE INDEX messages_xid ON pgpoll.messages (xid) WHERE xid IS NOT NULL; -- IF NOT EXISTS would wait for every open publisher
\endif

-- The order of delivery: one narrow row per committed message, written after the commit by pgpoll.assign_positions().
-- No foreign key: an operator may delete a message.
CREATE TABLE IF NOT EXISTS pgpoll.feed (
    topic      text COLLATE "C" NOT NULL,
    position   bigint NOT NULL,   -- milliseconds since 1970 << 16 | n
    message_id bigint NOT NULL,   -- messages.id
    bytes      integer NOT NULL,  -- of payload and metadata, for the page's budget
    PRIMARY KEY (topic, position)
);

-- The last position given; set under feed_lock only. A sequence, because it must outlive a rollback.
CREATE SEQUENCE IF NOT EXISTS pgpoll.last_position AS bigint MINVALUE 0 START 0;

-- Held while positions are given, to the end of that commit. Private and empty: nobody else can hold it.
CREATE TABLE IF NOT EXISTS pgpoll.feed_lock () WITH (autovacuum_enabled = off);

-- Up to where positions were given: to the messages of every transaction before next_xid, but for those unfinished.
-- The last row counts. It is never updated, so that a long transaction, which keeps old rows alive, costs nothing here. The first look
-- writes the first: one from here would be in the way of those that pg_dump --data-only or a subscription bring.
CREATE TABLE IF NOT EXISTS pgpoll.batches (
    position     bigint PRIMARY KEY,      -- the last one given
    next_xid     xid8 NOT NULL,
    unfinished   xid8[] NOT NULL,
    server_start timestamptz NOT NULL,
    cluster      bigint NOT NULL,         -- whose transaction numbers these are
    messages     oid NOT NULL             -- of which table, since copies of a cluster have its identifier
);

-- Until when publishers need not say that they published, in milliseconds since 1970. A sequence, because it is read without a
-- snapshot and set without a commit.
CREATE SEQUENCE IF NOT EXISTS pgpoll.doorbell AS bigint MINVALUE 0 START 0;

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
-- Who LISTENs: one row per manager, for all its workers, and per worker that stands alone. Not logged, like waiters.
CREATE UNLOGGED TABLE IF NOT EXISTS pgpoll.listeners (
    host         text NOT NULL,
    pid          integer NOT NULL,      -- on that host
    backend_pid  integer NOT NULL,      -- of the connection that writes this
    workers      integer NOT NULL,
    free_workers integer,               -- that can accept a poll; NULL: see waiters
    hears        boolean,               -- whether LISTEN was found to deliver; NULL: not a manager, nobody looked
    seen_at      timestamptz NOT NULL,
    PRIMARY KEY (host, pid)
);

-- What was counted, all processes of a host together, for pgpoll.metrics(). Histograms have one row per bucket, labelled by its upper
-- bound, and one for the sum, in milliseconds. Updated at most once a second by each manager: room is left for that.
CREATE UNLOGGED TABLE IF NOT EXISTS pgpoll.counters (
    host       text COLLATE "C" NOT NULL,
    metric     text COLLATE "C" NOT NULL,
    label      text COLLATE "C" NOT NULL,
    value      bigint NOT NULL,
    changed_at timestamptz NOT NULL,
    PRIMARY KEY (host, metric, label)
) WITH (fillfactor = 50);
CREATE OR REPLACE VIEW pgpoll.live_waiters AS
SELECT w.*
FROM pgpoll.waiters w
WHERE w.deadline > now() - interval '5 seconds'
  AND EXISTS (SELECT FROM pg_stat_get_activity(w.backend_pid))
  AND NOT EXISTS (SELECT FROM pgpoll.listeners l  -- its manager: one heard of before was another with that process id
                  WHERE l.host = w.host AND l.backend_pid = w.backend_pid AND l.hears IS NOT NULL
                    AND l.seen_at BETWEEN w.seen_at AND now() - interval '15 seconds');
COMMENT ON VIEW pgpoll.live_waiters IS
    'The polls that wait now: a killed worker''s row stops counting with its connection, those of a manager also when it was not heard of for 15 s.';

CREATE OR REPLACE VIEW pgpoll.topic_waiters AS
SELECT t.topic, count(*) AS waiters, min(w.started_at) AS longest_since
FROM pgpoll.live_waiters w CROSS JOIN LATERAL unnest(w.topics) AS t (topic)
GROUP BY t.topic;
COMMENT ON VIEW pgpoll.topic_waiters IS
    'How many polls wait for which topic, and since when the longest does?';

CREATE OR REPLACE VIEW pgpoll.stats AS
SELECT (SELECT count(*) FROM pgpoll.live_waiters) AS active_waiters,
       count(*) AS subscribed_topics,
       coalesce(json_object_agg(t.topic, t.waiters ORDER BY t.waiters DESC, t.topic), '{}') AS topic_subscriber_counts
FROM pgpoll.topic_waiters t;
COMMENT ON VIEW pgpoll.stats IS
    'What GET /messages/poll/stats answers.';
-- Says at commit that there is something to give positions to, unless somebody is busy giving them anyway.
--
-- Every NOTIFY holds a lock of the whole cluster until its commit is flushed to disk, so that publishers would commit one
-- after the other. A manager that has its hands full therefore mutes the doorbell for a moment at a time (mute_doorbell()) and looks
-- by itself; publishers then commit together, as if there were no pgpoll. Should it die, the moment passes; what was published
-- quietly meanwhile is found by the next manager that connects, which begins by unmuting, or by any other within seconds (LOOK_MS).
--
-- Why no message is left lying when the manager stops looking: who keeps quiet holds the lock below until its commit is
-- visible, and took it before it found the doorbell muted. unmute_doorbell() first unmutes, then sees whether anybody holds that lock;
-- if nobody does, whoever kept quiet is visible to a look from then on, and everybody else rings.
--
-- Runs in every publisher's commit, so it does without setting search_path (which costs as much as all the rest): every name and
-- operator is qualified instead.
CREATE OR REPLACE FUNCTION pgpoll.ring_doorbell() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
AS $$
DECLARE
    muted_until pg_catalog.timestamptz;
BEGIN
    -- Others can hold it too, as any advisory lock: then this one rings, or the manager looks once more.
    IF pg_catalog.pg_try_advisory_xact_lock_shared(1885827180, 1) THEN
        muted_until := pg_catalog.to_timestamp(pg_catalog.pg_sequence_last_value('pgpoll.doorbell')
                                               OPERATOR(pg_catalog./) 1000.0::pg_catalog.float8);
        -- Not far ahead: the clock may have been set back.
        IF muted_until OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp()
           AND muted_until OPERATOR(pg_catalog.-) pg_catalog.clock_timestamp() OPERATOR(pg_catalog.<=) '1 s'::pg_catalog.interval THEN
            RETURN NULL;
        END IF;
    END IF;
    PERFORM pg_catalog.pg_notify('pgpoll', '');                                                     -- for managers
    PERFORM pg_catalog.pg_notify('pgpoll_' OPERATOR(pg_catalog.||) pg_catalog.md5(NEW.topic), '');   -- for workers that stand alone
    RETURN NULL;
END $$;
-- A message that logical replication brings belongs to the transaction that brings it: the number it bears is of another cluster.
-- Elsewhere it changes nothing: ENABLE TRIGGER ALL (pg_restore --disable-triggers) makes a trigger of this kind fire for everybody.
CREATE OR REPLACE FUNCTION pgpoll.replicate_message() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF current_setting('session_replication_role') = 'replica' THEN
        NEW.xid := CASE TG_OP WHEN 'INSERT' THEN pg_current_xact_id() ELSE OLD.xid END;
    END IF;
    RETURN NEW;
END $$;
-- TRUNCATE takes the messages' places in the order with them, and is told to clients as a prune is. With RESTART IDENTITY these places would
-- become the new messages', which would come twice, and under topics of others.
CREATE OR REPLACE FUNCTION pgpoll.truncate_messages() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    WITH gone AS (
        DELETE FROM pgpoll.feed f RETURNING f.topic, f.position
    )
    INSERT INTO pgpoll.retention AS r (topic, pruned_to)
    SELECT g.topic, max(g.position) FROM gone g GROUP BY g.topic
    ON CONFLICT (topic) DO UPDATE SET pruned_to = excluded.pruned_to;
    RETURN NULL;
END $$;
-- The caller looks for new messages by itself for so long (at most a second): publishers need not ring.
CREATE OR REPLACE FUNCTION pgpoll.mute_doorbell(milliseconds integer) RETURNS void
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT setval('pgpoll.doorbell', (extract(epoch FROM clock_timestamp()) * 1000)::bigint + least(milliseconds, 1000));
$$;
-- From now on publishers ring. Call it in a transaction of its own, then assign_positions(). True: whoever kept quiet is visible to that;
-- false: some publisher may not be, look again soon.
CREATE OR REPLACE FUNCTION pgpoll.unmute_doorbell() RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM setval('pgpoll.doorbell', 0);
    RETURN pg_try_advisory_xact_lock(1885827180, 1);
END $$;
-- Transaction numbers mean something in one cluster only. When the server was started anew since the latest batch, sees whether it still
-- is that one, and the table the same; else (a restored dump, pg_upgrade, no batch yet) all messages are gone through once for those that
-- have no position. Notes and returns what holds from here on. For assign_batch(), which holds the lock.
CREATE OR REPLACE FUNCTION pgpoll.adopt_messages(INOUT latest pgpoll.batches)
LANGUAGE plpgsql
SET enable_seqscan = on
AS $$
DECLARE
    before constant pg_snapshot := pg_current_snapshot();
    -- So much of the end may be missing that clients have seen: a standby that is promoted need not have had all.
    lost constant bigint := (extract(epoch FROM current_setting('wal_writer_delay')::interval) * 3000)::bigint << 16;
BEGIN
    IF latest.cluster IS DISTINCT FROM (pg_control_system()).system_identifier OR latest.messages <> 'pgpoll.messages'::regclass
       OR latest.next_xid > pg_snapshot_xmax(before) THEN
        UPDATE pgpoll.messages m
        SET xid = CASE WHEN f.message_id IS NULL THEN pg_current_xact_id() END
        FROM pgpoll.messages n LEFT JOIN pgpoll.feed f ON f.message_id = n.id
        WHERE n.xid IS NOT NULL AND m.id = n.id;
        -- Who was under way before the UPDATE may have published since; and this transaction has, so to speak.
        latest.next_xid := pg_snapshot_xmax(before);
        latest.unfinished := ARRAY(SELECT pg_snapshot_xip(before)) || pg_current_xact_id();
    END IF;
    latest.position := setval('pgpoll.last_position', greatest(coalesce(pg_sequence_last_value('pgpoll.last_position'), 0), latest.position)
                                                      + CASE WHEN latest.position IS NULL THEN 0 ELSE lost END);
    latest.server_start := pg_postmaster_start_time();
    latest.cluster := (pg_control_system()).system_identifier;
    latest.messages := 'pgpoll.messages'::regclass;
    INSERT INTO pgpoll.batches VALUES (latest.*);
END $$;
-- Gives every committed message that has none its position in the order of delivery, and announces it: to each topic's channel its
-- highest position in this batch, then to the managers the batch's.
--
-- assigned is how many there were; ids[n] has the position after + n; nobody was given one between previous and them.
--
-- Why readers miss nothing: positions are given in one snapshot after the other, under a lock that is held until they are visible. So
-- a snapshot that sees a position sees every lower one. An identity column cannot do that: its values are given
-- before the commit and become visible in another order.
--
-- Why the order is everybody's order: what was committed before another message was inserted has the lower id, and is seen by any
-- snapshot that sees the other.
--
-- How the new ones are found: each message bears its transaction's number, and a batch notes which transactions its snapshot saw. What
-- is new is of those it did not see. Rows are neither searched through nor updated.
--
-- Positions grow through clock steps, crashes, failover to a lagging standby and restored backups, because they are at
-- least the clock and at least the last one plus one.
--
-- note: write down also that there was nothing. It must be done now and then: else rows that were rolled back, or are of a transaction
-- under way, would be gone through at every look until somebody else publishes.
--
-- For assign_positions() and new_messages() only, which set what it needs: search_path, and that plans go by the indexes, whatever the
-- statistics say today. It runs in every delivery, so it has few and small queries: starting one costs more than running it.
CREATE OR REPLACE FUNCTION pgpoll.assign_batch(note boolean, OUT assigned integer, OUT previous bigint, OUT after bigint,
                                               OUT ids bigint[], OUT bytes bigint)
LANGUAGE plpgsql
AS $$
DECLARE
    mine xid8 := pg_current_xact_id_if_assigned();
    last pgpoll.batches;
    seen pg_snapshot;
    finished xid8[] := '{}'; -- of those that were unfinished then
    topics text[];
BEGIN
    assigned := 0;
    -- With a snapshot from before the lock it would go wrong. Somebody else will do it.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RETURN;
    END IF;
    LOCK TABLE pgpoll.feed_lock IN SHARE UPDATE EXCLUSIVE MODE;
    SELECT * INTO last FROM pgpoll.batches b ORDER BY b.position DESC LIMIT 1;
    IF last.server_start IS DISTINCT FROM pg_postmaster_start_time() THEN
        last := pgpoll.adopt_messages(last);
        mine := pg_current_xact_id_if_assigned();
    END IF;

    -- What comes after seen is of the next batch, though the query below may see it.
    seen := pg_current_snapshot();
    IF last.unfinished <> '{}' THEN
        finished := ARRAY(SELECT x FROM unnest(last.unfinished) AS x WHERE pg_visible_in_snapshot(x, seen));
    END IF;
    previous := last.position;
    after := greatest(coalesce(pg_sequence_last_value('pgpoll.last_position'), 0),
                      ((extract(epoch FROM clock_timestamp()) * 1000)::bigint << 16) - 1);
    WITH fed AS (
        INSERT INTO pgpoll.feed AS f (topic, position, message_id, bytes)
        SELECT m.topic, after + row_number() OVER (ORDER BY m.id), m.id,
               least(octet_length(m.payload::text)::bigint + coalesce(octet_length(m.metadata::text), 0), 2147483647)
        FROM (SELECT * FROM pgpoll.messages WHERE xid >= last.next_xid AND (pg_visible_in_snapshot(xid, seen) OR xid = mine)
              UNION ALL
              SELECT * FROM pgpoll.messages WHERE xid = ANY (finished) AND xid < last.next_xid) m
        RETURNING f.topic, f.position, f.message_id, f.bytes
    )
    SELECT coalesce(array_agg(f.message_id), '{}'), array_agg(f.topic), sum(f.bytes)
      INTO ids, topics, bytes
      FROM (SELECT * FROM fed ORDER BY position) f;
    assigned := cardinality(ids);
    IF assigned = 0 AND NOT note THEN
        RETURN;
    END IF;
    IF current_setting('synchronous_commit') = 'off' THEN
        SET LOCAL synchronous_commit = local; -- else a crash might forget positions that clients have seen, and keep the messages
    END IF;

    last.position := setval('pgpoll.last_position', after + greatest(assigned, 1));
    last.next_xid := pg_snapshot_xmax(seen);
    last.unfinished := CASE WHEN pg_snapshot_xmin(seen) = last.next_xid THEN '{}' ELSE ARRAY(SELECT pg_snapshot_xip(seen)) END;
    IF mine IS NOT NULL THEN
        last.unfinished := last.unfinished || mine; -- if this transaction goes on to publish, nothing of that was seen
        UPDATE pgpoll.messages m SET xid = NULL WHERE m.xid = mine;
    END IF;
    INSERT INTO pgpoll.batches VALUES (last.*);
    PERFORM pg_notify('pgpoll_' || md5(t.topic), (after + max(t.n))::text)
       FROM unnest(topics) WITH ORDINALITY AS t (topic, n) GROUP BY t.topic;
    PERFORM pg_notify('pgpoll', last.position::text);
    IF random() < 0.001 THEN
        DELETE FROM pgpoll.batches b WHERE b.position < previous;
    END IF;
END $$;
-- What must come before each read of messages. Returns how many were given a position.
CREATE OR REPLACE FUNCTION pgpoll.assign_positions() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_bitmapscan = off
SET jit = off
SET lock_timeout = '4s' -- who asked gives up after PGPOLL_QUERY_TIMEOUT_S, and would leave a backend behind that waits
AS $$
DECLARE
    last pgpoll.batches;
    note constant boolean := random() < 0.01;
BEGIN
    -- Usually there is nothing, and those who read need not wait for each other to see that.
    SELECT * INTO last FROM pgpoll.batches b ORDER BY b.position DESC LIMIT 1;
    IF last.server_start = pg_postmaster_start_time() AND NOT note
       AND NOT EXISTS (SELECT FROM pgpoll.messages m WHERE m.xid >= last.next_xid)
       AND (last.unfinished = '{}'
            OR NOT EXISTS (SELECT FROM pgpoll.messages m
                           WHERE m.xid = ANY (ARRAY(SELECT x FROM unnest(last.unfinished) AS x
                                                    WHERE pg_visible_in_snapshot(x, pg_current_snapshot()))))) THEN
        RETURN 0;
    END IF;
    RETURN (pgpoll.assign_batch(note)).assigned;
END $$;
-- assign_positions() for a manager, which gets the messages at once: a row for each, in order, if they are at most max_messages and
-- max_bytes (of payload and metadata, as text); else, and where there are none, a single row without a position. assigned and
-- previous, the same in all rows: how many there were, and the position before which nothing is new.
CREATE OR REPLACE FUNCTION pgpoll.new_messages(max_messages integer, max_bytes bigint)
RETURNS TABLE (topic text, "position" bigint, created_at timestamptz, payload json, metadata json, assigned integer, previous bigint)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_bitmapscan = off
SET jit = off
SET lock_timeout = '4s' -- who asked gives up after PGPOLL_QUERY_TIMEOUT_S, and would leave a backend behind that waits
AS $$
DECLARE
    batch record;
BEGIN
    batch := pgpoll.assign_batch(random() < 0.01);
    IF batch.assigned BETWEEN 1 AND max_messages AND batch.bytes <= max_bytes THEN
        RETURN QUERY
        SELECT m.topic::text, batch.after + i.n, m.created_at::timestamptz, m.payload, m.metadata, batch.assigned, batch.previous
        FROM unnest(batch.ids) WITH ORDINALITY AS i (id, n) JOIN pgpoll.messages m ON m.id = i.id
        ORDER BY i.n;
    ELSE
        RETURN QUERY SELECT NULL, NULL::bigint, NULL::timestamptz, NULL::json, NULL::json, batch.assigned, batch.previous;
    END IF;
END $$;
-- ring_doorbell is deferred, so that it comes as late as can be.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_trigger
                   WHERE tgrelid = 'pgpoll.messages'::regclass AND tgname = 'ring_doorbell') THEN
        CREATE CONSTRAINT TRIGGER ring_doorbell AFTER INSERT OR UPDATE OF topic ON pgpoll.messages
            DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION pgpoll.ring_doorbell();
    END IF;
    -- ALWAYS: also for rows that logical replication applies. Only where it is not so: this waits for every open publisher.
    IF EXISTS (SELECT FROM pg_catalog.pg_trigger
               WHERE tgrelid = 'pgpoll.messages'::regclass AND tgname = 'ring_doorbell' AND tgenabled <> 'A') THEN
        ALTER TABLE pgpoll.messages ENABLE ALWAYS TRIGGER ring_doorbell;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_trigger
                   WHERE tgrelid = 'pgpoll.messages'::regclass AND tgname = 'replicate_message') THEN
        CREATE TRIGGER replicate_message BEFORE INSERT OR UPDATE ON pgpoll.messages
            FOR EACH ROW EXECUTE FUNCTION pgpoll.replicate_message();
    END IF;
    IF EXISTS (SELECT FROM pg_catalog.pg_trigger
               WHERE tgrelid = 'pgpoll.messages'::regclass AND tgname = 'replicate_message' AND tgenabled <> 'R') THEN
        ALTER TABLE pgpoll.messages ENABLE REPLICA TRIGGER replicate_message;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_trigger
                   WHERE tgrelid = 'pgpoll.messages'::regclass AND tgname = 'truncate_messages') THEN
        CREATE TRIGGER truncate_messages AFTER TRUNCATE ON pgpoll.messages EXECUTE FUNCTION pgpoll.truncate_messages();
        ALTER TABLE pgpoll.messages ENABLE ALWAYS TRIGGER truncate_messages;
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
-- One page of messages after the given positions, all topics merged in the order of delivery, read in one snapshot.
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
    SELECT p.no::integer, p.position, m.created_at::timestamptz,
           CASE WHEN p.fits THEN m.payload END, CASE WHEN p.fits THEN m.metadata END, NULL, NULL::bigint
    FROM (SELECT c.*,
                 c.n <= max_messages AND (c.total <= max_bytes OR c.n = 1) AS fits,
                 c.n - 1 <= max_messages AND (c.total - c.bytes <= max_bytes OR c.n <= 2) AS previous_fits
          FROM (SELECT f.*, row_number() OVER page AS n, sum(f.bytes) OVER page AS total
                FROM (SELECT r.no, f.position, f.message_id, f.bytes
                      FROM unnest(topics, positions) WITH ORDINALITY AS r (topic, requested, no)
                      CROSS JOIN LATERAL
                          (SELECT f.position, f.message_id, f.bytes
                           FROM pgpoll.feed f
                           WHERE f.topic = r.topic AND f.position > r.requested
                             AND EXISTS (SELECT FROM pgpoll.messages m WHERE m.id = f.message_id)
                           ORDER BY f.position LIMIT max_messages + 1) f
                      ORDER BY f.position LIMIT max_messages + 1) f
                WINDOW page AS (ORDER BY f.position ROWS UNBOUNDED PRECEDING)) c) p
    JOIN pgpoll.messages m ON m.id = p.message_id
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
-- A manager, or a worker that stands alone, tells that it is there and adds what was counted since it did so last.
-- free_workers and hears: see pgpoll.listeners. counts: [{"metric", "label", "n"}, ...].
CREATE OR REPLACE FUNCTION pgpoll.write_listener(host text, pid integer, workers integer, free_workers integer, hears boolean, counts json)
RETURNS void
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO pgpoll.listeners (host, pid, backend_pid, workers, free_workers, hears, seen_at)
    VALUES ($1, $2, pg_backend_pid(), $3, $4, $5, now())
    ON CONFLICT (host, pid) DO UPDATE
    SET (backend_pid, workers, free_workers, hears, seen_at)
      = (excluded.backend_pid, excluded.workers, excluded.free_workers, excluded.hears, excluded.seen_at);

    -- In one order, so that workers of one host wait for each other but never in a circle.
    INSERT INTO pgpoll.counters AS c (host, metric, label, value, changed_at)
    SELECT $1, n.metric, n.label, n.n, now()
    FROM json_to_recordset($6) AS n (metric text, label text, n bigint)
    ORDER BY n.metric COLLATE "C", n.label COLLATE "C"
    ON CONFLICT (host, metric, label) DO UPDATE
    SET (value, changed_at) = (c.value + excluded.value, excluded.changed_at);
$$;
-- Deletes the rows of polls that cannot be waiting any more: their connection is gone, or they are long overdue. The rows of
-- listeners that are gone stay for a while, a manager's for an hour, so that it is seen to be missing; a host's counters for an hour
-- after they were last written.
CREATE OR REPLACE FUNCTION pgpoll.sweep_waiters() RETURNS void
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    DELETE FROM pgpoll.waiters w
    WHERE w.deadline < now() - interval '1 minute'
       OR NOT EXISTS (SELECT FROM pg_stat_get_activity(w.backend_pid));

    DELETE FROM pgpoll.listeners l
    WHERE l.seen_at < now() - CASE WHEN l.hears IS NULL THEN interval '5 minutes' ELSE interval '1 hour' END
      AND NOT EXISTS (SELECT FROM pg_stat_get_activity(l.backend_pid));

    DELETE FROM pgpoll.counters c
    WHERE c.host IN (SELECT o.host FROM pgpoll.counters o
                     GROUP BY o.host HAVING max(o.changed_at) < now() - interval '1 hour')
      AND NOT EXISTS (SELECT FROM pgpoll.listeners l WHERE l.host = c.host);
$$;
-- Deletes messages committed longer ago than keep, oldest first in each topic and at most batch of them, and records how far
-- each topic was pruned. Returns the number deleted: call it until that is 0. Safe while everything runs. Call it in READ COMMITTED:
-- else it gives no positions, and finds nothing where nobody polls.
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
    PERFORM pgpoll.assign_positions(); -- also where nobody polls
    RETURN deleted;
END $$;
-- Workers refuse to serve a schema of another version.
\set body 'SELECT ' :schema_version
CREATE OR REPLACE FUNCTION pgpoll.schema_version() RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS :'body';
-- What an operator asks in psql; \dv+ shows what each view is for. None shows a payload, or a statement, which may hold one.

CREATE OR REPLACE VIEW pgpoll.listening AS
SELECT l.host, l.pid,
       CASE WHEN l.hears IS NULL THEN 'worker' ELSE 'manager' END AS kind,
       a.alive,
       CASE WHEN l.hears IS NOT NULL THEN a.alive AND l.hears END AS hears,
       l.workers,
       coalesce(l.free_workers, CASE WHEN w.polls = 0 THEN 1 ELSE 0 END) AS free_workers,
       date_trunc('milliseconds', now() - l.seen_at) AS last_seen
FROM pgpoll.listeners l
CROSS JOIN LATERAL
    (SELECT EXISTS (SELECT FROM pg_stat_get_activity(l.backend_pid))
            AND (l.hears IS NULL OR l.seen_at > now() - interval '15 seconds') AS alive) a
CROSS JOIN LATERAL
    (SELECT count(*) AS polls FROM pgpoll.live_waiters w WHERE w.host = l.host AND w.pid = l.pid) w
ORDER BY l.host, l.pid;
COMMENT ON VIEW pgpoll.listening IS
    'Is anybody listening? Each manager, and each worker without one, that has been here lately. alive: its connection is there and, of a manager, it was heard of within 15 s. hears: its LISTEN was found to deliver (empty: a worker does not look). last_seen: how long ago it wrote; a manager does every 5 s.';

CREATE OR REPLACE VIEW pgpoll.waiting AS
SELECT w.host, w.pid, w.client, w.topics,
       date_trunc('milliseconds', now() - w.started_at) AS waited,
       date_trunc('milliseconds', w.deadline - now()) AS time_left
FROM pgpoll.live_waiters w
ORDER BY w.started_at, w.host, w.pid;
COMMENT ON VIEW pgpoll.waiting IS
    'Who waits on what, and since when? One row per waiting poll, the longest wait first. pid: of the worker, on that host.';

CREATE OR REPLACE VIEW pgpoll.topics AS
SELECT f.topic, f.messages, f.bytes,
       to_timestamp((f.oldest >> 16) / 1000.0) AS oldest,
       to_timestamp((f.newest >> 16) / 1000.0) AS newest,
       to_timestamp((r.pruned_to >> 16) / 1000.0) AS pruned_to,
       coalesce(w.waiters, 0) AS waiters
FROM (SELECT topic, count(*) AS messages, sum(bytes) AS bytes, min(position) AS oldest, max(position) AS newest
      FROM pgpoll.feed GROUP BY topic) f
LEFT JOIN pgpoll.retention r ON r.topic = f.topic
LEFT JOIN pgpoll.topic_waiters w ON w.topic = f.topic
ORDER BY f.bytes DESC, f.topic;
COMMENT ON VIEW pgpoll.topics IS
    'Which topics are how large and how old? Retained messages (but for those without a position yet: see retained), bytes of payload and metadata, when the first and the last were committed, up to when the topic was pruned, and how many polls wait. Reads all of pgpoll.feed.';

CREATE OR REPLACE VIEW pgpoll.retained AS
SELECT m.oldest, now() - m.oldest AS age, m.newest,
       c.messages AS messages_estimate,
       pg_total_relation_size('pgpoll.messages') + pg_total_relation_size('pgpoll.feed') AS disk_bytes,
       (SELECT count(*) FROM pgpoll.retention) AS pruned_topics,
       (SELECT count(*) FROM (VALUES (1)) one
        LEFT JOIN (SELECT next_xid, unfinished FROM pgpoll.batches ORDER BY position DESC LIMIT 1) b ON true -- none before the first look
        JOIN pgpoll.messages m ON m.xid >= coalesce(b.next_xid, '0') OR m.xid = ANY (b.unfinished)) AS without_position
FROM (SELECT (SELECT created_at::timestamptz FROM pgpoll.messages ORDER BY id LIMIT 1) AS oldest,
             (SELECT created_at::timestamptz FROM pgpoll.messages ORDER BY id DESC LIMIT 1) AS newest) m
CROSS JOIN (SELECT greatest(reltuples, 0)::bigint AS messages FROM pg_class WHERE oid = 'pgpoll.messages'::regclass) c;
COMMENT ON VIEW pgpoll.retained IS
    'How far back do messages go, and is pruning done? When the first and the last retained message''s transaction began, about how many there are (as of the last ANALYZE), their tables and indexes on disk, and how many topics were ever pruned, and how many messages nobody has given a position yet, which whoever delivers does within moments: they add up while nobody is there. Cheap.';

CREATE OR REPLACE VIEW pgpoll.held_up AS
SELECT l.pid, a.usename, a.application_name, coalesce(c.oid::regclass::text, 'NOTIFY') AS waits_for, l.mode,
       clock_timestamp() - l.waitstart AS waited,
       b.pid AS blocked_by, b.usename AS blocked_by_user, b.application_name AS blocked_by_application,
       b.state AS blocked_by_state, clock_timestamp() - b.xact_start AS blocked_by_transaction_age,
       b.wait_event AS blocked_by_wait_event
FROM pg_locks l
JOIN pg_database d ON d.datname = current_database()
LEFT JOIN pg_class c ON c.oid = l.relation AND l.database = d.oid AND c.relnamespace = 'pgpoll'::regnamespace
LEFT JOIN pg_stat_activity a ON a.pid = l.pid
LEFT JOIN LATERAL unnest(pg_blocking_pids(l.pid)) AS by (pid) ON true
LEFT JOIN pg_stat_activity b ON b.pid = by.pid
-- A COMMIT with a NOTIFY locks "database 0" until it is done, for the whole cluster (PreCommit_Notify in PostgreSQL's async.c).
WHERE NOT l.granted
  AND (c.oid IS NOT NULL
       OR (l.locktype, l.database, l.classid, l.objid) = ('object', 0, 'pg_database'::regclass, 0) AND a.datid = d.oid)
ORDER BY l.waitstart, l.pid, b.pid;
COMMENT ON VIEW pgpoll.held_up IS
    'Who is held up, and by whom? Sessions that wait for a lock on one of pgpoll''s tables, as those that give positions do (waits_for pgpoll.feed_lock), or, at COMMIT, for another''s NOTIFY (waits_for NOTIFY; the other may be in any database), once for each session in their way. Short waits are normal. The state, transaction age and wait_event of another role''s session are shown only to members of pg_read_all_stats; wait_event SyncRep: it waits for a standby.';

CREATE OR REPLACE VIEW pgpoll.notification_queue AS
SELECT pg_notification_queue_usage() AS used;
COMMENT ON VIEW pgpoll.notification_queue IS
    'How full is the cluster''s NOTIFY queue, from 0 to 1? Anything but 0 for long means that a session LISTENs and does not read, of any program, in any database; at 1 publishers'' COMMITs fail.';
-- What GET /messages/poll/metrics answers: Prometheus text format 0.0.4, for all hosts. No topic and nothing else that clients choose is a
-- label, so the number of series stays what the hosts make it: about 50 each.
CREATE OR REPLACE FUNCTION pgpoll.metrics() RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET standard_conforming_strings = on -- a body in SQL is parsed at the call
SET jit = off -- it would take seconds
AS $$
WITH family (no, name, type, label_name, help) AS (VALUES
    (1, 'polls_total', 'counter', 'outcome', 'Polls, by how they ended. ok: with messages; timeout: without; released: early, without, to make room for others or for a restart; client_gone: nobody was there to answer; the rest are errors.'),
    (2, 'delivered_messages_total', 'counter', NULL, 'Messages in answers.'),
    (3, 'delivered_bytes_total', 'counter', NULL, 'Bytes of the messages in answers, as JSON.'),
    (4, 'gaps_total', 'counter', 'reason', 'Topics in answers that told of a gap. expired: messages had been pruned; ahead: the cursor was newer than the database; unknown: it was none of ours.'),
    (5, 'pages_total', 'counter', 'source', 'Reads of messages, from the window that a manager keeps in memory or from the table.'),
    (6, 'listener_reconnects_total', 'counter', NULL, 'Times that a lost connection with LISTEN was made good.'),
    (7, 'wait_seconds', 'histogram', 'le', 'How long polls waited that had nothing to answer with at first.'),
    (8, 'delivery_latency_seconds', 'histogram', 'le', 'From the commit of a message to the answer of a poll that waited for it, by the clocks of the database and of the worker''s host; the first message of each answer.'),
    (9, 'polls_waiting', 'gauge', NULL, 'Polls that wait now.'),
    (10, 'topics_waited_for', 'gauge', NULL, 'Topics that polls on any host wait for now.'),
    (11, 'workers', 'gauge', NULL, 'Worker processes. One without a manager counts from its first second without work.'),
    (12, 'workers_free', 'gauge', NULL, 'Worker processes that can take a poll.'),
    (13, 'listener_up', 'gauge', NULL, 'Whether LISTEN delivers to the host''s manager, as it tries every 5 s (1), or not, or the manager is gone (0). No value without a manager.'),
    (14, 'notification_queue_used_ratio', 'gauge', NULL, 'How full the cluster''s NOTIFY queue is.')
), counter (host, name, label, value) AS (
    SELECT c.host, c.metric, c.label, c.value FROM pgpoll.counters c WHERE c.label ~ '^[A-Za-z0-9_.+]*$'
), host (host) AS (
    SELECT c.host FROM pgpoll.counters c UNION SELECT l.host FROM pgpoll.listeners l
), sample (name, suffix, host, label, at, value) AS (
    SELECT f.name, '', c.host, nullif(c.label, ''), 0::float8, c.value::text
    FROM counter c JOIN family f ON f.type = 'counter' AND f.name = c.name || '_total'
    UNION ALL
    SELECT b.name, '_bucket', b.host, b.label, b.at, (sum(b.value) OVER (PARTITION BY b.host, b.name ORDER BY b.at))::text
    FROM (SELECT c.*, c.label::float8 AS at FROM counter c JOIN family f ON f.type = 'histogram' AND f.name = c.name
          WHERE c.label ~ '^([0-9.]{1,9}|[+]Inf)$') b
    UNION ALL
    SELECT c.name, '_sum', c.host, NULL, 'Infinity', round(c.value / 1000.0, 3)::text
    FROM counter c JOIN family f ON f.type = 'histogram' AND f.name = c.name WHERE c.label = 'sum'
    UNION ALL
    SELECT c.name, '_count', c.host, NULL, 'Infinity', sum(c.value)::text
    FROM counter c JOIN family f ON f.type = 'histogram' AND f.name = c.name WHERE c.label <> 'sum' GROUP BY c.name, c.host
    UNION ALL
    SELECT 'polls_waiting', '', h.host, NULL, 0, (SELECT count(*) FROM pgpoll.live_waiters w WHERE w.host = h.host)::text FROM host h
    UNION ALL
    SELECT 'topics_waited_for', '', NULL, NULL, 0, count(*)::text FROM pgpoll.topic_waiters
    UNION ALL
    SELECT g.name, '', h.host, NULL, 0, g.value::text
    FROM host h
    CROSS JOIN LATERAL
        (SELECT coalesce(sum(l.workers) FILTER (WHERE l.alive), 0) AS workers,
                coalesce(sum(l.free_workers) FILTER (WHERE l.alive), 0) AS free,
                max(coalesce(l.hears, false)::integer) FILTER (WHERE l.kind = 'manager') AS up
         FROM pgpoll.listening l WHERE l.host = h.host) l
    CROSS JOIN LATERAL (VALUES ('workers', l.workers), ('workers_free', l.free), ('listener_up', l.up)) AS g (name, value)
    WHERE g.value IS NOT NULL
    UNION ALL
    SELECT 'notification_queue_used_ratio', '', NULL, NULL, 0, pg_notification_queue_usage()::text
), line (family, no, host, suffix, at, label, line) AS (
    SELECT f.no, 0, NULL, NULL, NULL, NULL, format(E'# HELP pgpoll_%1$s %2$s\n# TYPE pgpoll_%1$s %3$s', f.name, f.help, f.type)
    FROM family f WHERE EXISTS (SELECT FROM sample s WHERE s.name = f.name)
    UNION ALL
    SELECT f.no, 1, s.host, CASE s.suffix WHEN '_bucket' THEN 1 WHEN '_sum' THEN 2 ELSE 3 END, s.at, s.label,
           format('pgpoll_%s%s%s %s', s.name, s.suffix,
                  '{' || nullif(concat_ws(',', 'host="' || replace(replace(replace(s.host, '\', '\\'), '"', '\"'), E'\n', '\n') || '"',
                                          f.label_name || '="' || s.label || '"'), '') || '}',
                  s.value)
    FROM sample s JOIN family f ON f.name = s.name
)
SELECT string_agg(l.line || E'\n', '' ORDER BY l.family, l.no, l.host, l.suffix, l.at, l.label) FROM line l;
$$;
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
    pgpoll.assign_positions(),
    pgpoll.new_messages(integer, bigint),
    pgpoll.mute_doorbell(integer),
    pgpoll.unmute_doorbell(),
    pgpoll.catch_up(text[], bigint[], integer, bigint),
    pgpoll.begin_wait(text, integer, text[], text, bigint, bigint),
    pgpoll.end_wait(text, integer),
    pgpoll.write_waiters(text, json, json),
    pgpoll.sweep_waiters()
TO pgpoll_poller;
GRANT SELECT ON pgpoll.stats TO pgpoll_poller;

GRANT EXECUTE ON FUNCTION pgpoll.schema_version() TO pgpoll_monitor;
GRANT SELECT ON pgpoll.stats, pgpoll.topic_waiters, pgpoll.live_waiters, pgpoll.waiters TO pgpoll_monitor;

-- Watching it.
GRANT EXECUTE ON FUNCTION pgpoll.write_listener(text, integer, integer, integer, boolean, json) TO pgpoll_poller;
GRANT EXECUTE ON FUNCTION pgpoll.metrics() TO pgpoll_poller, pgpoll_monitor;
GRANT SELECT ON pgpoll.listeners, pgpoll.counters, pgpoll.listening, pgpoll.waiting, pgpoll.topics, pgpoll.retained, pgpoll.held_up,
    pgpoll.notification_queue TO pgpoll_monitor;
