"""A synchronous standby that is away, so that COMMITs hang."""
import contextlib
import threading

from server import until


@contextlib.contextmanager
def away(connect):
    """Lets COMMITs hang. connect: opens a session as administrator. A new setting is in force only when the checkpointer has read it, so
    this tries until a COMMIT hangs."""
    with contextlib.closing(connect()) as admin, contextlib.closing(connect()) as committer:
        admin.autocommit = committer.autocommit = True

        def run(query, *arguments):
            with admin.cursor() as cursor:
                cursor.execute(query, arguments or None)
                return cursor.fetchall() if cursor.description else []

        def commit():
            with committer.cursor() as cursor:
                cursor.execute("SET synchronous_commit = on")
                while not hung.is_set():
                    cursor.execute("SELECT pg_logical_emit_message(true, 'another', '')")

        def hangs():
            return run("SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = 'SyncRep'", pid)

        hung, pid, thread = threading.Event(), committer.info.backend_pid, threading.Thread(target=commit, daemon=True)
        run("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        try:
            run("SELECT pg_reload_conf()")
            thread.start()
            until(hangs, "a COMMIT hangs")
            hung.set()
            run("SELECT pg_cancel_backend(%s)", pid)
            thread.join()
            yield
        finally:
            hung.set()
            run("ALTER SYSTEM RESET synchronous_standby_names")
            run("SELECT pg_reload_conf()")
            thread.join()
