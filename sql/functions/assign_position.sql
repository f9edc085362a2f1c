-- Gives a message its position in the order of delivery, at commit.
--
-- Why readers miss nothing: the lock is taken by a deferred trigger, before anything of the commit is visible, and is
-- released after all of it is. So who takes the lock later gets the higher position, and a snapshot that sees a position
-- sees every lower one. An identity column cannot do that: its values are given before the commit and become visible
-- in another order.
--
-- Positions grow through clock steps, crashes, failover to a lagging standby and restored backups, because they are at
-- least the clock and at least the last one plus one.
CREATE OR REPLACE FUNCTION pgpoll.assign_position() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '10s'   -- a publisher's COMMIT fails rather than wait longer for another's
-- Always by the index. Reading all of a small table would make serializable publishers fail each other, and a session keeps
-- such a plan while the table grows.
SET enable_seqscan = off
SET jit = off
AS $$
DECLARE
    message record;
    next_position bigint;
BEGIN
    LOCK TABLE pgpoll.commit_lock IN SHARE UPDATE EXCLUSIVE MODE;

    -- The row as the transaction leaves it: NEW is the row as inserted, and may have been changed or deleted since.
    -- Under the lock, though it could come before: serializable publishers that read while others insert fail each other.
    SELECT m.topic, octet_length(m.payload::text)::bigint + coalesce(octet_length(m.metadata::text), 0) AS bytes
      INTO message
      FROM pgpoll.messages m WHERE m.id = NEW.id;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;

    SELECT greatest(s.last_value + 1, (extract(epoch FROM clock_timestamp()) * 1000)::bigint << 16)
      INTO next_position
      FROM pgpoll.last_position s;
    PERFORM setval('pgpoll.last_position', next_position);

    INSERT INTO pgpoll.feed (topic, position, message_id, bytes)
    VALUES (message.topic, next_position, NEW.id, least(message.bytes, 2147483647));

    PERFORM pg_notify('pgpoll_' || md5(message.topic), next_position::text);
    RETURN NULL;
END $$;
