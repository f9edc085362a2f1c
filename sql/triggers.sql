-- Creates the triggers on pgpoll.messages. ring_doorbell is deferred, so that it runs at the end of the
-- transaction.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_trigger
                   WHERE tgrelid = 'pgpoll.messages'::regclass AND tgname = 'ring_doorbell') THEN
        CREATE CONSTRAINT TRIGGER ring_doorbell AFTER INSERT OR UPDATE OF topic ON pgpoll.messages
            DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION pgpoll.ring_doorbell();
    END IF;
    -- ENABLE ALWAYS: the trigger fires also for rows that logical replication applies. ALTER TABLE waits for
    -- every transaction that publishes, so it runs only if it changes something.
    IF EXISTS (SELECT FROM pg_catalog.pg_trigger
               WHERE tgrelid = 'pgpoll.messages'::regclass AND tgname = 'ring_doorbell'
                 AND tgenabled <> 'A') THEN
        ALTER TABLE pgpoll.messages ENABLE ALWAYS TRIGGER ring_doorbell;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_trigger
                   WHERE tgrelid = 'pgpoll.messages'::regclass AND tgname = 'replicate_message') THEN
        CREATE TRIGGER replicate_message BEFORE INSERT OR UPDATE ON pgpoll.messages
            FOR EACH ROW EXECUTE FUNCTION pgpoll.replicate_message();
    END IF;
    IF EXISTS (SELECT FROM pg_catalog.pg_trigger
               WHERE tgrelid = 'pgpoll.messages'::regclass AND tgname = 'replicate_message'
                 AND tgenabled <> 'R') THEN
        ALTER TABLE pgpoll.messages ENABLE REPLICA TRIGGER replicate_message;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_trigger
                   WHERE tgrelid = 'pgpoll.messages'::regclass AND tgname = 'truncate_messages') THEN
        CREATE TRIGGER truncate_messages BEFORE TRUNCATE ON pgpoll.messages
            EXECUTE FUNCTION pgpoll.truncate_messages();
        ALTER TABLE pgpoll.messages ENABLE ALWAYS TRIGGER truncate_messages;
    END IF;
END $$;
