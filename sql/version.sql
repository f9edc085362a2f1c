-- The version of the schema. This is its only place: the Makefile passes it to the programs, which refuse to
-- serve a schema of another version.
--
-- To raise it: save the present schema for the tests (tests/sql/schemas/save), change the number here, and
-- write upgrades/NUMBER.sql. That script does what the files that install.sql lists cannot do to an existing
-- schema: alter tables, drop functions (also those whose result type changes), rewrite rows.
\set schema_version 3
