-- Deletes the row of a waiter when its connection has ended or its deadline is long past. The row of a
-- listener that is gone stays for 5 minutes, or for an hour if it is a manager's, so that an operator sees
-- which one is missing; a manager is not missing any more when another one of its host has reported since.
-- The counters of a host are deleted an hour after the last write.
CREATE OR REPLACE FUNCTION pgpoll.sweep_waiters() RETURNS void
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET row_security = off
AS $$
    DELETE FROM pgpoll.waiters w
    WHERE w.deadline < now() - interval '1 minute'
       OR NOT EXISTS (SELECT FROM pg_stat_get_activity(w.backend_pid));

    DELETE FROM pgpoll.listeners l
    WHERE (l.seen_at < now() - CASE WHEN l.hears IS NULL THEN interval '5 minutes' ELSE interval '1 hour' END
           OR EXISTS (SELECT FROM pgpoll.listeners n
                      WHERE n.host = l.host AND n.seen_at > l.seen_at AND n.hears IS NOT NULL
                        AND l.hears IS NOT NULL AND n.backend_pid <> l.backend_pid))
      AND NOT EXISTS (SELECT FROM pg_stat_get_activity(l.backend_pid));

    DELETE FROM pgpoll.counters c
    WHERE c.host IN (SELECT o.host FROM pgpoll.counters o
                     GROUP BY o.host HAVING max(o.changed_at) < now() - interval '1 hour')
      AND NOT EXISTS (SELECT FROM pgpoll.listeners l WHERE l.host = c.host);
$$;
COMMENT ON FUNCTION pgpoll.sweep_waiters() IS
    'Deletes statistics that processes left behind when they did not end cleanly.';
