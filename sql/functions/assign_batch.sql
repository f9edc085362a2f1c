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
CREATE OR REPLACE FUNCTION pgpoll.assign_batch(OUT assigned integer, OUT previous bigint, OUT after bigint, OUT ids bigint[], OUT bytes bigint)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
-- By the indexes, whatever the statistics say today.
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_bitmapscan = off
SET jit = off
AS $$
DECLARE
    mine xid8 := pg_current_xact_id_if_assigned();
    -- Now and then it is noted that there was nothing: else rows that were rolled back, or are of a transaction under way, would be
    -- gone through at every look until somebody else publishes.
    note constant boolean := random() < 0.01;
BEGIN
    assigned := 0;
    -- With a snapshot from before the lock it would go wrong. Somebody else will do it.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RETURN;
    END IF;
    IF (SELECT b.server_start FROM pgpoll.batches b ORDER BY b.position DESC LIMIT 1) <> pg_postmaster_start_time() THEN
        PERFORM pgpoll.adopt_messages();
        mine := pg_current_xact_id_if_assigned();
    END IF;
    IF NOT note AND NOT EXISTS (SELECT FROM pgpoll.unassigned) THEN
        RETURN;
    END IF;

    LOCK TABLE pgpoll.feed_lock IN SHARE UPDATE EXCLUSIVE MODE;
    SELECT greatest(s.last_value, ((extract(epoch FROM clock_timestamp()) * 1000)::bigint << 16) - 1)
      INTO after
      FROM pgpoll.last_position s;
    SELECT b.position INTO previous FROM pgpoll.batches b ORDER BY b.position DESC LIMIT 1;
    WITH batch AS MATERIALIZED (
        SELECT u.id, u.topic, after + row_number() OVER (ORDER BY u.id) AS position,
               octet_length(u.payload::text)::bigint + coalesce(octet_length(u.metadata::text), 0) AS size
        FROM pgpoll.unassigned u
    ), fed AS (
        INSERT INTO pgpoll.feed (topic, position, message_id, bytes)
        SELECT b.topic, b.position, b.id, least(b.size, 2147483647) FROM batch b
    ), noted AS (
        -- Of this transaction, if it goes on to publish, nothing more was seen either.
        INSERT INTO pgpoll.batches (position, next_xid, unfinished)
        SELECT coalesce(max(b.position), after + 1), pg_snapshot_xmax(pg_current_snapshot()),
               array_remove(ARRAY(SELECT pg_snapshot_xip(pg_current_snapshot())) || mine, NULL)
        FROM batch b HAVING note OR count(*) > 0
    ), announced AS (
        SELECT count(*) AS messages, pg_notify('pgpoll_' || md5(b.topic), max(b.position)::text) FROM batch b GROUP BY b.topic
    )
    SELECT coalesce(sum(a.messages), 0), (SELECT array_agg(b.id ORDER BY b.id) FROM batch b), (SELECT sum(b.size) FROM batch b)
      INTO assigned, ids, bytes
      FROM announced a;
    IF assigned = 0 AND NOT note THEN
        RETURN; -- somebody was faster
    END IF;

    PERFORM pg_notify('pgpoll', (after + greatest(assigned, 1))::text);
    PERFORM setval('pgpoll.last_position', after + greatest(assigned, 1));
    IF mine IS NOT NULL THEN
        UPDATE pgpoll.messages m SET xid = NULL WHERE m.xid = mine;
    END IF;
    IF random() < 0.001 THEN
        DELETE FROM pgpoll.batches b WHERE b.position < previous;
    END IF;
END $$;
