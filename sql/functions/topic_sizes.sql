-- Computes the figures of the view pgpoll.topics from the table pgpoll.feed. A table of at most 125 pages is
-- read as a whole. Of a larger one, a random sample of about 125 pages is read. For the 200 largest topics of
-- the sample, messages and bytes are extrapolated; oldest and newest are exact, because they come from the
-- index.
CREATE OR REPLACE FUNCTION pgpoll.topic_sizes()
RETURNS TABLE (topic text, messages bigint, bytes bigint, oldest bigint, newest bigint, estimated boolean)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET row_security = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    factor constant float8 := greatest(pg_relation_size('pgpoll.feed')
                                       / current_setting('block_size')::float8 / 125, 1);
BEGIN
    RETURN QUERY
    WITH largest AS MATERIALIZED (
        SELECT f.topic, count(*) AS messages, sum(f.bytes) AS bytes, min(f.position) AS oldest,
               max(f.position) AS newest
        FROM pgpoll.feed f TABLESAMPLE SYSTEM (100 / factor)
        GROUP BY f.topic
        ORDER BY sum(f.bytes) DESC, f.topic LIMIT CASE WHEN factor > 1 THEN 200 END
    )
    SELECT l.topic, round(l.messages * factor)::bigint, round(l.bytes * factor)::bigint,
           CASE WHEN factor > 1 THEN (SELECT f.position FROM pgpoll.feed f
                                      WHERE f.topic >= l.topic AND f.topic <= l.topic
                                      ORDER BY f.topic, f.position LIMIT 1)
                ELSE l.oldest END,
           CASE WHEN factor > 1 THEN (SELECT f.position FROM pgpoll.feed f
                                      WHERE f.topic >= l.topic AND f.topic <= l.topic
                                      ORDER BY f.topic DESC, f.position DESC LIMIT 1)
                ELSE l.newest END,
           factor > 1
    FROM largest l;
END $$;
COMMENT ON FUNCTION pgpoll.topic_sizes() IS
    'Internal. How many messages and bytes each topic has; if there are many messages, an estimate for the '
    'largest topics.';
