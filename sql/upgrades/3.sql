-- What version 3 changes in a schema of version 2. IF EXISTS: an upgrade from version 1 has not created these
-- objects yet.

LOCK TABLE pgpoll.messages IN ACCESS EXCLUSIVE MODE; -- the lock order: see tables.sql

-- triggers.sql creates it again: it now fires before TRUNCATE, when the messages are still there.
DROP TRIGGER IF EXISTS truncate_messages ON pgpoll.messages;

-- Positions are given in bounded batches.
ALTER TABLE IF EXISTS pgpoll.batches ADD COLUMN drawn_id bigint, ADD COLUMN low_id bigint,
    ADD COLUMN foreign_id bigint, ADD COLUMN seen pg_snapshot, ADD COLUMN walked_to bigint,
    ADD COLUMN walk_end bigint, ADD COLUMN reserved bigint, ADD COLUMN adopting boolean;
DROP INDEX IF EXISTS pgpoll.messages_xid; -- tables.sql creates it again, with another column
DROP FUNCTION IF EXISTS pgpoll.adopt_messages(pgpoll.batches);
DROP FUNCTION IF EXISTS pgpoll.assign_batch(boolean);
DROP FUNCTION IF EXISTS pgpoll.assign_positions();
DROP FUNCTION IF EXISTS pgpoll.new_messages(integer, bigint);
DROP FUNCTION pgpoll.catch_up(text[], bigint[], integer, bigint);
DROP FUNCTION pgpoll.unlisten(text[]); -- workers UNLISTEN without it
DROP FUNCTION pgpoll.listen(text[]);

-- write_statistics() does what these did.
DROP FUNCTION IF EXISTS pgpoll.begin_wait(text, integer, text[], text, bigint, bigint);
DROP FUNCTION IF EXISTS pgpoll.end_wait(text, integer);
DROP FUNCTION IF EXISTS pgpoll.write_waiters(text, json, json);
DROP FUNCTION IF EXISTS pgpoll.write_listener(text, integer, integer, integer, boolean, json);
DROP FUNCTION IF EXISTS pgpoll.end_listener(text, integer);

-- metrics() gets a parameter: the host that it is about.
DROP FUNCTION IF EXISTS pgpoll.metrics();

-- waiters show the user who polls. refused_topic() does what may_poll() did.
ALTER TABLE pgpoll.waiters ADD COLUMN remote_user text NOT NULL DEFAULT '';
DROP FUNCTION IF EXISTS pgpoll.may_poll(text, text[]);

-- A manager that nobody polls says so, and does not report again before there is a poll.
ALTER TABLE IF EXISTS pgpoll.listeners ADD COLUMN quiet boolean;
