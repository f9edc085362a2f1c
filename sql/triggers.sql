-- ring_doorbell is deferred, so that it comes as late as can be, and ALWAYS fires, also for rows that logical replication applies.
-- What is as it should be is left alone: all of this waits for every open publisher.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_trigger
                   WHERE tgrelid = 'pgpoll.messages'::regclass AND tgname = 'ring_doorbell') THEN
        CREATE CONSTRAINT TRIGGER ring_doorbell AFTER INSERT OR UPDATE OF topic ON pgpoll.messages
            DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION pgpoll.ring_doorbell();
    END IF;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_trigger
                   WHERE tgrelid = 'pgpoll.messages'::regclass AND tgname = 'ring_doorbell' AND tgenabled = 'A') THEN
        ALTER TABLE pgpoll.messages ENABLE ALWAYS TRIGGER ring_doorbell;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_trigger
                   WHERE tgrelid = 'pgpoll.messages'::regclass AND tgname = 'replicate_message') THEN
        CREATE TRIGGER replicate_message BEFORE INSERT OR UPDATE ON pgpoll.messages
            FOR EACH ROW EXECUTE FUNCTION pgpoll.replicate_message();
    END IF;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_trigger
                   WHERE tgrelid = 'pgpoll.messages'::regclass AND tgname = 'replicate_message' AND tgenabled = 'R') THEN
        ALTER TABLE pgpoll.messages ENABLE REPLICA TRIGGER replicate_message;
    END IF;
END $$;
