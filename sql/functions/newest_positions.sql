-- For a manager, about topics that its workers ask for; one row per topic, in their order. newest: the
-- topic's last position. now: where a poll "from now" starts: at newest or, while a backlog is numbered,
-- after that backlog. hash: what stands for the topic in the announcement of a batch (assign_batch()).
CREATE OR REPLACE FUNCTION pgpoll.newest_positions(topics text[])
RETURNS TABLE (newest bigint, now bigint, hash bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET row_security = off
-- Only one plan is good, as in catch_up(): the primary key of feed.
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    reserved bigint;
BEGIN
    PERFORM FROM pgpoll.messages LIMIT 0; -- locks it first: see tables.sql
    reserved := (SELECT b.reserved FROM pgpoll.batches b ORDER BY b.position DESC LIMIT 1);
    RETURN QUERY
    SELECT t.newest, greatest(t.newest, reserved),
           hashtext(t.topic)::bigint & 4294967295
    FROM (SELECT r.no, r.topic,
                 greatest(p.pruned_to,
                          (SELECT f.position FROM pgpoll.feed f
                           WHERE (f.topic, f.position) > (r.topic, coalesce(p.pruned_to, 0))
                             AND f.topic <= r.topic
                           ORDER BY f.topic DESC, f.position DESC LIMIT 1),
                          0) AS newest
          FROM unnest(topics) WITH ORDINALITY AS r (topic, no)
          LEFT JOIN pgpoll.retention p ON p.topic = r.topic) t
    ORDER BY t.no;
END $$;
COMMENT ON FUNCTION pgpoll.newest_positions(text[]) IS
    'Returns the last position of each topic, where "from now" is, and the hash that stands for the topic '
    'in announcements.';
