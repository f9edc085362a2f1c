-- LISTENs on the channel of each topic and tells which channel that is, in the order of the topics. Commit it before you read:
-- a message committed before the LISTEN took effect is announced to nobody.
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
