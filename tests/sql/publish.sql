\ir begin.psql

-- Topics

CREATE FUNCTION pg_temp.is_topic(topic text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO pgpoll.messages (topic, payload) VALUES (topic, '1');
    RAISE 'taken back' USING ERRCODE = 'TB000';
EXCEPTION
    WHEN check_violation THEN RETURN false;
    WHEN SQLSTATE 'TB000' THEN RETURN true;
END $$;

SELECT ok(pg_temp.is_topic(t), 'a topic: ' || to_json(left(t, 20)))
FROM unnest(ARRAY['a', '0', '$', ' a ', 'orders.eu/ü', E'日本\u3000語', '"; DROP TABLE x --', E'\\u0001', 'a' || chr(160),
                  repeat('x', 255), repeat('😀', 255)]) AS t;
SELECT ok(NOT pg_temp.is_topic(t), 'no topic: ' || to_json(left(t, 20)))
FROM unnest(ARRAY['', '   ', chr(160) || ' ' || chr(12288), E'a\nb', E'a\t', 'a' || chr(127), 'a' || chr(133) || 'b',
                  repeat('x', 256), repeat('😀', 256)]) AS t;
SET CONSTRAINTS ALL DEFERRED;
SELECT is(
    (SELECT array_agg(c) FROM generate_series(1, x'3100'::integer) AS c WHERE NOT pg_temp.is_topic(chr(c))),
    (SELECT array_agg(c) FROM generate_series(1, x'3100'::integer) AS c
     WHERE c BETWEEN 1 AND 32 OR c BETWEEN 127 AND 160 OR c IN (x'1680'::integer, x'2028'::integer, x'2029'::integer)
        OR c BETWEEN x'2000'::integer AND x'200a'::integer OR c IN (x'202f'::integer, x'205f'::integer, x'3000'::integer)),
    'alone, exactly the control characters and the spaces are no topic');
SET CONSTRAINTS ALL IMMEDIATE;

-- Columns

SELECT throws_ok($$INSERT INTO pgpoll.messages (topic) VALUES ('t')$$, '23502', NULL, 'no payload');
SELECT throws_ok($$INSERT INTO pgpoll.messages (topic, payload) VALUES ('t', '{')$$, '22P02', NULL, 'payload is not JSON');
SELECT throws_ok($$INSERT INTO pgpoll.messages (topic, payload, created_at) VALUES ('t', '1', 'infinity')$$, '23514', NULL,
                 'a time that is none');
SELECT lives_ok($$INSERT INTO pgpoll.messages (topic, payload) VALUES ('t', 'null')$$, 'null is a payload');
INSERT INTO pgpoll.messages (topic, payload, metadata) VALUES ('exact', '{"b":1.0, "a":1e400,"a":12345678901234567890}', '[ ]');
SELECT results_eq($$SELECT payload::text, metadata::text FROM pgpoll.catch_up('{exact}', '{0}', 9, 999) WHERE payload IS NOT NULL$$,
                  $$VALUES ('{"b":1.0, "a":1e400,"a":12345678901234567890}', '[ ]')$$, 'JSON comes out as it went in');

-- Positions

SELECT setval('pgpoll.last_position', 0) AS none, extract(epoch FROM clock_timestamp()) * 1000 AS before \gset
SELECT pg_temp.publish('clock', '"first"', '"second"', '"third"');
SELECT extract(epoch FROM clock_timestamp()) * 1000 AS after \gset
SELECT is(pg_temp.at('"first"') & 65535, 0::bigint, 'a new millisecond starts at 0');
SELECT ok(pg_temp.at('"first"') >> 16 BETWEEN :before - 1 AND :after + 1, 'milliseconds are the clock''s');
SELECT ok(pg_temp.at('"third"') > pg_temp.at('"second"') AND pg_temp.at('"second"') > pg_temp.at('"first"'),
          'positions grow in order of the INSERTs of a transaction');

SELECT ((extract(epoch FROM clock_timestamp() + '1 day') * 1000)::bigint << 16) + 65534 AS tomorrow \gset
SELECT setval('pgpoll.last_position', :tomorrow) AS ahead \gset
SELECT pg_temp.publish('clock', '"a"', '"b"', '"c"');
SELECT is(ARRAY[pg_temp.at('"a"'), pg_temp.at('"b"'), pg_temp.at('"c"')], ARRAY[:tomorrow + 1, :tomorrow + 2, :tomorrow + 3],
          'the clock stepped back: positions go on from the last one');
SELECT setval('pgpoll.last_position', 0) AS back \gset

-- As the transaction left it

SET CONSTRAINTS ALL DEFERRED;
SELECT pg_temp.publish('draft', '"kept"', '"changed"', '"deleted"', '"moved"');
SELECT is_empty($$SELECT FROM pgpoll.feed WHERE topic = 'draft'$$, 'no position before the commit');
UPDATE pgpoll.messages SET payload = '"as left"' WHERE payload::text = '"changed"';
DELETE FROM pgpoll.messages WHERE payload::text = '"deleted"';
UPDATE pgpoll.messages SET topic = 'elsewhere' WHERE payload::text = '"moved"';
SET CONSTRAINTS ALL IMMEDIATE;
SELECT is(pg_temp.page('{draft,elsewhere}', '{0,0}'), '{"\"kept\"","\"as left\"","\"moved\""}', 'what the transaction left');
SELECT is(pg_temp.page('{elsewhere}', '{0}'), '{"\"moved\""}', 'under the topic it was left with');
UPDATE pgpoll.messages SET payload = '"later"' WHERE payload::text = '"kept"';
SELECT is((SELECT count(*) FROM pgpoll.feed WHERE topic = 'draft'), 2::bigint, 'changing a message does not send it again');

SET CONSTRAINTS ALL DEFERRED;
SAVEPOINT s;
SELECT pg_temp.publish('points', '"undone"');
ROLLBACK TO s;
SELECT pg_temp.publish('points', '"outer"');
SAVEPOINT s;
SELECT pg_temp.publish('points', '"inner"');
RELEASE s;
SELECT pg_temp.publish('points', '"last"');
SET CONSTRAINTS pgpoll.assign_position IMMEDIATE;
SELECT is(pg_temp.page('{points}', '{0}'), '{"\"outer\"","\"inner\"","\"last\""}', 'savepoints');
SELECT pg_temp.publish('points', '"at once"');
SELECT isnt(pg_temp.at('"at once"'), NULL, 'after SET CONSTRAINTS IMMEDIATE each statement gives positions');

SELECT pg_temp.publish('points', '"at once, then not"');
DELETE FROM pgpoll.messages WHERE payload::text = '"at once, then not"';
SELECT is(pg_temp.page('{points}', '{0}', 4), '{"\"outer\"","\"inner\"","\"last\"","\"at once\""}', 'and may still be deleted');

-- Other ways in

COPY pgpoll.messages (topic, payload) FROM STDIN;
copied	1
copied	2
\.
SELECT is(pg_temp.page('{copied}', '{0}'), '{1,2}', 'COPY');

INSERT INTO pgpoll.messages (id, topic, payload) OVERRIDING SYSTEM VALUE VALUES (-1, 'upsert', '1');
INSERT INTO pgpoll.messages (id, topic, payload) OVERRIDING SYSTEM VALUE VALUES (-1, 'upsert', '2'), (-2, 'upsert', '3')
    ON CONFLICT DO NOTHING;
SELECT is(pg_temp.page('{upsert}', '{0}'), '{1,3}', 'ON CONFLICT DO NOTHING sends only what it inserted');
INSERT INTO pgpoll.messages (id, topic, payload) OVERRIDING SYSTEM VALUE VALUES (-2, 'upsert', '4'), (-3, 'upsert', '5')
    ON CONFLICT (id) DO UPDATE SET payload = excluded.payload;
SELECT is(pg_temp.page('{upsert}', '{0}'), '{1,4,5}', 'ON CONFLICT DO UPDATE sends nothing twice');

SET LOCAL session_replication_role = replica;
SELECT pg_temp.publish('replicated', '1');
SET LOCAL session_replication_role = origin;
SELECT is(pg_temp.page('{replicated}', '{0}'), '{1}', 'rows that logical replication applies are messages too');

-- Plan: a session may keep the plan that it made when there were few messages.

TRUNCATE pgpoll.messages;
SELECT pg_temp.publish('few', '1');
ANALYZE pgpoll.messages;
SELECT seq_scan AS before FROM pg_stat_xact_user_tables WHERE relid = 'pgpoll.messages'::regclass \gset
SELECT pg_temp.publish('few', '2', '3', '4', '5', '6', '7', '8', '9');
SELECT is((SELECT seq_scan FROM pg_stat_xact_user_tables WHERE relid = 'pgpoll.messages'::regclass), :'before',
          'the trigger finds its message by the index, however few there are');

SELECT * FROM finish();
ROLLBACK;
