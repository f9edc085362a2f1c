-- What publishers insert into. Append-only: a message is sent once, as its transaction left it.
CREATE TABLE IF NOT EXISTS pgpoll.messages (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic      text COLLATE "C" NOT NULL,
    payload    json NOT NULL,
    metadata   json,
    created_at timestamptz NOT NULL DEFAULT now() CHECK (isfinite(created_at)),
    -- The same rule as topic_check() in src/topic.c.
    CONSTRAINT messages_topic_length CHECK (char_length(topic) BETWEEN 1 AND 255),
    CONSTRAINT messages_topic_control CHECK (topic !~ '[\u0001-\u001f\u007f-\u009f]'),
    CONSTRAINT messages_topic_blank CHECK (topic ~ '[^ \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]')
);

-- The order of delivery: one narrow row per committed message, written at commit by pgpoll.assign_position().
-- No foreign key: it would lock the message's row while every other publisher waits, and an operator may delete a message.
CREATE TABLE IF NOT EXISTS pgpoll.feed (
    topic      text COLLATE "C" NOT NULL,
    position   bigint NOT NULL,   -- milliseconds since 1970 << 16 | n
    message_id bigint NOT NULL,   -- messages.id
    bytes      integer NOT NULL,  -- of payload and metadata, for the page's budget
    PRIMARY KEY (topic, position)
);

-- The last position given; set under commit_lock only. A sequence, because it must outlive a rollback.
CREATE SEQUENCE IF NOT EXISTS pgpoll.last_position AS bigint MINVALUE 0 START 0;

-- Held from assign_position() to the end of the commit. Private and empty: nobody else can hold it.
CREATE TABLE IF NOT EXISTS pgpoll.commit_lock () WITH (autovacuum_enabled = off);

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
