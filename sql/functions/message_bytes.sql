-- Returns how many bytes payload and metadata have as text. If they are stored compressed, in more than 4 MB,
-- returns 1 GB instead. To find their length, PostgreSQL would have to read them. All other messages would
-- wait for their positions meanwhile, or for good if that takes longer than statement_timeout.
-- pg_column_size() and pg_column_compression() do not read them.
--
-- Only assign_batch() and assign_backlog() call this function; their callers pin search_path. It has no SET
-- clause, so that the planner can put its body in place of the call.
CREATE OR REPLACE FUNCTION pgpoll.message_bytes(payload json, metadata json) RETURNS integer
LANGUAGE sql STABLE
AS $$
SELECT CASE WHEN pg_column_size(payload) + coalesce(pg_column_size(metadata), 0) <= 4194304
            THEN octet_length(payload::text) + coalesce(octet_length(metadata::text), 0)
            WHEN coalesce(pg_column_compression(payload), pg_column_compression(metadata)) IS NULL
            THEN pg_column_size(payload) + coalesce(pg_column_size(metadata), 0)
            ELSE 1073741824 END
$$;
COMMENT ON FUNCTION pgpoll.message_bytes(json, json) IS
    'Internal. The bytes of payload and metadata, as text; 1 GB for what is compressed to more than 4 MB.';
