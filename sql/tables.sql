-- Lock order. A transaction that locks more than one of these tables locks messages first, in the strongest
-- mode that it will need, and keeps that lock; then retention; then feed_lock; then the others. The
-- functions, prune.sql, install.sql and upgrades follow this order.
--
-- messages comes first because TRUNCATE holds ACCESS EXCLUSIVE on it before its trigger runs. A transaction
-- that holds ACCESS EXCLUSIVE on messages cannot deadlock, because every other transaction either waits for
-- messages and has no lock on the other tables, or has ended. Readers and assign_batch() take ACCESS SHARE on
-- messages, which conflicts with TRUNCATE and upgrades only; prune() takes ROW EXCLUSIVE, as publishers do.
-- feed_lock admits one session at a time that gives positions. retention, locked in SHARE ROW EXCLUSIVE mode,
-- admits one session at a time that prunes. An upgrade that alters one of these tables, and does not only add
-- a table, therefore starts with LOCK TABLE pgpoll.messages IN ACCESS EXCLUSIVE MODE. A query on the view
-- feed_messages locks the view before messages; install.sql drops it before an upgrade takes any lock.

-- The rules for topic names are the same as in topic_check() in src/api/topic.c. They are constraints of a
-- domain, because PostgreSQL parses the CHECK constraints of a table again for every INSERT. upgrades/2.sql
-- creates the domains without constraints, so the constraints are added by statements of their own. They are
-- NOT VALID because existing rows have passed the same rules.
SELECT to_regtype('pgpoll.topic_name') IS NULL AS missing \gset
\if :missing
    CREATE DOMAIN pgpoll.topic_name AS text COLLATE "C";
    CREATE DOMAIN pgpoll.finite_timestamptz AS timestamptz;
\endif
SELECT NOT EXISTS (SELECT FROM pg_constraint WHERE contypid = 'pgpoll.topic_name'::regtype) AS missing \gset
\if :missing
    ALTER DOMAIN pgpoll.topic_name ADD CONSTRAINT topic_length
        CHECK (char_length(value) BETWEEN 1 AND 255) NOT VALID;
    ALTER DOMAIN pgpoll.topic_name ADD CONSTRAINT topic_control
        CHECK (value !~ '[\u0001-\u001f\u007f-\u009f]') NOT VALID;
    ALTER DOMAIN pgpoll.topic_name ADD CONSTRAINT topic_blank
        CHECK (value ~ '[^ \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]') NOT VALID;
    ALTER DOMAIN pgpoll.finite_timestamptz ADD CONSTRAINT is_finite CHECK (isfinite(value)) NOT VALID;
\endif

-- Publishers insert here. A message is delivered once, as its transaction left it; later changes to the row
-- are not delivered.
CREATE TABLE IF NOT EXISTS pgpoll.messages (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic      pgpoll.topic_name NOT NULL,
    payload    json NOT NULL,
    metadata   json,
    created_at pgpoll.finite_timestamptz NOT NULL DEFAULT now(),
    -- The number of the publishing transaction, by which assign_batch() finds new messages. NULL: the message
    -- has its position.
    xid        xid8 DEFAULT pg_current_xact_id()
);

-- The index contains id, so that a scan returns the messages of a transaction in the order of id, and finds
-- those with low ids without reading the other rows.
SELECT to_regclass('pgpoll.messages_xid') IS NULL AS missing \gset
\if :missing
    -- CREATE INDEX IF NOT EXISTS would wait for every transaction that publishes, even if the index exists.
    CREATE INDEX messages_xid ON pgpoll.messages (xid, id) WHERE xid IS NOT NULL;
\endif

-- The order of delivery: one narrow row per message, which assign_batch() writes after the message is
-- committed. There is no foreign key, so that an operator can delete a message.
CREATE TABLE IF NOT EXISTS pgpoll.feed (
    topic      text COLLATE "C" NOT NULL,
    position   bigint NOT NULL,   -- (milliseconds since 1970) << 16 | counter
    message_id bigint NOT NULL,   -- messages.id
    bytes      integer NOT NULL,  -- of payload and metadata, which PGPOLL_PAGE_BYTES limits
    PRIMARY KEY (topic, position)
);
-- feed_message_id shows whether a message has a position when transaction numbers cannot (adopt_messages()).
-- prune() uses both of these indexes.
SELECT to_regclass('pgpoll.feed_message_id') IS NULL AS missing \gset
\if :missing
    CREATE INDEX feed_message_id ON pgpoll.feed (message_id);
    CREATE INDEX feed_position ON pgpoll.feed (position);
\endif

-- The last position given, or reserved for a backlog; set under feed_lock, or by TRUNCATE, whose lock on
-- messages keeps batches away. It is a sequence because its value must survive a rollback.
CREATE SEQUENCE IF NOT EXISTS pgpoll.last_position AS bigint MINVALUE 0 START 0;

-- The session that gives positions locks this table until its commit is visible. The table is empty, and only
-- the owner of the schema has rights on it, so that other roles cannot hold the lock.
CREATE TABLE IF NOT EXISTS pgpoll.feed_lock () WITH (autovacuum_enabled = off);

-- Which messages have a position: those of all transactions before next_xid, except the unfinished ones. Only
-- the last row is valid. Each batch adds a row and updates none: while a long transaction keeps old versions
-- of a row, whoever looks for the current one passes over all of them. This script writes no first row,
-- because it would conflict with the rows that pg_dump --data-only or a subscription brings; the first batch
-- writes it.
--
-- While a backlog is worked off (assign_backlog()), seen is the snapshot that defines it. The backlog's
-- messages with ids up to walked_to have their positions. None of its ids is greater than walk_end. The
-- positions up to reserved are kept for it.
CREATE TABLE IF NOT EXISTS pgpoll.batches (
    position     bigint PRIMARY KEY,      -- the last position given
    next_xid     xid8 NOT NULL,
    unfinished   xid8[] NOT NULL,
    server_start timestamptz NOT NULL,
    cluster      bigint NOT NULL,         -- system identifier of the cluster of next_xid and unfinished
    messages     oid NOT NULL,            -- OID of pgpoll.messages; a restored table has another
    drawn_id     bigint,                  -- the last id drawn before the batch's transaction got its number
    low_id       bigint,                  -- messages of transactions from next_xid on have greater ids
                                          -- (exceptions: see assign_backlog())
    foreign_id   bigint,                  -- ids up to this one may have an xid of another cluster
    seen         pg_snapshot,
    walked_to    bigint,
    walk_end     bigint,
    reserved     bigint,
    adopting     boolean                  -- true: the backlog is all messages without a position
);

-- The NOTIFY throttle: the time until which publishers send no NOTIFY, in milliseconds since 1970. It is a
-- sequence because a sequence is read without a snapshot, and a new value counts before the commit.
CREATE SEQUENCE IF NOT EXISTS pgpoll.doorbell AS bigint MINVALUE 0 START 0;

-- Until when batches also NOTIFY the topics' channels, in milliseconds since 1970: listen(). It is a sequence
-- for the same reason.
CREATE SEQUENCE IF NOT EXISTS pgpoll.lone_until AS bigint MINVALUE 0 START 0;

-- The position at which prune() starts, because it has deleted the older ones. It is only a hint. It is a
-- sequence because a table would collect dead rows for as long as an old snapshot exists, and each read would
-- pass over them.
CREATE SEQUENCE IF NOT EXISTS pgpoll.last_pruned AS bigint MINVALUE 0 START 0;

-- The highest position that prune() or TRUNCATE has deleted. A manager that has not read up to there has
-- missed messages (read_feed()). It is a sequence so that nobody can see the deletion before this value. It
-- always has a value, because managers take NULL to mean that they may not read it.
CREATE SEQUENCE IF NOT EXISTS pgpoll.last_deleted AS bigint MINVALUE 0 START 0;
SELECT setval('pgpoll.last_deleted', 0)
WHERE pg_sequence_last_value('pgpoll.last_deleted') IS NULL \g /dev/null

-- How far each topic was pruned: all its positions up to pruned_to are deleted.
CREATE TABLE IF NOT EXISTS pgpoll.retention (
    topic     text COLLATE "C" PRIMARY KEY,
    pruned_to bigint NOT NULL
);

-- Times by which the positions up to these had been given, noted while positions are ahead of the clock
-- because it was set back: note_position(). There may be one a minute for months, and a look-up per topic.
CREATE TABLE IF NOT EXISTS pgpoll.position_times (
    position bigint PRIMARY KEY,
    noted_at timestamptz NOT NULL
);
CREATE INDEX IF NOT EXISTS position_times_noted_at ON pgpoll.position_times (noted_at);

-- How long prune_topics() keeps the messages of topics. The owner edits it.
CREATE TABLE IF NOT EXISTS pgpoll.retention_rules (
    topics    text COLLATE "C" PRIMARY KEY CHECK (topics !~ '(^|[^\\])(\\\\)*\\$'),
    keep      interval NOT NULL CHECK (keep BETWEEN '0' AND '1000 years'),
    keep_last integer NOT NULL DEFAULT 0 CHECK (keep_last >= 0),
    literals  integer NOT NULL GENERATED ALWAYS AS
        (length(regexp_replace(regexp_replace(topics, '\\.', 'x', 'g'), '[%_]', '', 'g'))) STORED
);

-- One row per waiting poll. Unlogged, because a crash ends all connections that wait.
CREATE UNLOGGED TABLE IF NOT EXISTS pgpoll.waiters (
    host        text NOT NULL,
    pid         integer NOT NULL,      -- of the worker, on that host
    backend_pid integer NOT NULL,      -- session that wrote the row; when it ends, the row no longer counts
    topics      text[] COLLATE "C" NOT NULL,
    client      text NOT NULL,         -- the client's address
    started_at  timestamptz NOT NULL,
    deadline    timestamptz NOT NULL,
    seen_at     timestamptz NOT NULL,
    remote_user text NOT NULL DEFAULT '', -- empty: the user is not authenticated
    PRIMARY KEY (host, pid)
);
