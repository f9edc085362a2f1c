-- A transaction number has a meaning in one cluster only. If the server was restarted since the last batch,
-- this function checks that the cluster and the table are still those of the last batch. If they are not (a
-- restored dump, pg_upgrade), or if there was no batch yet, all messages without a position become a backlog.
-- assign_backlog() then finds them by feed_message_id instead of transaction numbers. No message is updated.
--
-- latest: the last row of pgpoll.batches; returned as the state that the new batch starts from. seen: the
-- snapshot of the new batch. assign_batch() calls this function under feed_lock and stores the result.
CREATE OR REPLACE FUNCTION pgpoll.adopt_messages(seen pg_snapshot, INOUT latest pgpoll.batches)
LANGUAGE plpgsql
AS $$
DECLARE
    -- A promoted asynchronous standby may lack the last positions, although clients have seen them. New ones
    -- start at the clock, so they are usually higher all the same. This is what they start higher if the
    -- clock of this server is behind: three times wal_writer_delay. It does not bound how far a standby lags.
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
    'Internal. After a restart of the server: if the cluster or the table is another one, makes all '
    'messages without a position a backlog.';
