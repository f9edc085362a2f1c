-- A session that LISTENs and does not read blocks the NOTIFY queue of the whole cluster, so a worker without
-- a manager calls this function before it accepts the next request.
CREATE OR REPLACE FUNCTION pgpoll.unlisten(topics text[]) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    topic text;
BEGIN
    IF topics IS NULL THEN
        UNLISTEN *;
        RETURN;
    END IF;
    FOREACH topic IN ARRAY topics LOOP
        EXECUTE format('UNLISTEN %I', pgpoll.channel(topic));
    END LOOP;
END $$;
COMMENT ON FUNCTION pgpoll.unlisten(text[]) IS
    'UNLISTENs the channels of these topics; NULL: all channels.';
