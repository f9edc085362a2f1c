-- Call it in a transaction of its own, then give positions in the next one. true: every publisher that sent
-- no NOTIFY is visible to that next transaction. false: such a publisher may still be under way, so check
-- again soon. The protocol is in ring_doorbell.sql.
CREATE OR REPLACE FUNCTION pgpoll.unmute_doorbell() RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true); -- as in mute_doorbell()
    PERFORM setval('pgpoll.doorbell', 0);
    RETURN pg_try_advisory_xact_lock(1885827180, 1);
END $$;
COMMENT ON FUNCTION pgpoll.unmute_doorbell() IS
    'Tells publishers to send NOTIFY again; returns whether every publisher that sent none has ended its '
    'transaction.';
