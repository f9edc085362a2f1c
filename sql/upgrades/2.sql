-- Version 1 gave positions at the commit, so every message has one. From version 2 on assign_positions()
-- gives them after the commit.
DROP TRIGGER assign_position ON pgpoll.messages;
DROP FUNCTION pgpoll.assign_position();
DROP TABLE pgpoll.commit_lock;
ALTER TABLE pgpoll.messages ADD COLUMN xid xid8;
ALTER TABLE pgpoll.messages ALTER COLUMN xid SET DEFAULT pg_current_xact_id();
CREATE DOMAIN pgpoll.topic_name AS text COLLATE "C";
CREATE DOMAIN pgpoll.finite_timestamptz AS timestamptz;
ALTER TABLE pgpoll.messages
    DROP CONSTRAINT messages_topic_length, DROP CONSTRAINT messages_topic_control,
    DROP CONSTRAINT messages_topic_blank, DROP CONSTRAINT messages_created_at_check,
    ALTER COLUMN topic TYPE pgpoll.topic_name, ALTER COLUMN created_at TYPE pgpoll.finite_timestamptz;
