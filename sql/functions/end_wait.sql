-- A session that LISTENs and does not read blocks the NOTIFY queue of the whole cluster, so a worker calls
-- this function before it accepts the next request.
CREATE OR REPLACE FUNCTION pgpoll.end_wait(host text, pid integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET row_security = off
AS $$
BEGIN
    UNLISTEN *;
    IF NOT current_setting('transaction_read_only')::boolean THEN -- else its row stays until the deadline
        DELETE FROM pgpoll.waiters w WHERE w.host = $1 AND w.pid = $2;
    END IF;
END $$;
COMMENT ON FUNCTION pgpoll.end_wait(text, integer) IS
    'A worker without a manager ends its wait: undoes listen() and begin_wait() of this session.';
