-- Returns one page of messages after the given positions, of all topics, merged in the order of delivery and
-- read in one snapshot.
--
-- positions[n] is the position for topics[n]. NULL means from now. -n means the last n messages of the topic
-- and what follows: reading starts after the message before these n or, if the topic has no more than n, at
-- its beginning, which is no gap. max_messages and max_bytes (of payload and metadata, as text) bound the
-- page. If the first message alone is larger than max_bytes, it is returned all the same.
--
-- There are three kinds of rows, which created_at and payload tell apart:
--   topic    (created_at is NULL) one per topic, in the order of topics. position: where reading starts. gap:
--            NULL, 'expired' (messages after the requested position were pruned) or 'ahead' (no position as
--            high as the requested one was ever given). oldest: the first position that is still there,
--            looked up only where a caller may need it.
--   message  in the order of position
--   more     (created_at is set, payload is NULL) at most one, the last row: there is at least one more
--            message
--
-- With a synchronous standby, 'ahead' is returned only if that standby still confirms commits: an old
-- primary that was cut off from its standby, which was promoted, waits until the caller gives up. Otherwise
-- its clients would take the cursors of the old primary, and then get again from the new one what they have.
--
-- While a backlog gets its positions (assign_backlog()), "from now" means after all of it, because its
-- messages were committed before the request. Messages that were committed after the backlog began but before
-- the request are delivered as well.
CREATE OR REPLACE FUNCTION pgpoll.catch_up(topics text[], positions bigint[], max_messages integer,
                                           max_bytes bigint)
RETURNS TABLE (topic_no integer, "position" bigint, created_at timestamptz, payload json, metadata json,
               gap text, oldest bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET row_security = off
-- Only one plan is good, whatever the statistics say: the primary key of feed, then the primary key of
-- messages. Topics are compared with <= instead of =, because then only the primary key of feed has the order
-- of ORDER BY.
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    checked boolean := false; -- whether all candidates that were chosen are in messages
    nos bigint[];     -- these four arrays have each candidate's topic number, position, id and bytes
    places bigint[];
    ids bigint[];
    sizes integer[];
    total bigint;     -- the sum of sizes
    fits integer := max_messages; -- how many of the candidates are the page's messages
BEGIN
    PERFORM FROM pgpoll.messages LIMIT 0; -- locks messages first: see tables.sql
    IF 0 > ANY (positions) THEN
        positions := ARRAY(
            SELECT CASE WHEN r.requested < 0
                        THEN coalesce((SELECT f.position FROM pgpoll.feed f
                                       WHERE (f.topic, f.position) > (r.topic, coalesce(p.pruned_to, 0))
                                         AND f.topic <= r.topic
                                         AND (SELECT m.id FROM pgpoll.messages m
                                              WHERE m.id = f.message_id LIMIT 1) IS NOT NULL
                                       ORDER BY f.topic DESC, f.position DESC OFFSET -r.requested LIMIT 1),
                                      p.pruned_to, 0)
                        ELSE r.requested END
            FROM unnest(topics, positions) WITH ORDINALITY AS r (topic, requested, no)
            LEFT JOIN pgpoll.retention p ON p.topic = r.topic
            ORDER BY r.no);
    END IF;
    IF (SELECT s.last_value FROM pgpoll.last_position s) < ANY (positions)
       AND current_setting('synchronous_standby_names') <> '' AND NOT pg_is_in_recovery() THEN
        PERFORM pg_logical_emit_message(true, 'pgpoll', ''); -- gives the transaction something to commit
    END IF;
    RETURN QUERY
    SELECT t.no::integer,
           CASE WHEN t.requested IS NULL OR t.requested > t.last_position THEN greatest(t.newest, t.reserved)
                ELSE greatest(t.requested, t.pruned_to) END,
           NULL::timestamptz, NULL::json, NULL::json,
           CASE WHEN t.requested > t.last_position THEN 'ahead'
                WHEN t.requested < t.pruned_to THEN 'expired' END,
           CASE WHEN t.requested > t.last_position OR t.requested < t.pruned_to OR t.requested = 0 THEN
               (SELECT f.position FROM pgpoll.feed f
                WHERE (f.topic, f.position) > (t.topic, t.pruned_to) AND f.topic <= t.topic
                ORDER BY f.topic, f.position LIMIT 1) END
    FROM (SELECT r.no, r.topic, r.requested, s.last_value AS last_position,
                 coalesce(p.pruned_to, 0) AS pruned_to,
                 greatest(p.pruned_to,
                          (SELECT f.position FROM pgpoll.feed f
                           WHERE (f.topic, f.position) > (r.topic, coalesce(p.pruned_to, 0))
                             AND f.topic <= r.topic
                           ORDER BY f.topic DESC, f.position DESC LIMIT 1),
                          0) AS newest,
                 b.reserved
          FROM unnest(topics, positions) WITH ORDINALITY AS r (topic, requested, no)
          CROSS JOIN pgpoll.last_position s
          LEFT JOIN (SELECT b.reserved FROM pgpoll.batches b ORDER BY b.position DESC LIMIT 1) b ON true
          LEFT JOIN pgpoll.retention p ON p.topic = r.topic) t
    ORDER BY t.no;

    -- Find the page's messages and the one after them in feed. An operator may have deleted some of them from
    -- messages, which is rare. So of several topics, each of which has as many candidates as a page takes, at
    -- first only the index is read, then the rows of those that are chosen for the page, and only these are
    -- looked up in messages.
    IF cardinality(topics) > 1 THEN
        SELECT array_agg(c.no), array_agg(c.position), array_agg(f.message_id), array_agg(f.bytes),
               sum(f.bytes)
          INTO nos, places, ids, sizes, total
          FROM (SELECT r.no, r.topic, f.position
                FROM unnest(topics, positions) WITH ORDINALITY AS r (topic, requested, no)
                -- Start after pruned_to: before it there are dead rows, which an old snapshot keeps.
                LEFT JOIN pgpoll.retention p ON p.topic = r.topic
                CROSS JOIN LATERAL
                    (SELECT f.position FROM pgpoll.feed f
                     WHERE (f.topic, f.position) > (r.topic, greatest(r.requested, p.pruned_to))
                       AND f.topic <= r.topic AND r.requested IS NOT NULL
                     ORDER BY f.topic, f.position LIMIT max_messages + 1) f
                ORDER BY f.position LIMIT max_messages + 1) c
          -- OFFSET 0 keeps the planner to one look-up per message, which keeps the order.
          CROSS JOIN LATERAL (SELECT f.message_id, f.bytes FROM pgpoll.feed f
                              WHERE f.topic = c.topic AND f.position = c.position OFFSET 0) f;
        checked := ids IS NULL OR NOT EXISTS (SELECT FROM unnest(ids) AS i (id)
                                              WHERE (SELECT m.id FROM pgpoll.messages m
                                                     WHERE m.id = i.id LIMIT 1) IS NULL);
    END IF;
    IF NOT checked THEN
        SELECT array_agg(f.no), array_agg(f.position), array_agg(f.message_id), array_agg(f.bytes),
               sum(f.bytes)
          INTO nos, places, ids, sizes, total
          FROM (SELECT r.no, f.position, f.message_id, f.bytes
                FROM unnest(topics, positions) WITH ORDINALITY AS r (topic, requested, no)
                LEFT JOIN pgpoll.retention p ON p.topic = r.topic
                CROSS JOIN LATERAL
                    (SELECT f.position, f.message_id, f.bytes
                     FROM pgpoll.feed f
                     WHERE (f.topic, f.position) > (r.topic, greatest(r.requested, p.pruned_to))
                       AND f.topic <= r.topic AND r.requested IS NOT NULL
                       -- A subquery instead of a join keeps the planner to one look-up per message.
                       AND (SELECT m.id FROM pgpoll.messages m
                            WHERE m.id = f.message_id LIMIT 1) IS NOT NULL
                     ORDER BY f.topic, f.position LIMIT max_messages + 1) f
                ORDER BY f.position LIMIT max_messages + 1) f;
    END IF;
    IF ids IS NULL THEN
        RETURN;
    END IF;

    -- A sum for each message would cost a fifth of a page, and most pages have room for all.
    IF total > max_bytes THEN
        SELECT greatest(count(*), 1) INTO fits
        FROM (SELECT sum(s.bytes) OVER (ROWS UNBOUNDED PRECEDING) AS total
              FROM unnest(sizes) AS s (bytes)) s
        WHERE s.total <= max_bytes;
    END IF;
    RETURN QUERY
    SELECT c.no::integer, c.position, m.created_at::timestamptz,
           CASE WHEN c.n <= fits THEN m.payload END, CASE WHEN c.n <= fits THEN m.metadata END,
           NULL, NULL::bigint
    FROM unnest(nos, places, ids) WITH ORDINALITY AS c (no, position, message_id, n)
    CROSS JOIN LATERAL (SELECT * FROM pgpoll.messages m WHERE m.id = c.message_id OFFSET 0) m
    WHERE c.n <= fits + 1
    ORDER BY c.n;
END $$;
COMMENT ON FUNCTION pgpoll.catch_up(text[], bigint[], integer, bigint) IS
    'Returns one page of the messages after a position of each topic, merged in the order of delivery, '
    'and says where messages are missing.';
