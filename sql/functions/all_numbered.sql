-- Returns the last position given if every message that was committed before this call has a position, so
-- that assign_batch() would find nothing to do; otherwise NULL. The function is cheap and takes no lock that
-- another session waits for. Most calls, by readers and for polls that do not wait, find nothing new.
--
-- The order of the queries matters. If a batch is committed between them, the second query still finds the
-- messages of that batch, because it looks for what is new after the batch that the first query read.
CREATE OR REPLACE FUNCTION pgpoll.all_numbered() RETURNS bigint
LANGUAGE plpgsql
AS $$
DECLARE
    last pgpoll.batches;
BEGIN
    LOCK TABLE pgpoll.messages IN ACCESS SHARE MODE; -- the lock order: see tables.sql
    SELECT * INTO last FROM pgpoll.batches b ORDER BY b.position DESC LIMIT 1;
    IF last.server_start = pg_postmaster_start_time() AND last.seen IS NULL
       AND NOT EXISTS (SELECT FROM (SELECT m.xid FROM pgpoll.messages m
                                    WHERE m.xid >= last.next_xid
                                      AND m.xid <= pg_snapshot_xmax(pg_current_snapshot())
                                    ORDER BY m.xid, m.id LIMIT 1) m)
       AND (last.unfinished = '{}'
            OR NOT EXISTS (SELECT FROM unnest(last.unfinished) AS x
                           CROSS JOIN LATERAL (SELECT m.xid FROM pgpoll.messages m
                                               WHERE m.xid >= x AND m.xid <= x
                                               ORDER BY m.xid, m.id LIMIT 1) m
                           WHERE pg_visible_in_snapshot(x, pg_current_snapshot()))) THEN
        RETURN last.position;
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION pgpoll.all_numbered() IS
    'Internal. The last position given if every committed message has a position, otherwise NULL.';
