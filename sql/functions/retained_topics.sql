CREATE OR REPLACE FUNCTION pgpoll.retained_topics(most integer) RETURNS json
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET row_security = off
-- Each step of the recursion finds the next topic in the primary key of feed, so the cost does not grow with
-- the number of messages. Only this plan is good, whatever the statistics say.
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_sort = off
SET jit = off
AS $$
WITH RECURSIVE retained (topic, n) AS (
    (SELECT f.topic, 1 FROM pgpoll.feed f ORDER BY f.topic LIMIT 1)
    UNION ALL
    SELECT (SELECT f.topic FROM pgpoll.feed f WHERE f.topic > r.topic ORDER BY f.topic LIMIT 1), r.n + 1
    FROM retained r WHERE r.topic IS NOT NULL AND r.n < most)
SELECT coalesce(json_agg(r.topic ORDER BY r.n), '[]') FROM retained r WHERE r.topic IS NOT NULL
$$;
COMMENT ON FUNCTION pgpoll.retained_topics(integer) IS
    'Which topics have messages? An array of their names, the first ones in the order of their bytes.';
