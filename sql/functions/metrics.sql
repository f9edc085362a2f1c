-- Returns the metrics of one host, or of all, in Prometheus text format 0.0.4. No label has a value that
-- clients choose, such as a topic, so the number of series depends only on the number of hosts: about 70 per
-- host.
--
-- of_host: NULL: all hosts. manager_gauges: false: without the gauges that a host with a manager knows itself
-- (src/shared/host_metrics.h).
CREATE OR REPLACE FUNCTION pgpoll.metrics(of_host text DEFAULT NULL, manager_gauges boolean DEFAULT true)
RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET row_security = off
SET standard_conforming_strings = on -- the body is parsed at each call, and it has backslashes in strings
SET jit = off -- compilation would take seconds
AS $$
WITH family (no, name, type, label_name, help) AS (VALUES
    (1, 'polls_total', 'counter', 'outcome',
     'Polls, by how they ended. ok: with messages or a gap; timeout: without; released: early, without '
     'messages, to make room for others or for a restart; client_gone: the client had left; the others '
     'are errors.'),
    (2, 'delivered_messages_total', 'counter', NULL, 'Messages in answers.'),
    (3, 'delivered_bytes_total', 'counter', NULL, 'Bytes of the messages in answers, as JSON.'),
    (4, 'gaps_total', 'counter', 'reason',
     'Topics in answers that reported a gap. expired: messages had been pruned; ahead: the cursor was '
     'newer than the database; unknown: it was not a cursor of pgpoll.'),
    (5, 'pages_total', 'counter', 'source',
     'Reads of messages, from the memory of a manager or from the table.'),
    (6, 'listener_reconnects_total', 'counter', NULL,
     'How often a lost connection with LISTEN was restored.'),
    (7, 'wait_seconds', 'histogram', 'le',
     'How long polls waited, if there was no message for them at first.'),
    (8, 'delivery_latency_seconds', 'histogram', 'le',
     'From the commit of a message to the answer of a poll that waited for it, by the clocks of the '
     'database and of the worker''s host. Only the first message of each answer counts.'),
    (9, 'polls_waiting', 'gauge', NULL, 'Polls that wait now.'),
    (10, 'topics_waited_for', 'gauge', NULL, 'Topics that polls of the host wait for now.'),
    (11, 'workers', 'gauge', NULL,
     'Worker processes. A worker without a manager counts once it has been idle for 1 s.'),
    (12, 'workers_free', 'gauge', NULL, 'Worker processes that can take a poll.'),
    (13, 'listener_up', 'gauge', NULL,
     '1: LISTEN delivers to the manager of the host, which tests it every 5 s while there are polls. 0: it '
     'does not, or the manager is gone. No value without a manager.'),
    (14, 'notification_queue_used_ratio', 'gauge', NULL,
     'How full the NOTIFY queue of the cluster is, from 0 to 1.'),
    (15, 'log_lines_lost_total', 'counter', NULL,
     'Log lines that a manager or worker dropped because nobody read the log, or its disk was full.'),
    (16, 'access_answers_total', 'counter', 'source',
     'Answers of can_poll() and authenticate() that managers used. function: the function was called; '
     'memory: the answer of a call less than PGPOLL_ACCESS_MEMORY_S ago.'),
    (17, 'access_answers_forgotten_total', 'counter', NULL,
     'Answers of can_poll() and authenticate() that a manager forgot before their time, because its memory '
     'was full.')
), counter (host, name, label, value) AS (
    SELECT c.host, c.metric, c.label, c.value FROM pgpoll.counters c
    WHERE c.label ~ '^[A-Za-z0-9_.+]*$' AND (of_host IS NULL OR c.host = of_host)
), host (host) AS (
    SELECT of_host WHERE of_host IS NOT NULL
    UNION
    SELECT c.host FROM pgpoll.counters c WHERE of_host IS NULL
    UNION
    SELECT l.host FROM pgpoll.listeners l WHERE of_host IS NULL
), sample (name, suffix, host, label, at, value) AS (
    SELECT f.name, '', c.host, nullif(c.label, ''), 0::float8, c.value::text
    FROM counter c JOIN family f ON f.type = 'counter' AND f.name = c.name || '_total'
    UNION ALL
    SELECT b.name, '_bucket', b.host, b.label, b.at,
           (sum(b.value) OVER (PARTITION BY b.host, b.name ORDER BY b.at))::text
    FROM (SELECT c.*, c.label::float8 AS at
          FROM counter c JOIN family f ON f.type = 'histogram' AND f.name = c.name
          WHERE c.label ~ '^([0-9.]{1,9}|[+]Inf)$') b
    UNION ALL
    SELECT c.name, '_sum', c.host, NULL, 'Infinity', round(c.value / 1000.0, 3)::text
    FROM counter c JOIN family f ON f.type = 'histogram' AND f.name = c.name WHERE c.label = 'sum'
    UNION ALL
    SELECT c.name, '_count', c.host, NULL, 'Infinity', sum(c.value)::text
    FROM counter c JOIN family f ON f.type = 'histogram' AND f.name = c.name WHERE c.label <> 'sum'
    GROUP BY c.name, c.host
    UNION ALL
    SELECT 'polls_waiting', '', h.host, NULL, 0,
           (SELECT count(*) FROM pgpoll.live_waiters w WHERE w.host = h.host)::text
    FROM host h
    UNION ALL
    SELECT 'topics_waited_for', '', h.host, NULL, 0,
           (SELECT count(DISTINCT t.topic)
            FROM pgpoll.live_waiters w CROSS JOIN LATERAL unnest(w.topics) AS t (topic)
            WHERE w.host = h.host)::text
    FROM host h
    UNION ALL
    SELECT g.name, '', h.host, NULL, 0, g.value::text
    FROM host h
    CROSS JOIN LATERAL
        (SELECT coalesce(sum(l.workers) FILTER (WHERE l.alive), 0) AS workers,
                coalesce(sum(l.free_workers) FILTER (WHERE l.alive), 0) AS free,
                max(coalesce(l.hears, false)::integer) FILTER (WHERE l.kind = 'manager') AS up
         FROM pgpoll.listening l WHERE l.host = h.host) l
    CROSS JOIN LATERAL
        (VALUES ('workers', l.workers), ('workers_free', l.free), ('listener_up', l.up)) AS g (name, value)
    WHERE manager_gauges AND g.value IS NOT NULL
    UNION ALL
    SELECT 'notification_queue_used_ratio', '', NULL, NULL, 0, pg_notification_queue_usage()::text
), line (family, no, host, suffix, at, label, line) AS (
    SELECT f.no, 0, NULL, NULL, NULL, NULL,
           format(E'# HELP pgpoll_%1$s %2$s\n# TYPE pgpoll_%1$s %3$s', f.name, f.help, f.type)
    FROM family f WHERE EXISTS (SELECT FROM sample s WHERE s.name = f.name)
    UNION ALL
    SELECT f.no, 1, s.host, CASE s.suffix WHEN '_bucket' THEN 1 WHEN '_sum' THEN 2 ELSE 3 END, s.at, s.label,
           format('pgpoll_%s%s%s %s', s.name, s.suffix,
                  '{' || nullif(concat_ws(',',
                                          'host="' || replace(replace(replace(s.host, '\', '\\'), '"', '\"'),
                                                              E'\n', '\n') || '"',
                                          f.label_name || '="' || s.label || '"'), '') || '}',
                  s.value)
    FROM sample s JOIN family f ON f.name = s.name
)
SELECT string_agg(l.line || E'\n', '' ORDER BY l.family, l.no, l.host, l.suffix, l.at, l.label) FROM line l;
$$;
COMMENT ON FUNCTION pgpoll.metrics(text, boolean) IS
    'Counters and gauges of a host, or without arguments of all hosts, in Prometheus text format. GET '
    '/messages/poll/metrics returns those of its host, and what the host knows without the database.';
