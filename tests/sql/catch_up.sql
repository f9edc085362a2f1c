\ir begin.psql

-- Rows

SELECT pg_temp.publish('a', '1');
SELECT pg_temp.publish('b', '2');
INSERT INTO pgpoll.messages (topic, payload, metadata, created_at)
    VALUES ('a', '3', '{"m":1}', '2020-01-02 03:04:05.678901+00');
SELECT pg_temp.publish('a', '4');
SELECT is((pgpoll.assign_positions()).assigned, 4, 'all messages get positions');
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
    'catch_up() returns a row per topic, the messages of all topics in order, and a mark that more follow');
SELECT is((SELECT created_at FROM pgpoll.catch_up('{a}', '{0}', 9, 1000) WHERE payload::text = '3'),
    '2020-01-02 03:04:05.678901+00'::timestamptz, 'created_at is returned as it was inserted');

-- Positions

SELECT is(pg_temp.page('{a}', ARRAY[pg_temp.at('1')]), '{3,4}', 'reading starts after the position');
SELECT is(pg_temp.page('{a,b}', ARRAY[pg_temp.at('3'), 0]), '{2,4}', 'each topic has its own position');
SELECT is(pg_temp.page('{b,a}', ARRAY[0, pg_temp.at('3')]), '{2,4}',
    'the order of the topics does not matter');
SELECT is(pg_temp.page('{a}', '{NULL}'), '{}', 'a read from now on returns no old message');
SELECT is(pg_temp.starts('{b,a}', '{NULL,NULL}'), ARRAY[pg_temp.at('2'), pg_temp.at('4')]::text[],
    'a read from now on starts at the newest position of each topic');
SELECT pg_temp.publish('a', '5');
SELECT is(pg_temp.page('{a}', ARRAY[pg_temp.at('4')]), '{5}',
    'a read after that position returns later messages');
SELECT is(pg_temp.starts('{a}', ARRAY[pg_temp.at('3') - 1]), ARRAY[pg_temp.at('3') - 1]::text[],
    'a position between messages is no gap');
SELECT is(pg_temp.page('{A,"a ",c}', '{0,0,0}'), '{}', 'topics are compared byte by byte');

-- The last n

SELECT is(pg_temp.page('{a}', ARRAY[n]), p::text[], format('the last %s', -n))
FROM (VALUES (-1, '{5}'), (-2, '{4,5}'), (-3, '{3,4,5}'), (-4, '{1,3,4,5}'), (-5, '{1,3,4,5}'),
             (-1000, '{1,3,4,5}')) v (n, p);
SELECT is(pg_temp.page('{a}', '{-3}', 2), '{3,4,more}', 'a page with fewer begins with the oldest of them');
SELECT is(pg_temp.page('{a}', ARRAY[pg_temp.at('4')], 2), '{5}', 'and the next one continues');
SELECT is(pg_temp.page('{b,a,quiet}', ARRAY[-1, pg_temp.at('4'), NULL]), '{2,5}', 'beside other cursors');
SELECT is(pg_temp.starts('{quiet,b,a}', '{-3,-7,-1}'),
    ARRAY['0', '0 ' || pg_temp.at('2'), pg_temp.at('4')::text],
          'a read of the last messages has no gap');
SELECT pg_temp.publish('deleted', '"1"', '"2"', '"3"', '"4"', '"5"');
SELECT pgpoll.assign_positions() \g /dev/null
DELETE FROM pgpoll.messages WHERE topic = 'deleted' AND payload::text IN ('"2"', '"4"', '"5"');
SELECT is(pg_temp.page('{deleted}', '{-1}'), '{"\"3\""}', 'messages that somebody deleted do not count');
SELECT is(pg_temp.page('{deleted}', '{-2}'), '{"\"1\"","\"3\""}', 'nor do those between');

-- Count and bytes. Each payload has 10 bytes.

SELECT pg_temp.publish('ten', '"aaaaaaaa"', '"bbbbbbbb"', '"cccccccc"');
SELECT is(pg_temp.page('{ten}', '{0}', n), p::text[], format('at most %s of 3', n))
FROM (VALUES (1, '{"\"aaaaaaaa\"",more}'), (2, '{"\"aaaaaaaa\"","\"bbbbbbbb\"",more}'),
    (3, '{"\"aaaaaaaa\"","\"bbbbbbbb\"","\"cccccccc\""}'),
    (4, '{"\"aaaaaaaa\"","\"bbbbbbbb\"","\"cccccccc\""}')) v (n, p);
SELECT is(pg_temp.page('{ten}', '{0}', 100, n), p::text[], format('at most %s of 30 bytes', n))
FROM (VALUES (0, '{"\"aaaaaaaa\"",more}'), (9, '{"\"aaaaaaaa\"",more}'), (10, '{"\"aaaaaaaa\"",more}'),
    (19, '{"\"aaaaaaaa\"",more}'),
    (20, '{"\"aaaaaaaa\"","\"bbbbbbbb\"",more}'), (29, '{"\"aaaaaaaa\"","\"bbbbbbbb\"",more}'),
    (30, '{"\"aaaaaaaa\"","\"bbbbbbbb\"","\"cccccccc\""}')) v (n, p);

INSERT INTO pgpoll.messages (topic, payload, metadata) VALUES ('large', '"üüü"', '[1]'), ('large', '1', NULL);
SELECT is(pg_temp.page('{large}', '{0}', 9, 12), '{"\"üüü\"",1}',
    'the budget counts bytes of payload and metadata');
SELECT is(pg_temp.page('{large}', '{0}', 9, 11), '{"\"üüü\"",more}',
    'a message that exceeds the budget by a byte is left for the next page');
SELECT is(pg_temp.page('{large}', ARRAY[pg_temp.at('"üüü"')], 1, 0), '{1}',
    'a first message larger than the budget is returned alone');
SELECT is(pg_temp.page('{ten,large}', '{0,0}', 100, 41),
    '{"\"aaaaaaaa\"","\"bbbbbbbb\"","\"cccccccc\"","\"üüü\"",more}', 'all topics share one budget');

-- With any limits, reading page by page returns each message once and in order.

CREATE FUNCTION pg_temp.read_all(topics text[], max_messages integer, max_bytes bigint) RETURNS bigint[]
    LANGUAGE plpgsql AS $$
DECLARE
    cursors bigint[] := array_fill(0::bigint, ARRAY[cardinality(topics)]);
    got bigint[] := '{}';
    more boolean := true;
    r record;
BEGIN
    WHILE more LOOP
        more := false;
        FOR r IN SELECT * FROM pgpoll.catch_up(topics, cursors, max_messages, max_bytes)
            WHERE created_at IS NOT NULL LOOP
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
SELECT 'mix' || (random() * 3)::integer, to_json(repeat('x', (random() * 40)::integer))
    FROM generate_series(1, 300);
SELECT pgpoll.assign_positions() \g /dev/null
SELECT is(pg_temp.read_all('{mix2,mix0,mix3,mix1}', messages, bytes),
    (SELECT array_agg(position ORDER BY position) FROM pgpoll.feed WHERE topic LIKE 'mix%'),
    format('pages of at most %s messages and %s bytes', messages, bytes))
FROM unnest(ARRAY[1, 2, 7, 300, 1000]) AS messages, unnest(ARRAY[1, 45, 1000000]) AS bytes;

-- Messages that were deleted by hand

DELETE FROM pgpoll.messages WHERE topic = 'ten' AND payload::text = '"bbbbbbbb"';
SELECT is(pg_temp.page('{ten}', '{0}', 2), '{"\"aaaaaaaa\"","\"cccccccc\""}', 'a deleted message is skipped');
SELECT is(pg_temp.page('{ten}', '{0}', 1), '{"\"aaaaaaaa\"",more}',
    'a deleted message does not count as more');
SELECT is(pg_temp.page('{ten}', '{0}', 9, 20), '{"\"aaaaaaaa\"","\"cccccccc\""}',
    'a deleted message does not count against the budget');
DELETE FROM pgpoll.messages WHERE topic = 'ten' AND payload::text = '"cccccccc"';
SELECT is(pg_temp.page('{ten}', '{0}', 1), '{"\"aaaaaaaa\""}',
    'if the last message was deleted, there are no more');

-- Of one topic more than a page takes, and of the others here and there.
DELETE FROM pgpoll.messages m USING pgpoll.feed f
WHERE f.message_id = m.id
  AND (f.topic = 'mix1' AND f.position < (SELECT max(position) FROM pgpoll.feed WHERE topic = 'mix1')
       OR f.topic LIKE 'mix%' AND m.id % 5 = 0);
SELECT is(pg_temp.read_all('{mix2,mix0,mix3,mix1}', messages, 1000000),
          (SELECT array_agg(f.position ORDER BY f.position)
           FROM pgpoll.feed f JOIN pgpoll.messages m ON m.id = f.message_id WHERE f.topic LIKE 'mix%'),
          format('what is left, in pages of at most %s', messages))
FROM unnest(ARRAY[1, 2, 7, 300]) AS messages;

-- Gaps

-- Those who read give positions first, which may store an empty batch if the machine is busy.
-- What is an hour ahead stays ahead.
SELECT last_value AS last, last_value + (3600000::bigint << 16) AS ahead FROM pgpoll.last_position \gset
SELECT is(pg_temp.starts('{a}', ARRAY[:last]), ARRAY[:last::text],
    'the newest position of all topics is no gap in an older topic');
SELECT is(pg_temp.starts('{a,quiet}', ARRAY[:ahead, 9223372036854775807]),
    ARRAY[concat_ws(' ', pg_temp.at('5'), 'ahead', pg_temp.at('1')), '0 ahead'],
    'a position ahead of the last one is a gap, and reading starts from now on');
SELECT is((SELECT gap FROM pgpoll.last_position, pgpoll.catch_up('{a}', ARRAY[last_value + 1], 9, 999)
           WHERE created_at IS NULL), 'ahead', 'the position after the last one is ahead');
SELECT is(pg_temp.page('{a}', ARRAY[:ahead]), '{}',
    'a position ahead of the last one returns no old messages');
SELECT is(pg_temp.starts('{quiet,a}', '{1,1}'), '{1,1}',
    'an old position is no gap if nothing was pruned after it');

SELECT pg_temp.at('1') AS first, pg_temp.at('3') AS pruned \gset
DELETE FROM pgpoll.feed WHERE topic = 'a' AND position <= :pruned;
INSERT INTO pgpoll.retention VALUES ('a', :pruned);
SELECT is(pg_temp.starts('{a,b}', ARRAY[:first, :first]),
    ARRAY[concat_ws(' ', :pruned, 'expired', pg_temp.at('4')), :first::text],
    'a position is expired only in a topic that was pruned after it');
SELECT is(pg_temp.starts('{a}', ARRAY[:pruned - 1]),
    ARRAY[concat_ws(' ', :pruned, 'expired', pg_temp.at('4'))],
    'the position just below pruned_to is expired');
SELECT is(pg_temp.starts('{a}', ARRAY[:pruned]), ARRAY[:pruned::text], 'the position pruned_to is no gap');
SELECT is(pg_temp.page('{a}', ARRAY[:first]), '{4,5}',
    'an expired position is read from the oldest retained message');
DELETE FROM pgpoll.feed WHERE topic = 'a';
SELECT is(pg_temp.starts('{a,a,a}', ARRAY[NULL, 1, :ahead]),
    ARRAY[:pruned::text, :pruned || ' expired', :pruned || ' ahead'],
    'in a topic that was pruned completely, reading starts at pruned_to and there is no oldest message');

-- Plan

CREATE FUNCTION pg_temp.seq_scans() RETURNS bigint LANGUAGE sql AS $$
    SELECT sum(seq_scan) FROM pg_stat_xact_user_tables WHERE schemaname = 'pgpoll'
        AND relname IN ('messages', 'feed', 'retention');
$$;
CREATE FUNCTION pg_temp.scanned(query text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    before bigint := pg_temp.seq_scans();
BEGIN
    EXECUTE query;
    RETURN pg_temp.seq_scans() - before;
END $$;
SELECT is(pg_temp.scanned('SELECT FROM pgpoll.feed'), 1::bigint,
    'scanned() counts the scan of a whole table');
SELECT is(pg_temp.scanned($$SELECT FROM pgpoll.catch_up('{mix0,a,quiet}', '{0,1,NULL}', 10, 1000)$$),
    0::bigint, 'catch_up() uses only index scans before ANALYZE');
ANALYZE pgpoll.messages, pgpoll.feed, pgpoll.retention;
SELECT is(pg_temp.scanned($$SELECT FROM pgpoll.catch_up('{mix0,a,quiet}', '{0,1,NULL}', 10, 1000)$$),
    0::bigint, 'catch_up() uses only index scans after ANALYZE');

SELECT * FROM finish();
ROLLBACK;
