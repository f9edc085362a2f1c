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

SELECT ok(pg_temp.is_topic(t), 'is a topic: ' || to_json(left(t, 20)))
FROM unnest(ARRAY['a', '0', '$', ' a ', 'orders.eu/ü', E'日本\u3000語', '"; DROP TABLE x --', E'\\u0001',
    'a' || chr(160),
    repeat('x', 255), repeat('😀', 255)]) AS t;
SELECT ok(NOT pg_temp.is_topic(t), 'is no topic: ' || to_json(left(t, 20)))
FROM unnest(ARRAY['', '   ', chr(160) || ' ' || chr(12288), E'a\nb', E'a\t', 'a' || chr(127),
    'a' || chr(133) || 'b',
    repeat('x', 256), repeat('😀', 256)]) AS t;
SET CONSTRAINTS ALL DEFERRED;
SELECT is(
    (SELECT array_agg(c) FROM generate_series(1, x'3100'::integer) AS c WHERE NOT pg_temp.is_topic(chr(c))),
    (SELECT array_agg(c) FROM generate_series(1, x'3100'::integer) AS c
    WHERE c BETWEEN 1 AND 32 OR c BETWEEN 127 AND 160
    OR c IN (x'1680'::integer, x'2028'::integer, x'2029'::integer)
    OR c BETWEEN x'2000'::integer AND x'200a'::integer
    OR c IN (x'202f'::integer, x'205f'::integer, x'3000'::integer)),
    'a single character is no topic if it is a control character or a space, and only then');
SET CONSTRAINTS ALL IMMEDIATE;

-- Columns

SELECT throws_ok($$INSERT INTO pgpoll.messages (topic) VALUES ('t')$$, '23502', NULL,
    'the payload is required');
SELECT throws_ok($$INSERT INTO pgpoll.messages (topic, payload) VALUES ('t', '{')$$, '22P02', NULL,
    'the payload must be JSON');
SELECT throws_ok($$INSERT INTO pgpoll.messages (topic, payload, created_at) VALUES ('t', '1', 'infinity')$$,
    '23514', NULL, 'created_at must be finite');
SELECT lives_ok($$INSERT INTO pgpoll.messages (topic, payload) VALUES ('t', 'null')$$,
    'JSON null is a payload');
INSERT INTO pgpoll.messages (topic, payload, metadata)
    VALUES ('exact', '{"b":1.0, "a":1e400,"a":12345678901234567890}', '[ ]');
SELECT pgpoll.assign_positions() \g /dev/null
SELECT results_eq($$SELECT payload::text, metadata::text FROM pgpoll.catch_up('{exact}', '{0}', 9, 999)
    WHERE payload IS NOT NULL$$,
    $$VALUES ('{"b":1.0, "a":1e400,"a":12345678901234567890}', '[ ]')$$, 'JSON is read as it was written');

-- Positions

SELECT setval('pgpoll.last_position', 0) AS none, extract(epoch FROM clock_timestamp()) * 1000 AS before \gset
SELECT pg_temp.publish('clock', '"first"', '"second"', '"third"');
SELECT is((pgpoll.assign_positions()).assigned, 3, 'each message gets a position');
SELECT is((SELECT last_value FROM pgpoll.last_position), (SELECT max(position) FROM pgpoll.feed),
    'last_position holds the last position');
SELECT extract(epoch FROM clock_timestamp()) * 1000 AS after \gset
SELECT is((pgpoll.assign_positions()).assigned, 0, 'each message gets a position only once');
SELECT is(pg_temp.at('"first"') & 65535, 0::bigint, 'the counter of a new millisecond starts at 0');
SELECT ok(pg_temp.at('"first"') >> 16 BETWEEN :before - 1 AND :after + 1,
    'the milliseconds of a position are the time when it was given');
SELECT is(ARRAY[pg_temp.at('"second"'), pg_temp.at('"third"')],
    ARRAY[pg_temp.at('"first"') + 1, pg_temp.at('"first"') + 2],
    'the messages of a transaction have consecutive positions in the order of their INSERTs');

SELECT ((extract(epoch FROM clock_timestamp() + '1 day') * 1000)::bigint << 16) + 65534 AS tomorrow \gset
SELECT setval('pgpoll.last_position', :tomorrow) AS ahead \gset
SELECT pg_temp.publish('clock', '"a"', '"b"', '"c"');
SELECT is(ARRAY[pg_temp.at('"a"'), pg_temp.at('"b"'), pg_temp.at('"c"')],
    ARRAY[:tomorrow + 1, :tomorrow + 2, :tomorrow + 3],
    'after the clock was set back, positions continue after the last one');

-- A manager gets the messages with their positions.

SELECT pg_temp.publish('m2', '"x"');
SELECT pg_temp.publish('m1', '"y"');
SELECT results_eq(
    'SELECT topic COLLATE "default", "position", created_at, payload::text, metadata::text, assigned,
            complete_to FROM pgpoll.new_messages(2, 6)',
    $$VALUES ('m2', pg_temp.at('"x"'), now(), '"x"', NULL, 2, pg_temp.at('"y"')),
    ('m1', pg_temp.at('"y"'), now(), '"y"', NULL, 2, pg_temp.at('"y"'))$$,
    'new_messages() returns the messages in order');
-- A batch of a backlog also ends after 50 ms, which a busy machine may need for it. From here on it does not.
DO $$BEGIN
    EXECUTE replace(pg_get_functiondef('pgpoll.assign_backlog'::regproc), '50 ms', '1 hour');
END$$;
SELECT pg_temp.publish('m', '"v"', '"w"');
SELECT results_eq('SELECT topic COLLATE "default", "position", payload::text, assigned, more
    FROM pgpoll.new_messages(1, 100)', 'VALUES (NULL, NULL::bigint, NULL, 0, false)',
    'new_messages() leaves more messages of its own transaction than its limit without a position');
SELECT is((pgpoll.assign_positions()).assigned, 2, 'assign_positions() gives them positions');
SELECT pg_temp.publish('m', '"s"', '"t"');
SELECT results_eq('SELECT topic COLLATE "default", "position", payload::text, assigned
    FROM pgpoll.new_messages(2, 5)',
    $$VALUES (NULL, NULL::bigint, NULL, 2), ('m', pg_temp.at('"s"'), '"s"', 2)$$,
    'new_messages() returns one page of messages that exceed the byte limit');
SELECT results_eq('SELECT topic COLLATE "default", "position", payload::text, assigned
    FROM pgpoll.new_messages(2, 5)', 'VALUES (NULL, NULL::bigint, NULL, 0)',
    'a second call finds no new messages');
SELECT is(pg_temp.page('{m}', '{0}'), '{"\"v\"","\"w\"","\"s\"","\"t\""}',
    'the messages that were not returned have positions');

SAVEPOINT whole;
CREATE FUNCTION pg_temp.delete_message() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM pgpoll.messages WHERE id = NEW.message_id;
    RETURN NULL;
END $$;
CREATE TRIGGER delete_message AFTER INSERT ON pgpoll.feed
    FOR EACH ROW EXECUTE FUNCTION pg_temp.delete_message();
SELECT pg_temp.publish('m', '"gone"', '"as well"');
SELECT results_eq('SELECT "position", assigned, complete_to > 0 FROM pgpoll.new_messages(2, 100)',
    'VALUES (NULL::bigint, 2, true)', 'a batch whose messages were deleted meanwhile is told, too');
ROLLBACK TO whole;

-- In a read-only database, reading still works.

SELECT pg_temp.publish('full', '"before"');
SELECT is((pgpoll.assign_positions()).assigned, 1,
    'a message gets its position before the database is read-only');
SELECT pg_temp.publish('full', '"waits"');
SAVEPOINT writable;
SET TRANSACTION READ ONLY;
SELECT is((pgpoll.assign_positions()).assigned, -1, 'assign_positions() returns -1');
SELECT results_eq('SELECT topic COLLATE "default", "position", payload::text, assigned, complete_to
    FROM pgpoll.new_messages(2, 8)',
    $$VALUES (NULL, NULL::bigint, NULL, -1, pg_temp.at('"before"'))$$, 'new_messages() returns -1');
SELECT results_eq($$SELECT topic COLLATE "default", payload::text, assigned
    FROM pgpoll.new_messages(2, 8, pg_temp.at('"before"') - 1)$$,
    $$VALUES (NULL, NULL, -1), ('full', '"before"', -1)$$, 'and the messages with a position');
SELECT is(pg_temp.page('{full}', '{0}'), '{"\"before\""}', 'messages with a position are read');
SELECT is(pgpoll.write_statistics('host', '{"pid":1,"workers":1}'), false, 'no statistics are written');
ROLLBACK TO writable;
SELECT is(pg_temp.page('{full}', '{0}'), '{"\"before\"","\"waits\""}',
    'the others are read when the database is writable');

-- Messages are delivered as their transaction left them

SELECT pg_temp.publish('draft', '"kept"', '"changed"', '"deleted"', '"moved"');
UPDATE pgpoll.messages SET payload = '"as left"' WHERE payload::text = '"changed"';
DELETE FROM pgpoll.messages WHERE payload::text = '"deleted"';
UPDATE pgpoll.messages SET topic = 'elsewhere' WHERE payload::text = '"moved"';
SELECT is(pg_temp.page('{draft,elsewhere}', '{0,0}'), '{"\"kept\"","\"as left\"","\"moved\""}',
    'messages are read as the transaction left them');
SELECT is(pg_temp.page('{elsewhere}', '{0}'), '{"\"moved\""}', 'a message is read under its last topic');
UPDATE pgpoll.messages SET payload = '"later"', topic = 'later' WHERE payload::text = '"kept"';
SELECT is(pg_temp.page('{later}', '{0}'), '{}',
    'a message with a position is not delivered again after an UPDATE');

SAVEPOINT s;
SELECT pg_temp.publish('points', '"undone"');
SELECT is((pgpoll.assign_positions()).assigned, 1, 'a message of a savepoint gets a position');
ROLLBACK TO s;
SELECT pg_temp.publish('points', '"outer"');
SAVEPOINT s;
SELECT pg_temp.publish('points', '"inner"');
RELEASE s;
SELECT pg_temp.publish('points', '"last"');
SAVEPOINT s;
SELECT is((pgpoll.assign_positions()).assigned, 3,
    'a rollback to the savepoint takes back all positions that were given after it');
ROLLBACK TO s;
SELECT is(pg_temp.page('{points}', '{0}'), '{"\"outer\"","\"inner\"","\"last\""}',
    'those messages get positions again');
SELECT pg_temp.publish('points', '"after"');
SELECT is(pg_temp.page('{points}', '{0}'), '{"\"outer\"","\"inner\"","\"last\"","\"after\""}',
    'no message is read twice');

-- Other ways to publish

COPY pgpoll.messages (topic, payload) FROM STDIN;
copied	1
copied	2
\.
SELECT is(pg_temp.page('{copied}', '{0}'), '{1,2}', 'COPY publishes messages');

INSERT INTO pgpoll.messages (id, topic, payload) OVERRIDING SYSTEM VALUE VALUES (-9, 'upsert', '1');
INSERT INTO pgpoll.messages (id, topic, payload) OVERRIDING SYSTEM VALUE VALUES (-9, 'upsert', '2'),
    (-8, 'upsert', '3')
    ON CONFLICT DO NOTHING;
SELECT is(pg_temp.page('{upsert}', '{0}'), '{1,3}',
    'ON CONFLICT DO NOTHING publishes only the rows that it inserted');
INSERT INTO pgpoll.messages (id, topic, payload) OVERRIDING SYSTEM VALUE VALUES (-8, 'upsert', '4'),
    (-7, 'upsert', '5')
    ON CONFLICT (id) DO UPDATE SET payload = excluded.payload;
SELECT is(pg_temp.page('{upsert}', '{0}'), '{1,4,5}', 'ON CONFLICT DO UPDATE publishes no row twice');

SET LOCAL session_replication_role = replica;
INSERT INTO pgpoll.messages (id, topic, payload, xid) OVERRIDING SYSTEM VALUE
VALUES (-3, 'replicated', '1', '3'), (-2, 'replicated', '2', '1000000000000'), (-1, 'replicated', '3', NULL);
SET LOCAL session_replication_role = origin;
SELECT is(pg_temp.page('{replicated}', '{0}'), '{1,2,3}',
    'rows that logical replication applies are messages');
SET LOCAL session_replication_role = replica;
UPDATE pgpoll.messages SET xid = '1000000000000' WHERE topic = 'replicated';
SET LOCAL session_replication_role = origin;
SELECT is((pgpoll.assign_positions()).assigned, 0,
    'the transaction numbers of another cluster are ignored');

-- TRUNCATE ... RESTART IDENTITY: new messages may have the ids of old ones.

SELECT pg_temp.publish('emptied', '"old"', '"gone"');
SELECT pg_temp.at('"gone"') AS emptied \gset
TRUNCATE pgpoll.messages RESTART IDENTITY;
SELECT pg_temp.publish('full', '"again"') FROM generate_series(1, 3);
SELECT is(pg_temp.page('{full,emptied}', '{0,0}'), '{"\"again\"","\"again\"","\"again\""}',
    'after TRUNCATE only later messages are read, under their own topics');
SELECT is(pg_temp.starts('{emptied}', ARRAY[:emptied - 1]), ARRAY[:emptied || ' expired'],
    'a cursor from before the TRUNCATE is expired');

-- Plans: a session may have cached them when there were few messages.

CREATE FUNCTION pg_temp.seq_scans() RETURNS bigint LANGUAGE sql AS $$
    SELECT sum(seq_scan) FROM pg_stat_xact_user_tables WHERE schemaname = 'pgpoll'
        AND relname IN ('messages', 'feed', 'batches');
$$;
TRUNCATE pgpoll.messages;
DELETE FROM pgpoll.batches WHERE position < (SELECT max(position) FROM pgpoll.batches);
SELECT pg_temp.publish('few', '1');
ANALYZE pgpoll.messages, pgpoll.batches, pgpoll.feed;
SELECT pg_temp.seq_scans() AS before \gset
DO $$
BEGIN
    FOR n IN 1..20 LOOP
        PERFORM pg_temp.publish('few', '2'), pg_temp.publish('few', '3');
        PERFORM pgpoll.assign_positions();
        PERFORM pg_temp.publish('few', '2'), pg_temp.publish('few', '3');
        PERFORM FROM pgpoll.new_messages(10, 1000);
    END LOOP;
END $$;
SELECT is(pg_temp.seq_scans(), :'before',
    'giving positions uses indexes, however few messages there are');
SELECT is((SELECT count(*) FROM pgpoll.feed WHERE topic = 'few'), 81::bigint, 'all messages have positions');

-- ROLLBACK does not reset a sequence.
SELECT setval('pgpoll.last_position', 0), setval('pgpoll.last_deleted', 0) AS back \gset

SELECT * FROM finish();
ROLLBACK;
