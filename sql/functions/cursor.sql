-- The position comes from the snapshot of the calling statement. Every message up to this position was
-- committed before the batch that this snapshot shows, so the same snapshot also shows the changes that these
-- messages announce. Therefore the cursor matches what the statement reads, on a standby, too.
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
