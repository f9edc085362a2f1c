-- Deletes messages in batches: those that the rules in pgpoll.retention_rules do not keep any longer, and, of
-- topics without a rule, all that were committed longer ago than :keep:
--     psql -v keep='7 days' -f sql/prune.sql
-- Run it regularly, as the owner of the schema; pgpoll-prune.timer does.
\set ON_ERROR_STOP on
-- Positions are not given at another isolation level, and the database may have another default.
SET default_transaction_isolation = 'read committed';
CALL pgpoll.prune_topics(:'keep');
