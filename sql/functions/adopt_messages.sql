-- Transaction numbers mean something in one cluster only. When the server was restarted since the latest
-- batch, checks that the cluster and the table are still the same. If they are not (a restored dump,
-- pg_upgrade, no batch yet), what has no position becomes a backlog, which pgpoll.assign_backlog() finds by
-- feed_message_id instead of transaction numbers. No message is updated. Returns what holds from here on; for
-- assign_batch(), which holds the lock and writes it down.
CREATE OR REPLACE FUNCTION pgpoll.adopt_messages(INOUT latest pgpoll.batches)
LANGUAGE plpgsql
AS $$
DECLARE
    -- So much of the end may be missing that clients have seen: a standby that is promoted need not have had
    -- all.
    lost constant bigint :=
        (extract(epoch FROM current_setting('wal_writer_delay')::interval) * 3000)::bigint << 16;
    before constant bigint := coalesce(latest.position, 0);
    seen constant pg_snapshot := pg_current_snapshot();
BEGIN
    IF latest.cluster IS DISTINCT FROM (pg_control_system()).system_identifier
       OR latest.messages <> 'pgpoll.messages'::regclass
       OR greatest(latest.next_xid, pg_snapshot_xmax(latest.seen)) > pg_snapshot_xmax(seen) THEN
        latest.seen := seen;
        latest.adopting := true;
        latest.walked_to := NULL;
        latest.reserved := NULL;
        latest.drawn_id := NULL;
        latest.next_xid := pg_snapshot_xmax(seen);
        latest.unfinished := ARRAY(SELECT pg_snapshot_xip(seen));
    END IF;
    latest.position := greatest(coalesce(pg_sequence_last_value('pgpoll.last_position'), 0), latest.position)
                       + CASE WHEN latest.position IS NULL THEN 0 ELSE lost END;
    latest.reserved := latest.reserved + (latest.position - before);
    latest.server_start := pg_postmaster_start_time();
    latest.cluster := (pg_control_system()).system_identifier;
    latest.messages := 'pgpoll.messages'::regclass;
END $$;
