DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_trigger
                   WHERE tgrelid = 'pgpoll.messages'::regclass AND tgname = 'assign_position') THEN
        CREATE CONSTRAINT TRIGGER assign_position AFTER INSERT ON pgpoll.messages
            DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION pgpoll.assign_position();
    END IF;
    -- ALWAYS: also for rows that logical replication applies. Only where it is not so: this waits for every open publisher.
    IF EXISTS (SELECT FROM pg_catalog.pg_trigger
               WHERE tgrelid = 'pgpoll.messages'::regclass AND tgname = 'assign_position' AND tgenabled <> 'A') THEN
        ALTER TABLE pgpoll.messages ENABLE ALWAYS TRIGGER assign_position;
    END IF;
END $$;
