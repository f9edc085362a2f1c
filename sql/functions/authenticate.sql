-- This function belongs to the operator, who replaces it with CREATE OR REPLACE FUNCTION. Installing again
-- keeps the operator's version and any comment on it.
DO $do$
BEGIN
    IF to_regprocedure('pgpoll.authenticate(text)') IS NULL THEN
        CREATE FUNCTION pgpoll.authenticate("authorization" text) RETURNS text
        LANGUAGE sql STABLE
        AS 'SELECT text ''''';
    END IF;
    IF obj_description('pgpoll.authenticate(text)'::regprocedure, 'pg_proc') IS NULL THEN
        COMMENT ON FUNCTION pgpoll.authenticate(text) IS
            'Who sent this Authorization header (empty: there was none)? Asked if the web server has '
            'authenticated nobody. Returns the user''s name, an empty text for an anonymous user, or NULL: '
            'then the answer is 401. Replace it with CREATE OR REPLACE FUNCTION; as installed, it is not '
            'asked, and everybody is anonymous.';
    END IF;
END $do$;
