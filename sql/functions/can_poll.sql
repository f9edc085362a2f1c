-- This function belongs to the operator, who replaces it with CREATE OR REPLACE FUNCTION. Installing again
-- keeps the operator's version and any comment on it.
DO $do$
BEGIN
    IF to_regprocedure('pgpoll.can_poll(text, text)') IS NULL THEN
        CREATE FUNCTION pgpoll.can_poll(remote_user text, topic text) RETURNS boolean
        LANGUAGE sql STABLE
        AS 'SELECT true';
    END IF;
    IF obj_description('pgpoll.can_poll(text, text)'::regprocedure, 'pg_proc') IS NULL THEN
        COMMENT ON FUNCTION pgpoll.can_poll(text, text) IS
            'May this user poll this topic? Asked for every topic of every poll; remote_user is the name '
            'that the web server or authenticate() has given, or empty. Replace it with CREATE OR REPLACE '
            'FUNCTION; as installed, it is not asked, and everything is allowed.';
    END IF;
END $do$;
