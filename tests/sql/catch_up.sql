\ir begin.psql

-- Rows

SELECT pg_temp.publish('a', '1');
SELECT pg_temp.publish('b', '2');
INSERT INTO pgpoll.messages (topic, payload, metadata, created_at) VALUES ('a', '3', '{"m":1}', '2020-01-02 03:04:05.678901+00');
SELECT pg_temp.publish('a', '4');
SELECT is((pgpoll.assign_positions()).assigned, 4, 'positions are given');
SELECT results_eq(
    $$SELECT topic_no, position, created_at = now(), payload::text, metadata::text, gap, oldest
      FROM pgpoll.catch_up('{b,a,quiet}', '{0,0,NULL}', 3, 1000)$$,
    $$VALUES (1, 0::bigint, NULL, NULL, NULL, NULL, pg_temp.at('2')),
             (2, 0, NULL, NULL, NULL, NULL, pg_temp.at('1')),
             (3, 0, NULL, NULL, NULL, NULL, NULL),
             (2, pg_temp.at('1'), true, '1', NULL, NULL, NULL),
             (1, pg_temp.at('2'), true, '2', NULL, NULL, NULL),
             (2, pg_temp.at('3'), false, '3', '{"m":1}', NULL, NULL),
             (2, pg_temp.at('4'), true, NULL, NULL, NULL, NULL)$$,
    'a row per topic, the messages of all topics in the order of delivery, one that says there are more');
SELECT is((SELECT created_at FROM pgpoll.catch_up('{a}', '{0}', 9, 1000) WHERE payload::text = '3'),
          '2020-01-02 03:04:05.678901+00'::timestamptz, 'created_at is the message''s');

-- Positions

SELECT is(pg_temp.page('{a}', ARRAY[pg_temp.at('1')]), '{3,4}', 'after the position, not at it');
SELECT is(pg_temp.page('{a,b}', ARRAY[pg_temp.at('3'), 0]), '{2,4}', 'each topic has its own position');
SELECT is(pg_temp.page('{b,a}', ARRAY[0, pg_temp.at('3')]), '{2,4}', 'and the order of the topics does not matter');
SELECT is(pg_temp.page('{a}', '{NULL}'), '{}', 'from now: nothing yet');
SELECT is(pg_temp.starts('{b,a}', '{NULL,NULL}'), ARRAY[pg_temp.at('2'), pg_temp.at('4')]::text[], 'from now is the newest of each topic');
SELECT pg_temp.publish('a', '5');
SELECT is(pg_temp.page('{a}', ARRAY[pg_temp.at('4')]), '{5}', 'from now: what comes then');
SELECT is(pg_temp.starts('{a}', ARRAY[pg_temp.at('3') - 1]), ARRAY[pg_temp.at('3') - 1]::text[],
          'a position between messages is where the reading starts');
SELECT is(pg_temp.page('{A,"a ",c}', '{0,0,0}'), '{}', 'topics are compared byte by byte');

-- Count and bytes. Each payload has 10 bytes.

SELECT pg_temp.publish('ten', '"aaaaaaaa"', '"bbbbbbbb"', '"cccccccc"');
SELECT is(pg_temp.page('{ten}', '{0}', n), p::text[], format('at most %s of 3', n))
FROM (VALUES (1, '{"\"aaaaaaaa\"",more}'), (2, '{"\"aaaaaaaa\"","\"bbbbbbbb\"",more}'),
             (3, '{"\"aaaaaaaa\"","\"bbbbbbbb\"","\"cccccccc\""}'), (4, '{"\"aaaaaaaa\"","\"bbbbbbbb\"","\"cccccccc\""}')) v (n, p);
SELECT is(pg_temp.page('{ten}', '{0}', 100, n), p::text[], format('at most %s of 30 bytes', n))
FROM (VALUES (0, '{"\"aaaaaaaa\"",more}'), (9, '{"\"aaaaaaaa\"",more}'), (10, '{"\"aaaaaaaa\"",more}'), (19, '{"\"aaaaaaaa\"",more}'),
             (20, '{"\"aaaaaaaa\"","\"bbbbbbbb\"",more}'), (29, '{"\"aaaaaaaa\"","\"bbbbbbbb\"",more}'),
             (30, '{"\"aaaaaaaa\"","\"bbbbbbbb\"","\"cccccccc\""}')) v (n, p);

INSERT INTO pgpoll.messages (topic, payload, metadata) VALUES ('large', '"üüü"', '[1]'), ('large', '1', NULL);
SELECT is(pg_temp.page('{large}', '{0}', 9, 12), '{"\"üüü\"",1}', 'the budget counts bytes of payload and metadata');
SELECT is(pg_temp.page('{large}', '{0}', 9, 11), '{"\"üüü\"",more}', 'one byte short');
SELECT is(pg_temp.page('{large}', ARRAY[pg_temp.at('"üüü"')], 1, 0), '{1}', 'a first message larger than the budget goes alone');
SELECT is(pg_temp.page('{ten,large}', '{0,0}', 100, 41), '{"\"aaaaaaaa\"","\"bbbbbbbb\"","\"cccccccc\"","\"üüü\"",more}',
          'one budget for all topics');

-- Paging: with any limits, everything once and in order

CREATE FUNCTION pg_temp.read_all(topics text[], max_messages integer, max_bytes bigint) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    cursors bigint[] := array_fill(0::bigint, ARRAY[cardinality(topics)]);
    got bigint[] := '{}';
    more boolean := true;
    r record;
BEGIN
    WHILE more LOOP
        more := false;
        FOR r IN SELECT * FROM pgpoll.catch_up(topics, cursors, max_messages, max_bytes) WHERE created_at IS NOT NULL LOOP
            more := r.payload IS NULL;
            EXIT WHEN more;
            got := got || r.position;
            cursors[r.topic_no] := r.position;
        END LOOP;
    END LOOP;
    RETURN got;
END $$;
SELECT setseed(0.5) AS seed \gset
INSERT INTO pgpoll.messages (topic, payload)
SELECT 'mix' || (random() * 3)::integer, to_json(repeat('x', (random() * 40)::integer)) FROM generate_series(1, 300);
SELECT pgpoll.assign_positions() \g /dev/null
SELECT is(pg_temp.read_all('{mix2,mix0,mix3,mix1}', messages, bytes),
          (SELECT array_agg(position ORDER BY position) FROM pgpoll.feed WHERE topic LIKE 'mix%'),
          format('pages of at most %s messages and %s bytes', messages, bytes))
FROM unnest(ARRAY[1, 2, 7, 300, 1000]) AS messages, unnest(ARRAY[1, 45, 1000000]) AS bytes;

-- Deleted by hand

DELETE FROM pgpoll.messages WHERE topic = 'ten' AND payload::text = '"bbbbbbbb"';
SELECT is(pg_temp.page('{ten}', '{0}', 2), '{"\"aaaaaaaa\"","\"cccccccc\""}', 'a deleted message is skipped');
SELECT is(pg_temp.page('{ten}', '{0}', 1), '{"\"aaaaaaaa\"",more}', 'more is a message that is there');
SELECT is(pg_temp.page('{ten}', '{0}', 9, 20), '{"\"aaaaaaaa\"","\"cccccccc\""}', 'a deleted message uses none of the budget');
DELETE FROM pgpoll.messages WHERE topic = 'ten' AND payload::text = '"cccccccc"';
SELECT is(pg_temp.page('{ten}', '{0}', 1), '{"\"aaaaaaaa\""}', 'if the last message was deleted, there are no more');

-- Of one topic more than a page takes, and of the others here and there.
DELETE FROM pgpoll.messages m USING pgpoll.feed f
WHERE f.message_id = m.id AND (f.topic = 'mix1' AND f.position < (SELECT max(position) FROM pgpoll.feed WHERE topic = 'mix1')
                               OR f.topic LIKE 'mix%' AND m.id % 5 = 0);
SELECT is(pg_temp.read_all('{mix2,mix0,mix3,mix1}', messages, 1000000),
          (SELECT array_agg(f.position ORDER BY f.position) FROM pgpoll.feed f JOIN pgpoll.messages m ON m.id = f.message_id
           WHERE f.topic LIKE 'mix%'),
          format('what is left, in pages of at most %s', messages))
FROM unnest(ARRAY[1, 2, 7, 300]) AS messages;

-- Gaps

SELECT last_value AS last FROM pgpoll.last_position \gset
SELECT is(pg_temp.starts('{a}', ARRAY[:last]), ARRAY[:last::text], 'the newest position of all is no gap in an older topic');
SELECT is(pg_temp.starts('{a,quiet}', ARRAY[:last + 1, 9223372036854775807]),
          ARRAY[concat_ws(' ', pg_temp.at('5'), 'ahead', pg_temp.at('1')), '0 ahead'], 'ahead: from now');
SELECT is(pg_temp.page('{a}', ARRAY[:last + 1]), '{}', 'ahead: no old messages');
SELECT is(pg_temp.starts('{quiet,a}', '{1,1}'), '{1,1}', 'an old position after which nothing was pruned is no gap');

SELECT pg_temp.at('1') AS first, pg_temp.at('3') AS pruned \gset
DELETE FROM pgpoll.feed WHERE topic = 'a' AND position <= :pruned;
INSERT INTO pgpoll.retention VALUES ('a', :pruned);
SELECT is(pg_temp.starts('{a,b}', ARRAY[:first, :first]),
          ARRAY[concat_ws(' ', :pruned, 'expired', pg_temp.at('4')), :first::text], 'expired: only where something was pruned');
SELECT is(pg_temp.starts('{a}', ARRAY[:pruned - 1]), ARRAY[concat_ws(' ', :pruned, 'expired', pg_temp.at('4'))], 'just below the floor');
SELECT is(pg_temp.starts('{a}', ARRAY[:pruned]), ARRAY[:pruned::text], 'at the floor nothing is missing');
SELECT is(pg_temp.page('{a}', ARRAY[:first]), '{4,5}', 'expired: from the oldest retained');
DELETE FROM pgpoll.feed WHERE topic = 'a';
SELECT is(pg_temp.starts('{a,a,a}', ARRAY[NULL, 1, :last + 1]), ARRAY[:pruned::text, :pruned || ' expired', :pruned || ' ahead'],
          'everything pruned: now is the floor, nothing is the oldest');

-- Plan

CREATE FUNCTION pg_temp.seq_scans() RETURNS bigint LANGUAGE sql AS $$
    SELECT sum(seq_scan) FROM pg_stat_xact_user_tables WHERE schemaname = 'pgpoll' AND relname IN ('messages', 'feed', 'retention');
$$;
CREATE FUNCTION pg_temp.scanned(query text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    before bigint := pg_temp.seq_scans();
BEGIN
    EXECUTE query;
    RETURN pg_temp.seq_scans() - before;
END $$;
SELECT is(pg_temp.scanned('SELECT FROM pgpoll.feed'), 1::bigint, 'a scan of a whole table is noticed');
SELECT is(pg_temp.scanned($$SELECT FROM pgpoll.catch_up('{mix0,a,quiet}', '{0,1,NULL}', 10, 1000)$$), 0::bigint, 'never analysed: index scans only');
ANALYZE pgpoll.messages, pgpoll.feed, pgpoll.retention;
SELECT is(pg_temp.scanned($$SELECT FROM pgpoll.catch_up('{mix0,a,quiet}', '{0,1,NULL}', 10, 1000)$$), 0::bigint, 'analysed: index scans only');

SELECT * FROM finish();
ROLLBACK;
