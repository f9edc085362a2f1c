-- What version 3 changes in a schema of version 2.

LOCK TABLE pgpoll.messages IN ACCESS EXCLUSIVE MODE; -- the lock order: see tables.sql

-- It fires before TRUNCATE, when the messages are still there: triggers.sql makes it again.
DROP TRIGGER IF EXISTS truncate_messages ON pgpoll.messages;
