-- A backlog is what the snapshot latest.seen shows and earlier snapshots did not, when that is more than one
-- batch takes (ARCHITECTURE.md, "Backlogs"). This function gives positions to the next messages of the
-- backlog: at most `most`, and as many as it can within about 50 ms, but at least one piece. The next batch,
-- in any session, continues at latest.walked_to, in the order of ids. assign_batch() calls it under
-- feed_lock, announces the messages and stores latest.
--
-- Where the walk starts. A transaction that got its number after a sequence value was read has greater ids
-- than that value. There are two exceptions: an id that was drawn just before its transaction got its number,
-- and an id that was not drawn from the sequence (replication, OVERRIDING SYSTEM VALUE, setval()). The index
-- on (xid, id) finds these exceptions without reading other rows. They get their positions first, since their
-- ids are lower. If there are too many of them for one batch, the walk starts at the lowest one.
--
-- Rows that were restored, or copied with the cluster, have transaction numbers of another cluster. Rows up
-- to latest.foreign_id are therefore also looked up in feed, so that none gets a second position. Such a row
-- may have the same number as a transaction of this cluster that latest.seen does not show. Then the row
-- waits for the next batch, unless its xmin proves that it existed before.
CREATE OR REPLACE FUNCTION pgpoll.assign_backlog(most integer, INOUT latest pgpoll.batches, OUT ids bigint[],
                                                 OUT topics text[], OUT bytes bigint)
LANGUAGE plpgsql
AS $$
DECLARE
    -- Other sessions wait for feed_lock, so the clock is checked after each piece. A row costs 5 to 20 us.
    piece constant integer := 1000;
    -- Limits a piece by the size of its messages as stored. A piece has at least one message.
    piece_bytes constant integer := 2097152;
    until constant timestamptz := clock_timestamp() + interval '50 ms';
    unseen xid8[] := ARRAY(SELECT pg_snapshot_xip(latest.seen));
    from_xid constant xid8 := latest.next_xid;
    seen_end constant xid8 := pg_snapshot_xmax(latest.seen);
    seen_end_32 constant bigint := seen_end::text::bigint & 4294967295;
    chosen bigint[] := '{}';
    strays bigint[] := '{}';
    old_xids xid8[];
    low bigint := coalesce(latest.low_id, 0);
    lowest bigint;
    part integer;
    visited bigint;
    reached bigint;
    fed record;
BEGIN
    ids := '{}';
    topics := '{}';
    bytes := 0;
    IF latest.walked_to IS NULL THEN
        SELECT coalesce((SELECT m.id FROM pgpoll.messages m ORDER BY m.id LIMIT 1), 1),
               coalesce((SELECT m.id FROM pgpoll.messages m ORDER BY m.id DESC LIMIT 1), 0)
          INTO lowest, latest.walk_end;
        IF latest.adopting THEN
            latest.walked_to := lowest - 1;
        ELSE
            old_xids := ARRAY(SELECT x FROM unnest(latest.unfinished) AS x
                              WHERE x < from_xid AND pg_visible_in_snapshot(x, latest.seen));
            -- Here and below, a range instead of xid = x, and ORDER BY, keep the planner from using the
            -- primary key.
            chosen := ARRAY(SELECT m.id
                            FROM unnest(old_xids) AS x
                            CROSS JOIN LATERAL
                                (SELECT m.id FROM pgpoll.messages m
                                 WHERE m.xid >= x AND m.xid <= x AND m.id <= low
                                 ORDER BY m.xid, m.id LIMIT most + 1) m
                            LIMIT most + 1);
            strays := ARRAY(SELECT m.id
                            FROM pgpoll.messages m
                            WHERE m.xid >= from_xid AND m.xid <= seen_end AND m.id <= low
                              AND pg_visible_in_snapshot(m.xid, latest.seen)
                              AND (latest.foreign_id IS NULL OR m.id > latest.foreign_id
                                   OR (SELECT f.message_id FROM pgpoll.feed f
                                       WHERE f.message_id = m.id LIMIT 1) IS NULL)
                            ORDER BY m.xid, m.id LIMIT most + 1);
            IF cardinality(chosen) + cardinality(strays) <= most THEN
                chosen := ARRAY(SELECT c.id FROM unnest(chosen || strays) AS c (id) ORDER BY c.id);
                latest.walked_to := low;
            ELSIF cardinality(strays) > most THEN
                chosen := '{}';
                latest.walked_to := lowest - 1;
            ELSE
                chosen := '{}';
                latest.walked_to := least((SELECT min(m.id)
                                           FROM unnest(old_xids) AS x
                                           CROSS JOIN LATERAL
                                               (SELECT m.id FROM pgpoll.messages m
                                                WHERE m.xid >= x AND m.xid <= x
                                                ORDER BY m.xid, m.id LIMIT 1) m),
                                          (SELECT min(s.id) FROM unnest(strays) AS s (id))) - 1;
            END IF;
            latest.low_id := latest.drawn_id;
        END IF;
        -- Reserve positions for the whole backlog, because a poll "from now" must start after them. One
        -- position per id is enough.
        latest.reserved := latest.position + cardinality(chosen) + piece
                           + least(greatest(latest.walk_end - latest.walked_to, 0), 1 << 30);
    END IF;

    LOOP
        IF chosen <> '{}' THEN
            WITH fed AS (
                INSERT INTO pgpoll.feed AS f (topic, position, message_id, bytes)
                SELECT m.topic, latest.position + row_number() OVER (ORDER BY c.n), c.id, m.bytes
                FROM unnest(chosen) WITH ORDINALITY AS c (id, n)
                CROSS JOIN LATERAL
                    (SELECT m.topic, pgpoll.message_bytes(m.payload, m.metadata) AS bytes
                     FROM pgpoll.messages m
                     WHERE m.id = c.id AND (latest.foreign_id IS NULL OR m.id > latest.foreign_id
                                            OR (SELECT g.message_id FROM pgpoll.feed g
                                                WHERE g.message_id = m.id LIMIT 1) IS NULL)
                     OFFSET 0) m -- OFFSET 0 keeps the planner to one look-up per message
                RETURNING f.topic, f.position, f.message_id, f.bytes
            )
            SELECT coalesce(array_agg(f.message_id), '{}') AS ids,
                   coalesce(array_agg(f.topic), '{}') AS topics,
                   coalesce(sum(f.bytes), 0) AS bytes
              INTO fed
              FROM (SELECT * FROM fed ORDER BY position) f;
            ids := ids || fed.ids;
            topics := topics || fed.topics;
            bytes := bytes + fed.bytes;
            latest.position := latest.position + cardinality(fed.ids);
            chosen := '{}';
        END IF;
        EXIT WHEN latest.walked_to >= latest.walk_end OR cardinality(ids) >= most
             OR part IS NOT NULL AND clock_timestamp() >= until;

        part := least(piece, most - cardinality(ids));
        part := greatest(1, (SELECT count(*)
                             FROM (SELECT sum(pg_column_size(m.payload)
                                              + coalesce(pg_column_size(m.metadata), 0))
                                          OVER (ORDER BY m.id) AS size
                                   FROM (SELECT * FROM pgpoll.messages m
                                         WHERE m.id > latest.walked_to AND m.id <= latest.walk_end
                                         ORDER BY m.id LIMIT part) m) s
                             WHERE s.size <= piece_bytes));
        SELECT coalesce(array_agg(w.id ORDER BY w.id) FILTER (WHERE w.belongs), '{}'), count(*), max(w.id)
          INTO chosen, visited, reached
          FROM (SELECT m.id,
                       CASE WHEN latest.adopting THEN
                           m.xid IS NOT NULL
                           AND m.xid <> ALL (unseen)
                           -- Every row that this query shows is of a transaction below its snapshot's xmax.
                           AND NOT (m.xid >= seen_end
                                    AND m.xid < (SELECT pg_snapshot_xmax(pg_current_snapshot()))
                                    AND (m.xmin::text::bigint - seen_end_32) & 4294967295 < 2147483648)
                           AND (SELECT f.message_id FROM pgpoll.feed f
                                WHERE f.message_id = m.id LIMIT 1) IS NULL
                       ELSE
                           (m.xid >= from_xid OR m.xid = ANY (latest.unfinished))
                           AND pg_visible_in_snapshot(m.xid, latest.seen)
                       END AS belongs
                FROM pgpoll.messages m
                WHERE m.id > latest.walked_to AND m.id <= latest.walk_end
                ORDER BY m.id LIMIT part) w;
        latest.walked_to := CASE WHEN visited < part THEN latest.walk_end ELSE reached END;
    END LOOP;

    IF latest.walked_to >= latest.walk_end THEN
        latest.next_xid := seen_end;
        latest.unfinished := unseen;
        latest.position := greatest(latest.position, latest.reserved);
        IF latest.adopting THEN
            latest.foreign_id := greatest(latest.foreign_id, latest.walk_end);
        END IF;
        latest.seen := NULL;
        latest.walked_to := NULL;
        latest.walk_end := NULL;
        latest.reserved := NULL;
        latest.adopting := NULL;
    END IF;
END $$;
COMMENT ON FUNCTION pgpoll.assign_backlog(integer, pgpoll.batches) IS
    'Internal. Gives positions to the next messages of a backlog: more messages than one batch takes.';
