-- Finds problems that show in a poller's session. It only reads. host: the host on which the check runs.
-- polls: how many polls can wait there at the same time (0 without a manager). connections: how many
-- connections the host's processes may open. severity: WRONG or note. blocking: because of this problem,
-- whatever writes or commits a NOTIFY would fail or wait now.
CREATE OR REPLACE FUNCTION pgpoll.problems(host text, polls integer, connections integer)
RETURNS TABLE (severity text, message text, blocking boolean)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET row_security = off
AS $$
#variable_conflict use_column
DECLARE
    processes constant integer := polls + least(greatest(polls / 20, 1), 32); -- as scoreboard_new() computes
    ahead_s constant numeric := round((pg_sequence_last_value('pgpoll.last_position') >> 16) / 1000.0
                                      - extract(epoch FROM clock_timestamp()), 1);
BEGIN
    IF pg_is_in_recovery() THEN
        RETURN QUERY VALUES ('WRONG', 'This server is a standby, which refuses LISTEN. Set PGHOST to the'
            ' primary, or to several servers with PGTARGETSESSIONATTRS=read-write.', true);
        RETURN; -- the queries below read unlogged tables, which a standby refuses
    END IF;

    RETURN QUERY
    SELECT 'WRONG', 'Transactions of this role are read-only (default_transaction_read_only): no message can'
           ' be published and no statistics are written. Set it to off for the role. If your provider set it'
           ' because the disk is full, free disk space.', true
    WHERE current_setting('transaction_read_only') = 'on'
    UNION ALL
    SELECT 'WRONG', 'synchronous_standby_names requires a standby, and none is connected: every COMMIT'
           ' waits, and every NOTIFY waits for one of them. Connect the standby, or remove it from'
           ' synchronous_standby_names.', true
    WHERE current_setting('synchronous_standby_names') <> ''
      AND current_setting('synchronous_commit') <> 'off'
      AND NOT EXISTS (SELECT FROM pg_stat_get_wal_senders())
    UNION ALL
    SELECT 'WRONG', format('Process %s of PostgreSQL has blocked other sessions for more than a second (%s'
           ' now). SELECT * FROM pgpoll.held_up shows what it is doing.',
           string_agg(DISTINCT b.pid::text, ', '), count(DISTINCT l.pid)), true
    FROM pg_locks l CROSS JOIN LATERAL unnest(pg_blocking_pids(l.pid)) AS b (pid)
    WHERE NOT l.granted AND l.waitstart < clock_timestamp() - interval '1 second'
      AND (l.relation IN (SELECT oid FROM pg_class WHERE relnamespace = 'pgpoll'::regnamespace)
           OR (l.locktype, l.database, l.classid, l.objid) = ('object', 0, 'pg_database'::regclass, 0))
    HAVING count(*) > 0
    UNION ALL
    SELECT 'WRONG', format('Trigger %s on pgpoll.messages is disabled, so messages may be delivered late or'
           ' not at all. ALTER TABLE pgpoll.messages ENABLE ALWAYS TRIGGER %s;',
           string_agg(tgname, ', '), min(quote_ident(tgname))), false
    FROM pg_trigger WHERE tgrelid = 'pgpoll.messages'::regclass AND NOT tgisinternal AND tgenabled = 'D'
    HAVING count(*) > 0
    UNION ALL
    SELECT 'WRONG', format('The NOTIFY queue is %s %% full: a session, perhaps in another database, LISTENs'
           ' and does not read. At 100 %% every COMMIT that publishes fails. Find the session in'
           ' pg_stat_activity (its transaction is usually open for long) and end it.',
           round(100 * used::numeric)), false
    FROM pg_notification_queue_usage() used WHERE used >= 0.01 -- 1 % is 80 MB
    UNION ALL
    SELECT 'WRONG', format('%s allows %s connections, and this host needs up to %s (PGPOLL_CONNECTIONS and'
           ' those of the manager). Raise it, or lower PGPOLL_CONNECTIONS.',
           l.name, l.allowed, connections), false
    FROM (SELECT format('The CONNECTION LIMIT of role %s', session_user), rolconnlimit
          FROM pg_roles WHERE rolname = session_user AND rolconnlimit >= 0
          UNION ALL
          SELECT 'max_connections',
                 current_setting('max_connections')::integer
                 - current_setting('superuser_reserved_connections')::integer) l (name, allowed)
    WHERE polls > 0 AND l.allowed < connections
    UNION ALL
    SELECT CASE WHEN l.workers IS NULL OR l.is_new THEN 'note' ELSE 'WRONG' END,
           CASE WHEN l.workers IS NULL
                THEN format('No manager on host %s is connected to this database. Start pgpoll.fcgi. If it'
                            ' runs, its log says why it is not connected.', host)
                WHEN l.is_new
                THEN format('%s of %s worker processes run on host %s, whose manager has just started.',
                            l.workers, processes, host)
                ELSE format('Only %s of %s worker processes run on host %s. The manager''s log says why the'
                            ' others cannot start: raise the limit of processes (TasksMax, ulimit -u) or add'
                            ' memory. If PGPOLL_WORKERS has changed since the manager started, restart it.',
                            l.workers, processes, host) END, false
    FROM (SELECT sum(l.workers) AS workers,
                 max(a.backend_start) > now() - interval '10 s' AS is_new -- NULL: this role may not see it
          FROM pgpoll.listening l JOIN pgpoll.listeners USING (host, pid)
          LEFT JOIN pg_stat_activity a ON a.pid = backend_pid
          WHERE host = problems.host AND kind = 'manager' AND alive) l
    WHERE polls > 0 AND coalesce(l.workers, 0) < processes
    UNION ALL
    SELECT 'note', format('The last position given is %s s ahead of this server''s clock: the clock was set'
           ' back. Messages are still delivered in order. Until the clock has caught up, their message_id'
           ' and stream_id contain a later time, so a cursor that a client computes from a time selects'
           ' other messages than it should.', ahead_s), false
    WHERE ahead_s > 1
    UNION ALL
    SELECT 'note', 'synchronous_commit is off: if PostgreSQL crashes, messages that were committed but not'
           ' yet delivered may be lost.', false
    WHERE current_setting('synchronous_commit') = 'off'
    UNION ALL
    SELECT 'note', 'Only the owner of the schema can publish. GRANT pgpoll_publisher TO your_application;',
           false
    WHERE NOT EXISTS (SELECT FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid
                      WHERE r.rolname = 'pgpoll_publisher');
END $$;
COMMENT ON FUNCTION pgpoll.problems(text, integer, integer) IS
    'What is wrong with this database and its settings: one row per problem, with its remedy. Shown by'
    ' pgpoll.fcgi --check.';
