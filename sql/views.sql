-- The committed messages that have no position yet. Usually none: who delivers them gives it within milliseconds.
CREATE OR REPLACE VIEW pgpoll.unassigned AS
SELECT m.id, m.topic, m.payload, m.metadata, m.created_at
FROM (SELECT *, pg_current_snapshot() AS now FROM pgpoll.batches ORDER BY position DESC LIMIT 1) b
CROSS JOIN LATERAL (SELECT * FROM pgpoll.messages WHERE xid >= b.next_xid
                    UNION ALL
                    -- Not of those that are unfinished still: they may have thousands of rows, which nobody can see.
                    SELECT * FROM pgpoll.messages
                    WHERE xid < b.next_xid
                      AND xid = ANY (ARRAY(SELECT x FROM unnest(b.unfinished) AS x WHERE pg_visible_in_snapshot(x, b.now)))) m;

-- The polls that wait now: a killed worker's row stops counting with its connection.
CREATE OR REPLACE VIEW pgpoll.live_waiters AS
SELECT w.*
FROM pgpoll.waiters w
WHERE w.deadline > now() - interval '5 seconds'
  AND EXISTS (SELECT FROM pg_stat_get_activity(w.backend_pid));

CREATE OR REPLACE VIEW pgpoll.topic_waiters AS
SELECT t.topic, count(*) AS waiters, min(w.started_at) AS longest_since
FROM pgpoll.live_waiters w CROSS JOIN LATERAL unnest(w.topics) AS t (topic)
GROUP BY t.topic;

-- What GET /messages/poll/stats answers.
CREATE OR REPLACE VIEW pgpoll.stats AS
SELECT (SELECT count(*) FROM pgpoll.live_waiters) AS active_waiters,
       count(*) AS subscribed_topics,
       coalesce(json_object_agg(t.topic, t.waiters ORDER BY t.waiters DESC, t.topic), '{}') AS topic_subscriber_counts
FROM pgpoll.topic_waiters t;
