\ir begin.psql

CREATE ROLE anybody NOLOGIN;
CREATE FUNCTION pg_temp.as_role(role text, sql text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('SET LOCAL ROLE %I', role);
    EXECUTE sql;
    RESET ROLE;
END $$;

-- Every role tries each statement.
CREATE TEMP TABLE rights (who text, sql text);
INSERT INTO rights VALUES
    ('pgpoll_publisher', $$INSERT INTO pgpoll.messages (topic, payload, metadata) VALUES ('t', '1', '{}')$$),
    ('pgpoll_publisher', $$INSERT INTO pgpoll.messages (topic, payload) VALUES ('t', '1')
        ON CONFLICT DO NOTHING$$),
    ('', $$INSERT INTO pgpoll.messages (topic, payload, created_at) VALUES ('t', '1', now())$$),
    ('', $$INSERT INTO pgpoll.messages (id, topic, payload) OVERRIDING SYSTEM VALUE VALUES (1, 't', '1')$$),
    ('', $$INSERT INTO pgpoll.messages (topic, payload, xid) VALUES ('t', '1', NULL)$$),
    ('', $$INSERT INTO pgpoll.messages (topic, payload) VALUES ('t', '1') RETURNING id$$),
    ('', $$INSERT INTO pgpoll.feed VALUES ('t', 1, 1, 1)$$),
    ('', $$INSERT INTO pgpoll.batches VALUES (1, '1', '{}')$$),
    ('', 'SELECT FROM pgpoll.messages'),
    ('', 'SELECT FROM pgpoll.feed'),
    ('', 'SELECT FROM pgpoll.batches'),
    ('', 'SELECT FROM pgpoll.retention'),
    ('', 'SELECT FROM pgpoll.position_times'),
    ('', 'UPDATE pgpoll.messages SET topic = topic'),
    ('', 'UPDATE pgpoll.messages SET xid = NULL'),
    ('', 'DELETE FROM pgpoll.messages'),
    ('', 'TRUNCATE pgpoll.messages'),
    ('', 'LOCK TABLE pgpoll.feed_lock IN ACCESS SHARE MODE'),
    ('', 'LOCK TABLE pgpoll.feed_lock IN SHARE UPDATE EXCLUSIVE MODE'),
    ('', 'LOCK TABLE pgpoll.messages IN SHARE MODE'),
    ('', $$SELECT setval('pgpoll.last_position', 1)$$),
    ('', $$SELECT nextval('pgpoll.last_position')$$),
    ('', 'SELECT last_value FROM pgpoll.last_position'),
    ('', $$SELECT setval('pgpoll.doorbell', 1)$$),
    ('', $$SELECT nextval('pgpoll.doorbell')$$),
    ('', 'SELECT last_value FROM pgpoll.doorbell'),
    ('', 'SELECT pgpoll.assign_batch(true, 1)'),
    ('', 'SELECT pgpoll.adopt_messages(NULL, NULL)'),
    ('', 'SELECT pgpoll.assign_backlog(1, NULL)'),
    ('', $$SELECT pgpoll.prune('1 year')$$),
    ('', $$SELECT pgpoll.prune_part(NULL, '1 year', 0, 1, NULL)$$),
    ('', $$CALL pgpoll.prune_topics('1 year')$$),
    ('pgpoll_monitor', 'SELECT FROM pgpoll.retention_rules'),
    ('', $$INSERT INTO pgpoll.retention_rules VALUES ('t', '0')$$),
    ('', 'CREATE TABLE pgpoll.mine ()'),
    ('', 'ALTER TABLE pgpoll.messages DISABLE TRIGGER ring_doorbell'),
    ('', 'CREATE TEMP TABLE mine (topic text); CREATE TRIGGER t AFTER INSERT ON mine
        EXECUTE FUNCTION pgpoll.ring_doorbell()'),
    ('', 'CREATE TEMP TABLE mine (topic text); CREATE TRIGGER t BEFORE INSERT ON mine
        EXECUTE FUNCTION pgpoll.replicate_message()'),
    ('', 'CREATE TEMP TABLE mine (topic text); CREATE TRIGGER t AFTER TRUNCATE ON mine
        EXECUTE FUNCTION pgpoll.truncate_messages()'),
    ('', $$CREATE OR REPLACE FUNCTION pgpoll.can_poll(remote_user text, topic text) RETURNS boolean
        LANGUAGE sql AS 'SELECT true'$$),
    ('pgpoll_poller', $$SELECT pgpoll.can_poll('', 't')$$),
    ('pgpoll_poller', $$SELECT pgpoll.refused_topic('', '{t}')$$),
    ('pgpoll_poller', $$SELECT pgpoll.authenticate('Bearer x')$$),
    ('pgpoll_poller', $$SELECT pgpoll.has_authenticate()$$),
    ('pgpoll_poller', $$SELECT pgpoll.is_open_to_all()$$),
    ('pgpoll_poller', $$SELECT pgpoll.listen('{t}')$$),
    ('', 'SELECT pgpoll.note_deletion(1)'),
    ('', $$SELECT pgpoll.note_position('1 day')$$),
    ('', $$SELECT pgpoll.position_at(now(), true)$$),
    ('pgpoll_poller', 'SELECT pgpoll.assign_positions()'),
    ('pgpoll_poller', 'SELECT pgpoll.new_messages(1, 1)'),
    ('pgpoll_poller', $$SELECT pgpoll.read_feed(1, 1, 0, '{t}')$$),
    ('pgpoll_poller', 'SELECT FROM pgpoll.feed_messages'),
    ('pgpoll_poller', $$SELECT pg_sequence_last_value('pgpoll.last_deleted')$$),
    ('', $$SELECT setval('pgpoll.last_deleted', 1)$$),
    ('pgpoll_poller', $$SELECT pgpoll.newest_positions('{t}')$$),
    ('pgpoll_poller', 'SELECT pgpoll.mute_doorbell(1)'),
    ('pgpoll_poller', 'SELECT pgpoll.unmute_doorbell()'),
    ('pgpoll_poller', $$SELECT pgpoll.catch_up('{t}', '{0}', 1, 1)$$),
    ('pgpoll_poller', $$SELECT pgpoll.sweep_waiters()$$),
    ('pgpoll_poller pgpoll_monitor', $$SELECT pgpoll.schema_version()$$),
    ('pgpoll_poller pgpoll_monitor', 'SELECT * FROM pgpoll.stats'),
    ('pgpoll_poller pgpoll_monitor', 'SELECT pgpoll.retained_topics(1)'),
    ('pgpoll_publisher pgpoll_poller', 'SELECT pgpoll.cursor()'),
    ('pgpoll_monitor', 'SELECT * FROM pgpoll.topic_waiters'),
    ('pgpoll_monitor', 'SELECT * FROM pgpoll.live_waiters'),
    ('pgpoll_monitor', 'SELECT * FROM pgpoll.waiters'),
    ('', 'DELETE FROM pgpoll.waiters'),
    ('pgpoll_poller', $$SELECT pgpoll.write_statistics('h', '{"pid":1,"workers":1}')$$),
    ('pgpoll_poller pgpoll_monitor', 'SELECT pgpoll.metrics()'),
    ('pgpoll_poller pgpoll_monitor', $$SELECT pgpoll.problems('h', 1, 1)$$),
    ('pgpoll_poller', 'SELECT pgpoll.try_position()'),
    ('pgpoll_monitor',
        'SELECT * FROM pgpoll.listeners, pgpoll.counters, pgpoll.listening, pgpoll.waiting, pgpoll.topics'),
    ('pgpoll_monitor', 'SELECT * FROM pgpoll.retained, pgpoll.held_up, pgpoll.notification_queue'),
    ('', 'DELETE FROM pgpoll.listeners'),
    ('', 'DELETE FROM pgpoll.counters'),
    ('', $$INSERT INTO pgpoll.messages (topic, payload) VALUES ('t', '1') ON CONFLICT (id) DO UPDATE
        SET topic = 'u'$$),
    ('', $$INSERT INTO pgpoll.messages (topic, payload) SELECT topic, payload FROM pgpoll.messages$$),
    ('', $$INSERT INTO pgpoll.waiters VALUES ('h', 1, 1, '{t}', 'c', now(), now(), now())$$),
    ('', $$INSERT INTO pgpoll.retention VALUES ('t', 1)$$),
    ('', 'CREATE TEMP VIEW mine AS SELECT * FROM pgpoll.messages; SELECT FROM mine'),
    ('', 'LOCK TABLE pgpoll.feed IN SHARE MODE'),
    ('', 'SELECT pgpoll.assign_batch(true, 1)'),
    ('', 'CREATE TRIGGER mine BEFORE INSERT ON pgpoll.messages
        EXECUTE FUNCTION suppress_redundant_updates_trigger()'),
    ('', 'CREATE RULE mine AS ON INSERT TO pgpoll.messages DO INSTEAD NOTHING'),
    ('', 'CREATE INDEX ON pgpoll.messages (topic)'),
    ('', 'CREATE OR REPLACE VIEW pgpoll.stats AS SELECT 1::bigint AS active_waiters'),
    ('', $$CREATE FUNCTION pgpoll.mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'$$),
    ('', 'ALTER FUNCTION pgpoll.catch_up(text[], bigint[], integer, bigint) RESET ALL'),
    ('', 'ALTER FUNCTION pgpoll.can_poll(text, text) SECURITY DEFINER'),
    ('', 'DROP FUNCTION pgpoll.can_poll(text, text)'),
    ('', 'ALTER TABLE pgpoll.messages ENABLE ROW LEVEL SECURITY'),
    ('', 'ALTER SEQUENCE pgpoll.last_position RESTART'),
    ('', 'DROP SCHEMA pgpoll CASCADE'),
    ('', 'SET LOCAL session_replication_role = replica');
SELECT CASE WHEN role = ANY (string_to_array(who, ' '))
    THEN lives_ok(format('SELECT pg_temp.as_role(%L, %L)', role, sql),
    format('%s can: %s', role, sql))
    ELSE throws_ok(format('SELECT pg_temp.as_role(%L, %L)', role, sql), '42501', NULL,
    format('%s cannot: %s', role, sql)) END
FROM rights, unnest(ARRAY['pgpoll_publisher', 'pgpoll_poller', 'pgpoll_monitor', 'anybody']) AS role;

-- All grants in the catalogs. A new function or view needs an entry here, or must not be granted to anybody.
CREATE FUNCTION pg_temp.granted(role text) RETURNS SETOF text LANGUAGE sql AS $$
    WITH things (name, acl, owner) AS (
        SELECT 'schema', nspacl, nspowner FROM pg_namespace WHERE nspname = 'pgpoll'
        UNION ALL
        SELECT relname, coalesce(relacl,
            acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", relowner)), relowner
        FROM pg_class WHERE relnamespace = 'pgpoll'::regnamespace AND relkind NOT IN ('i', 't')
        UNION ALL
        SELECT c.relname || '.' || a.attname, a.attacl, c.relowner
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
            WHERE c.relnamespace = 'pgpoll'::regnamespace
        UNION ALL
        SELECT proname || '()', coalesce(proacl, acldefault('f', proowner)), proowner FROM pg_proc
            WHERE pronamespace = 'pgpoll'::regnamespace)
    SELECT t.name || ' ' || lower(a.privilege_type) || CASE WHEN a.is_grantable THEN ' and pass on'
        ELSE '' END
    FROM things t CROSS JOIN LATERAL aclexplode(t.acl) a
    WHERE a.grantee <> t.owner AND a.grantee = CASE role WHEN 'PUBLIC' THEN 0 ELSE role::regrole::oid END
$$;
SELECT is_empty($$SELECT pg_temp.granted('PUBLIC')$$, 'nothing is granted to PUBLIC');
SELECT set_eq($$SELECT pg_temp.granted('pgpoll_publisher')$$,
    ARRAY['schema usage', 'messages.topic insert', 'messages.payload insert',
    'messages.metadata insert', 'cursor() execute'], 'what a publisher is granted');
SELECT set_eq($$SELECT pg_temp.granted('pgpoll_poller')$$,
    ARRAY['schema usage', 'stats select', 'feed_messages select', 'last_deleted select',
    'schema_version() execute',
    'can_poll() execute', 'refused_topic() execute', 'is_open_to_all() execute', 'channel() execute',
    'authenticate() execute', 'has_authenticate() execute',
    'listen() execute', 'catch_up() execute',
    'read_feed() execute', 'newest_positions() execute',
    'assign_positions() execute', 'new_messages() execute', 'mute_doorbell() execute',
    'unmute_doorbell() execute', 'write_statistics() execute', 'sweep_waiters() execute',
    'metrics() execute', 'problems() execute', 'try_position() execute',
    'retained_topics() execute', 'cursor() execute'], 'what a poller is granted');
SELECT set_eq($$SELECT pg_temp.granted('pgpoll_monitor')$$,
    ARRAY['schema usage', 'schema_version() execute', 'stats select',
    'topic_waiters select', 'live_waiters select', 'waiters select', 'listeners select', 'counters select',
    'listening select', 'waiting select',
    'topics select', 'retention_rules select', 'retained select', 'held_up select',
    'notification_queue select', 'metrics() execute', 'problems() execute', 'topic_sizes() execute',
    'without_position() execute', 'retained_topics() execute'], 'what a monitor is granted');
SELECT is_empty($$SELECT 1 FROM pg_auth_members m WHERE m.roleid::regrole::text ~ '^pgpoll_'
    OR m.member::regrole::text ~ '^pgpoll_'$$,
    'after the installation, the roles have no members and are members of no role');
SELECT is_empty($$SELECT rolname FROM pg_roles WHERE rolname ~ '^pgpoll_'
    AND (rolcanlogin OR rolsuper OR rolcreaterole OR rolcreatedb
    OR rolreplication OR rolbypassrls)$$, 'the roles have no attributes');

SELECT is_empty($$SELECT p.oid::regprocedure FROM pg_proc p WHERE p.pronamespace = 'pgpoll'::regnamespace
    AND has_function_privilege('anybody', p.oid, 'EXECUTE')$$, 'PUBLIC may call nothing');
SELECT is_empty($$SELECT p.oid::regprocedure FROM pg_proc p WHERE p.pronamespace = 'pgpoll'::regnamespace
    AND (has_function_privilege('pgpoll_publisher', p.oid, 'EXECUTE') AND p.proname <> 'cursor'
    OR has_function_privilege('pgpoll_monitor', p.oid, 'EXECUTE')
    AND p.proname NOT IN ('schema_version', 'metrics', 'problems', 'topic_sizes', 'without_position',
                          'retained_topics'))$$,
    'a publisher may call only cursor(), a monitor the version, metrics, problems, and what its views call');
SELECT is_empty($$SELECT c.oid::regclass FROM pg_class c WHERE c.relnamespace = 'pgpoll'::regnamespace
    AND c.relkind IN ('r', 'v', 'S')
    AND CASE c.relkind WHEN 'S'
    THEN has_sequence_privilege('anybody', c.oid, 'USAGE, SELECT, UPDATE')
    ELSE has_any_column_privilege('anybody', c.oid,
    'SELECT, INSERT, UPDATE, REFERENCES') END$$, 'PUBLIC has no right on any relation');
SELECT set_eq($$SELECT p.proname::text FROM pg_proc p WHERE p.pronamespace = 'pgpoll'::regnamespace
    AND p.prosecdef
    AND NOT 'search_path=pg_catalog, pg_temp' = ANY (coalesce(p.proconfig, '{}'))$$, ARRAY['ring_doorbell'],
    'every SECURITY DEFINER function but ring_doorbell() pins its search_path');

-- A publisher may put traps into its session: for each function, operator and type of PostgreSQL whose name
-- occurs in ring_doorbell() or channel(), an object of the same name that comes first in the search_path.
SELECT string_agg(pg_get_functiondef(oid), ' ') AS prosrc FROM pg_proc
    WHERE oid IN ('pgpoll.ring_doorbell'::regproc, 'pgpoll.channel'::regproc) \gset
CREATE TEMP TABLE traps AS
SELECT format('CREATE FUNCTION trap.%I(%s) RETURNS %s
    LANGUAGE plpgsql AS $f$BEGIN RAISE $m$trapped$m$; END$f$', proname,
              oidvectortypes(proargtypes), prorettype::regtype) AS sql
FROM pg_proc
WHERE pronamespace = 'pg_catalog'::regnamespace AND :'prosrc' ~ ('\m' || proname || '\M') AND prokind = 'f'
  AND NOT EXISTS (SELECT FROM pg_type t WHERE t.oid = ANY (proargtypes || ARRAY[prorettype])
      AND t.typtype = 'p' AND t.typname <> 'void')
UNION ALL
SELECT format('CREATE FUNCTION trap.operator_%s(%s, %s) RETURNS %s
    LANGUAGE plpgsql AS $f$BEGIN RAISE $m$trapped$m$; END$f$;
               CREATE OPERATOR trap.%s (FUNCTION = trap.operator_%s, LEFTARG = %s,
               RIGHTARG = %s)', oid, oprleft::regtype, oprright::regtype,
              oprresult::regtype, oprname, oid, oprleft::regtype, oprright::regtype)
FROM pg_operator
WHERE oprnamespace = 'pg_catalog'::regnamespace AND position(oprname IN :'prosrc') > 0 AND oprkind = 'b'
UNION ALL
SELECT format('CREATE DOMAIN trap.%I AS pg_catalog.%I CHECK (trap.spring())', typname, typname)
FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace AND :'prosrc' ~ ('\m' || typname || '\M')
    AND typtype = 'b';
SELECT cmp_ok(count(*), '>', 300::bigint, 'there are many traps') FROM traps;
GRANT SELECT ON traps TO pgpoll_publisher;

CREATE SCHEMA trap AUTHORIZATION pgpoll_publisher;
GRANT ALL ON SCHEMA trap TO pgpoll_poller;
SET CONSTRAINTS ALL DEFERRED;
SET LOCAL ROLE pgpoll_publisher;
CREATE FUNCTION trap.spring() RETURNS boolean LANGUAGE plpgsql AS $$BEGIN RAISE 'trapped'; END$$;
DO $$
DECLARE
    trap text;
BEGIN
    FOR trap IN SELECT sql FROM traps LOOP
        EXECUTE trap;
    END LOOP;
END $$;
CREATE TEMP TABLE messages (id bigint, topic text, payload json, metadata json, xid xid8);
CREATE TEMP TABLE feed (topic text, position bigint, message_id bigint, bytes integer);
CREATE TEMP TABLE feed_lock ();
CREATE TEMP SEQUENCE last_position;
CREATE TEMP SEQUENCE doorbell;
RESET ROLE;
CREATE FUNCTION pg_temp.among_traps(role text, sql text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE pg_catalog.format('SET LOCAL ROLE %I', role);
    SET LOCAL search_path = trap, pg_temp, pg_catalog;
    SET LOCAL plpgsql.extra_errors = 'all';
    EXECUTE sql;
    SET CONSTRAINTS ALL IMMEDIATE;
    SET CONSTRAINTS ALL DEFERRED;
    SET LOCAL search_path = public, pg_catalog;
    RESET ROLE;
END $$;
ALTER FUNCTION pgpoll.ring_doorbell() COST 100; -- so that it is compiled again, in a session with the traps
SELECT pgpoll.unmute_doorbell() \g /dev/null
SELECT lives_ok($$SELECT pg_temp.among_traps('pgpoll_publisher',
    $q$INSERT INTO pgpoll.messages (topic, payload) VALUES ('trapped', '"rung"')$q$)$$,
    'objects that a session defines do not reach the trigger');
SELECT pgpoll.mute_doorbell(1000) \g /dev/null
SELECT lives_ok($$SELECT pg_temp.among_traps('pgpoll_publisher',
    $q$INSERT INTO pgpoll.messages (topic, payload) VALUES ('trapped', '"quiet"')$q$)$$,
    'they do not reach the trigger while NOTIFY is muted');
SELECT lives_ok($$SELECT pg_temp.among_traps('pgpoll_poller', $q$SELECT pgpoll.refused_topic('', '{t}'),
    pgpoll.has_authenticate(), pgpoll.listen('{t}'),
    pgpoll.assign_positions(), pgpoll.new_messages(1, 1), pgpoll.mute_doorbell(1),
    pgpoll.unmute_doorbell(),
    pgpoll.read_feed(1, 1, 0, '{t}'), pgpoll.newest_positions('{t}'),
    pgpoll.catch_up('{t}', '{0}', 1, 1), pgpoll.sweep_waiters(),
    pgpoll.write_statistics('h', '{"pid":1,"workers":1}'),
    pgpoll.problems('h', 1, 1), pgpoll.try_position(), pgpoll.retained_topics(1), pgpoll.cursor()$q$)$$,
    'they do not reach the functions that workers call');
SELECT throws_ok($$SELECT pg_temp.among_traps('pgpoll_publisher', $q$SELECT sha256('x')$q$)$$, 'P0001',
    'trapped', 'the traps are set');
SELECT is(pg_temp.page('{trapped}', '{0}'), '{"\"rung\"","\"quiet\""}', 'the messages were published');
SELECT is_empty('SELECT FROM pg_temp.feed', 'the session''s temporary tables are not used');
SELECT ok((SELECT last_value FROM pgpoll.last_position) BETWEEN pg_temp.at('"quiet"')
    AND pg_temp.at('"quiet"') + (60000::bigint << 16), 'the session''s temporary sequences are not used');

-- Authorisation

SELECT ok(pgpoll.refused_topic('', '{a,b}') = 0 AND pgpoll.refused_topic('alice', '{a}') = 0,
    'as installed, can_poll() lets everybody poll everything');
SELECT ok(pgpoll.is_open_to_all(), 'is_open_to_all() is true as installed');
CREATE OR REPLACE FUNCTION pgpoll.can_poll(remote_user text, topic text) RETURNS boolean LANGUAGE sql
    AS $$SELECT CASE topic WHEN 'open' THEN true WHEN 'unsure' THEN NULL ELSE remote_user = topic END$$;
SELECT ok(NOT pgpoll.is_open_to_all(), 'is_open_to_all() is false when can_poll() was replaced');
SELECT is(pgpoll.refused_topic(u, t::text[]), refused,
    format('refused_topic() for %L of %s is %s', u, t, refused))
FROM (VALUES ('', '{open}', 0), ('', '{open,alice}', 2), ('alice', '{open,alice}', 0),
    ('alice', '{alice,bob,carol}', 2),
    ('alice', '{unsure}', 1), ('alice', '{open,unsure}', 2), ('', '{}', 0)) v (u, t, refused);
SELECT lives_ok($$SELECT pg_temp.as_role('pgpoll_poller', $q$SELECT pgpoll.refused_topic('', '{t}')$q$)$$,
    'replacing can_poll keeps its grant');

-- Authentication

SELECT ok(NOT pgpoll.has_authenticate() AND pgpoll.authenticate('Bearer x') = '',
    'as installed, authenticate() makes everybody anonymous');
CREATE OR REPLACE FUNCTION pgpoll.authenticate("authorization" text) RETURNS text LANGUAGE sql
    AS $$SELECT CASE $1 WHEN 'Bearer of bad news' THEN 'alice' END$$;
SELECT ok(pgpoll.has_authenticate(), 'has_authenticate() is true when authenticate() was replaced');
SELECT lives_ok($$SELECT pg_temp.as_role('pgpoll_poller', $q$SELECT pgpoll.authenticate('')$q$)$$,
    'replacing authenticate keeps its grant');
CREATE OR REPLACE FUNCTION pgpoll.authenticate("authorization" text) RETURNS text LANGUAGE plpgsql
    AS $$BEGIN RETURN ''; END$$;
SELECT ok(pgpoll.has_authenticate(), 'has_authenticate() is true for a function in another language');
DROP FUNCTION pgpoll.authenticate(text);
SELECT ok(pgpoll.has_authenticate(), 'has_authenticate() is true if the function is missing');

SELECT * FROM finish();
ROLLBACK;
