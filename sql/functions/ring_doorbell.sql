-- The NOTIFY throttle, publisher's side (ARCHITECTURE.md, "The NOTIFY throttle"). At commit, this trigger
-- tells the listeners with a NOTIFY that there are messages without a position, unless a manager checks for
-- them by itself.
--
-- Why there is a throttle: a transaction that NOTIFYs holds a cluster-wide lock until its commit is flushed
-- to disk, so publishers would commit one after the other. A busy manager therefore mutes the NOTIFYs for a
-- moment at a time (mute_doorbell()) and checks by itself; meanwhile publishers commit together, as without
-- pgpoll. If that manager dies, the mute expires. Messages that were published during the mute are found by
-- the next manager that connects, which starts by unmuting, or by another running manager within 5 s (LOOK_MS
-- in relay.c).
--
-- Why no message is left without a position when the manager stops checking: a publisher that sends no NOTIFY
-- takes the advisory lock below before it reads the mute, and holds it until its commit is visible.
-- unmute_doorbell() first unmutes, then tests whether anybody holds that lock. If nobody does, every
-- publisher that sent no NOTIFY is visible to the next check, and all later ones send a NOTIFY.
--
-- The function runs in every publisher's commit. It has no SET search_path clause, which would double its
-- cost; instead every name and operator is qualified. PERFORM would start a query.
CREATE OR REPLACE FUNCTION pgpoll.ring_doorbell() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
AS $$
DECLARE
    muted_until pg_catalog.timestamptz;
    sent pg_catalog.bool;
BEGIN
    -- Any session can hold an advisory lock. If an unrelated one holds this lock, that only causes a NOTIFY
    -- or a check that was not needed.
    IF pg_catalog.pg_try_advisory_xact_lock_shared(1885827180, 1) THEN
        muted_until := pg_catalog.to_timestamp(pg_catalog.pg_sequence_last_value('pgpoll.doorbell')
                                               OPERATOR(pg_catalog./) 1000.0::pg_catalog.float8);
        -- A mute that ends more than 1 s ahead does not count: the clock may have been set back.
        IF muted_until OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp()
           AND muted_until OPERATOR(pg_catalog.-) pg_catalog.clock_timestamp()
               OPERATOR(pg_catalog.<=) '1 s'::pg_catalog.interval THEN
            RETURN NULL;
        END IF;
    END IF;
    sent := pg_catalog.pg_notify('pgpoll', '') IS NULL;                       -- for managers
    sent := pg_catalog.pg_notify(pgpoll.channel(NEW.topic), '') IS NULL;      -- for workers without a manager
    RETURN NULL;
END $$;
COMMENT ON FUNCTION pgpoll.ring_doorbell() IS
    'Trigger on pgpoll.messages: sends a NOTIFY at commit, unless a manager has muted it because it '
    'checks for new messages by itself.';
