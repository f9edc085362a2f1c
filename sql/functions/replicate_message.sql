-- A message that logical replication brings belongs to the transaction that brings it: the number it bears is of another cluster.
CREATE OR REPLACE FUNCTION pgpoll.replicate_message() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    NEW.xid := CASE TG_OP WHEN 'INSERT' THEN pg_current_xact_id() ELSE OLD.xid END;
    RETURN NEW;
END $$;
