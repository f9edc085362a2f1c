-- Clients learn of a TRUNCATE as they learn of a prune: this trigger deletes the messages' positions from
-- feed and records them as pruned. If rows of feed stayed, then after RESTART IDENTITY new messages would get
-- the ids in these rows, and would be delivered a second time, under other topics.
--
-- TRUNCATE also removes messages without a position, and no position says which cursors come before them. The
-- trigger therefore gives one more position, records all topics of such messages as pruned up to it, and
-- announces it like a batch. TRUNCATE's lock on messages keeps assign_batch() away until the commit, so
-- feed_lock is not needed.
CREATE OR REPLACE FUNCTION pgpoll.truncate_messages() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET row_security = off
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_nestloop = off
SET jit = off
AS $$
DECLARE
    level constant text := current_setting('transaction_isolation');
    mine constant xid8 := pg_current_xact_id_if_assigned(); -- no client has seen its messages
    last pgpoll.batches;
    known boolean;
    floor bigint;
    topics bigint;
BEGIN
    -- A snapshot older than the lock may not show all messages that TRUNCATE removes.
    IF level <> 'read committed' THEN
        RAISE EXCEPTION 'cannot TRUNCATE pgpoll.messages in a transaction that is %', upper(level) USING
            ERRCODE = 'invalid_transaction_state',
            DETAIL = 'Its snapshot may not show all messages that TRUNCATE removes, and clients must be'
                     ' told of all.',
            HINT = 'Run TRUNCATE after BEGIN ISOLATION LEVEL READ COMMITTED.';
    END IF;

    SELECT * INTO last FROM pgpoll.batches b ORDER BY b.position DESC LIMIT 1;
    floor := greatest(coalesce(pg_sequence_last_value('pgpoll.last_position'), 0),
                      ((extract(epoch FROM clock_timestamp()) * 1000)::bigint << 16) - 1) + 1;
    -- Transaction numbers do not tell which messages lack a position if there was no batch since the server
    -- was started (adopt_messages()), or if there is a backlog (assign_backlog()).
    known := coalesce(last.server_start = pg_postmaster_start_time() AND last.seen IS NULL
                      AND last.foreign_id IS NULL, false);
    WITH lost (topic) AS (
        SELECT m.topic FROM pgpoll.messages m
        WHERE known AND m.xid >= last.next_xid AND m.xid IS DISTINCT FROM mine
        UNION
        SELECT m.topic FROM pgpoll.messages m
        WHERE known AND m.xid = ANY (last.unfinished) AND m.xid < last.next_xid
          AND m.xid IS DISTINCT FROM mine
        UNION
        SELECT m.topic FROM pgpoll.messages m LEFT JOIN pgpoll.feed f ON f.message_id = m.id
        WHERE NOT known AND f.message_id IS NULL AND m.xid IS DISTINCT FROM mine
    ), recorded AS (
        INSERT INTO pgpoll.retention AS r (topic, pruned_to) SELECT l.topic, floor FROM lost l
        ON CONFLICT (topic) DO UPDATE SET pruned_to = excluded.pruned_to
        RETURNING r.topic
    )
    SELECT count(pg_notify(pgpoll.channel(r.topic), floor::text)) INTO topics FROM recorded r;
    IF topics > 0 THEN
        PERFORM setval('pgpoll.last_position', floor);
        INSERT INTO pgpoll.batches
        SELECT floor, last.next_xid, last.unfinished, last.server_start, last.cluster, last.messages
        WHERE last.position IS NOT NULL;
        PERFORM pg_notify('pgpoll', floor || ' *');
    END IF;
    PERFORM pgpoll.note_deletion(greatest(CASE WHEN topics > 0 THEN floor END,
                                          (SELECT f.position FROM pgpoll.feed f
                                           ORDER BY f.position DESC LIMIT 1)));

    SET LOCAL enable_seqscan = on;
    WITH gone AS (
        DELETE FROM pgpoll.feed f RETURNING f.topic, f.position
    )
    INSERT INTO pgpoll.retention AS r (topic, pruned_to)
    SELECT g.topic, max(g.position) FROM gone g GROUP BY g.topic
    ON CONFLICT (topic) DO UPDATE SET pruned_to = greatest(r.pruned_to, excluded.pruned_to);
    RETURN NULL;
END $$;
COMMENT ON FUNCTION pgpoll.truncate_messages() IS
    'Trigger on pgpoll.messages: records what TRUNCATE removes as pruned, so that clients are told of the '
    'gap.';
