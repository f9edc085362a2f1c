-- Commit after this call and before you read messages, because LISTEN takes effect at the commit: a session
-- is not notified of messages that were committed before.
CREATE OR REPLACE FUNCTION pgpoll.listen(topics text[]) RETURNS SETOF text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    topic text;
BEGIN
    FOREACH topic IN ARRAY topics LOOP
        EXECUTE format('LISTEN %I', pgpoll.channel(topic));
        RETURN NEXT pgpoll.channel(topic);
    END LOOP;
END $$;
COMMENT ON FUNCTION pgpoll.listen(text[]) IS
    'LISTENs on the channel of each topic and returns the channels in the order of the topics.';
