"""pgpoll.fcgi --check and pgpoll-check: every complaint, each for the fault that it reports."""
import os
import pathlib
import pwd
import re
import resource
import shutil
import signal
import subprocess
import threading

import pytest

import standby
from between import Silent, directory, pgbouncer
from documents import shown
from server import POLL, ROOT, STALL_S, Postgres, Server, until
from test_web import fronted
from web import SERVERS, free_port

pytestmark = pytest.mark.skipif(os.environ.get("MODE") == "direct", reason="once is enough")


@pytest.fixture(scope="module")
def own():
    with Server(2) as server:
        server.sql("CREATE ROLE stranger LOGIN; CREATE ROLE app; GRANT pgpoll_publisher TO app")
        yield server


def check(server, *arguments, user=None, preload=None, **settings):
    """Returns the exit code and the lines."""
    environment = {"PATH": os.environ["PATH"], **server.env, "PGUSER": "pgpoll_worker", "PGPOLL_QUERY_TIMEOUT_S": "10",
                   **{name: str(value) for name, value in settings.items()}}
    become = ["runuser", "-u", user, "--"] if user else []
    done = subprocess.run([*become, server.run / "bin/pgpoll.fcgi", "--check", *arguments], env=environment, stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=90, cwd="/", preexec_fn=preload)
    assert done.stderr == "" or done.stdout == "", done
    return done.returncode, (done.stdout + done.stderr).splitlines()


def complains(outcome, *words, count=1):
    """Asserts that the check failed with this many complaints, one of which contains the words."""
    code, lines = outcome
    wrong = [line for line in lines if line.startswith("WRONG")]
    assert code == 1 and len(wrong) == count and any(all(word in line for word in words) for line in wrong), "\n".join(lines)


def notes(outcome, *words):
    code, lines = outcome
    assert code == 0 and any(line.startswith("note") and all(word in line for word in words) for line in lines), "\n".join(lines)


def test_nothing_wrong(own):
    until_all_workers(own)
    code, lines = check(own, "--workers", "2")
    assert code == 0 and all(line.startswith("ok") for line in lines[:-1]), "\n".join(lines)
    assert lines[-1] == "No problems found."
    for words in "LISTEN delivers", "role pgpoll_worker", "pgpoll.can_poll() answers", "A message is published and numbered, and taken back":
        assert any(words in line for line in lines), "\n".join(lines)


def test_a_silent_host_is_passed_over(own):
    with Silent() as silent:
        code, lines = check(own, PGHOST=f"127.0.0.1,{own.env['PGHOST']}", PGPORT=f"{silent.port},{own.env['PGPORT']}", PGPOLL_QUERY_TIMEOUT_S=4)
    assert code == 0 and lines[-1] == "No problems found.", "\n".join(lines)


def until_all_workers(own):
    until(lambda: own.sql("SELECT count(*) FROM pgpoll.listening WHERE alive AND workers = 3") == [(1,)], "a row of the manager's with all workers")


def test_no_client_receives_the_message_of_the_check(own):
    """Neither a waiting poll for all messages of its topic receives it, nor a session that LISTENs."""
    kept = "SELECT (SELECT count(*) FROM pgpoll.messages), (SELECT count(*) FROM pgpoll.feed)"
    before = own.sql(kept)
    (poll,) = own.wait("pgpoll check", since={"pgpoll check": "0"}, timeout=60)
    listener = own.connect()
    listener.autocommit = True
    listener.cursor().execute("SELECT pgpoll.listen('{pgpoll check}')")
    for _ in range(3):
        code, lines = check(own)
        assert code == 0 and any("published and numbered" in line for line in lines), "\n".join(lines)
    listener.cursor().execute("SELECT 1")
    assert not listener.notifies and own.sql(kept) == before and not poll.done()
    own.publish("pgpoll check", "real")
    assert poll.result().payloads == ["real"]
    listener.cursor().execute("SELECT 1")
    listener.poll()
    assert listener.notifies   # the session does receive notifications
    listener.close()


def test_arguments_and_settings(own):
    code, lines = check(own, PGPOLL_HEARTBEAT_S="soon")
    assert code == 1 and "PGPOLL_HEARTBEAT_S=soon: must be" in lines[0]
    code, lines = check(own, "--wokers", "3")
    assert code == 1 and "unrecognized option" in lines[0]
    code, lines = check(own, PGPOLL_WORKER="3")
    assert code == 1 and "PGPOLL_WORKER is not a setting; did you mean PGPOLL_WORKERS?" in lines[0]


def test_no_database(own):
    complains(check(own, PGPORT=1), "cannot connect", ".s.PGSQL.1")
    complains(check(own, PGHOST="127.0.0.1", PGPORT=free_port()), "cannot connect", "refused")
    complains(check(own, PGDATABASE="elsewhere"), "cannot connect", '"elsewhere" does not exist')
    complains(check(own, PGUSER="nobody_at_all"), "cannot connect", "nobody_at_all")


def test_schema(own):
    own.sql("CREATE DATABASE bare")
    complains(check(own, PGDATABASE="bare"), "no pgpoll schema", "pgpoll-setup --role pgpoll_worker bare")
    version, = own.sql("SELECT pgpoll.schema_version()")[0]
    for other, advice in ((version + 1, "install the pgpoll that upgraded it"), (version - 1, "run pgpoll-setup pgpoll")):
        own.sql(f"CREATE OR REPLACE FUNCTION pgpoll.schema_version() RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT {other}'")
        complains(check(own), f"version {other}", advice)
    own.sql(f"CREATE OR REPLACE FUNCTION pgpoll.schema_version() RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT {version}'")
    assert check(own)[0] == 0


def test_rights(own):
    complains(check(own, PGUSER="stranger"), "no pgpoll schema that role stranger can use", "pgpoll-setup --role stranger pgpoll")
    own.sql("GRANT USAGE ON SCHEMA pgpoll TO stranger; GRANT EXECUTE ON FUNCTION pgpoll.schema_version() TO stranger")
    complains(check(own, PGUSER="stranger"), "may not call", "catch_up", "GRANT pgpoll_poller TO stranger;")
    notes(check(own, PGUSER="postgres"), "superuser")
    own.sql("REVOKE pgpoll_publisher FROM app")
    notes(check(own), "Only the owner of the schema can publish")
    own.sql("GRANT pgpoll_publisher TO app")


def test_can_poll_that_fails(own):
    own.sql("CREATE OR REPLACE FUNCTION pgpoll.can_poll(remote_user text, topic text) RETURNS boolean LANGUAGE sql STABLE AS"
            " 'SELECT remote_user::integer > 0'")
    complains(check(own), "can_poll", "invalid input syntax")
    own.unrestrict()


def test_pooler(own):
    with pgbouncer(own) as pooler:
        complains(check(own, PGHOST=pooler), "LISTEN delivers nothing", "pooler in transaction mode")


def test_the_service_of_readers(own, tmp_path):
    services = tmp_path / "services"
    with pgbouncer(own) as pooler:
        services.write_text(f"[nowhere]\nhost=/nowhere\n[same]\nhost={own.env['PGHOST']}\n[pooler]\nhost={pooler}\n")
        for service, leads in ("same", "the primary."), ("pooler", "the primary, through a pooler."):
            code, lines = check(own, PGSERVICEFILE=services, PGPOLL_CATCH_UP_SERVICE=service)
            assert code == 0 and f"ok     PGPOLL_CATCH_UP_SERVICE={service} leads to {leads}" in lines, lines
    for service, word in ("nowhere", "/nowhere"), ("missing", "missing"):
        complains(check(own, PGSERVICEFILE=services, PGPOLL_CATCH_UP_SERVICE=service), f"PGPOLL_CATCH_UP_SERVICE={service} cannot be used", word)


def test_standby(own):
    """The standby is a copy of the server's cluster."""
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
            (home / "services").write_text(f"[old_messages]\nhost={home}\n")
            code, lines = check(own, PGSERVICEFILE=home / "services", PGPOLL_CATCH_UP_SERVICE="old_messages")
            assert code == 0 and "ok     PGPOLL_CATCH_UP_SERVICE=old_messages leads to a standby." in lines, lines
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
    complains(check(own, PGPOLL_QUERY_TIMEOUT_S=2), "can_poll", "statement timeout")
    own.unrestrict()
    postmaster = int(Postgres(own).data.joinpath("postmaster.pid").read_text().split()[0])
    os.kill(postmaster, signal.SIGSTOP)
    try:
        complains(check(own, PGPOLL_QUERY_TIMEOUT_S=2), "cannot connect", "accepted the connection, but not answered within ", " ms (PGPOLL_QUERY_TIMEOUT_S)")
    finally:
        os.kill(postmaster, signal.SIGCONT)


def test_publishing(own):
    (trigger,), *_ = own.sql("SELECT tgname FROM pg_trigger WHERE tgrelid = 'pgpoll.messages'::regclass AND NOT tgisinternal")
    own.sql(f"ALTER TABLE pgpoll.messages DISABLE TRIGGER {trigger}")
    complains(check(own), f"Trigger {trigger}", "disabled")
    own.sql(f"ALTER TABLE pgpoll.messages ENABLE ALWAYS TRIGGER {trigger}")

    publisher = own.connect()
    own.sql("BEGIN; LOCK TABLE pgpoll.messages IN SHARE MODE")
    (holder,), = own.sql("SELECT pg_backend_pid()")
    publishing = threading.Thread(target=lambda: publisher.cursor().execute("INSERT INTO pgpoll.messages (topic, payload) VALUES ('t', '1')"))
    publishing.start()
    try:
        until(lambda: own.sql("SELECT 1 FROM pgpoll.held_up WHERE waited > '1 second'"), "somebody held up")
        complains(check(own), f"Process {holder} of PostgreSQL has blocked other sessions", "(1 now)")
    finally:
        own.sql("ROLLBACK")
        publishing.join()
        publisher.close()


def test_publishing_behind_a_notify(own):
    """One COMMIT waits for a standby, and the next one for the first one's NOTIFY. LISTEN cannot be checked then."""
    publishers, publishing = [own.connect() for _ in range(2)], []
    with standby.away(own.connect):
        for publisher in publishers:
            publisher.autocommit = True
            publishing.append(threading.Thread(target=publisher.cursor().execute,
                                               args=["INSERT INTO pgpoll.messages (topic, payload) VALUES ('t', '1')"]))
            publishing[-1].start()
            until(lambda: own.sql("SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event IN ('SyncRep', 'object')",
                                  publisher.info.backend_pid), "its COMMIT held up")
        until(lambda: own.sql("SELECT 1 FROM pgpoll.held_up WHERE waits_for = 'NOTIFY' AND waited > '1 second'"), "somebody held up")
        outcome = check(own, PGOPTIONS="-c synchronous_commit=off")   # this setting keeps the check from waiting for the standby
        complains(outcome, str(publishers[0].info.backend_pid), "of PostgreSQL has blocked other sessions")   # perhaps among those of the manager
        assert any("LISTEN are not tried" in line for line in outcome[1]), outcome
    for thread in publishing:
        thread.join(10)
    for publisher in publishers:
        publisher.close()


def test_notification_queue(own):
    """The queue holds 90 MB, because a session in an open transaction does not read it."""
    deaf = own.connect()
    deaf.autocommit = True
    deaf.cursor().execute("LISTEN anything")
    deaf.cursor().execute("BEGIN; SELECT 1")
    own.sql("SELECT pg_notify('whatever', repeat('x', 7900) || n) FROM generate_series(1, 11500) n")
    try:
        complains(check(own), "NOTIFY queue is 1 % full")
    finally:
        deaf.close()
        # The next NOTIFY wakes the sessions, and the queue is emptied.
        until(lambda: own.sql("SELECT pg_notify('whatever', '')") and own.sql("SELECT pg_notification_queue_usage() < 0.001") == [(True,)], "the queue empty")


def test_connections(own):
    own.sql("ALTER ROLE pgpoll_worker CONNECTION LIMIT 10")
    complains(check(own, "--workers", "2"), "CONNECTION LIMIT of role pgpoll_worker allows 10", "needs up to 11")
    own.sql("ALTER ROLE pgpoll_worker CONNECTION LIMIT -1")
    complains(check(own, "--workers", "2", PGPOLL_CONNECTIONS=500), "max_connections allows", "needs up to 503")


def test_limits(own):
    files = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    notes(check(own, "--workers", "1000", preload=files, PGPOLL_HOST="elsewhere"), "1000 polls", "2500 file descriptors", "256")
    if os.getuid() == 0:
        processes = lambda: resource.setrlimit(resource.RLIMIT_NPROC, (1000, 1000))
        complains(check(own, "--workers", "1000", user="nobody", preload=processes), "1051 processes", "may have 1000",
                  count=2)   # user nobody may not connect to the database, either


def test_workers_that_could_not_start(own):
    until_all_workers(own)
    connected = ("SELECT count(*) FROM pgpoll.listening l JOIN pgpoll.listeners USING (host, pid) JOIN pg_stat_activity a ON a.pid = backend_pid"
                 " WHERE alive AND a.backend_start %s now() - interval '10 s'")
    until(lambda: own.sql(connected % "<") == [(1,)], "10 s from the manager's start")
    complains(check(own, "--workers", "40"), "Only 3 of 42 worker processes run on host", "TasksMax, ulimit -u")
    notes(check(own, "--workers", "2", PGPOLL_HOST="elsewhere"), "No manager on host elsewhere is connected")

    own.sql("SELECT pg_terminate_backend(backend_pid) FROM pgpoll.listeners")
    until(lambda: own.sql(connected % ">") == [(1,)], "the manager connected again")
    code, lines = check(own, "--workers", "40")
    assert code == 1 or any("3 of 42 worker processes run on host" in line and "has just started" in line for line in lines), lines


def test_time_limits_of_the_role_do_no_harm(own):
    """Every session of pgpoll sets time limits of its own."""
    own.sql("ALTER ROLE pgpoll_worker SET idle_session_timeout = '1s'; ALTER ROLE pgpoll_worker SET statement_timeout = '2s'")
    try:
        code, lines = check(own)
        assert code == 0, "\n".join(lines)
    finally:
        own.sql("ALTER ROLE pgpoll_worker RESET idle_session_timeout; ALTER ROLE pgpoll_worker RESET statement_timeout")


def test_a_clock_that_was_set_back(own):
    """The last position is 100 s ahead of the clock."""
    (before,), = own.sql("SELECT last_value FROM pgpoll.last_position")
    own.sql("SELECT setval('pgpoll.last_position', (extract(epoch FROM clock_timestamp() + interval '100 s') * 1000)::bigint << 16)")
    try:
        code, lines = check(own)
        (note,) = [line for line in lines if "ahead of this server's clock" in line]
        assert code == 0 and 50 < float(re.search(r"([0-9.]+) s ahead", note)[1]) <= 100 and "stream_id" in note, note
    finally:
        own.sql("SELECT setval('pgpoll.last_position', %s)", max(before, 1))


@pytest.fixture(scope="module")
def plain(own):
    """Another database, whose owner is no superuser."""
    own.sql("CREATE DATABASE plain")
    own.sql("CREATE ROLE small_owner CREATEROLE LOGIN; GRANT CREATE ON DATABASE plain TO small_owner")
    environment = {**os.environ, **own.env, "PGUSER": "small_owner", "PGDATABASE": "plain"}
    subprocess.run(["psql", "-Xq", "-f", ROOT / "sql/install.sql"], env=environment, check=True, timeout=60)
    connection = own.connect(dbname="plain")
    connection.autocommit = True
    yield connection.cursor()
    connection.close()


SWALLOW = "CREATE TRIGGER mine BEFORE INSERT ON pgpoll.messages FOR EACH ROW EXECUTE FUNCTION mine()"


@pytest.mark.parametrize("fault, undo, words", (
    ("ALTER TABLE pgpoll.messages ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
     "ALTER TABLE pgpoll.messages DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY",
     ("row-level security policy", "ALTER TABLE pgpoll.messages NO FORCE ROW LEVEL SECURITY;")),
    ("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC", "GRANT EXECUTE ON FUNCTION pg_control_system() TO PUBLIC",
     ("permission denied for function pg_control_system", "GRANT EXECUTE ON FUNCTION pg_catalog.pg_control_system() TO small_owner;")),
    ("CREATE FUNCTION mine() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'not today'; END$$;" + SWALLOW, "DROP FUNCTION mine CASCADE",
     ("not today", "P0001")),
    ("CREATE FUNCTION mine() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$;" + SWALLOW, "DROP FUNCTION mine CASCADE",
     ("was not found", "triggers that are not part of pgpoll"))), ids=("row-level security", "pg_control_system", "a trigger", "a silent trigger"))
def test_no_message_can_be_numbered(own, plain, fault, undo, words):
    plain.execute(fault)
    try:
        complains(check(own, PGDATABASE="plain"), *words)
    finally:
        plain.execute(undo)
    assert check(own, PGDATABASE="plain")[0] == 0


def test_clock(own, tmp_path):
    """The clock of this process is an hour ahead."""
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
    outcome = check(own, LD_PRELOAD=tmp_path / "ahead.so")
    notes(outcome, " s behind this host's")
    (seconds,) = re.findall(r"([0-9.]+) s behind this host's", "\n".join(outcome[1]))
    assert abs(float(seconds) - 3600) < 5


# --- through the web server

def check_url(server, *arguments, seconds=2, url=None, first=False, workers=2, path=os.environ["PATH"]):
    """first: put the arguments before the URL."""
    environment = {**server.env, "PATH": path, "PGUSER": "pgpoll_worker", "PGPOLL_PROGRAM": server.run / "bin/pgpoll.fcgi"}
    done = subprocess.run([ROOT / "deploy/pgpoll-check", "--workers", str(workers), "--seconds", str(seconds),
                           *([*arguments, url or server.url] if first else [url or server.url, *arguments])],
                          env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    assert done.stderr == "", done
    return done.returncode, done.stdout.splitlines()


def test_through_the_web_server(own):
    code, lines = check_url(own)
    told = "\n".join(lines)
    assert code == 0 and "WRONG" not in told, told
    for words in ("LISTEN delivers", "A poll with timeout 0 is answered", "polls at a time, and there are 2 workers", "ok     A poll of 2 s took ", "poll/stats answers while", "poll/metrics answers while",
                  "poll/stats answers everybody", "poll/health says that this host serves polls"):
        assert words in told, told


def test_no_web_server(own):
    complains(check_url(own, url=f"http://127.0.0.1:{free_port()}"), "A poll with timeout 0 fails", "connect")


def test_a_web_server_that_has_just_been_started(own, tmp_path):
    """As when the commands of docs/install.md are run at once: it does not listen yet at the first request."""
    curl = tmp_path / "curl"
    curl.write_text(f"""#!/bin/sh
if [ -e {tmp_path}/asked ]; then exec {shutil.which("curl")} "$@"; fi
touch {tmp_path}/asked
exec {shutil.which("curl")} "$@" --connect-to ::127.0.0.1:{free_port()}
""")
    curl.chmod(0o755)
    code, lines = check_url(own, path=f"{tmp_path}:{os.environ['PATH']}")
    assert code == 0 and (tmp_path / "asked").exists(), "\n".join(lines)


def test_another_web_server(own):
    complains(check_url(own, url=own.url + "/elsewhere"), "404", "the web server answered, not pgpoll (HTML, Server: lighttpd",
              "does not pass /messages/poll")


def test_options_of_pgpoll_check(own):
    for arguments, words in ((["--help"], "URL is the part before"), (["-h"], "URL is the part before"), (["--topic"], "requires an argument"),
                             (["--topics", "x"], "unrecognized option"), (["--seconds=61"], "from 1 to 60"), (["--seconds=x"], "from 1 to 60")):
        done = subprocess.run([ROOT / "deploy/pgpoll-check", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
        assert words in done.stdout + done.stderr and done.returncode == (0 if "h" in arguments[0][:3] else 1), done


def test_a_token(own):
    own.sql('CREATE OR REPLACE FUNCTION pgpoll.authenticate("authorization" text) RETURNS text LANGUAGE sql AS $$SELECT substring($1 FROM \'^Bearer (.+)$\')$$')
    try:
        until(lambda: own.request("POST", POLL, '{"topics": ["x"], "timeout": 0}').status == 401, "authenticate() heeded", 5 + STALL_S)
        complains(check_url(own), "401: pgpoll itself answered (JSON", "pgpoll.authenticate() does not accept this", "-H 'Authorization: Bearer TOKEN'")
        code, lines = check_url(own, "-H", "Authorization: Bearer ann", seconds=1)
        assert code == 0, "\n".join(lines)
    finally:
        own.authenticate_as_installed()
        until(lambda: own.request("POST", POLL, '{"topics": ["x"], "timeout": 0}').status == 200, "as installed again", 5 + STALL_S)


def test_a_topic_that_may_be_polled(own):
    own.restrict("starts_with(topic, remote_user || ':')", refused="pgpoll-check")   # as in docs/login.md, except for unauthenticated users
    try:
        complains(check_url(own), "403: pgpoll itself answered (JSON, through Server: lighttpd", "pgpoll.can_poll() denies topic 'pgpoll-check-",
                  "--topic NAME")
        code, lines = check_url(own, "--topic", ':a "\\ ü', first=True)
        assert code == 0, "\n".join(lines)
    finally:
        own.unrestrict()


def test_a_topic_with_messages(own):
    waited = own.threads.submit(check_url, own, "--topic=busy", seconds=20, first=True)
    own.until_waiting("busy")
    own.publish("busy", 2)
    code, lines = waited.result()
    assert code == 0 and any("with a message" in line for line in lines), "\n".join(lines)


def test_workers_without_a_database(own):
    """pgpoll itself answers, so the check does not blame the web server."""
    postgres = Postgres(own)
    postgres.stop()
    try:
        code, lines = check_url(own, seconds=1)
        assert code == 1 and any("503: pgpoll itself answered (JSON" in line and "do not reach the database" in line for line in lines), "\n".join(lines)
    finally:
        postgres.start()


@pytest.mark.parametrize("kind, size, limit", (
    ("lighttpd", "server.max-connections = ", "100 polls"), ("nginx", "worker_connections ", f"{os.cpu_count() * 50} polls"),
    ("apache", "MaxRequestWorkers   ", "200 polls")))
def test_fewer_connections_than_workers(own, kind, size, limit):
    """The check reads the configuration of the running web server."""
    few = lambda text: re.sub(rf"({size})\d+", r"\g<1>" + ("200" if kind == "apache" else "100"), text)
    with fronted(own, SERVERS[kind], edit=few) as door:
        _, lines = check_url(door, url=f"http://127.0.0.1:{door.port}", seconds=1, workers=15000)
        assert any(line.startswith("WRONG") and kind in line and f"accepts {limit} at a time, but there are 15000 workers" in line
                   for line in lines), "\n".join(lines)
        assert kind != "lighttpd" or any(re.fullmatch(shown("WRONG  lighttpd accepts "), line) for line in lines)


def lighttpd(tmp_path, server, extra):
    """A second lighttpd in front of the same workers."""
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


@pytest.mark.skipif(os.getuid() != 0, reason="only root could give its rights away")
def test_the_web_servers_program_gets_no_more_rights_than_its_process(own):
    """Which configuration it reads is up to that process."""
    with directory() as home:
        (home / "users").touch(0o666)
        (home / "users").chmod(0o666)
        other, process = lighttpd(home, own, f"""
            server.username = "nobody"
            server.modules += ( "mod_proxy" )
            proxy.server = ( "" => (( "host" => "127.0.0.1", "port" => {own.port} )) )
            include_shell "id -u >>{home}/users; echo" """)
        try:
            started = (home / "users").read_text().split()
            code, lines = check_url(other, seconds=1)
            assert code == 0 and any("lighttpd accepts" in line for line in lines), "\n".join(lines)
            assert set((home / "users").read_text().split()[len(started):]) == {str(pwd.getpwnam("nobody").pw_uid)}
        finally:
            process.terminate()
            process.wait(20)


@pytest.mark.parametrize("fault, words", (
    ("cut", ("A poll of 3 s was cut short after",)),
    ("no metrics", ("GET /messages/poll/metrics: 404", "not the metrics", "the web server answered, not pgpoll")),
    ("password", ("401: the web server answered", "-u user:password")),
    ("redirect", ("the web server answered", "It redirects to https://www.example.org/messages/poll")),
    ("no workers", ("503: the web server answered, not pgpoll (HTML, Server: lighttpd", "does not reach the workers"))))
def test_wrong_web_servers(own, tmp_path, fault, words):
    ours, backend = f'include "{own.run}/50-pgpoll.conf"', 'fastcgi.server = ( "/messages/poll" => (( "check-local" => "disable", %s )) )'
    (tmp_path / "users").write_text("alice:a\n")
    extra = {
        "cut": backend % f'"socket" => "{own.run}/fcgi/poll.sock", "read-timeout" => 1',
        "no metrics": ours + '\n$HTTP["url"] =~ "^/messages/poll/(metrics|health)$" { fastcgi.server = () }',
        "password": ours + f"""
            auth.backend = "plain"
            auth.backend.plain.userfile = "{tmp_path}/users"
            auth.require = ( "/messages/poll" => ( "method" => "basic", "realm" => "pgpoll", "require" => "valid-user" ) )""",
        "redirect": 'server.modules += ( "mod_redirect" )\nurl.redirect = ( "^/messages" => "https://www.example.org/messages/poll" )',
        "no workers": backend % '"socket" => "/nowhere"',
    }[fault]
    other, process = lighttpd(tmp_path, own, extra)
    try:
        code, lines = check_url(other, seconds=3)
        wrong = [line for line in lines if line.startswith("WRONG")]
        assert code == 1 and any(all(word in line for word in words) for line in wrong), "\n".join(lines)
        assert fault != "no metrics" or any("/messages/poll/health: 404: the web server does not pass this path" in line for line in lines)
        if fault == "password":
            code, lines = check_url(other, "-u", "alice:a", seconds=1)
            assert code == 0 and not any("answers everybody" in line for line in lines), "\n".join(lines)
    finally:
        process.terminate()
        process.wait(20)
