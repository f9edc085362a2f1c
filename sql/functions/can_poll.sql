-- Yours to replace (CREATE OR REPLACE FUNCTION): may this user poll this topic? It is asked for every topic of every poll.
-- remote_user is what the web server authenticated, '' when nobody. Installing again keeps your version.
DO $do$
BEGIN
    IF to_regprocedure('pgpoll.can_poll(text, text)') IS NULL THEN
        CREATE FUNCTION pgpoll.can_poll(remote_user text, topic text) RETURNS boolean
        LANGUAGE sql STABLE
        AS 'SELECT true';
    END IF;
END $do$;
