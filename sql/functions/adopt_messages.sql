-- Transaction numbers mean something in one cluster only. When the server was started anew since the latest batch, sees whether it still
-- is that one, and the table the same; else (a restored dump, pg_upgrade, no batch yet) all messages are gone through once for those that
-- have no position. Notes and returns what holds from here on. For assign_batch(), which holds the lock.
CREATE OR REPLACE FUNCTION pgpoll.adopt_messages(INOUT latest pgpoll.batches)
LANGUAGE plpgsql
SET enable_seqscan = on
AS $$
DECLARE
    before constant pg_snapshot := pg_current_snapshot();
    -- So much of the end may be missing that clients have seen: a standby that is promoted need not have had all.
    lost constant bigint := (extract(epoch FROM current_setting('wal_writer_delay')::interval) * 3000)::bigint << 16;
BEGIN
    IF latest.cluster IS DISTINCT FROM (pg_control_system()).system_identifier OR latest.messages <> 'pgpoll.messages'::regclass
       OR latest.next_xid > pg_snapshot_xmax(before) THEN
        UPDATE pgpoll.messages m
        SET xid = CASE WHEN f.message_id IS NULL THEN pg_current_xact_id() END
        FROM pgpoll.messages n LEFT JOIN pgpoll.feed f ON f.message_id = n.id
        WHERE n.xid IS NOT NULL AND m.id = n.id;
        -- Who was under way before the UPDATE may have published since; and this transaction has, so to speak.
        latest.next_xid := pg_snapshot_xmax(before);
        latest.unfinished := ARRAY(SELECT pg_snapshot_xip(before)) || pg_current_xact_id();
    END IF;
    latest.position := setval('pgpoll.last_position', greatest(coalesce(pg_sequence_last_value('pgpoll.last_position'), 0), latest.position)
                                                      + CASE WHEN latest.position IS NULL THEN 0 ELSE lost END);
    latest.server_start := pg_postmaster_start_time();
    latest.cluster := (pg_control_system()).system_identifier;
    latest.messages := 'pgpoll.messages'::regclass;
    INSERT INTO pgpoll.batches VALUES (latest.*);
END $$;
