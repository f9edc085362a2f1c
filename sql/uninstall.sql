-- Removes pgpoll and all its messages from a database:  psql -f sql/uninstall.sql
-- The roles belong to the cluster. They are dropped if no other database uses them and you may drop them; so
-- is the role pgpoll that pgpoll-setup has created for the workers. Its rights are those of pgpoll_poller, so
-- when that role could be dropped, no other database needs it.
\set ON_ERROR_STOP on
\set QUIET on
SET client_min_messages = warning;
SET search_path = pg_catalog, pg_temp; -- names must not find objects that others put into public
BEGIN;
SELECT to_regclass('pgpoll.messages') IS NOT NULL AS there \gset
\if :there
    LOCK TABLE pgpoll.messages IN ACCESS EXCLUSIVE MODE; -- the lock order: see tables.sql
\endif
DROP SCHEMA IF EXISTS pgpoll CASCADE;
DO $$
DECLARE
    role_name text;
    is_worker constant boolean := EXISTS (SELECT FROM pg_auth_members
                                          WHERE roleid = to_regrole('pgpoll_poller')
                                            AND member = to_regrole('pgpoll'));
BEGIN
    FOREACH role_name IN ARRAY ARRAY['pgpoll_publisher', 'pgpoll_poller', 'pgpoll_monitor', 'pgpoll'] LOOP
        CONTINUE WHEN role_name = 'pgpoll' AND (NOT is_worker OR to_regrole('pgpoll_poller') IS NOT NULL);
        BEGIN
            EXECUTE format('DROP ROLE IF EXISTS %I', role_name);
        EXCEPTION WHEN dependent_objects_still_exist OR insufficient_privilege OR object_in_use THEN
            RAISE WARNING 'role % was not dropped: it is used elsewhere, or you may not drop it', role_name;
        END;
    END LOOP;
END $$;
COMMIT;
