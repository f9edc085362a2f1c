-- Gives positions to committed messages that have none, in the order of delivery, and announces them. If
-- there are workers without a manager (listen()), it sends each topic's channel the topic's highest position
-- in this batch. Then it sends channel pgpoll, for managers, the last position, a space, and the 8 hex digits
-- of each topic's hash (newest_positions()), perhaps several times, or * if they do not fit into a payload.
-- ARCHITECTURE.md, "Positions", explains the design; the reasons in short:
--
-- Why readers miss nothing: batches take their snapshots one after the other, under a lock that each holds
-- until its positions are visible. So a snapshot that shows a position shows every lower one. An identity
-- column cannot guarantee that: its values are drawn before the commit and become visible in another order.
-- If there is a backlog, the next batches go on with the snapshot of the backlog, until all messages that it
-- shows have a position.
--
-- Why all clients see the same order: a message that was committed before another was inserted has the lower
-- id, and every snapshot that shows the second shows the first.
--
-- How new messages are found: each carries the number of its transaction, and each batch stores which
-- transactions its snapshot showed. Messages of other transactions are new. The index on (xid, id) finds
-- these messages, so no other rows are read, and no row is updated to mark it.
--
-- Why positions only grow, through clock steps, crashes, failover to a lagging standby and restored backups:
-- each position is at least the time of the clock and at least the last position plus one.
--
-- Parameters:
--   most      the most messages to take, so that nobody waits long for the lock. If there are more, they
--             become a backlog: see assign_backlog().
--   note      store a batch even if it is empty, unless no transaction has got a number since the last one.
--             This is needed now and then: otherwise every call would read the rows of transactions that were
--             rolled back or are under way, until somebody publishes. If there are so many of these rows that
--             the search takes more than 10 ms, a batch is stored in any case.
-- Results:
--   assigned  how many messages got a position; ids[n], of topics[n], has position after + n
--   single    the message itself, if the batch has only one, it has at most 64 KiB, and the short way (below)
--             has found it
--   previous  the last position before the batch: none was given between previous and those of this batch
--   more      true: call again, in another transaction, because there is a backlog, or because newer messages
--             may have come while a backlog was worked off
--
-- If the calling transaction has published messages itself, the batch includes them if everything fits into
-- it. Otherwise they get their positions after the commit.
--
-- Only assign_positions() and new_messages() call this function. Their SET clauses pin search_path and make
-- plans use the indexes. The function runs for every delivery, so it has few and small queries, because
-- starting a query costs more than running it, and this cost grows with the number of nodes in the plan.
-- Therefore a batch of one message, the usual case, goes a short way with simpler queries. Expressions that
-- need no query (:=) cost a tenth of PERFORM.
CREATE OR REPLACE FUNCTION pgpoll.assign_batch(note boolean, most integer, OUT assigned integer,
                                               OUT previous bigint, OUT after bigint, OUT ids bigint[],
                                               OUT topics text[], OUT bytes bigint, OUT more boolean,
                                               OUT single pgpoll.messages)
LANGUAGE plpgsql
AS $$
DECLARE
    mine xid8 := pg_current_xact_id_if_assigned();
    seen pg_snapshot;
    given bigint;            -- the last position given
    now_ms bigint;
    last pgpoll.batches;
    upto xid8;               -- seen shows no transaction with a greater number
    finished xid8[];         -- transactions that the last batch found unfinished
    drawn bigint;
    found bigint;            -- how many messages are new; most + 1: more messages or bytes than fit
    begun boolean := false;  -- whether this call began a backlog
    looked timestamptz;      -- when this call looked for new messages
    sizes integer[];         -- of the messages in ids, in bytes
    hashes text;             -- of the topics, in the announcement
    message pgpoll.messages;
    part record;
    sent boolean;
BEGIN
    assigned := 0;
    more := false;
    -- The snapshot must be taken after the lock. At other isolation levels it is older, so this session gives
    -- no positions; another one will.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RETURN;
    END IF;
    LOCK TABLE pgpoll.messages IN ACCESS SHARE MODE; -- keeps TRUNCATE away: see tables.sql
    LOCK TABLE pgpoll.feed_lock IN SHARE UPDATE EXCLUSIVE MODE;
    seen := pg_current_snapshot();
    given := pg_sequence_last_value('pgpoll.last_position');
    -- The bound (>= given) keeps the scan from reading a whole page of the index. It excludes the last row
    -- only if positions were reserved or lost; the second query then finds that row.
    SELECT * INTO last FROM pgpoll.batches b WHERE b.position >= given ORDER BY b.position DESC LIMIT 1;
    IF last.position IS NULL THEN
        SELECT * INTO last FROM pgpoll.batches b ORDER BY b.position DESC LIMIT 1;
    END IF;
    drawn := last.drawn_id;
    IF mine IS NULL THEN
        drawn := pg_sequence_last_value('pgpoll.messages_id_seq');
    END IF;
    IF last.server_start IS DISTINCT FROM pg_postmaster_start_time() THEN
        last := pgpoll.adopt_messages(seen, last);
        begun := last.seen IS NOT NULL AND last.walked_to IS NULL;
        note := true;
    ELSIF note THEN
        -- The transaction of the last batch usually has the number next_xid. If no other transaction has got
        -- a number since, there is nothing to note.
        note := last.next_xid::text::bigint + 1 < pg_snapshot_xmax(seen)::text::bigint
                OR EXISTS (SELECT FROM unnest(last.unfinished) AS x WHERE pg_visible_in_snapshot(x, seen));
    END IF;
    previous := last.position;

    LOOP
        now_ms := extract(epoch FROM clock_timestamp()) * 1000;
        after := greatest(last.position, given, (now_ms << 16) - 1);
        IF last.seen IS NULL THEN
            looked := clock_timestamp();
            -- The queries below have later snapshots than seen. What they see and seen does not show is left
            -- to the next batch.
            upto := greatest(pg_snapshot_xmax(seen), mine);
            finished := '{}';
            IF last.unfinished <> '{}' THEN
                finished := ARRAY(SELECT x FROM unnest(last.unfinished) AS x
                                  WHERE x < last.next_xid AND pg_visible_in_snapshot(x, seen));
            END IF;
            -- The short way. ORDER BY keeps the planner from using other indexes.
            found := 0;
            IF finished = '{}' AND mine IS NULL THEN
                FOR message IN
                    SELECT * FROM pgpoll.messages m
                    WHERE m.xid >= last.next_xid AND m.xid <= upto AND pg_visible_in_snapshot(m.xid, seen)
                    ORDER BY m.xid, m.id LIMIT 2
                LOOP
                    found := found + 1;
                    single := message;
                END LOOP;
            END IF;
            IF found = 1 AND (last.foreign_id IS NULL OR single.id > last.foreign_id) THEN
                assigned := 1;
                ids := ARRAY[single.id];
                topics := ARRAY[single.topic];
                hashes := encode(int4send(hashtext(single.topic)), 'hex');
                bytes := pgpoll.message_bytes(single.payload, single.metadata);
                INSERT INTO pgpoll.feed (topic, position, message_id, bytes)
                VALUES (single.topic, after + 1, single.id, bytes);
                IF bytes > 65536 THEN
                    single := NULL; -- returning it would copy it
                END IF;
            ELSIF found > 0 OR finished <> '{}' OR mine IS NOT NULL THEN
                single := NULL;
                -- LIMIT keeps the batch bounded. pg_column_size() does not read the payload, octet_length()
                -- does: here only payloads that are at most 4 MB together, as stored.
                SELECT CASE WHEN count(*) > 1 AND sum(n.size) > 4194304 THEN most + 1 ELSE count(*) END,
                       coalesce(array_agg(n.id), '{}'), array_agg(n.topic), array_agg(n.bytes), sum(n.bytes),
                       string_agg(encode(int4send(hashtext(n.topic)), 'hex'), '')
                  INTO found, ids, topics, sizes, bytes, hashes
                  FROM (SELECT m.id, m.topic::text AS topic, m.size,
                               CASE WHEN m.size <= 4194304 / (most + 1) THEN
                                   octet_length(m.payload::text) + coalesce(octet_length(m.metadata::text), 0)
                               END AS bytes
                        FROM (SELECT u.id, u.topic, u.payload, u.metadata,
                                     pg_column_size(u.payload)
                                     + coalesce(pg_column_size(u.metadata), 0) AS size
                              FROM ((SELECT m.id, m.topic, m.payload, m.metadata FROM pgpoll.messages m
                                     WHERE m.xid >= last.next_xid AND m.xid <= upto
                                       AND (pg_visible_in_snapshot(m.xid, seen) OR m.xid = mine)
                                     ORDER BY m.xid, m.id LIMIT most + 1)
                                    UNION ALL
                                    SELECT m.id, m.topic, m.payload, m.metadata
                                    FROM unnest(finished) AS x
                                    CROSS JOIN LATERAL (SELECT * FROM pgpoll.messages m
                                                        WHERE m.xid >= x AND m.xid <= x
                                                        ORDER BY m.xid, m.id LIMIT most + 1) m
                                    LIMIT most + 1) u) m
                        ORDER BY m.id) n;
                IF found > most THEN
                    ids := '{}';
                ELSIF ids[1] <= last.foreign_id OR array_position(sizes, NULL) IS NOT NULL THEN
                    SELECT coalesce(array_agg(n.id), '{}'), array_agg(n.topic), array_agg(n.bytes),
                           sum(n.bytes)
                      INTO ids, topics, sizes, bytes
                      FROM (SELECT u.id, u.topic,
                                   coalesce(u.bytes,
                                            (SELECT pgpoll.message_bytes(m.payload, m.metadata)
                                             FROM pgpoll.messages m WHERE m.id = u.id), 0) AS bytes
                            FROM unnest(ids, topics, sizes) WITH ORDINALITY AS u (id, topic, bytes, n)
                            WHERE last.foreign_id IS NULL OR u.id > last.foreign_id
                                  OR (SELECT f.message_id FROM pgpoll.feed f
                                      WHERE f.message_id = u.id LIMIT 1) IS NULL
                            ORDER BY u.n) n;
                END IF;
                assigned := cardinality(ids);
                IF assigned > 0 THEN
                    INSERT INTO pgpoll.feed (topic, position, message_id, bytes)
                    SELECT u.topic, after + u.n, u.id, u.bytes
                    FROM unnest(topics, ids, sizes) WITH ORDINALITY AS u (topic, id, bytes, n);
                END IF;
            END IF;
            IF assigned = 0 AND found <= most AND NOT note
               AND clock_timestamp() - looked < interval '10 ms' THEN
                RETURN;
            END IF;
            IF found <= most THEN
                last.position := after + greatest(assigned, 1);
                last.next_xid := pg_snapshot_xmax(seen);
                last.unfinished := CASE WHEN pg_snapshot_xmin(seen) = last.next_xid THEN '{}'
                                        ELSE ARRAY(SELECT pg_snapshot_xip(seen)) END;
                last.low_id := last.drawn_id;
                IF mine IS NOT NULL THEN
                    -- What this transaction publishes from here on is not in this batch.
                    last.unfinished := last.unfinished || mine;
                    UPDATE pgpoll.messages m SET xid = NULL WHERE m.xid = mine;
                END IF;
                more := false;
                EXIT;
            END IF;
            last.seen := seen;
            begun := true;
        END IF;

        -- There is a backlog: take its next messages.
        IF last.walked_to IS NULL THEN
            last.position := after;
            -- A snapshot does not list its own transaction as unfinished, so add it.
            IF mine < pg_snapshot_xmax(last.seen) THEN
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
        hashes := NULL;
        bytes := part.bytes;
        assigned := cardinality(ids);
        more := last.seen IS NOT NULL OR NOT begun OR mine IS NOT NULL AND assigned > 0;
        last.position := greatest(last.position, after + 1);
        note := true;
        EXIT WHEN assigned > 0 OR last.seen IS NOT NULL OR looked IS NOT NULL;
        begun := true; -- the backlog was empty, so this call can take newer messages
        seen := pg_current_snapshot();
    END LOOP;
    last.drawn_id := drawn;

    IF current_setting('synchronous_commit') = 'off' THEN
        -- Without a flush, a crash could lose positions that clients have seen.
        SET LOCAL synchronous_commit = local;
    END IF;
    given := setval('pgpoll.last_position', greatest(last.position, last.reserved, given));
    INSERT INTO pgpoll.batches VALUES (last.*);
    IF pg_sequence_last_value('pgpoll.lone_until') >= now_ms THEN
        PERFORM pg_notify(pgpoll.channel(t.topic), (after + max(t.n))::text)
        FROM unnest(topics) WITH ORDINALITY AS t (topic, n) GROUP BY t.topic;
    END IF;
    -- A payload has less than 8,000 bytes. Until here hashes has one of each message.
    IF hashes IS NULL OR length(hashes) > 7200 THEN
        SELECT CASE WHEN count(*) <= 900 THEN string_agg(encode(int4send(t.hash), 'hex'), '') ELSE '*' END
          INTO hashes
          FROM (SELECT DISTINCT hashtext(t.topic) AS hash FROM unnest(topics) AS t (topic)) t;
    END IF;
    sent := pg_notify('pgpoll', concat(last.position, ' ', hashes)) IS NULL;
    IF random() < 0.001 THEN
        DELETE FROM pgpoll.batches b WHERE b.position < previous;
    END IF;
END $$;
COMMENT ON FUNCTION pgpoll.assign_batch(boolean, integer) IS
    'Internal. Gives positions to one batch of committed messages, in the order of delivery, and '
    'announces them with NOTIFY.';
