-- Deletes the rows of polls that cannot be waiting any more: their connection is gone, or they are long overdue.
CREATE OR REPLACE FUNCTION pgpoll.sweep_waiters() RETURNS void
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    DELETE FROM pgpoll.waiters w
    WHERE w.deadline < now() - interval '1 minute'
       OR NOT EXISTS (SELECT FROM pg_stat_get_activity(w.backend_pid));
$$;
