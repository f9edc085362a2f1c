-- Gives committed messages that have none their positions in the order of delivery, and announces them: to
-- each topic's channel its highest position in this batch, then to the managers the batch's.
--
-- At most `most` messages, so that nobody waits long for the lock. If there are more, they are a backlog
-- (pgpoll.assign_backlog()), and more is true: call it again, in another transaction. It is also true when
-- newer messages may have come while a backlog was worked off.
--
-- assigned is how many got a position; ids[n] has the position after + n; nobody was given one between
-- previous and them.
--
-- Why readers miss nothing: positions are given in one snapshot after the other, under a lock that is held
-- until they are visible. So a snapshot that sees a position sees every lower one. An identity column cannot
-- do that: its values are given before the commit and become visible in another order. A batch goes on in the
-- snapshot of the one before until all that this shows have their positions.
--
-- Why the order is everybody's order: what was committed before another message was inserted has the lower
-- id, and is seen by any snapshot that sees the other.
--
-- How the new ones are found: each message bears its transaction's number, and a batch notes which
-- transactions its snapshot saw. What is new is of those it did not see. Rows are neither searched through
-- nor updated.
--
-- Positions grow through clock steps, crashes, failover to a lagging standby and restored backups, because
-- they are at least the clock and at least the last one plus one.
--
-- note: write down also that there was nothing. It must be done now and then: else rows that were rolled
-- back, or are of a transaction under way, would be gone through at every look until somebody else publishes.
--
-- What the calling transaction itself published is included if everything fits into the batch; else it comes
-- after the commit.
--
-- For assign_positions() and new_messages() only, which set what it needs: search_path, and that plans go by
-- the indexes. It runs in every delivery, so it has few and small queries: starting one costs more than
-- running it.
CREATE OR REPLACE FUNCTION pgpoll.assign_batch(note boolean, most integer, OUT assigned integer,
                                               OUT previous bigint, OUT after bigint, OUT ids bigint[], OUT bytes bigint,
                                               OUT more boolean)
LANGUAGE plpgsql
AS $$
DECLARE
    mine xid8 := pg_current_xact_id_if_assigned();
    last pgpoll.batches;
    seen pg_snapshot;
    upto xid8;               -- no transaction that seen shows has a greater number
    finished xid8[];         -- of those that were unfinished then
    drawn bigint;
    found bigint;            -- how many are new, up to one more than fit
    begun boolean := false;  -- a backlog, in this call
    looked boolean := false;
    topics text[];
    part record;
BEGIN
    assigned := 0;
    more := false;
    -- With a snapshot from before the lock it would go wrong. Somebody else will do it.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RETURN;
    END IF;
    LOCK TABLE pgpoll.messages IN ACCESS SHARE MODE; -- keeps TRUNCATE away, see tables.sql
    LOCK TABLE pgpoll.feed_lock IN SHARE UPDATE EXCLUSIVE MODE;
    SELECT * INTO last FROM pgpoll.batches b ORDER BY b.position DESC LIMIT 1;
    drawn := last.drawn_id;
    IF mine IS NULL THEN
        drawn := pg_sequence_last_value('pgpoll.messages_id_seq');
    END IF;
    IF last.server_start IS DISTINCT FROM pg_postmaster_start_time() THEN
        last := pgpoll.adopt_messages(last);
        begun := last.seen IS NOT NULL AND last.walked_to IS NULL;
        note := true;
    END IF;
    previous := last.position;

    LOOP
        seen := pg_current_snapshot();
        after := greatest(last.position, pg_sequence_last_value('pgpoll.last_position'),
                          ((extract(epoch FROM clock_timestamp()) * 1000)::bigint << 16) - 1);
        IF last.seen IS NULL THEN
            looked := true;
            -- What comes after seen is of the next batch, though the query below may see it.
            upto := greatest(pg_snapshot_xmax(seen), mine);
            finished := '{}';
            IF last.unfinished <> '{}' THEN
                finished := ARRAY(SELECT x FROM unnest(last.unfinished) AS x
                                  WHERE x < last.next_xid AND pg_visible_in_snapshot(x, seen));
            END IF;
            -- ORDER BY keeps the planner from other indexes, and LIMIT from taking more than fits.
            WITH new AS MATERIALIZED (
                SELECT m.* FROM (SELECT * FROM pgpoll.messages m
                                 WHERE m.xid >= last.next_xid AND m.xid <= upto
                                   AND (pg_visible_in_snapshot(m.xid, seen) OR m.xid = mine)
                                 ORDER BY m.xid, m.id LIMIT most + 1) m
                UNION ALL
                SELECT m.* FROM unnest(finished) AS x
                CROSS JOIN LATERAL (SELECT * FROM pgpoll.messages m WHERE m.xid >= x AND m.xid <= x
                                    ORDER BY m.xid, m.id LIMIT most + 1) m
                LIMIT most + 1
            ), fed AS (
                INSERT INTO pgpoll.feed AS f (topic, position, message_id, bytes)
                SELECT m.topic, after + row_number() OVER (ORDER BY m.id), m.id,
                       least(octet_length(m.payload::text)::bigint
                             + coalesce(octet_length(m.metadata::text), 0), 2147483647)
                FROM new m
                WHERE (SELECT count(*) FROM new) <= most
                  AND (last.foreign_id IS NULL OR m.id > last.foreign_id
                       OR (SELECT f.message_id FROM pgpoll.feed f WHERE f.message_id = m.id LIMIT 1) IS NULL)
                RETURNING f.topic, f.position, f.message_id, f.bytes
            )
            SELECT coalesce(array_agg(f.message_id), '{}'), array_agg(f.topic), sum(f.bytes),
                   (SELECT count(*) FROM new)
              INTO ids, topics, bytes, found
              FROM (SELECT * FROM fed ORDER BY position) f;
            assigned := cardinality(ids);
            IF assigned = 0 AND found <= most AND NOT note THEN
                RETURN;
            END IF;
            IF found <= most THEN
                last.position := after + greatest(assigned, 1);
                last.next_xid := pg_snapshot_xmax(seen);
                last.unfinished := CASE WHEN pg_snapshot_xmin(seen) = last.next_xid THEN '{}'
                                        ELSE ARRAY(SELECT pg_snapshot_xip(seen)) END;
                last.low_id := last.drawn_id;
                IF mine IS NOT NULL THEN
                    -- If this transaction goes on to publish, nothing of that was seen.
                    last.unfinished := last.unfinished || mine;
                    UPDATE pgpoll.messages m SET xid = NULL WHERE m.xid = mine;
                END IF;
                more := false;
                EXIT;
            END IF;
            last.seen := seen;
            begun := true;
        END IF;

        -- A backlog.
        IF last.walked_to IS NULL THEN
            last.position := after;
            IF mine < pg_snapshot_xmax(last.seen) THEN -- a snapshot takes its own transaction for finished
                last.seen := format('%s:%s:%s',
                                    least(pg_snapshot_xmin(last.seen), mine), pg_snapshot_xmax(last.seen),
                                    (SELECT string_agg(x.x::text, ',' ORDER BY x.x)
                                     FROM (SELECT pg_snapshot_xip(last.seen) UNION SELECT mine) AS x (x)));
            END IF;
        END IF;
        after := last.position;
        part := pgpoll.assign_backlog(most, last);
        last := part.latest;
        ids := part.ids;
        topics := part.topics;
        bytes := part.bytes;
        assigned := cardinality(ids);
        more := last.seen IS NOT NULL OR NOT begun OR mine IS NOT NULL AND assigned > 0;
        last.position := greatest(last.position, after + 1);
        note := true;
        EXIT WHEN assigned > 0 OR last.seen IS NOT NULL OR looked;
        begun := true; -- it had nothing left, so that this call can look for newer ones
    END LOOP;
    last.drawn_id := drawn;

    IF current_setting('synchronous_commit') = 'off' THEN
        -- Else a crash might forget positions that clients have seen, and keep the messages.
        SET LOCAL synchronous_commit = local;
    END IF;
    PERFORM setval('pgpoll.last_position',
                   greatest(last.position, last.reserved, pg_sequence_last_value('pgpoll.last_position')));
    INSERT INTO pgpoll.batches VALUES (last.*);
    PERFORM pg_notify(pgpoll.channel(t.topic), (after + max(t.n))::text)
       FROM unnest(topics) WITH ORDINALITY AS t (topic, n) GROUP BY t.topic;
    PERFORM pg_notify('pgpoll', last.position::text);
    IF random() < 0.001 THEN
        DELETE FROM pgpoll.batches b WHERE b.position < previous;
    END IF;
END $$;
