-- Deletes messages by topic, in transactions of at most batch messages or about 50 ms, until none is left to
-- delete. prune_part() has the rules. It commits, so CALL it outside of a transaction, as the owner of the
-- schema. It also gives positions, for databases that nobody polls, if the session's transactions are READ
-- COMMITTED.
--
-- Without a pattern and without rules it calls prune(), which finds the oldest messages by position. To go
-- through the topics costs about 30 us for each.
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
    'topics that match the pattern (LIKE). Without one: in all, and rules in pgpoll.retention_rules precede.';
