-- Says at commit that there is something to give positions to, unless somebody is busy giving them anyway.
--
-- Every NOTIFY holds a lock of the whole cluster until its commit is flushed to disk, so that publishers would commit one
-- after the other. A manager that has its hands full therefore mutes the doorbell for a moment at a time (mute_doorbell()) and looks
-- by itself; publishers then commit together, as if there were no pgpoll. Should it die, the moment passes; what was published
-- quietly meanwhile is found by the next manager that connects, which begins by unmuting, or by any other within seconds (LOOK_MS).
--
-- Why no message is left lying when the manager stops looking: who keeps quiet holds the lock below until its commit is
-- visible, and took it before it found the doorbell muted. unmute_doorbell() first unmutes, then sees whether anybody holds that lock;
-- if nobody does, whoever kept quiet is visible to a look from then on, and everybody else rings.
--
-- Runs in every publisher's commit, so it does without setting search_path (which costs as much as all the rest): every name and
-- operator is qualified instead.
CREATE OR REPLACE FUNCTION pgpoll.ring_doorbell() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
AS $$
DECLARE
    muted_until pg_catalog.timestamptz;
BEGIN
    -- Others can hold it too, as any advisory lock: then this one rings, or the manager looks once more.
    IF pg_catalog.pg_try_advisory_xact_lock_shared(1885827180, 1) THEN
        muted_until := pg_catalog.to_timestamp(pg_catalog.pg_sequence_last_value('pgpoll.doorbell')
                                               OPERATOR(pg_catalog./) 1000.0::pg_catalog.float8);
        -- Not far ahead: the clock may have been set back.
        IF muted_until OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp()
           AND muted_until OPERATOR(pg_catalog.-) pg_catalog.clock_timestamp() OPERATOR(pg_catalog.<=) '1 s'::pg_catalog.interval THEN
            RETURN NULL;
        END IF;
    END IF;
    PERFORM pg_catalog.pg_notify('pgpoll', '');                       -- for managers
    PERFORM pg_catalog.pg_notify(pgpoll.channel(NEW.topic), '');      -- for workers that stand alone
    RETURN NULL;
END $$;
