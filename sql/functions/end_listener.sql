-- A manager, or a worker without one, ends: deletes its row and those of its polls, so that it does not look like
-- one that is missing. Only rows that this session wrote: its successor on the host may have the same process id.
CREATE OR REPLACE FUNCTION pgpoll.end_listener(host text, pid integer) RETURNS void
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET row_security = off
AS $$
    DELETE FROM pgpoll.waiters w WHERE w.host = $1 AND w.backend_pid = pg_backend_pid();

    DELETE FROM pgpoll.listeners l WHERE l.host = $1 AND l.pid = $2 AND l.backend_pid = pg_backend_pid();
$$;
