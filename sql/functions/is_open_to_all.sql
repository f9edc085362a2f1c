CREATE OR REPLACE FUNCTION pgpoll.is_open_to_all() RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p.prosrc = 'SELECT true' AND l.lanname = 'sql'
    FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
    WHERE p.oid = to_regprocedure('pgpoll.can_poll(text, text)')
$$;
COMMENT ON FUNCTION pgpoll.is_open_to_all() IS
    'Whether can_poll() is still as installed, so that it allows everything and need not be asked.';
