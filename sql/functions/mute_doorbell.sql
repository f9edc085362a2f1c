-- The caller looks for new messages by itself for so long (at most a second): publishers need not ring.
CREATE OR REPLACE FUNCTION pgpoll.mute_doorbell(milliseconds integer) RETURNS void
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT set_config('synchronous_commit', 'off', true); -- to the end of the transaction; nobody misses this after a crash
    SELECT setval('pgpoll.doorbell', (extract(epoch FROM clock_timestamp()) * 1000)::bigint + least(milliseconds, 1000));
$$;
