-- The version of the schema, known here only: the Makefile tells it to the programs, which serve no other.
--
-- To raise it: keep the present schema for the tests (tests/sql/schemas/save), put the new number here, and write
-- upgrades/NUMBER.sql with what the files that install.sql lists do not do to an existing schema by themselves: tables to alter,
-- functions to drop or whose result type changes, rows to rewrite.
\set schema_version 3
