\set body 'SELECT ' :schema_version
CREATE OR REPLACE FUNCTION pgpoll.schema_version() RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS :'body';
COMMENT ON FUNCTION pgpoll.schema_version() IS
    'The version of this schema. The programs of pgpoll refuse to serve a schema of another version.';
