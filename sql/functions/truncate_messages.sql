-- TRUNCATE takes the messages' places in the order with them, and is told to clients as a prune is. With RESTART IDENTITY these places would
-- become the new messages', which would come twice, and under topics of others.
CREATE OR REPLACE FUNCTION pgpoll.truncate_messages() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    WITH gone AS (
        DELETE FROM pgpoll.feed f RETURNING f.topic, f.position
    )
    INSERT INTO pgpoll.retention AS r (topic, pruned_to)
    SELECT g.topic, max(g.position) FROM gone g GROUP BY g.topic
    ON CONFLICT (topic) DO UPDATE SET pruned_to = excluded.pruned_to;
    RETURN NULL;
END $$;
