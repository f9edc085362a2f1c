\ir begin.psql

-- Publishes a message as if it had been committed so long ago.
CREATE FUNCTION pg_temp.aged(topic text, payload text, age interval) RETURNS void LANGUAGE sql AS $$
    SELECT pg_temp.publish(topic, payload);
    SELECT pgpoll.assign_positions();
    UPDATE pgpoll.feed SET position = (extract(epoch FROM clock_timestamp() - age) * 1000)::bigint << 16
    WHERE position = pg_temp.at(payload);
$$;
CREATE FUNCTION pg_temp.floors() RETURNS SETOF text LANGUAGE sql AS
    'SELECT format(''%s %s'', topic, pruned_to) FROM pgpoll.retention ORDER BY topic';

SELECT is(pgpoll.prune('1 hour'), 0, 'prune() of an empty table deletes nothing');
SELECT pg_temp.aged('a', format('%s', n), interval '3 hours' + n * interval '-1 minute')
    FROM generate_series(1, 5) AS n;
SELECT pg_temp.aged('b', '6', '2 hours');
SELECT pg_temp.aged('b', '7', '30 minutes');
SELECT pg_temp.publish('c', '8');
SELECT pg_temp.at('2') AS at2, pg_temp.at('5') AS at5, pg_temp.at('6') AS at6 \gset

SELECT is(pgpoll.prune('4 hours'), 0, 'prune() deletes nothing if no message is that old');
SELECT is_empty('SELECT pg_temp.floors()', 'a topic that was not pruned has no row in retention');
SELECT is(pgpoll.prune('1 hour', 2), 2, 'prune() deletes at most one batch');
SELECT is(pg_temp.page('{a,b,c}', '{0,0,0}'), '{3,4,5,6,7,8}',
    'prune() deletes the oldest messages of a topic first');
SELECT set_eq('SELECT pg_temp.floors()', ARRAY['a ' || :at2], 'retention holds how far the topic was pruned');
SELECT is(pg_temp.starts('{a,b}', '{1,1}'), ARRAY[concat_ws(' ', :at2, 'expired', pg_temp.at('3')), '1'],
    'only the topic that lost messages has a gap');
SELECT is(ARRAY[pgpoll.prune('1 hour', 3), pgpoll.prune('1 hour', 3), pgpoll.prune('1 hour', 3)], '{3,1,0}',
    'further calls delete the rest');
SELECT set_eq('SELECT pg_temp.floors()', ARRAY['a ' || :at5, 'b ' || :at6], 'retention follows');
SELECT is(pg_temp.page('{a,b,c}', '{0,0,0}'), '{7,8}', 'younger messages stay');
SELECT is((SELECT count(*) FROM pgpoll.messages), 2::bigint, 'prune() deletes from messages, too');

INSERT INTO pgpoll.messages (topic, payload, created_at) VALUES ('d', '9', now() - interval '1 year');
SELECT is(pgpoll.prune('1 hour'), 0, 'created_at is ignored');
SELECT is((SELECT count(*) FROM pgpoll.feed WHERE topic = 'd'), 1::bigint,
    'prune() gives positions if no pgpoll process runs');

DELETE FROM pgpoll.messages WHERE payload::text = '7';
SELECT is(pgpoll.prune('10 minutes'), 1,
    'prune() deletes the feed row of a message that was deleted by hand');
SELECT is(pg_temp.starts('{b}', ARRAY[:at6])::text ~ 'expired', true,
    'a message deleted by hand counts as pruned');

SELECT is(pgpoll.prune('6600 years'), 0, 'prune() accepts an age beyond the range of positions');
SELECT is(pg_temp.page('{c,d}', '{0,0}'), '{8,9}', 'that age deletes nothing');

SELECT throws_ok(format('SELECT pgpoll.prune(%s)', arguments), '22023', NULL,
    'prune() refuses: ' || arguments)
FROM unnest(ARRAY['NULL', $$'-1 second'$$, $$'1 hour', 0$$, $$'1 hour', -1$$, $$'1 hour', NULL$$])
    AS arguments;

-- A batch spans many topics.
INSERT INTO pgpoll.messages (topic, payload) SELECT 't' || n % 70, '0' FROM generate_series(1, 700) AS n;
SELECT pgpoll.assign_positions() \g /dev/null
SELECT pg_sleep(0.002);
SELECT sum(seq_scan) AS before FROM pg_stat_xact_user_tables WHERE relname IN ('messages', 'feed') \gset
SELECT is(pgpoll.prune('0', 105), 105, 'a batch may end within a topic');
SELECT is((SELECT sum(seq_scan) FROM pg_stat_xact_user_tables WHERE relname IN ('messages', 'feed')),
    numeric :'before', 'prune() uses only index scans');
SELECT is(pgpoll.prune('0'), 597, 'the next call deletes the rest');
SELECT is((SELECT count(*) FROM pgpoll.retention WHERE topic ~ '^t'), 70::bigint,
    'every topic has a row in retention');

-- The clock was set back by a day. Messages are still deleted after as long as they are to be kept.
SELECT last_value AS truly, ((extract(epoch FROM clock_timestamp() + '1 day') * 1000)::bigint << 16)
    AS tomorrow FROM pgpoll.last_position \gset
CREATE FUNCTION pg_temp.pass(passed interval) RETURNS void LANGUAGE sql AS
    'UPDATE pgpoll.position_times SET noted_at = noted_at - $1';
SELECT setval('pgpoll.last_position', :tomorrow) \g /dev/null
SELECT pg_temp.publish('clock', '"one"');
SELECT pgpoll.assign_positions() \g /dev/null
SELECT is(pgpoll.prune('1 hour'), 0, 'prune() keeps a new message whose position is in the future');
SELECT pg_temp.pass('30 minutes');
SELECT pg_temp.publish('clock', '"two"');
SELECT pgpoll.assign_positions() \g /dev/null
SELECT is(pgpoll.prune('1 hour'), 0, 'until it is old enough');
SELECT pg_temp.pass('40 minutes');
SELECT pg_temp.publish('clock', '"three"');
SELECT pgpoll.assign_positions() \g /dev/null
SELECT is((SELECT deleted FROM pgpoll.prune_part('clock', '2 hours', 0, 9, NULL)), 0,
    'so does prune_part()');
SELECT is(pgpoll.prune('1 hour'), 1, 'then prune() deletes it');
SELECT is(pg_temp.starts('{clock}', ARRAY[:tomorrow])::text ~ 'expired', true, 'clients are told of it');
SELECT pg_temp.pass('30 minutes');
SELECT is((SELECT deleted FROM pgpoll.prune_part('clock', '1 hour', 0, 9, NULL)), 1,
    'prune_part() deletes the next one when that is old enough');
SELECT is(pg_temp.page('{clock}', '{0}'), '{"\"three\""}', 'the last one stays');
SELECT is((SELECT count(*) FROM pgpoll.position_times), 3::bigint, 'there is a note for each of the times');
SELECT pgpoll.prune('1 hour') AS last FROM generate_series(1, 5) \g /dev/null
SELECT is((SELECT count(*) FROM pgpoll.position_times), 3::bigint, 'and no more');
SELECT is(pgpoll.prune('0'), 1, 'everything can be deleted at once');
UPDATE pgpoll.position_times SET noted_at = noted_at + interval '1 year';
SELECT pgpoll.prune('1 hour') \g /dev/null
SELECT is((SELECT max(noted_at) <= clock_timestamp() FROM pgpoll.position_times
           WHERE position = (SELECT last_value FROM pgpoll.last_position)), true,
    'a time that was noted before the clock was set back once more is corrected');
SELECT setval('pgpoll.last_position', :truly) \g /dev/null
SELECT pgpoll.prune('1 hour') \g /dev/null
SELECT is_empty('SELECT FROM pgpoll.position_times', 'notes are forgotten when the clock has caught up');
SELECT setval('pgpoll.last_position', :truly) \g /dev/null

SELECT * FROM finish();
ROLLBACK;
