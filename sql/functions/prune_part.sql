-- Does one transaction of prune_topics(). It goes through the topics in byte order, starting after the topic
-- "after" (NULL: with the first), until it has deleted batch messages or worked for about 50 ms. deleted: how
-- many messages it deleted. reached: the topic to pass as "after" to the next call; NULL: no topic is left.
--
-- Without a pattern, the most specific rule of pgpoll.retention_rules decides about each topic, and keep and
-- keep_last about topics without a rule. With a pattern, keep and keep_last decide about its topics, whatever
-- the rules say. A message is deleted if it is older than keep and not among the last keep_last of its topic.
-- So it always deletes the oldest messages of a topic, as pruned_to requires: all positions up to pruned_to
-- are deleted.
CREATE OR REPLACE FUNCTION pgpoll.prune_part(pattern text, keep interval, keep_last integer, batch integer,
                                             after text, OUT deleted integer, OUT reached text)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET row_security = off
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_bitmapscan = off
SET jit = off
AS $$
DECLARE
    began timestamptz;
    -- All topics that match the pattern begin with this text.
    prefix constant text := coalesce(substring(pattern FROM E'^[^%_\\\\]*'), '');
    topic_keep interval;
    topic_last integer;
    noted boolean;
    oldest bigint;
    ending bigint; -- positions before this one may be deleted
    last bigint;
    highest bigint; -- the greatest position deleted
    ids bigint[];
    gone bigint[] := '{}';
BEGIN
    LOCK TABLE pgpoll.messages IN ROW EXCLUSIVE MODE; -- the lock order: see tables.sql
    LOCK TABLE pgpoll.retention IN SHARE ROW EXCLUSIVE MODE; -- one prune at a time
    noted := pgpoll.note_position(keep);
    began := clock_timestamp();
    deleted := 0;
    reached := after;
    LOOP
        SELECT f.topic, f.position INTO reached, oldest FROM pgpoll.feed f
        WHERE (f.topic, f.position) > (coalesce(reached, prefix),
                                       CASE WHEN reached IS NULL THEN -1 ELSE 9223372036854775807 END)
        ORDER BY f.topic, f.position LIMIT 1;
        IF NOT starts_with(reached, prefix) THEN
            reached := NULL;
        END IF;
        EXIT WHEN reached IS NULL;

        topic_keep := keep;
        topic_last := keep_last;
        IF pattern IS NULL THEN
            SELECT r.keep, r.keep_last INTO topic_keep, topic_last
            FROM (SELECT r.keep, r.keep_last, false AS is_rest, r.literals, r.topics
                  FROM pgpoll.retention_rules r
                  WHERE reached LIKE r.topics
                  UNION ALL
                  SELECT prune_part.keep, prune_part.keep_last, true, 0, '') r
            ORDER BY r.is_rest, r.literals DESC, length(r.topics), r.topics LIMIT 1;
        ELSIF reached NOT LIKE pattern THEN
            topic_keep := NULL;
        END IF;
        -- If topic_keep is NULL, the conditions below keep the topic, whatever ending is.
        ending := pgpoll.position_at(began - topic_keep, noted);
        IF oldest < ending AND topic_keep IS NOT NULL AND topic_last > 0 THEN
            -- The position of the first message to keep. No row: the topic has fewer than topic_last
            -- messages.
            ending := least(ending, coalesce((SELECT f.position FROM pgpoll.feed f
                                              WHERE f.topic >= reached AND f.topic <= reached
                                              ORDER BY f.topic DESC, f.position DESC
                                              OFFSET topic_last - 1 LIMIT 1), 0));
        END IF;
        IF oldest < ending AND topic_keep IS NOT NULL THEN
            SELECT array_agg(o.message_id), max(o.position) INTO ids, last
            FROM (SELECT f.message_id, f.position FROM pgpoll.feed f
                  WHERE (f.topic, f.position) >= (reached, oldest) AND f.topic <= reached
                    AND f.position < ending
                  ORDER BY f.topic, f.position LIMIT batch - deleted) o;
            DELETE FROM pgpoll.feed f WHERE f.topic = reached AND f.position <= last;
            INSERT INTO pgpoll.retention AS r (topic, pruned_to) VALUES (reached, last)
            ON CONFLICT (topic) DO UPDATE SET pruned_to = greatest(r.pruned_to, excluded.pruned_to);
            gone := gone || ids;
            highest := greatest(highest, last);
            deleted := cardinality(gone);
            IF deleted >= batch THEN
                -- This topic may have more to delete. The next call begins with it, because it starts after
                -- the topic before.
                reached := coalesce((SELECT f.topic FROM pgpoll.feed f WHERE f.topic < reached
                                     ORDER BY f.topic DESC LIMIT 1), '');
                EXIT;
            END IF;
        END IF;
        EXIT WHEN clock_timestamp() > began + interval '50 ms';
    END LOOP;
    DELETE FROM pgpoll.messages m WHERE m.id = ANY (gone);
    PERFORM pgpoll.note_deletion(highest);
END $$;
COMMENT ON FUNCTION pgpoll.prune_part(text, interval, integer, integer, text) IS
    'Internal. One transaction of pgpoll.prune_topics().';
