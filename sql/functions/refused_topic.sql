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
    'Which of these topics is the first that can_poll() refuses to this user, counted from 1; NULL from '
    'can_poll() is a refusal. 0: can_poll() allows all of them, or is as installed and was not asked.';
