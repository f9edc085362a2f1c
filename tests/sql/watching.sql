\ir begin.psql

-- ---- metrics

CREATE FUNCTION pg_temp.metric(start text) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT substr(line, length($1) + 1)
    FROM regexp_split_to_table(pgpoll.metrics(), E'\n') WITH ORDINALITY AS l (line, n)
        WHERE starts_with(line, $1) ORDER BY n;
$$;
SELECT set_eq($$SELECT pg_temp.metric('# TYPE pgpoll_')$$,
    ARRAY['notification_queue_used_ratio gauge'],
    'without hosts, metrics() has only the metrics of the database');

SELECT pgpoll.write_statistics('web1',
    '{"pid":1,"workers":20,"free_workers":15,"hears":true,"counts":[{"metric":"polls","label":"ok","n":3},
    {"metric":"polls","label":"timeout","n":0}]}') \g /dev/null
SELECT pgpoll.write_statistics('web1',
    '{"pid":1,"workers":20,"free_workers":12,"hears":true,"counts":[{"metric":"polls","label":"ok","n":4}]}')
    \g /dev/null
SELECT pgpoll.write_statistics('web1',
    '{"pid":2,"workers":5,"free_workers":5,"hears":false,"counts":[{"metric":"polls","label":"ok","n":1}]}')
    \g /dev/null
SELECT pgpoll.write_statistics('we"b\' || E'\n2',
    '{"pid":1,"workers":1,"counts":[{"metric":"polls","label":"ok","n":1}]}') \g /dev/null
SELECT pgpoll.write_statistics('we"b\' || E'\n2', '{"pid":2,"workers":1}') \g /dev/null
SELECT pg_temp.begin_wait('we"b\' || E'\n2', 2, '{secret topic}', '192.0.2.1', 0, 30000) \g /dev/null
SELECT results_eq($$SELECT pg_temp.metric('pgpoll_polls_total')$$,
    $$VALUES ('{host="we\"b\\\n2",outcome="ok"} 1'), ('{host="web1",outcome="ok"} 8'),
    ('{host="web1",outcome="timeout"} 0')$$,
    'counts are added up per host, zeros are reported, and names are escaped');
SELECT results_eq($$SELECT pg_temp.metric('pgpoll_workers{')$$, $$VALUES ('host="we\"b\\\n2"} 2'),
    ('host="web1"} 25')$$, 'workers are added up per host');
SELECT results_eq($$SELECT pg_temp.metric('pgpoll_workers_free{')$$, $$VALUES ('host="we\"b\\\n2"} 1'),
    ('host="web1"} 17')$$, 'a worker whose poll waits is not free');
SELECT results_eq($$SELECT pg_temp.metric('pgpoll_listener_up{')$$, $$VALUES ('host="web1"} 1')$$,
    'a host is up if one of its managers hears; workers do not test LISTEN');
SELECT results_eq($$SELECT pg_temp.metric('pgpoll_polls_waiting{')$$, $$VALUES ('host="we\"b\\\n2"} 1'),
    ('host="web1"} 0')$$, 'waiting polls are counted per host');
SELECT results_eq($$SELECT pg_temp.metric('pgpoll_topics_waited_for{')$$,
    $$VALUES ('host="we\"b\\\n2"} 1'), ('host="web1"} 0')$$, 'topics are counted per host');
SELECT is(string_agg(line, E'\n' ORDER BY n), pgpoll.metrics('web1'),
    'metrics(host) are those of metrics() for it')
FROM regexp_split_to_table(pgpoll.metrics(), E'\n') WITH ORDINALITY AS l (line, n)
WHERE line !~ 'host="we[\\]';
SELECT is(string_agg(line, E'\n' ORDER BY n), pgpoll.metrics('web1', false),
    'without what a host with a manager knows itself')
FROM regexp_split_to_table(pgpoll.metrics('web1'), E'\n') WITH ORDINALITY AS l (line, n)
WHERE line !~ 'pgpoll_(workers|workers_free|listener_up)\M';
SELECT ok(pgpoll.metrics('new') ~ 'pgpoll_polls_waiting[{]host="new"[}] 0',
    'a host without rows has no polls');
SELECT ok(pgpoll.metrics() !~ 'secret', 'metrics() names no topic');
SET LOCAL standard_conforming_strings = off;
SELECT results_eq($$SELECT pg_temp.metric('pgpoll_workers{')$$, $$VALUES (E'host="we\\"b\\\\\\n2"} 2'),
    ('host="web1"} 25')$$, 'standard_conforming_strings does not change the output');
SET LOCAL standard_conforming_strings = on;

SELECT pgpoll.write_statistics('h', '{"pid":9,"workers":1,"free_workers":1,"hears":false,"counts":[
    {"metric":"wait_seconds","label":"sum","n":12345}, {"metric":"wait_seconds","label":"0.1","n":2},
    {"metric":"wait_seconds","label":"5","n":0}, {"metric":"wait_seconds","label":"15","n":3},
    {"metric":"wait_seconds","label":"+Inf","n":1}, {"metric":"wait_seconds","label":"x\" 1","n":1},
    {"metric":"made_up","label":"","n":1}, {"metric":"polls","label":"x\"} 1","n":1}]}') \g /dev/null
SELECT results_eq($$SELECT pg_temp.metric('pgpoll_wait_seconds')$$,
    $$VALUES ('_bucket{host="h",le="0.1"} 2'), ('_bucket{host="h",le="5"} 2'),
    ('_bucket{host="h",le="15"} 5'),
    ('_bucket{host="h",le="+Inf"} 6'), ('_sum{host="h"} 12.345'),
    ('_count{host="h"} 6')$$,
    'buckets are cumulative in the order of their bounds, and the sum is in seconds');
SELECT is_empty($$SELECT pg_temp.metric('pgpoll_made_up')$$, 'unknown counters are not shown');
SELECT is_empty($$SELECT FROM regexp_split_to_table(pgpoll.metrics(), E'\n') AS l (line)
    WHERE line !~ '^(# (HELP|TYPE) .+|pgpoll_[a-z_]+([{]([a-z]+="([^"\\]|\\.)*",?)+[}])? [0-9.]+|)$'$$,
    'every line has the format');

-- ---- listeners

SELECT results_eq('SELECT host, pid, kind, alive, hears, workers, free_workers FROM pgpoll.listening',
    $$VALUES ('h', 9, 'manager', true, false, 1, 1),
    ('we"b\' || E'\n2', 1, 'worker', true, NULL, 1, 1),
    ('we"b\' || E'\n2', 2, 'worker', true, NULL, 1, 0),
    ('web1', 1, 'manager', true, true, 20, 12),
    ('web1', 2, 'manager', true, false, 5, 5)$$, 'listening shows managers and workers');
UPDATE pgpoll.listeners SET backend_pid = 2147483647 WHERE pid = 2;
UPDATE pgpoll.listeners SET seen_at = now() - interval '16 s' WHERE pid = 1;
SELECT set_eq('SELECT host, pid, alive, hears FROM pgpoll.listening',
    $$VALUES ('h', 9, true, false), ('we"b\' || E'\n2', 1, true, NULL),
    ('we"b\' || E'\n2', 2, false, NULL),
    ('web1', 1, false, false), ('web1', 2, false, false)$$,
    'a process whose connection is lost and a manager that is silent for 15 s are not alive');
SELECT results_eq($$SELECT pg_temp.metric('pgpoll_workers{')$$, $$VALUES ('host="h"} 1'),
    ('host="we\"b\\\n2"} 1'), ('host="web1"} 0')$$,
    'workers of processes that are not alive are not counted');
SELECT results_eq($$SELECT pg_temp.metric('pgpoll_listener_up{')$$, $$VALUES ('host="h"} 0'),
    ('host="web1"} 0')$$, 'a host is down if none of its managers is alive');

-- To this role, the view does not know when the session began.
UPDATE pgpoll.listeners SET quiet = true WHERE host = 'web1' AND pid = 1;
SET LOCAL ROLE pgpoll_monitor;
SELECT alive AS quiet_alive FROM pgpoll.listening WHERE host = 'web1' AND pid = 1 \gset
RESET ROLE;
SELECT ok(:'quiet_alive', 'a quiet manager that is silent for 15 s is alive');
UPDATE pgpoll.listeners SET quiet = true,
    seen_at = (SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()) - interval '1 s'
WHERE host = 'web1';
SELECT set_eq($$SELECT pid, alive FROM pgpoll.listening WHERE host = 'web1'$$,
    $$VALUES (1, false), (2, false)$$,
    'a session that began after the last report of a quiet manager is another one');

UPDATE pgpoll.listeners SET seen_at = now() - interval '6 minutes', backend_pid = 2147483647;
SELECT pgpoll.sweep_waiters() \g /dev/null
SELECT set_eq('SELECT host, pid FROM pgpoll.listeners', $$VALUES ('h', 9), ('web1', 1), ('web1', 2)$$,
    'the row of a worker is deleted after 5 minutes');
UPDATE pgpoll.listeners SET seen_at = now() - interval '1 minute', backend_pid = pid
WHERE (host, pid) = ('web1', 2);
SELECT pgpoll.sweep_waiters() \g /dev/null
SELECT set_eq('SELECT host, pid FROM pgpoll.listeners', $$VALUES ('h', 9), ('web1', 2)$$,
    'but no longer when another manager of its host has reported since');
UPDATE pgpoll.listeners SET seen_at = now() - interval '61 minutes';
UPDATE pgpoll.counters SET changed_at = now() - interval '61 minutes' WHERE host = 'h' OR label = 'ok';
SELECT pgpoll.sweep_waiters() \g /dev/null
SELECT is_empty('SELECT FROM pgpoll.listeners', 'the row of a manager is deleted after an hour');
SELECT set_eq('SELECT DISTINCT host FROM pgpoll.counters', ARRAY['web1'],
    'the counters of a host are deleted an hour after the last write');

-- ---- waiting polls and kept messages

SELECT pg_temp.begin_wait('web1', 10, '{a,b}', '192.0.2.1', 5000, 25000),
    pg_temp.begin_wait('web1', 11, '{b}', '192.0.2.2', 9000, 1000, 'ann') \g /dev/null
SELECT results_eq($$SELECT host, pid, client, topics COLLATE "default", waited, time_left, remote_user
    FROM pgpoll.waiting WHERE topics && '{a,b}'$$,
    $$VALUES ('web1', 11, '192.0.2.2', '{b}'::text[], interval '9 s', interval '1 s', 'ann'),
    ('web1', 10, '192.0.2.1', '{a,b}', interval '5 s', interval '25 s', '')$$,
    'waiting shows the polls, the longest wait first');

SELECT pg_temp.publish('big', '"sesame, a long payload"', '2'), pg_temp.publish('small', '3') \g /dev/null
SELECT is((SELECT without_position FROM pgpoll.retained), 3::bigint,
    'messages have no position before the first batch');
SELECT pgpoll.assign_positions() \g /dev/null
SELECT results_eq('SELECT topic COLLATE "default", messages, bytes, waiters FROM pgpoll.topics',
    $$VALUES ('big', 2::bigint, 25::bigint, 0::bigint), ('small', 1, 1, 0)$$,
    'topics shows the largest topic first');
SELECT ok(oldest BETWEEN now() - interval '1 minute' AND newest AND newest <= clock_timestamp()
    AND pruned_to IS NULL, topic || ' has the times of its messages')
FROM pgpoll.topics;
SELECT pg_sleep(0.002), pgpoll.prune('0') \g /dev/null
SELECT is_empty('SELECT FROM pgpoll.topics', 'a topic that was pruned completely is not shown');
SELECT pg_temp.publish('small', '4'), pgpoll.assign_positions() \g /dev/null
SELECT is((SELECT pruned_to < oldest FROM pgpoll.topics), true, 'pruned_to is before the oldest message');
SELECT results_eq('SELECT oldest, newest, age, pruned_topics FROM pgpoll.retained',
    $$VALUES (now(), now(), interval '0', 2::bigint)$$, 'retained shows the age of the kept messages');
SELECT is((SELECT without_position FROM pgpoll.retained), 0::bigint,
    'retained counts no message without a position');
SELECT pg_temp.publish('small', '5'), pg_temp.publish('big', '6') \g /dev/null
SELECT is((SELECT without_position FROM pgpoll.retained), 2::bigint,
    'without a pgpoll process, new messages have no position');
SELECT pgpoll.assign_positions() \g /dev/null
SELECT is((SELECT without_position FROM pgpoll.retained), 0::bigint, 'after a batch, each has its position');
SELECT is((SELECT used FROM pgpoll.notification_queue), pg_notification_queue_usage(),
    'notification_queue shows the usage of the NOTIFY queue');

-- ---- all views, functions and columns

-- What others than the owner may use.
CREATE TEMP TABLE public_relation AS
    SELECT c.oid FROM pg_class c
    WHERE c.relnamespace = 'pgpoll'::regnamespace AND c.relkind IN ('r', 'v')
      AND EXISTS (SELECT FROM unnest(ARRAY['pgpoll_publisher', 'pgpoll_poller', 'pgpoll_monitor']) r (name)
                  WHERE has_table_privilege(r.name, c.oid, 'SELECT')
                     OR has_any_column_privilege(r.name, c.oid, 'INSERT'));
SELECT cmp_ok((SELECT count(*) FROM public_relation), '>', 10::bigint, 'others may use tables and views');
SELECT is_empty($$SELECT p.oid::regclass FROM public_relation p
                  WHERE obj_description(p.oid, 'pg_class') IS NULL$$,
    '\dt+ and \dv+ describe each of them');
SELECT is_empty($$SELECT p.oid::regprocedure FROM pg_proc p
    WHERE p.pronamespace = 'pgpoll'::regnamespace
    AND obj_description(p.oid, 'pg_proc') IS NULL$$, '\df+ describes every function');
SELECT is_empty($$SELECT a.attrelid::regclass, a.attname FROM pg_attribute a
    WHERE a.attrelid IN (SELECT oid FROM public_relation) AND a.attnum > 0 AND NOT a.attisdropped
    AND col_description(a.attrelid, a.attnum) IS NULL$$, '\d+ describes each of their columns');
SELECT ok(obj_description('pgpoll.messages'::regclass, 'pg_class') ~ 'INSERT', '\dt+ tells how to publish');
SELECT is_empty($$SELECT r.ev_class::regclass FROM pg_depend d JOIN pg_rewrite r
    ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
    JOIN pg_attribute a ON d.refclassid = 'pg_class'::regclass AND a.attrelid = d.refobjid
    AND a.attnum = d.refobjsubid
    WHERE r.ev_class::regclass::text LIKE 'pgpoll.%' AND r.ev_class <> 'pgpoll.feed_messages'::regclass
    AND (a.attrelid, a.attname) IN (('pgpoll.messages'::regclass, 'payload'),
    ('pgpoll.messages'::regclass, 'metadata'),
    ('pg_stat_activity'::regclass, 'query'))$$, 'no view for operators reads payloads or statements');

SELECT * FROM finish();
ROLLBACK;
