-- Deletes only rows that this session wrote: the successor on the host may have the same process id.
CREATE OR REPLACE FUNCTION pgpoll.end_listener(host text, pid integer) RETURNS void
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET row_security = off
AS $$
    DELETE FROM pgpoll.waiters w WHERE w.host = $1 AND w.backend_pid = pg_backend_pid();

    DELETE FROM pgpoll.listeners l WHERE l.host = $1 AND l.pid = $2 AND l.backend_pid = pg_backend_pid();
$$;
COMMENT ON FUNCTION pgpoll.end_listener(text, integer) IS
    'A manager, or a worker without one, deletes its row and those of its polls when it ends, so that it '
    'does not look like a missing one.';
