-- Workers refuse to serve a schema of another version. Every script in upgrades/ ends by replacing this.
CREATE OR REPLACE FUNCTION pgpoll.schema_version() RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS 'SELECT 2';
