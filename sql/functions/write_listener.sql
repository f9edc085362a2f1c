-- free_workers and hears are columns of pgpoll.listeners. counts: [{"metric", "label", "n"}, ...].
CREATE OR REPLACE FUNCTION pgpoll.write_listener(host text, pid integer, workers integer,
                                                 free_workers integer, hears boolean, counts json)
RETURNS void
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET row_security = off
AS $$
    INSERT INTO pgpoll.listeners (host, pid, backend_pid, workers, free_workers, hears, seen_at)
    VALUES ($1, $2, pg_backend_pid(), $3, $4, $5, now())
    ON CONFLICT (host, pid) DO UPDATE
    SET (backend_pid, workers, free_workers, hears, seen_at)
      = (excluded.backend_pid, excluded.workers, excluded.free_workers, excluded.hears, excluded.seen_at);

    -- All processes lock the rows in the same order: no deadlock between workers of one host.
    INSERT INTO pgpoll.counters AS c (host, metric, label, value, changed_at)
    SELECT $1, n.metric, n.label, n.n, now()
    FROM json_to_recordset($6) AS n (metric text, label text, n bigint)
    ORDER BY n.metric COLLATE "C", n.label COLLATE "C"
    ON CONFLICT (host, metric, label) DO UPDATE
    SET (value, changed_at) = (c.value + excluded.value, excluded.changed_at);
$$;
COMMENT ON FUNCTION pgpoll.write_listener(text, integer, integer, integer, boolean, json) IS
    'A manager, or a worker without one, reports that it is alive and adds what it has counted since its '
    'last report.';
