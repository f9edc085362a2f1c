-- A message that logical replication brings belongs to the transaction that brings it: the number it bears is of another cluster.
-- Elsewhere it changes nothing: ENABLE TRIGGER ALL (pg_restore --disable-triggers) makes a trigger of this kind fire for everybody.
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
