-- Returns the last position given if every message that was committed before this call has one, else NULL. So
-- it is no use to call assign_batch(). It takes no lock that somebody waits for, and is cheap: polls that do
-- not wait, and readers, usually find that there is nothing new.
--
-- The order of its queries matters: what a batch that is committed after the first query numbers is new to
-- the second.
CREATE OR REPLACE FUNCTION pgpoll.all_numbered() RETURNS bigint
LANGUAGE plpgsql
AS $$
DECLARE
    last pgpoll.batches;
BEGIN
    LOCK TABLE pgpoll.messages IN ACCESS SHARE MODE; -- first: see tables.sql
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
    'Internal. The last position given, if every committed message has one; else NULL.';
