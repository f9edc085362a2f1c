\set body 'SELECT ' :schema_version
CREATE OR REPLACE FUNCTION pgpoll.schema_version() RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS :'body';
COMMENT ON FUNCTION pgpoll.schema_version() IS
    'The version of this schema; pgpoll''s programs refuse to serve another than their own.';
