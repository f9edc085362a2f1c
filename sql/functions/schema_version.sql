-- Workers refuse to serve a schema of another version.
\set body 'SELECT ' :schema_version
CREATE OR REPLACE FUNCTION pgpoll.schema_version() RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS :'body';
