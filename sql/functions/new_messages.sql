-- Does for a manager what assign_positions() does, and also returns the messages of the batch. The batch has
-- at most max_messages. If its messages have at most max_bytes (of payload and metadata, as text), there is
-- one row per message, in the order of position. If they have more bytes, or if there is no message, there is
-- one row without a position.
--
-- The other columns are the same in all rows. assigned: how many messages got a position, or -1 if the
-- database is read-only. previous: no position was given between previous and those of this batch. more:
-- there is a backlog, so call again at once.
CREATE OR REPLACE FUNCTION pgpoll.new_messages(max_messages integer, max_bytes bigint)
RETURNS TABLE (topic text, "position" bigint, created_at timestamptz, payload json, metadata json,
               assigned integer, previous bigint, more boolean)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET row_security = off
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_bitmapscan = off
SET jit = off
AS $$
DECLARE
    batch record;
BEGIN
    -- The database is read-only: see assign_positions().
    IF current_setting('transaction_read_only')::boolean AND NOT pg_is_in_recovery() THEN
        RETURN QUERY
        SELECT NULL, NULL::bigint, NULL::timestamptz, NULL::json, NULL::json, -1, NULL::bigint, false;
        RETURN;
    END IF;
    batch := pgpoll.assign_batch(random() < 0.01, max_messages);
    IF (batch.single).id IS NOT NULL AND batch.bytes <= max_bytes THEN
        topic := (batch.single).topic;
        "position" := batch.after + 1;
        created_at := (batch.single).created_at;
        payload := (batch.single).payload;
        metadata := (batch.single).metadata;
        assigned := 1;
        previous := batch.previous;
        more := false;
        RETURN NEXT;
    ELSIF batch.assigned > 0 AND batch.bytes <= max_bytes THEN
        RETURN QUERY
        SELECT m.topic, batch.after + i.n, m.created_at, m.payload, m.metadata,
               batch.assigned, batch.previous, batch.more
        FROM unnest(batch.ids) WITH ORDINALITY AS i (id, n)
        -- OFFSET 0 keeps the planner to one look-up per message.
        CROSS JOIN LATERAL (SELECT m.topic::text, m.created_at::timestamptz, m.payload, m.metadata
                            FROM pgpoll.messages m WHERE m.id = i.id OFFSET 0) m
        ORDER BY i.n;
    ELSE
        RETURN QUERY
        SELECT NULL, NULL::bigint, NULL::timestamptz, NULL::json, NULL::json,
               batch.assigned, batch.previous, batch.more;
    END IF;
END $$;
COMMENT ON FUNCTION pgpoll.new_messages(integer, bigint) IS
    'Gives positions to one batch of committed messages, as assign_positions() does, and returns these '
    'messages.';
