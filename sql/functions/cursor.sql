-- Whatever a message with a position up to this one says is in the snapshot that shows the position: its
-- transaction had been committed when the batch was made. So the cursor fits to what the same statement
-- reads, on a standby, too.
CREATE OR REPLACE FUNCTION pgpoll.cursor() RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET row_security = off
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_sort = off
SET jit = off
AS $$
SELECT coalesce((SELECT 'msg_' || lpad(to_hex(b.position), 16, '0')
                 FROM pgpoll.batches b ORDER BY b.position DESC LIMIT 1), '0')
$$;
COMMENT ON FUNCTION pgpoll.cursor() IS
    'A cursor for a client that reads its state in this statement, in this REPEATABLE READ transaction or '
    'afterwards: polls that start with it bring all changes which that state lacks, and perhaps some that it '
    'contains.';
