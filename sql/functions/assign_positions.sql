-- What must come before each read of messages. Returns how many were given a position.
CREATE OR REPLACE FUNCTION pgpoll.assign_positions() RETURNS integer
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT b.assigned FROM pgpoll.assign_batch() b;
$$;
