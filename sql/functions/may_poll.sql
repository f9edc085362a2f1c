CREATE OR REPLACE FUNCTION pgpoll.may_poll(remote_user text, topics text[]) RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    topic text;
BEGIN
    FOREACH topic IN ARRAY topics LOOP
        IF pgpoll.can_poll(remote_user, topic) IS NOT TRUE THEN
            RETURN false;
        END IF;
    END LOOP;
    RETURN true;
END $$;
COMMENT ON FUNCTION pgpoll.may_poll(text, text[]) IS
    'Whether can_poll() allows this user every one of these topics; if can_poll() returns NULL, it does '
    'not.';
