-- The mute lasts at most a second. The protocol with publishers is in ring_doorbell.sql.
CREATE OR REPLACE FUNCTION pgpoll.mute_doorbell(milliseconds integer) RETURNS void
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT set_config('synchronous_commit', 'off', true); -- for this transaction; a crash may lose the mute
    SELECT setval('pgpoll.doorbell',
                  (extract(epoch FROM clock_timestamp()) * 1000)::bigint + least(milliseconds, 1000));
$$;
COMMENT ON FUNCTION pgpoll.mute_doorbell(integer) IS
    'Tells publishers to send no NOTIFY for this time (at most 1,000 ms), during which the calling manager '
    'checks for new messages by itself.';
