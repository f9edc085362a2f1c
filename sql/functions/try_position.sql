-- The check rolls its test message back. Other sessions notice only that sequences skip values, and may wait
-- briefly for a lock.
CREATE OR REPLACE FUNCTION pgpoll.try_position() RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET row_security = off
SET lock_timeout = '1s'
AS $$
#variable_conflict use_column
DECLARE
    assigned integer;
BEGIN
    PERFORM set_config('synchronous_commit', 'local', true); -- do not wait for a standby: all is rolled back
    BEGIN
        INSERT INTO pgpoll.messages (topic, payload) VALUES ('pgpoll check', 'null');
        SET CONSTRAINTS ALL IMMEDIATE; -- fires ring_doorbell
        -- adopt_messages() needs this function, but only after a restart of the server. Call it now, so that
        -- a missing privilege shows before that.
        PERFORM FROM pg_control_system();
        SELECT a.assigned INTO assigned FROM pgpoll.assign_positions() AS a (assigned);
        RAISE SQLSTATE 'PGPOL';
    EXCEPTION
        WHEN SQLSTATE 'PGPOL' THEN
            RETURN CASE WHEN assigned = 0 THEN
                'A test message was published but was not found. Check the tables of schema pgpoll for'
                ' row-level security and for triggers that are not part of pgpoll.' END;
        WHEN query_canceled OR OTHERS THEN
            RETURN format('No message can be given a position: %s. %s', SQLERRM, CASE
                WHEN SQLSTATE IN ('57014', '55P03') THEN -- canceled, or a lock was not available
                    'SELECT * FROM pgpoll.held_up shows the session that blocks it. SHOW statement_timeout'
                    ' shows how long a statement may take.'
                WHEN SQLERRM LIKE '%pg\_control\_system%' THEN
                    format('GRANT EXECUTE ON FUNCTION pg_catalog.pg_control_system() TO %I;', current_user)
                -- The message may be in another language.
                WHEN SQLSTATE = '42501' AND EXISTS (SELECT FROM pg_class WHERE relforcerowsecurity
                                                    AND relnamespace = 'pgpoll'::regnamespace) THEN
                    'ALTER TABLE pgpoll.messages NO FORCE ROW LEVEL SECURITY; and the same for the other'
                    ' tables of schema pgpoll.'
                WHEN SQLSTATE = '42501' THEN
                    format('Role %s owns the schema and needs this privilege: GRANT it.', current_user)
                ELSE format('The SQLSTATE is %s; the log of PostgreSQL may say more.', SQLSTATE) END);
    END;
END $$;
COMMENT ON FUNCTION pgpoll.try_position() IS
    'Publishes a message, gives it a position and rolls both back; returns NULL if that works, otherwise '
    'the error and its remedy.';
