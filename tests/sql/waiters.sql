\ir begin.psql

CREATE FUNCTION pg_temp.stats() RETURNS text LANGUAGE sql AS 'SELECT s::text FROM pgpoll.stats s';
SELECT is(pg_temp.stats(), '(0,0,{})', 'nobody waits');

SELECT pgpoll.begin_wait('web1', 10, '{a,b}', '192.0.2.1', 'alice', 0, 30000), pgpoll.begin_wait('web1', 11, '{b}', '192.0.2.2', 'alice', 0, 30000),
       pgpoll.begin_wait('web2', 10, '{"say \"x\"",b}', '192.0.2.1', 'alice', 0, 30000) \g /dev/null
SELECT results_eq('SELECT active_waiters, subscribed_topics, topic_subscriber_counts::text FROM pgpoll.stats',
                  $$VALUES (3::bigint, 3::bigint, '{ "b" : 3, "a" : 1, "say \"x\"" : 1 }')$$, 'polls, topics and polls per topic, most first');
SELECT results_eq('SELECT topic COLLATE "default", waiters, longest_since FROM pgpoll.topic_waiters ORDER BY topic COLLATE "C"',
                  $$VALUES ('a', 1::bigint, now()), ('b', 3, now()), ('say "x"', 1, now())$$, 'a row per topic');
SELECT results_eq($$SELECT host, pid, backend_pid, topics COLLATE "default", client, started_at, deadline, seen_at FROM pgpoll.waiters WHERE pid = 11$$,
                  $$VALUES ('web1', 11, pg_backend_pid(), '{b}'::text[], '192.0.2.2', now(), now() + interval '30 s', now())$$, 'a row per poll');

SELECT pgpoll.begin_wait('web1', 11, '{c}', '192.0.2.3', 'alice', 2000, 1000) \g /dev/null
SELECT results_eq($$SELECT topics COLLATE "default", client, started_at, deadline FROM pgpoll.waiters WHERE host = 'web1' AND pid = 11$$,
                  $$VALUES ('{c}'::text[], '192.0.2.3', now() - interval '2 s', now() + interval '1 s')$$, 'a worker that waits again has one row');
SELECT pgpoll.end_wait('web1', 11), pgpoll.end_wait('web2', 10), pgpoll.end_wait('nobody', 1) \g /dev/null
SELECT is((SELECT active_waiters FROM pgpoll.stats), 1::bigint, 'a poll that has ended is not counted');

-- Managed: many polls at a time.
SELECT pgpoll.write_waiters('web3', '[{"pid":1,"topics":["m","say \"x\""],"client":"192.0.2.9","waited_ms":1500,"left_ms":2000},
                                      {"pid":2,"topics":["m"],"client":"::1","waited_ms":0,"left_ms":2000}]', '[]') \g /dev/null
SELECT results_eq($$SELECT topics COLLATE "default", client, started_at, deadline FROM pgpoll.waiters WHERE host = 'web3' AND pid = 1$$,
                  $$VALUES ('{m,"say \"x\""}'::text[], '192.0.2.9', now() - interval '1.5 s', now() + interval '2 s')$$, 'a batch begins');
SELECT pgpoll.write_waiters('web3', '[{"pid":2,"topics":["n"],"client":"::1","waited_ms":0,"left_ms":2000}]', '[1,2,10]') \g /dev/null
SELECT set_eq('SELECT host, pid, topics[1] COLLATE "default" FROM pgpoll.waiters', $$VALUES ('web1', 10, 'a'), ('web3', 2, 'n')$$,
              'a batch ends only polls of its own host; a poll that ended and began again waits');
SELECT pgpoll.write_waiters('web3', '[]', '[2]') \g /dev/null

-- A host that lost its power: its connections seem to exist for a long time.
SELECT pgpoll.write_waiters('web4', '[{"pid":1,"topics":["m"],"client":"::1","waited_ms":0,"left_ms":60000}]', '[]'),
       pgpoll.write_listener('web4', 9, 1, 0, true, '[]') \g /dev/null
SELECT is((SELECT active_waiters FROM pgpoll.stats), 2::bigint, 'a manager''s polls count');
UPDATE pgpoll.waiters SET seen_at = now() - interval '20 s' WHERE host = 'web4';
UPDATE pgpoll.listeners SET seen_at = now() - interval '16 s';
SELECT is((SELECT active_waiters FROM pgpoll.stats), 1::bigint, 'but not if the manager has not reported for long');
UPDATE pgpoll.waiters SET seen_at = now() - interval '15.5 s' WHERE host = 'web4';
SELECT is((SELECT active_waiters FROM pgpoll.stats), 2::bigint, 'unless that report is of an earlier manager, before these polls');
SELECT pgpoll.write_waiters('web4', '[]', '[1]') \g /dev/null

-- Rows that were left behind. No process has the id 2147483647.
INSERT INTO pgpoll.waiters SELECT 'gone', 1, 2147483647, '{b}', 'c', now(), now() + interval '1 minute', now();
INSERT INTO pgpoll.waiters SELECT 'overdue', n, pg_backend_pid(), '{b}', 'c', now(), now() - n * interval '1 s', now()
FROM unnest(ARRAY[4, 6, 61]) AS n;
SELECT is((SELECT active_waiters FROM pgpoll.stats), 2::bigint, 'neither a worker without a connection counts nor an overdue poll');
SELECT set_eq('SELECT host, pid FROM pgpoll.live_waiters', $$VALUES ('web1', 10), ('overdue', 4)$$, 'a poll that is about to answer counts');
SELECT pgpoll.sweep_waiters() \g /dev/null
SELECT set_eq('SELECT host, pid FROM pgpoll.waiters', $$VALUES ('web1', 10), ('overdue', 4), ('overdue', 6)$$,
              'sweep_waiters() deletes rows that can no longer wait');

SELECT * FROM finish();
ROLLBACK;
