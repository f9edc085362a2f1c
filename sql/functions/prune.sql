-- Deletes at most batch messages, oldest first, and records how far each topic was pruned. Returns how many
-- it deleted: call it until the result is 0. Each call also gives positions to one batch of messages, because
-- in a database that nobody polls no other process does that. A call that finds nothing to delete while
-- messages still lack positions returns how many messages got a position. If pgpoll.retention_rules has rows,
-- prune() refuses to run, because it would ignore them: see prune_topics(). It may run at any time. Call it
-- in READ COMMITTED: at other isolation levels it gives no positions.
CREATE OR REPLACE FUNCTION pgpoll.prune(keep interval, batch integer DEFAULT 5000) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET row_security = off
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_bitmapscan = off
SET jit = off
AS $$
DECLARE
    noted boolean;
    before bigint; -- lower positions may be deleted
    after bigint;
    last bigint;
    ids bigint[];
    deleted integer;
    numbered record;
BEGIN
    IF keep IS NULL OR keep < interval '0' THEN
        RAISE EXCEPTION 'keep must be an interval of at least 0' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF batch IS NULL OR batch < 1 THEN
        RAISE EXCEPTION 'batch must be at least 1' USING ERRCODE = 'invalid_parameter_value';
    END IF;

    IF EXISTS (SELECT FROM pgpoll.retention_rules) THEN
        RAISE EXCEPTION 'pgpoll.prune() does not know the rules in pgpoll.retention_rules' USING
            ERRCODE = 'object_not_in_prerequisite_state',
            HINT = format('CALL pgpoll.prune_topics(%L);', keep);
    END IF;

    LOCK TABLE pgpoll.messages IN ROW EXCLUSIVE MODE; -- the lock order: see tables.sql
    -- Only one prune() runs at a time, so that the result 0 means that nothing is left to delete.
    LOCK TABLE pgpoll.retention IN SHARE ROW EXCLUSIVE MODE;

    -- The age counts from the commit, not from created_at: a transaction may have been open for longer than
    -- keep.
    noted := pgpoll.note_position(keep);
    before := pgpoll.position_at(clock_timestamp() - keep, noted);
    -- Start where the last prune() ended, so that the dead rows before it, which an old snapshot keeps, are
    -- not read again. If there is nothing to delete from there on, start at the beginning, because older
    -- positions may exist: after feed was restored, or a prune() was rolled back.
    FOREACH after IN ARRAY ARRAY[coalesce(pg_sequence_last_value('pgpoll.last_pruned'), 0), -1] LOOP
        SELECT coalesce(array_agg(o.message_id), '{}'), max(o.position) INTO ids, last
        FROM (SELECT f.message_id, f.position FROM pgpoll.feed f
              WHERE f.position > after AND f.position < before
              ORDER BY f.position LIMIT batch) o;
        EXIT WHEN ids <> '{}';
    END LOOP;
    deleted := cardinality(ids);
    -- = ANY uses the index on message_id. A join could read the whole table, if the statistics still say that
    -- it is small.
    WITH gone AS (
        DELETE FROM pgpoll.feed f WHERE f.message_id = ANY (ids) RETURNING f.topic, f.position
    )
    -- In the order of the index: a tenth less time if each message has a topic of its own.
    INSERT INTO pgpoll.retention AS r (topic, pruned_to)
    SELECT g.topic, max(g.position) FROM gone g GROUP BY g.topic ORDER BY g.topic
    ON CONFLICT (topic) DO UPDATE SET pruned_to = greatest(r.pruned_to, excluded.pruned_to);
    DELETE FROM pgpoll.messages m WHERE m.id = ANY (ids);
    IF deleted > 0 THEN
        PERFORM setval('pgpoll.last_pruned', last);
        PERFORM pgpoll.note_deletion(last);
    END IF;
    numbered := pgpoll.assign_positions(); -- see the head of this file
    IF deleted = 0 AND numbered.more AND numbered.assigned IS NOT NULL THEN
        RETURN greatest(numbered.assigned, 1);
    END IF;
    RETURN deleted;
END $$;
COMMENT ON FUNCTION pgpoll.prune(interval, integer) IS
    'Deletes up to batch messages that were committed longer ago than keep, oldest first, and returns how '
    'many; call it until it returns 0.';
