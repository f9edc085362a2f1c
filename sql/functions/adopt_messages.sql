-- A transaction number has a meaning in one cluster only. If the server was restarted since the last batch,
-- this function checks that the cluster and the table are the same as then. If they are not (a restored dump,
-- pg_upgrade) or there was no batch yet, all messages without a position become a backlog. assign_backlog()
-- then finds them by feed_message_id instead of transaction numbers. No message is updated.
--
-- Returns the state that the new batch starts from; seen is that batch's snapshot. assign_batch() calls it
-- under feed_lock and stores the result.
CREATE OR REPLACE FUNCTION pgpoll.adopt_messages(seen pg_snapshot, INOUT latest pgpoll.batches)
LANGUAGE plpgsql
AS $$
DECLARE
    -- A standby that was promoted may lack the last positions, although clients have seen them: skip as many
    -- as can be missing.
    lost constant bigint :=
        (extract(epoch FROM current_setting('wal_writer_delay')::interval) * 3000)::bigint << 16;
    before constant bigint := coalesce(latest.position, 0);
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
COMMENT ON FUNCTION pgpoll.adopt_messages(pg_snapshot, pgpoll.batches) IS
    'Internal. After a restart of the server: if it is another cluster or table, makes all messages '
    'without a position a backlog.';
