CREATE OR REPLACE FUNCTION pgpoll.refused_topic(remote_user text, topics text[]) RETURNS integer
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    topic text;
    number integer := 0;
BEGIN
    IF pgpoll.is_open_to_all() THEN
        RETURN 0;
    END IF;
    FOREACH topic IN ARRAY topics LOOP
        number := number + 1;
        IF pgpoll.can_poll(remote_user, topic) IS NOT TRUE THEN
            RETURN number;
        END IF;
    END LOOP;
    RETURN 0;
END $$;
COMMENT ON FUNCTION pgpoll.refused_topic(text, text[]) IS
    'The number of the first of these topics, from 1, that can_poll() does not allow this user; if '
    'can_poll() returns NULL, it does not. 0: it allows all, or it is as installed and was not asked.';
