-- Commit after this call and before you number and read messages, because LISTEN takes effect at the commit:
-- a session is not notified of messages that were committed before.
--
-- alone: the session has no manager, so batches must NOTIFY the topics' channels. assign_batch() does that
-- until pgpoll.lone_until. No message is missed if a batch reads that sequence before this call sets it: its
-- messages were committed before, so the caller, which numbers next, either finds them numbered or waits for
-- the batch. A worker without a manager calls this function for each poll that waits, that is, at least once
-- in 60 s, so an hour is enough.
CREATE OR REPLACE FUNCTION pgpoll.listen(topics text[], alone boolean DEFAULT true) RETURNS SETOF text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    now_ms constant bigint := extract(epoch FROM clock_timestamp()) * 1000;
    lone_until constant bigint := pg_sequence_last_value('pgpoll.lone_until');
    topic text;
BEGIN
    -- In a read-only database nothing is numbered.
    IF alone AND NOT coalesce(lone_until BETWEEN now_ms + 1800000 AND now_ms + 3600000, false)
       AND NOT current_setting('transaction_read_only')::boolean THEN
        -- For this transaction. After a crash or a failover, workers connect and call this function again.
        PERFORM set_config('synchronous_commit', 'off', true);
        PERFORM setval('pgpoll.lone_until', now_ms + 3600000);
    END IF;
    FOREACH topic IN ARRAY topics LOOP
        EXECUTE format('LISTEN %I', pgpoll.channel(topic));
        RETURN NEXT pgpoll.channel(topic);
    END LOOP;
END $$;
COMMENT ON FUNCTION pgpoll.listen(text[], boolean) IS
    'LISTENs on the channel of each topic and returns the channels in the order of the topics.';
