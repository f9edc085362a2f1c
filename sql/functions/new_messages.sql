-- What assign_positions() does, for a manager: gives positions to one batch, of at most max_messages, and
-- returns what the manager has not read yet, in the order of delivery.
--
-- after: the manager has everything up to this position; NULL: everything before this batch. wanted: the
-- topics whose messages are returned whole; NULL: all, as in read_feed(). Messages of this batch are whole
-- whatever their topic, unless others is false: then those of other topics may lack their payload, or be left
-- out. Usually nobody gave positions in between, and the rows are those of this batch. Otherwise, and if the
-- batch has more than max_bytes (of payload and metadata, as text), they are one page of read_feed(). There
-- is always a row; one without a position is no message.
--
-- The last columns are the same in all rows. assigned: how many messages got a position, or -1 if the
-- database is read-only. complete_to and deleted_to: as of read_feed(). more: there is a backlog, or the
-- page was too small, so call again at once.
CREATE OR REPLACE FUNCTION pgpoll.new_messages(max_messages integer, max_bytes bigint,
                                               after bigint DEFAULT NULL, wanted text[] DEFAULT NULL,
                                               others boolean DEFAULT true)
RETURNS TABLE (topic text, "position" bigint, created_at timestamptz, payload json, metadata json,
               assigned integer, complete_to bigint, more boolean, deleted_to bigint)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET row_security = off
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_bitmapscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    batch record;
BEGIN
    -- The database is read-only: see assign_positions().
    IF current_setting('transaction_read_only')::boolean AND NOT pg_is_in_recovery() THEN
        RETURN QUERY
        SELECT r.topic, r.position, r.created_at, r.payload, r.metadata,
               -1, r.complete_to, r.more, r.deleted_to
        FROM pgpoll.read_feed(max_messages, max_bytes, after, wanted) r;
        RETURN;
    END IF;
    batch := pgpoll.assign_batch(random() < 0.01, max_messages);
    after := coalesce(after, batch.previous);
    IF batch.previous = after AND (batch.single).id IS NOT NULL AND batch.bytes <= max_bytes THEN
        topic := (batch.single).topic;
        "position" := batch.after + 1;
        created_at := (batch.single).created_at;
        payload := (batch.single).payload;
        metadata := (batch.single).metadata;
        assigned := 1;
        complete_to := batch.after + 1;
        more := false;
        deleted_to := 0;
        RETURN NEXT;
    ELSIF batch.previous = after AND batch.assigned > 0 AND batch.bytes <= max_bytes THEN
        IF others OR batch.topics && wanted THEN
            RETURN QUERY
            SELECT m.topic, batch.after + i.n, m.created_at, m.payload, m.metadata,
                   batch.assigned, batch.after + batch.assigned, batch.more, 0::bigint
            FROM unnest(batch.ids, batch.topics) WITH ORDINALITY AS i (id, topic, n)
            -- OFFSET 0 keeps the planner to one look-up per message.
            CROSS JOIN LATERAL (SELECT m.topic::text, m.created_at::timestamptz, m.payload, m.metadata
                                FROM pgpoll.messages m WHERE m.id = i.id OFFSET 0) m
            WHERE others OR i.topic = ANY (wanted)
            ORDER BY i.n;
        END IF;
        IF NOT FOUND THEN -- none is wanted, or an operator has deleted all of them meanwhile
            assigned := batch.assigned;
            complete_to := batch.after + batch.assigned;
            more := batch.more;
            deleted_to := 0;
            RETURN NEXT;
        END IF;
    ELSIF batch.previous = after AND batch.assigned = 0 THEN
        assigned := 0;
        complete_to := after;
        more := batch.more;
        deleted_to := 0;
        RETURN NEXT;
    ELSE
        RETURN QUERY
        SELECT r.topic, r.position, r.created_at, r.payload, r.metadata,
               batch.assigned, r.complete_to, r.more OR batch.more, r.deleted_to
        FROM pgpoll.read_feed(max_messages, max_bytes, after, wanted,
                              CASE WHEN others THEN batch.previous END) r;
    END IF;
END $$;
COMMENT ON FUNCTION pgpoll.new_messages(integer, bigint, bigint, text[], boolean) IS
    'Gives positions to one batch of committed messages, as assign_positions() does, and returns these '
    'messages, after those that others have given positions to.';
