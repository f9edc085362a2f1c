-- How many committed messages have no position yet, for the view pgpoll.retained. It is a function to switch
-- off the JIT compiler, which would take a hundred times as long as the query.
CREATE OR REPLACE FUNCTION pgpoll.without_position() RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET row_security = off
SET jit = off
AS $$
    SELECT count(*) FROM (VALUES (1)) one
    -- There is no row before the first batch.
    LEFT JOIN (SELECT * FROM pgpoll.batches ORDER BY position DESC LIMIT 1) b ON true
    JOIN pgpoll.messages m ON m.xid >= CASE WHEN b.adopting THEN '0' ELSE coalesce(b.next_xid, '0') END
                              OR m.xid = ANY (b.unfinished)
    -- In a backlog, and after a restore, transaction numbers do not show which messages lack a position.
    WHERE m.id > greatest(b.foreign_id, b.walk_end)
       OR (SELECT f.message_id FROM pgpoll.feed f WHERE f.message_id = m.id LIMIT 1) IS NULL;
$$;
COMMENT ON FUNCTION pgpoll.without_position() IS
    'Internal. How many committed messages have no position yet.';
