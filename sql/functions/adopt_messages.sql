-- Transaction numbers mean something in one cluster only. When the server was started anew, sees whether it still is that one;
-- in another (a restored dump, pg_upgrade) all messages are gone through once for those that have no position.
CREATE OR REPLACE FUNCTION pgpoll.adopt_messages() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    latest pgpoll.batches;
    ours constant bigint := (pg_control_system()).system_identifier;
BEGIN
    LOCK TABLE pgpoll.feed_lock IN SHARE UPDATE EXCLUSIVE MODE;
    SELECT * INTO latest FROM pgpoll.batches b ORDER BY b.position DESC LIMIT 1;
    IF latest.server_start = pg_postmaster_start_time() THEN
        RETURN; -- somebody was faster
    END IF;
    IF latest.cluster <> ours THEN
        UPDATE pgpoll.messages m
        SET xid = CASE WHEN f.message_id IS NULL THEN pg_current_xact_id() END
        FROM pgpoll.messages n LEFT JOIN pgpoll.feed f ON f.message_id = n.id
        WHERE n.xid IS NOT NULL AND m.id = n.id;
        -- Of transactions that are under way nothing was seen; this one is among them.
        latest.next_xid := pg_snapshot_xmax(pg_current_snapshot());
        latest.unfinished := ARRAY(SELECT pg_snapshot_xip(pg_current_snapshot())) || pg_current_xact_id();
    END IF;
    INSERT INTO pgpoll.batches (position, next_xid, unfinished)
    SELECT setval('pgpoll.last_position', greatest(s.last_value, latest.position) + 1), latest.next_xid, latest.unfinished
    FROM pgpoll.last_position s;
END $$;
