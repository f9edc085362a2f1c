-- Deletes messages in batches: those that the rules in pgpoll.retention_rules do not keep any longer, and, of
-- topics without a rule, all that were committed longer ago than :keep:
--     psql -v keep='7 days' -f sql/prune.sql
-- Run it regularly, as the owner of the schema; pgpoll-prune.timer does.
\set ON_ERROR_STOP on
-- Positions are not given at another isolation level, and the database may have another default.
SET default_transaction_isolation = 'read committed';
SET statement_timeout = 0; -- the CALL is one statement, however much there is to delete
-- If psql is ended, as by `systemctl stop`, the session ends too, and not only when all is deleted.
DO $$
BEGIN
    SET client_connection_check_interval = '2s';
EXCEPTION WHEN invalid_parameter_value THEN
    NULL; -- a server that is not on Linux may refuse it
END $$;
CALL pgpoll.prune_topics(:'keep');
