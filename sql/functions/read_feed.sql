-- For a manager: returns one page of what has positions after `after`, of all topics, in the order of
-- delivery. A snapshot that shows a position shows every lower one, so nothing is missing up to complete_to.
--
--   after        NULL: nothing to read, only complete_to is asked for
--   wanted       the topics whose messages are returned whole; NULL: all. Of other topics a row has the topic
--                and the position only, and their messages are not read.
--   whole_after  messages after this position are whole, whatever their topic
-- The page has at most max_messages rows, and max_bytes of payload and metadata, as text. A message that
-- alone is larger has its created_at, but neither payload nor metadata: other messages must not wait for it.
--
-- The first row has no position. The last three columns are the same in all rows. complete_to: the page has
-- everything after `after` up to this position; lower than `after`: the database was restored to an earlier
-- state. more: there are later positions, so read on from complete_to. deleted_to: if prune() or TRUNCATE may
-- have deleted messages after `after` before this read, the last position that they deleted; else 0.
CREATE OR REPLACE FUNCTION pgpoll.read_feed(max_messages integer, max_bytes bigint, after bigint,
                                            wanted text[], whole_after bigint DEFAULT NULL)
RETURNS TABLE (topic text, "position" bigint, created_at timestamptz, payload json, metadata json,
               complete_to bigint, more boolean, deleted_to bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET row_security = off
-- Only one plan is good: the index on position, then the primary key of messages.
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    last bigint;
    deleted bigint;
    taken integer := 0;
    one record;
    page record;
BEGIN
    PERFORM FROM pgpoll.messages LIMIT 0; -- lock messages before other tables: see tables.sql
    -- prune() and TRUNCATE set last_deleted before what they delete disappears. It is read after messages was
    -- locked. If the lock had to wait for a TRUNCATE, the snapshot of this statement is older, and still
    -- shows positions whose messages are gone.
    deleted := pg_sequence_last_value('pgpoll.last_deleted');
    last := coalesce((SELECT b.position FROM pgpoll.batches b ORDER BY b.position DESC LIMIT 1), 0);

    -- The short way for one message, the usual case: to start the queries below costs more than to run them.
    FOR one IN
        SELECT f.topic, f.position, f.message_id, f.bytes FROM pgpoll.feed f
        WHERE f.position > after AND f.position <= last
        ORDER BY f.position LIMIT 2
    LOOP
        taken := taken + 1;
    END LOOP;
    IF taken = 1 THEN
        complete_to := last;
        more := false;
        deleted_to := CASE WHEN deleted > after THEN deleted ELSE 0 END;
        RETURN NEXT;
        topic := one.topic;
        "position" := one.position;
        IF wanted IS NULL OR topic = ANY (wanted) OR "position" > whole_after THEN
            SELECT m.created_at, CASE WHEN one.bytes <= max_bytes THEN m.payload END,
                   CASE WHEN one.bytes <= max_bytes THEN m.metadata END
              INTO created_at, payload, metadata
              FROM pgpoll.messages m WHERE m.id = one.message_id;
        END IF;
        IF NOT FOUND THEN
            RETURN; -- an operator has deleted the message
        END IF;
        RETURN NEXT;
        RETURN;
    END IF;

    SELECT array_agg(p.topic ORDER BY p.position) FILTER (WHERE p.fits) AS topics,
           array_agg(p.position ORDER BY p.position) FILTER (WHERE p.fits) AS positions,
           array_agg(p.message_id ORDER BY p.position) FILTER (WHERE p.fits) AS ids,
           array_agg(p.large ORDER BY p.position) FILTER (WHERE p.fits) AS large,
           max(p.position) FILTER (WHERE p.fits) AS reached,
           coalesce(bool_or(NOT p.fits), false) AS more
      INTO page
      FROM (SELECT s.topic, s.position, s.message_id, s.large,
                   s.n <= max_messages AND s.total <= max_bytes AS fits
            FROM (SELECT f.topic, f.position, f.message_id, f.large, row_number() OVER page AS n,
                         sum(CASE WHEN f.message_id IS NULL OR f.large THEN 0 ELSE f.bytes END)
                             OVER page AS total
                  FROM (SELECT f.topic, f.position, f.bytes, f.bytes > max_bytes AS large, w.message_id
                        FROM pgpoll.feed f
                        CROSS JOIN LATERAL
                            (SELECT CASE WHEN wanted IS NULL OR f.topic = ANY (wanted)
                                              OR f.position > whole_after
                                         THEN f.message_id END) w (message_id)
                        WHERE f.position > after AND f.position <= last
                        ORDER BY f.position LIMIT max_messages + 1) f
                  WINDOW page AS (ORDER BY f.position ROWS UNBOUNDED PRECEDING)) s) p;
    RETURN QUERY
    SELECT r.topic, r.position, m.created_at, m.payload, m.metadata,
           CASE WHEN page.more THEN page.reached ELSE last END, page.more,
           CASE WHEN deleted > after THEN deleted ELSE 0 END
    FROM unnest(array_prepend(NULL, page.topics), array_prepend(NULL, page.positions),
                array_prepend(NULL, page.ids), array_prepend(NULL, page.large))
         WITH ORDINALITY AS r (topic, position, id, large, n)
    LEFT JOIN LATERAL (SELECT m.id, m.created_at::timestamptz,
                              CASE WHEN NOT r.large THEN m.payload END AS payload,
                              CASE WHEN NOT r.large THEN m.metadata END AS metadata
                       FROM pgpoll.messages m WHERE m.id = r.id OFFSET 0) m ON true -- one look-up per message
    WHERE r.id IS NULL OR m.id IS NOT NULL -- an operator may have deleted it
    ORDER BY r.n;
END $$;
COMMENT ON FUNCTION pgpoll.read_feed(integer, bigint, bigint, text[], bigint) IS
    'Returns one page of the messages of all topics after a position, in the order of delivery.';
