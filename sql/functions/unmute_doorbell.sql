-- From now on publishers ring. Call it in a transaction of its own, then assign_positions(). True: whoever kept quiet is visible to that;
-- false: some publisher may not be, look again soon.
CREATE OR REPLACE FUNCTION pgpoll.unmute_doorbell() RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true); -- as in mute_doorbell()
    PERFORM setval('pgpoll.doorbell', 0);
    RETURN pg_try_advisory_xact_lock(1885827180, 1);
END $$;
