-- Deletes messages by topic until no message is left to delete. prune_part.sql explains which ones. Each
-- transaction deletes at most as many messages as the parameter batch says, or works for about 50 ms. The
-- procedure commits, so CALL it outside of a transaction, as the owner of the schema. If the session's
-- transactions are READ COMMITTED, the procedure also gives positions to new messages, because in a database
-- that nobody polls no other process does that.
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
    again boolean;
    reached text;
BEGIN
    IF keep IS NULL OR keep < interval '0' OR keep_last IS NULL OR keep_last < 0 OR batch IS NULL
       OR batch < 1 THEN
        RAISE EXCEPTION 'keep must be an interval of at least 0, keep_last at least 0 and batch at least 1'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    LOOP
        IF by_topic THEN
            SELECT p.more AND p.assigned >= 0 INTO again FROM pgpoll.assign_positions() p;
        ELSE
            again := pgpoll.prune(keep, batch) > 0;
        END IF;
        COMMIT;
        EXIT WHEN again IS NOT TRUE;
    END LOOP;
    WHILE by_topic LOOP
        SELECT p.reached INTO reached
        FROM pgpoll.prune_part(pattern, keep, keep_last, batch, reached) p;
        COMMIT;
        EXIT WHEN reached IS NULL;
    END LOOP;
END $$;
COMMENT ON PROCEDURE pgpoll.prune_topics(interval, text, integer, integer) IS
    'Deletes messages that are older than keep and not among the last keep_last of their topic, in the '
    'topics that match the LIKE pattern. Without a pattern it goes through all topics, and the rules in '
    'pgpoll.retention_rules take precedence over keep and keep_last.';
