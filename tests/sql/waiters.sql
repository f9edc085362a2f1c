\ir begin.psql

CREATE FUNCTION pg_temp.stats() RETURNS text LANGUAGE sql AS 'SELECT s::text FROM pgpoll.stats s';
SELECT is(pg_temp.stats(), '(0,0,{},[])', 'without polls, the statistics are empty');

SELECT pg_temp.begin_wait('web1', 10, '{a,b}', '192.0.2.1', 0, 30000),
    pg_temp.begin_wait('web1', 11, '{b}', '192.0.2.2', 0, 30000),
       pg_temp.begin_wait('web2', 10, '{"say \"x\"",b}', '192.0.2.1', 0, 30000) \g /dev/null
SELECT results_eq('SELECT active_waiters, subscribed_topics, topic_subscriber_counts::text FROM pgpoll.stats',
    $$VALUES (3::bigint, 3::bigint, '{ "b" : 3, "a" : 1, "say \"x\"" : 1 }')$$,
    'stats counts the polls, the topics and the polls of each topic, most first');
SELECT results_eq('SELECT topic COLLATE "default", waiters, longest_since FROM pgpoll.topic_waiters
    ORDER BY topic COLLATE "C"',
    $$VALUES ('a', 1::bigint, now()), ('b', 3, now()), ('say "x"', 1, now())$$,
    'topic_waiters has a row per topic');
SELECT results_eq($$SELECT host, pid, backend_pid, topics COLLATE "default", client, started_at, deadline,
    seen_at FROM pgpoll.waiters WHERE pid = 11$$,
    $$VALUES ('web1', 11, pg_backend_pid(), '{b}'::text[], '192.0.2.2', now(),
    now() + interval '30 s', now())$$, 'waiters has a row per poll');

SELECT pg_temp.begin_wait('web1', 11, '{c}', '192.0.2.3', 2000, 1000) \g /dev/null
SELECT results_eq($$SELECT topics COLLATE "default", client, started_at, deadline FROM pgpoll.waiters
    WHERE host = 'web1' AND pid = 11$$,
    $$VALUES ('{c}'::text[], '192.0.2.3', now() - interval '2 s', now() + interval '1 s')$$,
    'a worker that waits again has one row');
SELECT pg_temp.end_wait('web1', 11), pg_temp.end_wait('web2', 10), pg_temp.end_wait('nobody', 1) \g /dev/null
SELECT is((SELECT active_waiters FROM pgpoll.stats), 1::bigint, 'a poll that has ended is not counted');

-- A manager reports many polls at a time.
SELECT pgpoll.write_statistics('web3', '{"pid":9,"workers":2,"hears":true,"began":[
    {"pid":1,"topics":["m","say \"x\""],"client":"192.0.2.9","waited_ms":1500,"left_ms":2000},
    {"pid":2,"topics":["m"],"client":"::1","waited_ms":0,"left_ms":2000}]}') \g /dev/null
SELECT results_eq($$SELECT topics COLLATE "default", client, started_at, deadline FROM pgpoll.waiters
    WHERE host = 'web3' AND pid = 1$$,
    $$VALUES ('{m,"say \"x\""}'::text[], '192.0.2.9', now() - interval '1.5 s',
    now() + interval '2 s')$$, 'a report may add many polls');
SELECT pgpoll.write_statistics('web3', '{"pid":9,"workers":2,"hears":true,"ended":[1,2,10],"began":[
    {"pid":2,"topics":["n"],"client":"::1","waited_ms":0,"left_ms":2000}]}') \g /dev/null
SELECT set_eq('SELECT host, pid, topics[1] COLLATE "default" FROM pgpoll.waiters', $$VALUES ('web1', 10, 'a'),
    ('web3', 2, 'n')$$, 'a report ends only polls of its own host, and first ends polls, then begins them');
SELECT pgpoll.write_statistics('web3', '{"pid":9,"workers":2,"hears":true,"ended":[2]}') \g /dev/null

-- If a host loses its power, its connections seem to exist for a long time.
SELECT pgpoll.write_statistics('web4', '{"pid":9,"workers":1,"hears":true,"began":[
    {"pid":1,"topics":["m"],"client":"::1","waited_ms":0,"left_ms":60000}]}') \g /dev/null
SELECT is((SELECT active_waiters FROM pgpoll.stats), 2::bigint, 'a manager''s polls are counted');
UPDATE pgpoll.waiters SET seen_at = now() - interval '20 s' WHERE host = 'web4';
UPDATE pgpoll.listeners SET seen_at = now() - interval '16 s';
SELECT is((SELECT active_waiters FROM pgpoll.stats), 1::bigint,
    'polls of a manager that has not reported for long are not counted');
UPDATE pgpoll.waiters SET seen_at = now() - interval '15.5 s' WHERE host = 'web4';
SELECT is((SELECT active_waiters FROM pgpoll.stats), 2::bigint,
    'polls that began after that report are counted: it is of an earlier manager');
SELECT pgpoll.write_statistics('web4', '{"pid":9,"workers":1,"hears":true,"ended":[1]}') \g /dev/null
SELECT pgpoll.write_statistics('web4', '{"pid":8,"workers":1,"ends":true,"began":[
    {"pid":1,"topics":["m"],"client":"::1","waited_ms":0,"left_ms":60000}]}') \g /dev/null
SELECT is_empty($$SELECT FROM pgpoll.listeners WHERE pid = 8 UNION ALL SELECT FROM pgpoll.waiters
    WHERE host = 'web4'$$, 'a process that ends leaves no rows');
SELECT isnt_empty($$SELECT FROM pgpoll.listeners WHERE pid = 9 AND host = 'web4'$$,
    'another process keeps its own');

-- Rows that were left behind. No process has the id 2147483647.
INSERT INTO pgpoll.waiters SELECT 'gone', 1, 2147483647, '{b}', 'c', now(), now() + interval '1 minute',
    now();
INSERT INTO pgpoll.waiters SELECT 'overdue', n, pg_backend_pid(), '{b}', 'c', now(),
    now() - n * interval '1 s', now()
FROM unnest(ARRAY[4, 6, 61]) AS n;
SELECT is((SELECT active_waiters FROM pgpoll.stats), 2::bigint,
    'a worker without a connection and an overdue poll are not counted');
SELECT set_eq('SELECT host, pid FROM pgpoll.live_waiters', $$VALUES ('web1', 10), ('overdue', 4)$$,
    'a poll that is about to answer is counted');
SELECT pgpoll.sweep_waiters() \g /dev/null
SELECT set_eq('SELECT host, pid FROM pgpoll.waiters', $$VALUES ('web1', 10), ('overdue', 4), ('overdue', 6)$$,
    'sweep_waiters() deletes rows that can no longer wait');

INSERT INTO pgpoll.feed SELECT to_char(t, 'FM"topic "000'), n, 1000 * t + n, 1
FROM generate_series(1, 150) t, generate_series(1, 3) n;
SELECT is((SELECT concat_ws(', ', json_array_length(retained_topics), retained_topics ->> 0,
                            retained_topics ->> 99) FROM pgpoll.stats), '100, topic 001, topic 100',
    'stats names each topic that has messages once, and not more than a hundred');

SELECT * FROM finish();
ROLLBACK;
