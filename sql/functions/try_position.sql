-- Publishes a message, gives it a position, and undoes both: returns NULL if that works, else why it does not and the remedy.
-- Nobody sees anything of it, but for the numbers that were drawn from the sequences.
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
    PERFORM set_config('synchronous_commit', 'local', true); -- nothing is left to commit, so do not wait for a standby
    BEGIN
        INSERT INTO pgpoll.messages (topic, payload) VALUES ('pgpoll check', 'null');
        SET CONSTRAINTS ALL IMMEDIATE; -- fires ring_doorbell
        PERFORM FROM pg_control_system(); -- adopt_messages() needs it after a restart of PostgreSQL
        SELECT a.assigned INTO assigned FROM pgpoll.assign_positions() AS a (assigned);
        RAISE SQLSTATE 'PGPOL';
    EXCEPTION
        WHEN SQLSTATE 'PGPOL' THEN
            RETURN CASE WHEN assigned = 0 THEN
                'A message that was published was not found. Look for row-level security and triggers of yours on the tables of'
                ' schema pgpoll.' END;
        WHEN query_canceled OR OTHERS THEN
            RETURN format('No message can be given a position: %s. %s', SQLERRM, CASE
                WHEN SQLSTATE IN ('57014', '55P03') THEN -- canceled, or a lock was not available
                    'SELECT * FROM pgpoll.held_up shows who keeps it waiting, and SHOW statement_timeout how long it may take.'
                WHEN SQLERRM LIKE '%row-level security%' THEN
                    'ALTER TABLE pgpoll.messages NO FORCE ROW LEVEL SECURITY; and the same for other tables of schema pgpoll.'
                WHEN SQLERRM LIKE '%pg\_control\_system%' THEN
                    format('GRANT EXECUTE ON FUNCTION pg_catalog.pg_control_system() TO %I;', current_user)
                WHEN SQLSTATE = '42501' THEN
                    format('Give role %s, which owns the schema, this right.', current_user)
                ELSE format('The code of this error is %s; PostgreSQL''s log may say more.', SQLSTATE) END);
    END;
END $$;
