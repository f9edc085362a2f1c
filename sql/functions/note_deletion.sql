-- Call it before the deletion becomes visible: see read_feed().
CREATE OR REPLACE FUNCTION pgpoll.note_deletion(highest bigint) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT setval('pgpoll.last_deleted', $1)
    WHERE $1 > coalesce(pg_sequence_last_value('pgpoll.last_deleted'), -1);
$$;
COMMENT ON FUNCTION pgpoll.note_deletion(bigint) IS
    'Internal. Notes that messages up to this position are deleted, so that a manager that has not read them '
    'notices.';
