-- Counts the committed messages that have no position yet, for the view pgpoll.retained. It is a function
-- because only a function can switch off plans that read the whole table, and the JIT compiler, which would
-- take a hundred times as long as the query.
CREATE OR REPLACE FUNCTION pgpoll.without_position() RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET row_security = off
SET enable_seqscan = off
SET enable_bitmapscan = off
SET jit = off
AS $$
    SELECT count(*)
    -- batches has no row before the first batch.
    FROM (SELECT coalesce(CASE WHEN b.adopting THEN '0' ELSE b.next_xid END, '0') AS from_xid, b.unfinished,
                 greatest(b.foreign_id, b.walk_end) AS uncertain_id
          FROM (VALUES (1)) one
          LEFT JOIN (SELECT * FROM pgpoll.batches ORDER BY position DESC LIMIT 1) b ON true) b
    -- ORDER BY keeps the planner from using other indexes than messages_xid.
    CROSS JOIN LATERAL
        ((SELECT m.id FROM pgpoll.messages m WHERE m.xid >= b.from_xid ORDER BY m.xid, m.id)
         UNION ALL
         SELECT m.id
         FROM unnest(b.unfinished) AS x
         CROSS JOIN LATERAL (SELECT m.id FROM pgpoll.messages m
                             WHERE m.xid >= x AND m.xid <= x AND m.xid < b.from_xid
                             ORDER BY m.xid, m.id) m) m
    -- For messages of a backlog, or from a restored dump, transaction numbers do not show which ones lack a
    -- position: look each up in feed.
    WHERE m.id > b.uncertain_id
       OR (SELECT f.message_id FROM pgpoll.feed f WHERE f.message_id = m.id LIMIT 1) IS NULL;
$$;
COMMENT ON FUNCTION pgpoll.without_position() IS
    'Internal. How many committed messages have no position yet.';
