-- Views for an operator in psql; \dv+ describes them. None shows a payload, or the text of a statement, which
-- may contain a payload.

CREATE OR REPLACE VIEW pgpoll.listening AS
SELECT l.host, l.pid,
       CASE WHEN l.hears IS NULL THEN 'worker' ELSE 'manager' END AS kind,
       a.alive,
       CASE WHEN l.hears IS NOT NULL THEN a.alive AND l.hears END AS hears,
       l.workers,
       coalesce(l.free_workers, CASE WHEN w.polls = 0 THEN 1 ELSE 0 END) AS free_workers,
       date_trunc('milliseconds', now() - l.seen_at) AS last_seen
FROM pgpoll.listeners l
CROSS JOIN LATERAL
    -- A quiet manager does not report. Its session may have ended meanwhile, and a later session may have its
    -- process id: one that began after the last report. One that begins in the future is older than the last
    -- step of the clock. (backend_start is NULL for roles that may not see it.)
    (SELECT EXISTS (SELECT FROM pg_stat_get_activity(l.backend_pid) s
                    WHERE l.quiet IS NOT TRUE
                          OR coalesce(s.backend_start <= l.seen_at OR s.backend_start > now(), true))
            AND (l.hears IS NULL OR l.quiet IS TRUE OR l.seen_at > now() - interval '15 seconds') AS alive) a
CROSS JOIN LATERAL
    (SELECT count(*) AS polls FROM pgpoll.live_waiters w WHERE w.host = l.host AND w.pid = l.pid) w
ORDER BY l.host, l.pid;
COMMENT ON VIEW pgpoll.listening IS
    'Is anybody listening? Each manager, and each worker without a manager, that has reported lately. '
    'alive: its connection exists and, for a manager that polls use, it has reported within 15 s. hears: '
    'LISTEN was found to deliver (empty for a worker, which does not test it). last_seen: how long ago it '
    'last reported; a manager reports every 5 s, but not while there are no polls (PGPOLL_IDLE_S).';

CREATE OR REPLACE VIEW pgpoll.waiting AS
SELECT w.host, w.pid, w.client, w.topics,
       date_trunc('milliseconds', now() - w.started_at) AS waited,
       date_trunc('milliseconds', w.deadline - now()) AS time_left,
       w.remote_user
FROM pgpoll.live_waiters w
ORDER BY w.started_at, w.host, w.pid;
COMMENT ON VIEW pgpoll.waiting IS
    'Who waits for what, and since when? One row per waiting poll, the longest wait first. pid: the '
    'worker''s process id on that host. remote_user: who polls, empty if nobody was authenticated.';

CREATE OR REPLACE VIEW pgpoll.topics AS
SELECT f.topic COLLATE "C" AS topic, f.messages, f.bytes,
       to_timestamp((f.oldest >> 16) / 1000.0) AS oldest,
       to_timestamp((f.newest >> 16) / 1000.0) AS newest,
       to_timestamp((r.pruned_to >> 16) / 1000.0) AS pruned_to,
       coalesce(w.waiters, 0) AS waiters,
       f.estimated
FROM pgpoll.topic_sizes() f
LEFT JOIN LATERAL
    (SELECT r.pruned_to FROM pgpoll.retention r WHERE r.topic = f.topic COLLATE "C" OFFSET 0) r ON true
LEFT JOIN pgpoll.topic_waiters w ON w.topic = f.topic COLLATE "C"
ORDER BY f.bytes DESC, f.topic COLLATE "C";
COMMENT ON VIEW pgpoll.topics IS
    'How large and how old is each topic? Messages that are kept (without those that have no position '
    'yet: see pgpoll.retained), bytes of payload and metadata, when the first and the last of them were '
    'committed, up to when the topic was pruned, and how many polls wait for it. estimated: there are many '
    'messages, so only about the 200 largest topics are shown, and messages and bytes are extrapolated '
    'from a sample. Cheap.';

CREATE OR REPLACE VIEW pgpoll.retained AS
SELECT m.oldest, now() - m.oldest AS age, m.newest,
       c.messages AS messages_estimate,
       pg_total_relation_size('pgpoll.messages') + pg_total_relation_size('pgpoll.feed') AS disk_bytes,
       (SELECT count(*) FROM pgpoll.retention) AS pruned_topics,
       pgpoll.without_position() AS without_position
FROM (SELECT (SELECT created_at::timestamptz FROM pgpoll.messages ORDER BY id LIMIT 1) AS oldest,
             (SELECT created_at::timestamptz FROM pgpoll.messages ORDER BY id DESC LIMIT 1) AS newest) m
CROSS JOIN (SELECT greatest(reltuples, 0)::bigint AS messages
            FROM pg_class WHERE oid = 'pgpoll.messages'::regclass) c;
COMMENT ON VIEW pgpoll.retained IS
    'How far back do messages go, and are they pruned? When the transactions of the first and the last '
    'message that is kept began; about how many there are (as of the last ANALYZE); disk space of their '
    'tables and indexes; how many topics were ever pruned; and how many messages have no position yet. A '
    'pgpoll process gives each message its position within moments; without one, such messages add up. '
    'Cheap.';

CREATE OR REPLACE VIEW pgpoll.held_up AS
SELECT l.pid, a.usename, a.application_name, coalesce(c.oid::regclass::text, 'NOTIFY') AS waits_for, l.mode,
       clock_timestamp() - l.waitstart AS waited,
       b.pid AS blocked_by, b.usename AS blocked_by_user, b.application_name AS blocked_by_application,
       b.state AS blocked_by_state, clock_timestamp() - b.xact_start AS blocked_by_transaction_age,
       b.wait_event AS blocked_by_wait_event
FROM pg_locks l
JOIN pg_database d ON d.datname = current_database()
LEFT JOIN pg_class c ON c.oid = l.relation AND l.database = d.oid AND c.relnamespace = 'pgpoll'::regnamespace
LEFT JOIN pg_stat_activity a ON a.pid = l.pid
LEFT JOIN LATERAL unnest(pg_blocking_pids(l.pid)) AS by (pid) ON true
LEFT JOIN pg_stat_activity b ON b.pid = by.pid
-- A COMMIT with a NOTIFY locks "database 0" until it ends, for the whole cluster (PreCommit_Notify() in
-- PostgreSQL's async.c).
WHERE NOT l.granted
  AND (c.oid IS NOT NULL
       OR (l.locktype, l.database, l.classid, l.objid) = ('object', 0, 'pg_database'::regclass, 0)
          AND a.datid = d.oid)
ORDER BY l.waitstart, l.pid, b.pid;
COMMENT ON VIEW pgpoll.held_up IS
    'Who is blocked, and by whom? Sessions that wait for a lock on a table of pgpoll, such as those that '
    'give positions (waits_for pgpoll.feed_lock), or, at COMMIT, for the NOTIFY of another session '
    '(waits_for NOTIFY; the other session may be in any database). One row per blocking session. Short '
    'waits are normal. Only members of pg_read_all_stats see the state, transaction age and wait_event of '
    'another role''s session. wait_event SyncRep: it waits for a standby.';

CREATE OR REPLACE VIEW pgpoll.notification_queue AS
SELECT pg_notification_queue_usage() AS used;
COMMENT ON VIEW pgpoll.notification_queue IS
    'How full is the NOTIFY queue of the cluster, from 0 to 1? If it stays above 0, a session of some '
    'program, in some database, LISTENs and does not read. At 1, COMMITs of publishers fail.';
