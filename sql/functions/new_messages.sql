-- assign_positions() for a manager, which gets the messages at once: a row for each, in order, if they are at most max_messages and
-- max_bytes (of payload and metadata, as text); else, and where there are none, a single row without a position. assigned and
-- previous, the same in all rows: how many there were, and the position before which nothing is new.
-- assigned is -1 when the database is read-only.
CREATE OR REPLACE FUNCTION pgpoll.new_messages(max_messages integer, max_bytes bigint)
RETURNS TABLE (topic text, "position" bigint, created_at timestamptz, payload json, metadata json, assigned integer, previous bigint)
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
    IF current_setting('transaction_read_only')::boolean AND NOT pg_is_in_recovery() THEN -- as in assign_positions()
        RETURN QUERY SELECT NULL, NULL::bigint, NULL::timestamptz, NULL::json, NULL::json, -1, NULL::bigint;
        RETURN;
    END IF;
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
