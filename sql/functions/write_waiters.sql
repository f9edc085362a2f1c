-- began: [{"pid", "topics", "client", "remote_user", "waited_ms", "left_ms"}, ...]; ended: process ids of
-- workers that no longer wait.
CREATE OR REPLACE FUNCTION pgpoll.write_waiters(host text, began json, ended json) RETURNS void
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET row_security = off
AS $$
    DELETE FROM pgpoll.waiters w
    USING json_array_elements_text($3) AS e (pid)
    WHERE w.host = $1 AND w.pid = e.pid::integer;

    INSERT INTO pgpoll.waiters
        (host, pid, backend_pid, topics, client, started_at, deadline, seen_at, remote_user)
    SELECT $1, b.pid, pg_backend_pid(), b.topics, b.client,
           now() - b.waited_ms * interval '1 millisecond', now() + b.left_ms * interval '1 millisecond',
           now(), coalesce(b.remote_user, '')
    FROM json_to_recordset($2)
         AS b (pid integer, topics text[], client text, remote_user text, waited_ms bigint, left_ms bigint)
    ON CONFLICT (host, pid) DO UPDATE
    SET (backend_pid, topics, client, started_at, deadline, seen_at, remote_user)
      = (excluded.backend_pid, excluded.topics, excluded.client, excluded.started_at, excluded.deadline,
         excluded.seen_at, excluded.remote_user);
$$;
COMMENT ON FUNCTION pgpoll.write_waiters(text, json, json) IS
    'A manager records in pgpoll.waiters which of its workers'' polls began to wait and which ended, many '
    'at a time.';
