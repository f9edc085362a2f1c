-- A row that logical replication applies has a transaction number of another cluster. The trigger replaces it
-- by the number of the transaction that applies the row. In other sessions it changes nothing: after ENABLE
-- TRIGGER ALL (from pg_restore --disable-triggers) a replica trigger fires in every session.
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
