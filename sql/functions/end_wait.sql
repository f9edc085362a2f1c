-- Undoes listen() and begin_wait() of this session. A LISTENing session that nobody reads holds up the whole cluster's
-- notification queue, so a worker calls this before it goes back to accept.
CREATE OR REPLACE FUNCTION pgpoll.end_wait(host text, pid integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET row_security = off
AS $$
BEGIN
    UNLISTEN *;
    IF NOT current_setting('transaction_read_only')::boolean THEN -- else the row counts until its deadline
        DELETE FROM pgpoll.waiters w WHERE w.host = $1 AND w.pid = $2;
    END IF;
END $$;
