-- Gives positions to one batch of new messages. Call it before each read of messages.
--
--   assigned  how many messages got a position. NULL: there is a backlog, and another session is working on
--             it. -1: the database is read-only (default_transaction_read_only, which hosted services set
--             when the disk is full); reads go on, and new messages wait. On a standby the function fails as
--             every write does.
--   more      there is a backlog: call again, in another transaction
CREATE OR REPLACE FUNCTION pgpoll.assign_positions(OUT assigned integer, OUT more boolean)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET row_security = off
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_bitmapscan = off
SET jit = off
AS $$
DECLARE
    note boolean := random() < 0.01;
    begun timestamptz;
    last pgpoll.batches;
    batch record;
BEGIN
    assigned := -1;
    more := false;
    IF current_setting('transaction_read_only')::boolean AND NOT pg_is_in_recovery() THEN
        RETURN;
    END IF;
    assigned := 0;
    -- Check first without the lock, because usually there is nothing new. (new_messages() does not check,
    -- because it is usually called when there is something new.)
    IF NOT note AND pg_current_xact_id_if_assigned() IS NULL THEN
        begun := clock_timestamp();
        IF pgpoll.all_numbered() IS NOT NULL THEN
            -- If the check was slow, have assign_batch() store a batch, even an empty one, so that the next
            -- check does not read the same rows again.
            note := clock_timestamp() - begun > interval '10 ms';
            IF NOT note THEN
                RETURN;
            END IF;
        END IF;
    END IF;
    LOCK TABLE pgpoll.messages IN ACCESS SHARE MODE; -- the lock order: see tables.sql
    SELECT * INTO last FROM pgpoll.batches b ORDER BY b.position DESC LIMIT 1;
    IF last.server_start = pg_postmaster_start_time() AND last.seen IS NOT NULL THEN
        -- During a backlog readers do not queue for the lock; they read the messages that have a position.
        BEGIN
            LOCK TABLE pgpoll.feed_lock IN SHARE UPDATE EXCLUSIVE MODE NOWAIT;
        EXCEPTION WHEN lock_not_available THEN
            assigned := NULL;
            more := true;
            RETURN;
        END;
    END IF;
    -- 5000 messages at most: numbering one takes 5 to 20 us under feed_lock.
    batch := pgpoll.assign_batch(note, 5000);
    assigned := batch.assigned;
    more := batch.more;
END $$;
COMMENT ON FUNCTION pgpoll.assign_positions() IS
    'Gives positions to one batch of committed messages that have none; more: there is a backlog, so call '
    'it again in another transaction.';
