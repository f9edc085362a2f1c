-- A row that logical replication applies has a transaction number of another cluster. This trigger replaces
-- that number by the number of the transaction that applies the row. It is a replica trigger, but ENABLE
-- TRIGGER ALL, which pg_restore --disable-triggers runs, makes it fire in every session. Therefore the
-- function checks session_replication_role and changes nothing in ordinary sessions.
CREATE OR REPLACE FUNCTION pgpoll.replicate_message() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF current_setting('session_replication_role') = 'replica' THEN
        NEW.xid := CASE TG_OP WHEN 'INSERT' THEN pg_current_xact_id() ELSE OLD.xid END;
    END IF;
    RETURN NEW;
END $$;
COMMENT ON FUNCTION pgpoll.replicate_message() IS
    'Trigger on pgpoll.messages: gives rows that logical replication applies a transaction number of this '
    'cluster.';
