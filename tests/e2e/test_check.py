"""pgpoll.fcgi --check and pgpoll-check: each complaint, with the fault it is about."""
import os
import pathlib
import resource
import signal
import subprocess
import threading

import pytest

from between import directory, pgbouncer
from server import ROOT, Postgres, Server, until
from web import free_port

pytestmark = pytest.mark.skipif(os.environ.get("MODE") == "direct", reason="once is enough")


@pytest.fixture(scope="module")
def own():
    with Server(2) as server:
        server.sql("CREATE ROLE stranger LOGIN; CREATE ROLE app; GRANT pgpoll_publisher TO app")
        yield server


def check(server, *arguments, user=None, preload=None, **settings):
    """Exit code and lines."""
    environment = {"PATH": os.environ["PATH"], **server.env, "PGUSER": "pgpoll_worker", "PGPOLL_QUERY_TIMEOUT_S": "10",
                   **{name: str(value) for name, value in settings.items()}}
    become = ["runuser", "-u", user, "--"] if user else []
    done = subprocess.run([*become, server.run / "bin/pgpoll.fcgi", "--check", *arguments], env=environment, stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=90, cwd="/", preexec_fn=preload)
    assert done.stderr == "" or done.stdout == "", done
    return done.returncode, (done.stdout + done.stderr).splitlines()


def complains(outcome, *words, count=1):
    """It failed, and with this many complaints, one of which has the words."""
    code, lines = outcome
    wrong = [line for line in lines if line.startswith("WRONG")]
    assert code == 1 and len(wrong) == count and any(all(word in line for word in words) for line in wrong), "\n".join(lines)


def notes(outcome, *words):
    code, lines = outcome
    assert code == 0 and any(line.startswith("note") and all(word in line for word in words) for line in lines), "\n".join(lines)


def test_nothing_wrong(own):
    code, lines = check(own, "--workers", "8")
    assert code == 0 and all(line.startswith("ok") for line in lines[:-1]), "\n".join(lines)
    assert any("LISTEN delivers" in line for line in lines) and any("role pgpoll_worker" in line for line in lines)
    assert any("pgpoll.can_poll() answers" in line for line in lines)


def test_it_changes_nothing(own):
    before = own.sql("SELECT (SELECT count(*) FROM pgpoll.messages), last_value FROM pgpoll.last_position")
    assert check(own, PGOPTIONS="-c default_transaction_read_only=off")[0] == 0
    assert own.sql("SELECT (SELECT count(*) FROM pgpoll.messages), last_value FROM pgpoll.last_position") == before


def test_arguments_and_settings(own):
    code, lines = check(own, PGPOLL_HEARTBEAT_S="soon")
    assert code == 1 and "PGPOLL_HEARTBEAT_S=soon: must be" in lines[0]
    code, lines = check(own, "--worker", "3")
    assert code == 1 and "unknown argument" in lines[0]


def test_no_database_there(own):
    complains(check(own, PGPORT=1), "cannot connect", ".s.PGSQL.1")
    complains(check(own, PGHOST="127.0.0.1", PGPORT=free_port()), "cannot connect", "refused")
    complains(check(own, PGDATABASE="elsewhere"), "cannot connect", '"elsewhere" does not exist')
    complains(check(own, PGUSER="nobody_at_all"), "cannot connect", "nobody_at_all")


def test_schema(own):
    own.sql("CREATE DATABASE bare")
    complains(check(own, PGDATABASE="bare"), "no schema pgpoll", "pgpoll-setup bare")
    version, = own.sql("SELECT pgpoll.schema_version()")[0]
    for other, advice in ((version + 1, "install the program"), (version - 1, "run the pgpoll-setup")):
        own.sql(f"CREATE OR REPLACE FUNCTION pgpoll.schema_version() RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT {other}'")
        complains(check(own), f"version {other}", advice)
    own.sql(f"CREATE OR REPLACE FUNCTION pgpoll.schema_version() RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT {version}'")
    assert check(own)[0] == 0


def test_rights(own):
    complains(check(own, PGUSER="stranger"), "may not use schema pgpoll", 'GRANT pgpoll_poller TO "stranger"')
    own.sql("GRANT USAGE ON SCHEMA pgpoll TO stranger; GRANT EXECUTE ON FUNCTION pgpoll.schema_version() TO stranger")
    complains(check(own, PGUSER="stranger"), "may not call", "catch_up", 'GRANT pgpoll_poller TO "stranger"')
    notes(check(own, PGUSER="postgres"), "superuser")
    own.sql("REVOKE pgpoll_publisher FROM app")
    notes(check(own), "nobody may publish")
    own.sql("GRANT pgpoll_publisher TO app")


def test_can_poll_that_fails(own):
    own.sql("CREATE OR REPLACE FUNCTION pgpoll.can_poll(remote_user text, topic text) RETURNS boolean LANGUAGE sql STABLE AS"
            " 'SELECT remote_user::integer > 0'")
    complains(check(own), "can_poll", "invalid input syntax")
    own.unrestrict()


def test_pooler(own):
    with pgbouncer(own) as pooler:
        complains(check(own, PGHOST=pooler), "LISTEN delivers nothing", "pooler in transaction mode")


def test_standby(own):
    """Made from the server's own cluster."""
    postgres = Postgres(own)
    owner = postgres.data.owner()
    become = ["runuser", "-u", owner, "--"] if os.getuid() == 0 else []
    with directory() as home:
        where = {**os.environ, **own.env}
        subprocess.run([*become, pathlib.Path(postgres.pg_ctl).with_name("pg_basebackup"), "-R", "-c", "fast", "-D", home / "data"],
                       env=where, check=True, cwd="/", capture_output=True, timeout=60)
        control = [*become, postgres.pg_ctl, "-s", "-w", "-D", home / "data", "-l", home / "log"]
        subprocess.run([*control, "-o", f"-c unix_socket_directories={home} -c port=5432", "start"], check=True, cwd="/", timeout=60)
        try:
            complains(check(own, PGHOST=home), "standby", "PGHOST", "primary")
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], check=True, cwd="/", timeout=60)


def test_settings_of_the_server(own):
    complains(check(own, PGOPTIONS="-c default_transaction_read_only=on"), "read-only")
    notes(check(own, PGOPTIONS="-c synchronous_commit=off"), "synchronous_commit is off")
    own.sql("ALTER SYSTEM SET synchronous_standby_names = 'elsewhere'")
    try:
        own.sql("SELECT pg_reload_conf()")
        until(lambda: own.sql("SHOW synchronous_standby_names") == [("elsewhere",)], "the setting in force")
        complains(check(own), "synchronous_standby_names", "every COMMIT waits")
    finally:
        own.sql("ALTER SYSTEM RESET synchronous_standby_names")
        own.sql("SELECT pg_reload_conf()")
        until(lambda: own.sql("SHOW synchronous_standby_names") == [("",)], "the setting gone")


def test_a_server_that_does_not_answer(own):
    own.sql("CREATE OR REPLACE FUNCTION pgpoll.can_poll(remote_user text, topic text) RETURNS boolean LANGUAGE sql STABLE AS"
            " 'SELECT pg_sleep(20) IS NULL'")
    complains(check(own, PGPOLL_QUERY_TIMEOUT_S=2), "did not answer within 2 s", "can_poll")
    own.unrestrict()
    postmaster = int(Postgres(own).data.joinpath("postmaster.pid").read_text().split()[0])
    os.kill(postmaster, signal.SIGSTOP)
    try:
        complains(check(own, PGPOLL_QUERY_TIMEOUT_S=2), "cannot connect", "timeout")
    finally:
        os.kill(postmaster, signal.SIGCONT)


def test_publishing(own):
    (trigger,), *_ = own.sql("SELECT tgname FROM pg_trigger WHERE tgrelid = 'pgpoll.messages'::regclass AND NOT tgisinternal")
    own.sql(f"ALTER TABLE pgpoll.messages DISABLE TRIGGER {trigger}")
    complains(check(own), f"trigger {trigger}", "disabled")
    own.sql(f"ALTER TABLE pgpoll.messages ENABLE ALWAYS TRIGGER {trigger}")

    publisher = own.connect()
    own.sql("BEGIN; LOCK TABLE pgpoll.messages IN SHARE MODE")
    (holder,), = own.sql("SELECT pg_backend_pid()")
    publishing = threading.Thread(target=lambda: publisher.cursor().execute("INSERT INTO pgpoll.messages (topic, payload) VALUES ('t', '1')"))
    publishing.start()
    try:
        until(lambda: own.sql("SELECT 1 FROM pgpoll.held_up WHERE waited > '1 second'"), "somebody held up")
        complains(check(own), f"process {holder} of PostgreSQL keeps others waiting", "(1 now)")
    finally:
        own.sql("ROLLBACK")
        publishing.join()
        publisher.close()


def test_publishing_behind_a_notify(own):
    """One COMMIT waits for a standby, the next one for its NOTIFY; a LISTEN cannot be tried then."""
    publishers, publishing = [own.connect() for _ in range(2)], []
    own.sql("ALTER SYSTEM SET synchronous_standby_names = 'elsewhere'")
    try:
        own.sql("SELECT pg_reload_conf()")
        until(lambda: own.sql("SHOW synchronous_standby_names") == [("elsewhere",)], "the setting in force")
        for publisher in publishers:
            publisher.autocommit = True
            publishing.append(threading.Thread(target=publisher.cursor().execute,
                                               args=["INSERT INTO pgpoll.messages (topic, payload) VALUES ('t', '1')"]))
            publishing[-1].start()
            until(lambda: own.sql("SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event IN ('SyncRep', 'object')",
                                  publisher.info.backend_pid), "its COMMIT held up")
        until(lambda: own.sql("SELECT 1 FROM pgpoll.held_up WHERE waits_for = 'NOTIFY' AND waited > '1 second'"), "somebody held up")
        outcome = check(own, PGOPTIONS="-c synchronous_commit=off")   # which does not wait for the standby
        complains(outcome, f"process {publishers[0].info.backend_pid} of PostgreSQL keeps others waiting", count=2)
        complains(outcome, "did not answer within", "pg_notify", count=2)
    finally:
        own.sql("ALTER SYSTEM RESET synchronous_standby_names")
        own.sql("SELECT pg_reload_conf()")
        for thread in publishing:
            thread.join(10)
        for publisher in publishers:
            publisher.close()


def test_notification_queue(own):
    """90 MB that a session with an open transaction does not take."""
    deaf = own.connect()
    deaf.autocommit = True
    deaf.cursor().execute("LISTEN anything")
    deaf.cursor().execute("BEGIN; SELECT 1")
    own.sql("SELECT pg_notify('whatever', repeat('x', 7900) || n) FROM generate_series(1, 11500) n")
    try:
        complains(check(own), "NOTIFY queue is 1 % full")
    finally:
        deaf.close()
        # Whoever publishes next wakes the rest, and the queue is emptied.
        until(lambda: own.sql("SELECT pg_notify('whatever', '')") and own.sql("SELECT pg_notification_queue_usage() < 0.001") == [(True,)], "the queue empty")


def test_connections(own):
    own.sql("ALTER ROLE pgpoll_worker CONNECTION LIMIT 10")
    complains(check(own, "--workers", "8"), "CONNECTION LIMIT allows 10", "may need 11")
    own.sql("ALTER ROLE pgpoll_worker CONNECTION LIMIT -1")
    complains(check(own, "--workers", "8", PGPOLL_CONNECTIONS=500), "max_connections allows", "may need 503")


def test_limits(own):
    files = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    notes(check(own, "--workers", "1000", preload=files), "1000 polls", "2500 file descriptors", "256")
    if os.getuid() == 0:
        processes = lambda: resource.setrlimit(resource.RLIMIT_NPROC, (1000, 1000))
        complains(check(own, "--workers", "1000", user="nobody", preload=processes), "1051 processes", "may have 1000",
                  count=2)   # nor may nobody connect


def test_clock(own, tmp_path):
    """Of this one process, an hour ahead."""
    (tmp_path / "ahead.c").write_text("""
        #define _GNU_SOURCE
        #include <dlfcn.h>
        #include <time.h>
        int clock_gettime(clockid_t clock, struct timespec *now) {
            int (*real)(clockid_t, struct timespec *) = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
            int status = real(clock, now);
            if (clock == CLOCK_REALTIME) now->tv_sec += 3600;
            return status;
        }""")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "ahead.so", tmp_path / "ahead.c", "-ldl"], check=True)
    notes(check(own, LD_PRELOAD=tmp_path / "ahead.so"), "3600.0 s behind this host's")


# --- through the web server

def check_url(server, *arguments, seconds=2, url=None):
    environment = {"PATH": os.environ["PATH"], **server.env, "PGUSER": "pgpoll_worker", "PGPOLL_PROGRAM": server.run / "bin/pgpoll.fcgi"}
    done = subprocess.run([ROOT / "deploy/pgpoll-check", "--workers", "2", "--seconds", str(seconds), url or server.url, *arguments],
                          env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    assert done.stderr == "", done
    return done.returncode, done.stdout.splitlines()


def test_through_the_web_server(own):
    code, lines = check_url(own)
    told = "\n".join(lines)
    assert code == 0 and "WRONG" not in told, told
    for words in ("LISTEN delivers", "does not wait is answered", "ok     a poll of 2 s took ", "poll/stats answers while", "poll/metrics answers while",
                  "poll/stats answers anybody"):
        assert words in told, told


def test_no_web_server(own):
    complains(check_url(own, url=f"http://127.0.0.1:{free_port()}"), "a poll that does not wait", "connect")


def test_another_web_server(own):
    complains(check_url(own, url=own.url + "/elsewhere"), "404", "does not send /messages/poll")


def lighttpd(tmp_path, server, extra):
    """A second one, before the same workers."""
    port = free_port()
    (tmp_path / "lighttpd.conf").write_text(f"""
        server.modules = ( "mod_auth", "mod_authn_file", "mod_fastcgi" )
        server.bind = "127.0.0.1"
        server.port = {port}
        server.document-root = "{tmp_path}"
        server.errorlog = "{tmp_path}/log"
        {extra}
        """)
    process = subprocess.Popen(["lighttpd", "-D", "-f", tmp_path / "lighttpd.conf"])
    other = Server(0, run=server.run, port=port)

    def answers():
        try:
            return other.request("GET", "/").status
        except OSError:
            return None

    until(answers, "the second lighttpd")
    return other, process


@pytest.mark.parametrize("fault, words", (
    ("cut", ("a poll of 3 s was cut short after",)),
    ("no metrics", ("GET /messages/poll/metrics: 404", "not the metrics")),
    ("password", ("401", "-u user:password")),
    ("no workers", ("503", "does not reach the workers"))))
def test_web_servers_that_are_wrong(own, tmp_path, fault, words):
    ours, backend = f'include "{own.run}/50-pgpoll.conf"', 'fastcgi.server = ( "/messages/poll" => (( "check-local" => "disable", %s )) )'
    (tmp_path / "users").write_text("alice:a\n")
    extra = {
        "cut": backend % f'"socket" => "{own.run}/fcgi/poll.sock", "read-timeout" => 1',
        "no metrics": ours + '\n$HTTP["url"] == "/messages/poll/metrics" { fastcgi.server = () }',
        "password": ours + f"""
            auth.backend = "plain"
            auth.backend.plain.userfile = "{tmp_path}/users"
            auth.require = ( "/messages/poll" => ( "method" => "basic", "realm" => "pgpoll", "require" => "valid-user" ) )""",
        "no workers": backend % '"socket" => "/nowhere"',
    }[fault]
    other, process = lighttpd(tmp_path, own, extra)
    try:
        code, lines = check_url(other, seconds=3)
        wrong = [line for line in lines if line.startswith("WRONG")]
        assert code == 1 and any(all(word in line for word in words) for line in wrong), "\n".join(lines)
        if fault == "password":
            code, lines = check_url(other, "-u", "alice:a", seconds=1)
            assert code == 0 and not any("answers anybody" in line for line in lines), "\n".join(lines)
    finally:
        process.terminate()
        process.wait(20)
