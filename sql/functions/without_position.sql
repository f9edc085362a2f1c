-- Counts the committed messages that have no position yet, for the view pgpoll.retained. It is a function
-- because only a function can switch off the JIT compiler, which would take a hundred times as long as the
-- query.
CREATE OR REPLACE FUNCTION pgpoll.without_position() RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET row_security = off
SET jit = off
AS $$
    SELECT count(*) FROM (VALUES (1)) one
    -- batches has no row before the first batch.
    LEFT JOIN (SELECT * FROM pgpoll.batches ORDER BY position DESC LIMIT 1) b ON true
    JOIN pgpoll.messages m ON m.xid >= CASE WHEN b.adopting THEN '0' ELSE coalesce(b.next_xid, '0') END
                              OR m.xid = ANY (b.unfinished)
    -- For messages of a backlog, or from a restored dump, transaction numbers do not show which ones lack a
    -- position: look each up in feed.
    WHERE m.id > greatest(b.foreign_id, b.walk_end)
       OR (SELECT f.message_id FROM pgpoll.feed f WHERE f.message_id = m.id LIMIT 1) IS NULL;
$$;
COMMENT ON FUNCTION pgpoll.without_position() IS
    'Internal. How many committed messages have no position yet.';
