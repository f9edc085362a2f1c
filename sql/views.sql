CREATE OR REPLACE VIEW pgpoll.live_waiters AS
SELECT w.*
FROM pgpoll.waiters w
WHERE w.deadline > now() - interval '5 seconds'
  AND EXISTS (SELECT FROM pg_stat_get_activity(w.backend_pid))
  -- Leave out the waiters of a manager that reported after it wrote the row, but not in the last 15 s. A
  -- report from before the row was written is one of an earlier session with the same process id.
  AND NOT EXISTS (SELECT FROM pgpoll.listeners l
                  WHERE l.host = w.host AND l.backend_pid = w.backend_pid AND l.hears IS NOT NULL
                    AND l.seen_at BETWEEN w.seen_at AND now() - interval '15 seconds');
COMMENT ON VIEW pgpoll.live_waiters IS
    'The polls that wait now. The row of a killed worker stops counting when its connection ends; rows of '
    'a manager also stop counting when it has not reported for 15 s.';

CREATE OR REPLACE VIEW pgpoll.topic_waiters AS
SELECT t.topic, count(*) AS waiters, min(w.started_at) AS longest_since
FROM pgpoll.live_waiters w CROSS JOIN LATERAL unnest(w.topics) AS t (topic)
GROUP BY t.topic;
COMMENT ON VIEW pgpoll.topic_waiters IS
    'How many polls wait for each topic, and since when the longest of them?';

CREATE OR REPLACE VIEW pgpoll.stats AS
SELECT (SELECT count(*) FROM pgpoll.live_waiters) AS active_waiters,
       count(*) AS subscribed_topics,
       coalesce(json_object_agg(t.topic, t.waiters ORDER BY t.waiters DESC, t.topic), '{}')
           AS topic_subscriber_counts,
       pgpoll.retained_topics(100) AS retained_topics
FROM pgpoll.topic_waiters t;
COMMENT ON VIEW pgpoll.stats IS
    'What does GET /messages/poll/stats return? retained_topics: topics that have messages, the first 100.';

-- For a manager that follows another one. It reads new messages from this view by a prepared statement
-- (catch_up_followed_statement() in src/postgres/catch_up.c), which costs less than half of a call of
-- read_feed(). A message of more than 64 KiB, or one that an operator has deleted, has no payload here. The
-- manager then calls read_feed(), which returns the one and leaves the other out.
--
-- It is a view so that roles need no rights on the tables. messages comes first in FROM, so it is locked
-- first: see tables.sql. The join compares ids with >= and <=, because = would also permit plans that read
-- the whole index of messages to find one id.
CREATE OR REPLACE VIEW pgpoll.feed_messages AS
SELECT f.topic, f.position, m.created_at::timestamptz, m.payload, m.metadata
FROM pgpoll.messages m
RIGHT JOIN pgpoll.feed f ON m.id >= f.message_id AND m.id <= f.message_id AND f.bytes <= 65536;
COMMENT ON VIEW pgpoll.feed_messages IS
    'Internal. The messages in the order of delivery, for managers that follow another one.';
