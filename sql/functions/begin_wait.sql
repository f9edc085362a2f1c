-- Times are passed as durations, so that the clock of the worker's host does not matter.
CREATE OR REPLACE FUNCTION pgpoll.begin_wait(host text, pid integer, topics text[], client text,
                                             remote_user text, waited_ms bigint, left_ms bigint)
RETURNS void
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET row_security = off
AS $$
    INSERT INTO pgpoll.waiters
        (host, pid, backend_pid, topics, client, started_at, deadline, seen_at, remote_user)
    VALUES ($1, $2, pg_backend_pid(), $3, $4,
            now() - $6 * interval '1 millisecond', now() + $7 * interval '1 millisecond', now(), $5)
    ON CONFLICT (host, pid) DO UPDATE
    SET (backend_pid, topics, client, started_at, deadline, seen_at, remote_user)
      = (excluded.backend_pid, excluded.topics, excluded.client, excluded.started_at, excluded.deadline,
         excluded.seen_at, excluded.remote_user);
$$;
COMMENT ON FUNCTION pgpoll.begin_wait(text, integer, text[], text, text, bigint, bigint) IS
    'A worker without a manager records its waiting poll in pgpoll.waiters when the poll begins to wait, '
    'and again from time to time.';
