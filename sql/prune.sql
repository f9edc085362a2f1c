-- Deletes all messages older than :keep, a batch after the other:  psql -v keep='7 days' -f sql/prune.sql
-- Run it as the owner of the schema, now and then: pgpoll-prune.timer does.
\set ON_ERROR_STOP on
SET default_transaction_isolation = 'read committed'; -- whatever the database's default: prune() gives no positions in another
SELECT set_config('pgpoll.keep', :'keep', false) \g /dev/null
DO $$
BEGIN
    WHILE pgpoll.prune(current_setting('pgpoll.keep')::interval) > 0 LOOP
        COMMIT;
    END LOOP;
END $$;
