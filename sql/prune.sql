-- Deletes all messages that were committed longer ago than :keep, in batches:
--     psql -v keep='7 days' -f sql/prune.sql
-- Run it regularly, as the owner of the schema; pgpoll-prune.timer does.
\set ON_ERROR_STOP on
-- prune() gives no positions at another isolation level, and the database may have another default.
SET default_transaction_isolation = 'read committed';
SELECT set_config('pgpoll.keep', :'keep', false) \g /dev/null
DO $$
BEGIN
    WHILE pgpoll.prune(current_setting('pgpoll.keep')::interval) > 0 LOOP
        COMMIT;
    END LOOP;
END $$;
