-- Deletes messages committed longer ago than keep, oldest first in each topic and at most batch of them, and records how far
-- each topic was pruned. Returns the number deleted: call it until that is 0. Safe while everything runs. Call it in READ COMMITTED:
-- else it gives no positions, and finds nothing where nobody polls.
CREATE OR REPLACE FUNCTION pgpoll.prune(keep interval, batch integer DEFAULT 5000) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET row_security = off
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

    LOCK TABLE pgpoll.messages IN ROW EXCLUSIVE MODE; -- first, see tables.sql
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
