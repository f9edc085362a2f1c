CREATE OR REPLACE FUNCTION pgpoll.has_authenticate() RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce((SELECT p.prosrc <> 'SELECT text ''''' OR l.lanname <> 'sql'
                     FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
                     WHERE p.oid = to_regprocedure('pgpoll.authenticate(text)')), true)
$$;
COMMENT ON FUNCTION pgpoll.has_authenticate() IS
    'Whether authenticate() was replaced, so that it must be asked.';
