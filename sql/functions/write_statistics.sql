-- report: {"pid", "workers", "free_workers", "hears", "quiet", "began", "ended", "counts", "ends"}; all but
-- pid and workers may be absent. workers, free_workers, hears and quiet are columns of pgpoll.listeners.
--   began:  [{"pid", "topics", "client", "remote_user", "waited_ms", "left_ms"}, ...], the polls that began
--           to wait. Their times are durations, so that the clock of the reporting host does not matter.
--   ended:  [pid, ...], the processes whose polls no longer wait.
--   counts: [{"metric", "label", "n"}, ...], what was counted since the last report.
--   ends:   true if the reporting process ends. Then the rows that this session wrote are deleted. Other
--           sessions' rows stay, because the next process on the host may have the same process id.
CREATE OR REPLACE FUNCTION pgpoll.write_statistics(host text, report json) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET row_security = off
AS $$
#variable_conflict use_column
BEGIN
    IF current_setting('transaction_read_only')::boolean AND NOT pg_is_in_recovery() THEN
        RETURN false;
    END IF;

    DELETE FROM pgpoll.waiters w
    USING json_array_elements_text($2 -> 'ended') AS e (pid)
    WHERE w.host = $1 AND w.pid = e.pid::integer;

    INSERT INTO pgpoll.waiters
        (host, pid, backend_pid, topics, client, started_at, deadline, seen_at, remote_user)
    SELECT $1, b.pid, pg_backend_pid(), b.topics, b.client,
           now() - b.waited_ms * interval '1 millisecond', now() + b.left_ms * interval '1 millisecond',
           now(), coalesce(b.remote_user, '')
    FROM json_to_recordset($2 -> 'began')
         AS b (pid integer, topics text[], client text, remote_user text, waited_ms bigint, left_ms bigint)
    ON CONFLICT (host, pid) DO UPDATE
    SET (backend_pid, topics, client, started_at, deadline, seen_at, remote_user)
      = (excluded.backend_pid, excluded.topics, excluded.client, excluded.started_at, excluded.deadline,
         excluded.seen_at, excluded.remote_user);

    INSERT INTO pgpoll.listeners (host, pid, backend_pid, workers, free_workers, hears, quiet, seen_at)
    SELECT $1, r.pid, pg_backend_pid(), r.workers, r.free_workers, r.hears, r.quiet, now()
    FROM json_to_record($2)
         AS r (pid integer, workers integer, free_workers integer, hears boolean, quiet boolean)
    ON CONFLICT (host, pid) DO UPDATE
    SET (backend_pid, workers, free_workers, hears, quiet, seen_at)
      = (excluded.backend_pid, excluded.workers, excluded.free_workers, excluded.hears, excluded.quiet,
         excluded.seen_at);

    -- ORDER BY makes all processes lock the rows in the same order, so workers of one host do not deadlock.
    INSERT INTO pgpoll.counters AS c (host, metric, label, value, changed_at)
    SELECT $1, n.metric, n.label, n.n, now()
    FROM json_to_recordset($2 -> 'counts') AS n (metric text, label text, n bigint)
    ORDER BY n.metric COLLATE "C", n.label COLLATE "C"
    ON CONFLICT (host, metric, label) DO UPDATE
    SET (value, changed_at) = (c.value + excluded.value, excluded.changed_at);

    IF ($2 ->> 'ends')::boolean THEN
        DELETE FROM pgpoll.waiters w WHERE w.host = $1 AND w.backend_pid = pg_backend_pid();
        DELETE FROM pgpoll.listeners l
        WHERE l.host = $1 AND l.pid = ($2 ->> 'pid')::integer AND l.backend_pid = pg_backend_pid();
    END IF;
    RETURN true;
END $$;
COMMENT ON FUNCTION pgpoll.write_statistics(text, json) IS
    'A manager, or a worker without one, reports that it is alive, which polls began and stopped waiting, '
    'and what it has counted since its last report. Returns false if the database is read-only; then nothing '
    'is written.';
