-- Three group roles, which an operator grants to login roles. Roles belong to the cluster, so they may exist
-- already: from another database, or because an administrator created them for an owner without CREATEROLE.
DO $$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['pgpoll_publisher', 'pgpoll_poller', 'pgpoll_monitor'] LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = role_name) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
            EXCEPTION WHEN insufficient_privilege THEN
                RAISE insufficient_privilege
                    USING MESSAGE = format('role %s may not create role %s', current_user, role_name),
                          HINT = 'Ask a role with CREATEROLE to run: CREATE ROLE pgpoll_publisher NOLOGIN;'
                                 ' CREATE ROLE pgpoll_poller NOLOGIN; CREATE ROLE pgpoll_monitor NOLOGIN;';
            END;
        END IF;
    END LOOP;
END $$;
