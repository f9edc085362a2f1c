-- Deletes messages by topic until no message is left to delete. prune_part.sql explains which ones. Each
-- transaction deletes at most as many messages as the parameter batch says, or works for about 50 ms. The
-- procedure commits, so CALL it outside of a transaction, as the owner of the schema. If the session's
-- transactions are READ COMMITTED, the procedure also gives positions to new messages, because in a database
-- that nobody polls no other process does that.
--
-- After each transaction it pauses for as long as that took, but at most for a second (it may have waited
-- for a lock, or the clock was set), and so that it deletes at most 21,500 messages a second. Without pauses
-- it would take a core from publishers, and halve their rate on a machine with two.
--
-- Without a pattern and without rules it calls prune(), which finds the oldest messages by position.
-- Otherwise it goes through the topics, which costs about 30 us per topic.
CREATE OR REPLACE PROCEDURE pgpoll.prune_topics(keep interval, pattern text DEFAULT NULL,
                                                keep_last integer DEFAULT 0, batch integer DEFAULT 5000)
LANGUAGE plpgsql
AS $$
DECLARE
    by_topic constant boolean := pattern IS NOT NULL OR keep_last > 0
                                 OR EXISTS (SELECT FROM pgpoll.retention_rules);
    numbers boolean := by_topic; -- prune() gives positions itself
    began timestamptz;
    took float8; -- in seconds
    done integer;
    again boolean;
    reached text;
BEGIN
    IF keep IS NULL OR keep < interval '0' OR keep_last IS NULL OR keep_last < 0 OR batch IS NULL
       OR batch < 1 THEN
        RAISE EXCEPTION 'keep must be an interval of at least 0, keep_last at least 0 and batch at least 1'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    LOOP
        began := clock_timestamp();
        IF numbers THEN
            SELECT p.assigned, p.more AND p.assigned >= 0 INTO done, again FROM pgpoll.assign_positions() p;
        ELSIF by_topic THEN
            SELECT p.deleted, p.reached INTO done, reached
            FROM pgpoll.prune_part(pattern, keep, keep_last, batch, reached) p;
            again := reached IS NOT NULL;
        ELSE
            done := pgpoll.prune(keep, batch);
            again := done > 0;
        END IF;
        COMMIT;
        IF again THEN
            took := least(greatest(extract(epoch FROM clock_timestamp() - began), 0), 1);
            PERFORM pg_sleep(greatest(took, done / 21500.0 - took));
        ELSE
            EXIT WHEN NOT numbers;
            numbers := false;
        END IF;
    END LOOP;
END $$;
COMMENT ON PROCEDURE pgpoll.prune_topics(interval, text, integer, integer) IS
    'Deletes messages that are older than keep and not among the last keep_last of their topic, in the '
    'topics that match the LIKE pattern. Without a pattern it goes through all topics, and the rules in '
    'pgpoll.retention_rules take precedence over keep and keep_last.';
