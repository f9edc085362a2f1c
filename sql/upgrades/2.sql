-- Positions are given after the commit, by assign_positions(); they were given at the commit. So every message has its position.
DROP TRIGGER assign_position ON pgpoll.messages;
DROP FUNCTION pgpoll.assign_position();
DROP TABLE pgpoll.commit_lock;
ALTER TABLE pgpoll.messages ADD COLUMN xid xid8;
ALTER TABLE pgpoll.messages ALTER COLUMN xid SET DEFAULT pg_current_xact_id();
