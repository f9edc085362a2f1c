-- ring_doorbell is deferred, so that it comes as late as can be. ALWAYS: also for rows that logical replication applies.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_trigger
                   WHERE tgrelid = 'pgpoll.messages'::regclass AND tgname = 'ring_doorbell') THEN
        CREATE CONSTRAINT TRIGGER ring_doorbell AFTER INSERT OR UPDATE OF topic ON pgpoll.messages
            DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION pgpoll.ring_doorbell();
    END IF;
END $$;
ALTER TABLE pgpoll.messages ENABLE ALWAYS TRIGGER ring_doorbell;

CREATE OR REPLACE TRIGGER replicate_message BEFORE INSERT OR UPDATE ON pgpoll.messages
    FOR EACH ROW EXECUTE FUNCTION pgpoll.replicate_message();
ALTER TABLE pgpoll.messages ENABLE REPLICA TRIGGER replicate_message;
