-- Gives every committed message that has none its position in the order of delivery, and announces it: to each topic's channel its
-- highest position in this batch, then to the managers the batch's.
--
-- assigned is how many there were; ids[n] has the position after + n; nobody was given one between previous and them.
--
-- Why readers miss nothing: positions are given in one snapshot after the other, under a lock that is held until they are visible. So
-- a snapshot that sees a position sees every lower one. An identity column cannot do that: its values are given
-- before the commit and become visible in another order.
--
-- Why the order is everybody's order: what was committed before another message was inserted has the lower id, and is seen by any
-- snapshot that sees the other.
--
-- How the new ones are found: each message bears its transaction's number, and a batch notes which transactions its snapshot saw. What
-- is new is of those it did not see. Rows are neither searched through nor updated.
--
-- Positions grow through clock steps, crashes, failover to a lagging standby and restored backups, because they are at
-- least the clock and at least the last one plus one.
--
-- note: write down also that there was nothing. It must be done now and then: else rows that were rolled back, or are of a transaction
-- under way, would be gone through at every look until somebody else publishes.
--
-- For assign_positions() and new_messages() only, which set what it needs: search_path, and that plans go by the indexes, whatever the
-- statistics say today. It runs in every delivery, so it has few and small queries: starting one costs more than running it.
CREATE OR REPLACE FUNCTION pgpoll.assign_batch(note boolean, OUT assigned integer, OUT previous bigint, OUT after bigint,
                                               OUT ids bigint[], OUT bytes bigint)
LANGUAGE plpgsql
AS $$
DECLARE
    mine xid8 := pg_current_xact_id_if_assigned();
    last pgpoll.batches;
    seen pg_snapshot;
    finished xid8[] := '{}'; -- of those that were unfinished then
    topics text[];
BEGIN
    assigned := 0;
    -- With a snapshot from before the lock it would go wrong. Somebody else will do it.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RETURN;
    END IF;
    LOCK TABLE pgpoll.messages IN ACCESS SHARE MODE; -- keeps TRUNCATE away, see tables.sql
    LOCK TABLE pgpoll.feed_lock IN SHARE UPDATE EXCLUSIVE MODE;
    SELECT * INTO last FROM pgpoll.batches b ORDER BY b.position DESC LIMIT 1;
    IF last.server_start IS DISTINCT FROM pg_postmaster_start_time() THEN
        last := pgpoll.adopt_messages(last);
        mine := pg_current_xact_id_if_assigned();
    END IF;

    -- What comes after seen is of the next batch, though the query below may see it.
    seen := pg_current_snapshot();
    IF last.unfinished <> '{}' THEN
        finished := ARRAY(SELECT x FROM unnest(last.unfinished) AS x WHERE pg_visible_in_snapshot(x, seen));
    END IF;
    previous := last.position;
    after := greatest(coalesce(pg_sequence_last_value('pgpoll.last_position'), 0),
                      ((extract(epoch FROM clock_timestamp()) * 1000)::bigint << 16) - 1);
    WITH fed AS (
        INSERT INTO pgpoll.feed AS f (topic, position, message_id, bytes)
        SELECT m.topic, after + row_number() OVER (ORDER BY m.id), m.id,
               least(octet_length(m.payload::text)::bigint + coalesce(octet_length(m.metadata::text), 0), 2147483647)
        FROM (SELECT * FROM pgpoll.messages WHERE xid >= last.next_xid AND (pg_visible_in_snapshot(xid, seen) OR xid = mine)
              UNION ALL
              SELECT * FROM pgpoll.messages WHERE xid = ANY (finished) AND xid < last.next_xid) m
        RETURNING f.topic, f.position, f.message_id, f.bytes
    )
    SELECT coalesce(array_agg(f.message_id), '{}'), array_agg(f.topic), sum(f.bytes)
      INTO ids, topics, bytes
      FROM (SELECT * FROM fed ORDER BY position) f;
    assigned := cardinality(ids);
    IF assigned = 0 AND NOT note THEN
        RETURN;
    END IF;
    IF current_setting('synchronous_commit') = 'off' THEN
        SET LOCAL synchronous_commit = local; -- else a crash might forget positions that clients have seen, and keep the messages
    END IF;

    last.position := setval('pgpoll.last_position', after + greatest(assigned, 1));
    last.next_xid := pg_snapshot_xmax(seen);
    last.unfinished := CASE WHEN pg_snapshot_xmin(seen) = last.next_xid THEN '{}' ELSE ARRAY(SELECT pg_snapshot_xip(seen)) END;
    IF mine IS NOT NULL THEN
        last.unfinished := last.unfinished || mine; -- if this transaction goes on to publish, nothing of that was seen
        UPDATE pgpoll.messages m SET xid = NULL WHERE m.xid = mine;
    END IF;
    INSERT INTO pgpoll.batches VALUES (last.*);
    PERFORM pg_notify(pgpoll.channel(t.topic), (after + max(t.n))::text)
       FROM unnest(topics) WITH ORDINALITY AS t (topic, n) GROUP BY t.topic;
    PERFORM pg_notify('pgpoll', last.position::text);
    IF random() < 0.001 THEN
        DELETE FROM pgpoll.batches b WHERE b.position < previous;
    END IF;
END $$;
