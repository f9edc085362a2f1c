-- Lock order. A transaction that locks more than one of these tables locks messages first, in the strongest
-- mode that it will need, and keeps that lock; then retention; then feed_lock; the others after these. So do
-- the functions, prune.sql, install.sql and upgrades.
--
-- messages comes first because TRUNCATE leaves no choice: it holds ACCESS EXCLUSIVE there before its trigger
-- runs. It follows that who holds ACCESS EXCLUSIVE on messages meets nobody halfway: every other transaction
-- waits for messages and holds no lock yet, or is done. Readers and assign_batch() take ACCESS SHARE, which
-- only TRUNCATE and upgrades wait for; prune() takes ROW EXCLUSIVE as publishers do. feed_lock is for those
-- who give positions, retention (SHARE ROW EXCLUSIVE) for those who prune: one at a time. An upgrade that
-- alters any of these tables, not only adds to them, therefore begins with LOCK TABLE pgpoll.messages IN
-- ACCESS EXCLUSIVE MODE.

-- What a topic may be: the same rule as topic_check() in src/api/topic.c. Domains, because the CHECK constraints of a table are parsed anew
-- for every INSERT. Separate from CREATE DOMAIN, and NOT VALID, for upgrades/2.sql: what is there passed the same rules.
SELECT to_regtype('pgpoll.topic_name') IS NULL AS missing \gset
\if :missing
    CREATE DOMAIN pgpoll.topic_name AS text COLLATE "C";
    CREATE DOMAIN pgpoll.finite_timestamptz AS timestamptz;
\endif
SELECT NOT EXISTS (SELECT FROM pg_constraint WHERE contypid = 'pgpoll.topic_name'::regtype) AS missing \gset
\if :missing
    ALTER DOMAIN pgpoll.topic_name ADD CONSTRAINT topic_length CHECK (char_length(value) BETWEEN 1 AND 255) NOT VALID;
    ALTER DOMAIN pgpoll.topic_name ADD CONSTRAINT topic_control CHECK (value !~ '[\u0001-\u001f\u007f-\u009f]') NOT VALID;
    ALTER DOMAIN pgpoll.topic_name ADD CONSTRAINT topic_blank
        CHECK (value ~ '[^ \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]') NOT VALID;
    ALTER DOMAIN pgpoll.finite_timestamptz ADD CONSTRAINT is_finite CHECK (isfinite(value)) NOT VALID;
\endif

-- What publishers insert into. Append-only: a message is sent once, as its transaction left it.
CREATE TABLE IF NOT EXISTS pgpoll.messages (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic      pgpoll.topic_name NOT NULL,
    payload    json NOT NULL,
    metadata   json,
    created_at pgpoll.finite_timestamptz NOT NULL DEFAULT now(),
    -- The number of the transaction that published it; pgpoll.assign_positions() finds new messages by it.
    -- NULL: it has its position.
    xid        xid8 DEFAULT pg_current_xact_id()
);
-- With id, so that the messages of one transaction are found in order, and those with low ids without a look
-- at the others' rows.
SELECT to_regclass('pgpoll.messages_xid') IS NULL AS missing \gset
\if :missing
    -- IF NOT EXISTS would wait for every open publisher.
    CREATE INDEX messages_xid ON pgpoll.messages (xid, id) WHERE xid IS NOT NULL;
\endif

-- The order of delivery: one narrow row per committed message, written after the commit by pgpoll.assign_positions().
-- No foreign key: an operator may delete a message.
CREATE TABLE IF NOT EXISTS pgpoll.feed (
    topic      text COLLATE "C" NOT NULL,
    position   bigint NOT NULL,   -- milliseconds since 1970 << 16 | n
    message_id bigint NOT NULL,   -- messages.id
    bytes      integer NOT NULL,  -- of payload and metadata, for the page's budget
    PRIMARY KEY (topic, position)
);
-- feed_message_id tells whether a message has a position, where transaction numbers do not
-- (pgpoll.adopt_messages()). pgpoll.prune() uses both.
SELECT to_regclass('pgpoll.feed_message_id') IS NULL AS missing \gset
\if :missing
    CREATE INDEX feed_message_id ON pgpoll.feed (message_id);
    CREATE INDEX feed_position ON pgpoll.feed (position);
\endif

-- The last position given, or reserved for a backlog; set under feed_lock only. A sequence, because it must
-- outlive a rollback.
CREATE SEQUENCE IF NOT EXISTS pgpoll.last_position AS bigint MINVALUE 0 START 0;

-- Held while positions are given, to the end of that commit. Private and empty: nobody else can hold it.
CREATE TABLE IF NOT EXISTS pgpoll.feed_lock () WITH (autovacuum_enabled = off);

-- Which messages have their position: those of every transaction before next_xid, except the unfinished ones.
-- The last row counts. It is never updated, so that a long transaction, which keeps old rows alive, costs nothing
-- here. The first look writes the first row: one from here would be in the way of those that pg_dump --data-only
-- or a subscription bring.
--
-- While a backlog is worked off (pgpoll.assign_backlog()), seen is the snapshot whose messages it consists of;
-- those with ids up to walked_to have their positions, no id is greater than walk_end, and positions up to
-- reserved are for them.
CREATE TABLE IF NOT EXISTS pgpoll.batches (
    position     bigint PRIMARY KEY,      -- the last one given
    next_xid     xid8 NOT NULL,
    unfinished   xid8[] NOT NULL,
    server_start timestamptz NOT NULL,
    cluster      bigint NOT NULL,         -- whose transaction numbers these are
    messages     oid NOT NULL,            -- of which table, since copies of a cluster have its identifier
    drawn_id     bigint,                  -- the last id drawn, before this row's transaction had a number
    low_id       bigint,                  -- messages of next_xid and later have greater ids, with few exceptions
    foreign_id   bigint,                  -- up to this id, numbers may be another cluster's
    seen         pg_snapshot,
    walked_to    bigint,
    walk_end     bigint,
    reserved     bigint,
    adopting     boolean                  -- the backlog is whatever has no position, whichever numbers it bears
);

-- Until when publishers need not say that they published, in milliseconds since 1970. A sequence, because it is read without a
-- snapshot and set without a commit.
CREATE SEQUENCE IF NOT EXISTS pgpoll.doorbell AS bigint MINVALUE 0 START 0;

-- Where pgpoll.prune() begins to look: it has deleted what is older. Only a hint; a sequence, because it is read
-- without passing over the dead rows that an old snapshot keeps.
CREATE SEQUENCE IF NOT EXISTS pgpoll.last_pruned AS bigint MINVALUE 0 START 0;

-- How far each topic was pruned: every position up to this one is gone.
CREATE TABLE IF NOT EXISTS pgpoll.retention (
    topic     text COLLATE "C" PRIMARY KEY,
    pruned_to bigint NOT NULL
);

-- One row per waiting poll. Not logged: after a crash nobody waits.
CREATE UNLOGGED TABLE IF NOT EXISTS pgpoll.waiters (
    host        text NOT NULL,
    pid         integer NOT NULL,      -- of the worker, on that host
    backend_pid integer NOT NULL,      -- of the connection that speaks for it: no backend, no waiter
    topics      text[] COLLATE "C" NOT NULL,
    client      text NOT NULL,         -- address
    started_at  timestamptz NOT NULL,
    deadline    timestamptz NOT NULL,
    seen_at     timestamptz NOT NULL,
    PRIMARY KEY (host, pid)
);
