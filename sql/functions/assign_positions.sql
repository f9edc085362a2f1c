-- What must come before each read of messages. Returns how many were given a position, or -1 when the database
-- is read-only (default_transaction_read_only, as hosted services set it when the disk is full): reading goes on,
-- and new messages wait. On a standby it fails as every write does.
CREATE OR REPLACE FUNCTION pgpoll.assign_positions() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET row_security = off
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_bitmapscan = off
SET jit = off
AS $$
DECLARE
    last pgpoll.batches;
    note constant boolean := random() < 0.01;
BEGIN
    IF current_setting('transaction_read_only')::boolean AND NOT pg_is_in_recovery() THEN
        RETURN -1;
    END IF;
    LOCK TABLE pgpoll.messages IN ACCESS SHARE MODE; -- first, see tables.sql
    -- Usually there is nothing, and those who read need not wait for each other to see that.
    SELECT * INTO last FROM pgpoll.batches b ORDER BY b.position DESC LIMIT 1;
    IF last.server_start = pg_postmaster_start_time() AND NOT note
       AND NOT EXISTS (SELECT FROM pgpoll.messages m WHERE m.xid >= last.next_xid)
       AND (last.unfinished = '{}'
            OR NOT EXISTS (SELECT FROM pgpoll.messages m
                           WHERE m.xid = ANY (ARRAY(SELECT x FROM unnest(last.unfinished) AS x
                                                    WHERE pg_visible_in_snapshot(x, pg_current_snapshot()))))) THEN
        RETURN 0;
    END IF;
    RETURN (pgpoll.assign_batch(note)).assigned;
END $$;
