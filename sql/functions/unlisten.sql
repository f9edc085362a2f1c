CREATE OR REPLACE FUNCTION pgpoll.unlisten(topics text[]) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    topic text;
BEGIN
    FOREACH topic IN ARRAY topics LOOP
        EXECUTE format('UNLISTEN %I', pgpoll.channel(topic));
    END LOOP;
END $$;
COMMENT ON FUNCTION pgpoll.unlisten(text[]) IS
    'Undoes listen() for these topics.';
