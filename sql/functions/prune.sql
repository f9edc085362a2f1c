-- Deletes messages committed longer ago than keep, oldest first and at most batch of them, and records how
-- far each topic was pruned. Returns the number deleted: call it until that is 0. Where nobody polls it also
-- gives positions, a batch at each call; a call that finds nothing to delete while messages still wait for
-- theirs returns how many got one. Safe while everything runs. Call it in READ COMMITTED: in other isolation
-- levels it gives no positions.
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
    -- The age is that of the commit, not of created_at: a transaction may have been open for longer than
    -- keep. Never before 1970, where the shift would overflow.
    before bigint := greatest((extract(epoch FROM clock_timestamp() - keep) * 1000)::bigint, 0) << 16;
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

    LOCK TABLE pgpoll.messages IN ROW EXCLUSIVE MODE; -- first, see tables.sql
    -- One at a time, so that 0 means that nothing is left.
    LOCK TABLE pgpoll.retention IN SHARE ROW EXCLUSIVE MODE;

    -- By age, beginning where the last prune ended: dead rows, which an old snapshot keeps, are not gone
    -- through again. What came after that with an older position (a restored feed, a prune that was rolled
    -- back) is found when there is nothing else.
    FOREACH after IN ARRAY ARRAY[coalesce(pg_sequence_last_value('pgpoll.last_pruned'), 0), -1] LOOP
        SELECT coalesce(array_agg(o.message_id), '{}'), max(o.position) INTO ids, last
        FROM (SELECT f.message_id, f.position FROM pgpoll.feed f
              WHERE f.position > after AND f.position < before
              ORDER BY f.position LIMIT batch) o;
        EXIT WHEN ids <> '{}';
    END LOOP;
    deleted := cardinality(ids);
    -- By the one index that has message_id: a join could go through the whole table, with statistics of a
    -- small one.
    WITH gone AS (
        DELETE FROM pgpoll.feed f WHERE f.message_id = ANY (ids) RETURNING f.topic, f.position
    )
    INSERT INTO pgpoll.retention AS r (topic, pruned_to)
    SELECT g.topic, max(g.position) FROM gone g GROUP BY g.topic
    ON CONFLICT (topic) DO UPDATE SET pruned_to = greatest(r.pruned_to, excluded.pruned_to);
    DELETE FROM pgpoll.messages m WHERE m.id = ANY (ids);
    IF deleted > 0 THEN
        PERFORM setval('pgpoll.last_pruned', last);
    END IF;
    numbered := pgpoll.assign_positions(); -- also where nobody polls
    IF deleted = 0 AND numbered.more AND numbered.assigned IS NOT NULL THEN
        RETURN greatest(numbered.assigned, 1);
    END IF;
    RETURN deleted;
END $$;
