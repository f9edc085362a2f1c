"""make start, stop and reload, RUN/env, and the settings of pgpoll."""
import contextlib
import json
import os
import pwd
import re
import shutil
import signal
import socket
import stat
import subprocess
import uuid

import pytest

from server import POLL, ROOT, SCHEMA_VERSION, STATS, Server, max_body, until


@pytest.fixture
def own():
    """A server that the test starts and stops."""
    with Server(2) as server:
        yield server


@contextlib.contextmanager
def not_started(**options):
    server = Server(2, **options)
    try:
        yield server
    finally:
        server.remove()


def fails_to_start(server, *words):
    code, output = server.make("start")
    assert code != 0 and all(word in output for word in words), output
    nothing_left_of(server)


def nothing_left_of(server):
    until(lambda: not server.processes(), "every process gone")
    assert not [path for path in server.run.rglob("*") if stat.S_ISSOCK(path.lstat().st_mode) or path.name == "pgpoll.state"]


def owners(pids):
    """Returns the owners of the processes that still run."""
    found = set()
    for pid in pids:
        with contextlib.suppress(FileNotFoundError):
            found.add(os.stat(f"/proc/{pid}").st_uid)
    return found


def test_two_side_by_side(server, small, topic):
    server.publish(topic, "here")
    small.publish(topic, "there")
    assert server.poll(topic, since={topic: "0"}).payloads == ["here"]
    assert small.poll(topic, since={topic: "0"}).payloads == ["there"]
    assert not server.worker_pids() & small.worker_pids()
    assert len(server.until_workers()) == server.worker_count >= 24 and len(small.until_workers()) == small.worker_count >= 2


def test_starting_twice_and_stopping_twice(own, topic):
    own.publish(topic, "kept")
    polls = own.wait(topic, polls=2, timeout=30)
    workers, manager = own.until_workers(), own.manager
    code, output = own.make("start")
    assert code == 0 and "already running" in output and own.url in output, output
    elsewhere = Server(2, run=own.run)
    code, output = elsewhere.make("start")
    assert code != 0 and own.url in output and elsewhere.url in output, output
    assert own.worker_pids() == workers and own.manager == manager
    assert set(own.until_waiting(topic, 2)) <= workers and not any(poll.done() for poll in polls)

    own.stop()
    nothing_left_of(own)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", own.port)) != 0
    answers = [poll.result() for poll in polls]
    own.stop()

    own.start()
    assert own.poll(topic, since={topic: "0"}).payloads == ["kept"]
    own.publish(topic, "more")
    assert [own.poll(topic, since=answer.next_since).payloads for answer in answers] == [["more"]] * 2


def test_a_run_that_was_stopped_leaves_alone_what_was_started_since(tmp_path, topic):
    """Another terminal runs `make stop; make start` while `make run` does not look."""
    with not_started() as server:
        with (tmp_path / "output").open("w+") as output:
            run = subprocess.Popen([ROOT / "deploy/local", "run"], stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
                                   env={**os.environ, "RUN": server.run, "PORT": str(server.make_port), "WORKERS": "2", "MODE": server.mode})
            until(lambda: run.poll() is None and "INSERT" in (tmp_path / "output").read_text(), "what to do next", 120)
            os.kill(run.pid, signal.SIGSTOP)
            server.stop()
            server.start()
            os.kill(run.pid, signal.SIGCONT)
            assert run.wait(60) == 0, (tmp_path / "output").read_text()
        server.publish(topic, 1)
        assert server.poll(topic, since={topic: "0"}).payloads == [1]


def test_a_port_that_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as taken, not_started(port=taken.getsockname()[1]) as server:
        fails_to_start(server, str(server.port))


def test_everyday_goals(server):
    code, output = server.make("help")
    assert code == 0 and all(goal in output for goal in ("run", "start", "stop", "reload", "psql", "test", "install"))
    code, output = server.make("psql")   # its standard input is empty
    assert code == 0, output
    env = server.env
    asked = subprocess.run(["psql", "-XAtc", "SELECT pgpoll.schema_version()"], env=env, capture_output=True, text=True)
    assert asked.stdout == SCHEMA_VERSION + "\n", asked


def test_a_start_with_functions_of_ones_own(own):
    """Also if they refuse everybody or fail: only while the database runs, they can be repaired."""
    own.sql("CREATE OR REPLACE FUNCTION pgpoll.can_poll(remote_user text, topic text) RETURNS boolean LANGUAGE sql AS 'SELECT 1 / length(remote_user) = 1'")
    own.stop()
    code, output = own.make("start")
    assert code == 0 and own.url in output and "can_poll_failed" in output, output
    own.sql('CREATE OR REPLACE FUNCTION pgpoll.authenticate("authorization" text) RETURNS text LANGUAGE sql AS $$SELECT nullif($1, $1)$$')
    own.stop()
    code, output = own.make("start")
    assert code == 0 and own.url in output and "fail" not in output, output
    assert own.request("POST", POLL, '{"topics": ["a"], "timeout": 0}').status == 401


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_as_an_ordinary_user(tmp_path, topic):
    """The user runs the tree that is already built."""
    if subprocess.run(["runuser", "-u", "nobody", "--", "test", "-r", ROOT / "Makefile"]).returncode:
        pytest.skip("this tree is not readable for everyone")
    nobody = pwd.getpwnam("nobody")
    with not_started() as server:
        os.chown(server.home, nobody.pw_uid, nobody.pw_gid)
        goal = ["runuser", "-u", "nobody", "--", "make", "-s", "-C", ROOT, f"RUN={server.run}", f"PORT={server.port}", "WORKERS=2",
                f"MODE={server.mode}"]
        log = tmp_path / "log"
        with log.open("w") as output:
            code = subprocess.run([*goal, "start"], stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=120).returncode
        assert code == 0, log.read_text()
        server.publish(topic, 1)
        assert server.poll(topic, since={topic: "0"}).payloads == [1]
        assert owners(server.processes()) == {nobody.pw_uid}
        subprocess.run([*goal, "stop"], check=True, stdin=subprocess.DEVNULL, timeout=120)
        nothing_left_of(server)


def test_what_make_run_prints_can_be_pasted(tmp_path):
    """Also if the directory has a name that a shell would split."""
    with not_started() as server:
        run = server.home / "it's mine"
        goal = ["make", "-s", "-C", ROOT, f"PORT={server.port}", "WORKERS=2", f"MODE={server.mode}", f"RUN={run}"]
        log = tmp_path / "log"
        with log.open("w") as output:
            process = subprocess.Popen([*goal, "run"], stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            (command,) = until(lambda: process.poll() is None and re.findall(r"^  (\. .*psql.*)$", log.read_text(), re.M), "what to do next", 120)
            done = subprocess.run(["sh", "-c", command], check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
            assert done.stdout == "INSERT 0 1\n", (command, done)
        finally:
            subprocess.run([*goal, "stop"], check=True, stdin=subprocess.DEVNULL, timeout=120)
            process.wait(60)
            shutil.rmtree(run.resolve(), ignore_errors=True)    # it may be a link to a directory whose name needs no quotes


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give its rights away")
def test_no_worker_runs_as_root(server):
    server.until_workers()
    serving = [pid for pid, command in server.processes().items() if any(name in command for name in ("pgpoll-", "fcgi", "postgres", "lighttpd"))]
    assert len(serving) > 24 and 0 not in owners(serving)


def test_reload_without_poll_workers_fails(own):
    for pid in (own.run / "poll.pids").read_text().split():
        os.kill(int(pid), signal.SIGKILL)
    until(lambda: not own.worker_pids(), "every poll worker gone")
    code, output = own.make("reload")
    assert code != 0 and "poll" in output and "reloaded" not in output, output
    own.start()
    own.reload()


def run_program(server, name, *arguments, env=None):
    """Runs a program by hand, which is useful only for --help."""
    return subprocess.run([server.run / "bin" / name, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30,
                          env=env)


def test_help_shows_how_to_start(server):
    for name, pool, workers in ("pgpoll.fcgi", "poll", True), ("pgpoll-stats.fcgi", "stats", False):
        done = run_program(server, name, "--help")
        assert (done.returncode, done.stderr) == (0, ""), done
        assert f"/run/pgpoll/{pool}.sock " in done.stdout and "PGPOLL_LOG_LEVEL" in done.stdout
        assert f" -- {server.run / 'bin' / name}{' --workers 500' * workers}\n" in done.stdout


PROGRAMS = "pgpoll.fcgi", "pgpoll-stats.fcgi", "pgpoll-worker", "pgpoll-reader"


def test_every_program_prints_its_version(server):
    for name in PROGRAMS:
        for option in "-h", "--help", "-V", "--version":
            done = run_program(server, name, option)
            assert (done.returncode, done.stderr) == (0, "") and name in done.stdout, done
            assert option in ("-h", "--help") or f", for schema {SCHEMA_VERSION}\n" in done.stdout, done


@pytest.mark.parametrize("arguments, words", (
    (["--wokers", "2"], ["unrecognized option '--wokers'"]),
    (["-x"], ["invalid option -- 'x'"]),
    (["--workers"], ["--workers"]),
    (["--workers="], ["--workers", "number"]),
    (["--workers=2", "3"], ["unexpected argument '3'"]),
    (["--help", "--check", "x"], []),
    (["start"], ["unexpected argument 'start'"])), ids=str)
def test_unknown_arguments_are_refused(server, arguments, words):
    done = run_program(server, "pgpoll.fcgi", *arguments)
    if not words:   # help takes precedence
        assert done.returncode == 0 and "Environment" in done.stdout, done
        return
    assert done.returncode == 1 and all(word in done.stderr for word in words), done
    assert "usage: pgpoll.fcgi [--workers N] [--check] [--reload PID] [--help | --version]" in done.stderr, done


@pytest.mark.parametrize("arguments", (["--workers", "many"], ["--workers=20001"], ["--check", "--workers=-1"]), ids=str)
def test_a_bad_number_of_workers_is_named_with_its_range(server, arguments):
    done = run_program(server, "pgpoll.fcgi", *arguments)
    value = arguments[-1].split("=")[-1]
    assert done.returncode == 1 and f"PGPOLL_WORKERS={value}: must be a whole number from 0 to 20000" in done.stderr, done


def test_only_polls_have_a_manager(server):
    done = run_program(server, "pgpoll-stats.fcgi", "--workers", "2")
    assert done.returncode == 1 and "--workers" in done.stderr and "usage: pgpoll-stats.fcgi [--help | --version]" in done.stderr, done


@pytest.mark.parametrize("command", (["pgpoll.fcgi", "--workers=2"], ["pgpoll.fcgi", "--check"], ["pgpoll.fcgi"], ["pgpoll-stats.fcgi"]),
                         ids=" ".join)
def test_an_unknown_setting_is_refused(server, command):
    done = run_program(server, *command, env={**os.environ, "PGPOLL_WORKER": "3"})
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1 and "PGPOLL_WORKER is not a setting; did you mean PGPOLL_WORKERS?" in line, done


@pytest.mark.parametrize("command", (["pgpoll.fcgi", "--workers", "2"], ["pgpoll.fcgi"], ["pgpoll-stats.fcgi"]), ids=" ".join)
def test_without_a_socket_nothing_starts(server, command):
    done = run_program(server, *command)
    (line,) = done.stderr.splitlines()   # only one process logged it
    assert done.returncode == 1 and "descriptor 0 is not a listening socket" in line, done


@pytest.mark.web
def test_settings_reach_the_workers(topic):
    origin = "https://app.example"
    settings = {"CORS_ORIGIN": "https://other.example, " + origin, "MAX_TOPICS": "2", "PAGE_BYTES": "100", "HEARTBEAT_S": "1", "REREAD_S": "1"}
    with Server(2, **{f"PGPOLL_{name}": value for name, value in settings.items()}) as server:
        asks = {"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
        for path, method in (POLL, "POST"), (STATS, "GET"):
            preflight = server.request("OPTIONS", path, headers=asks)
            assert preflight.status in (200, 204), preflight
            assert preflight.headers["Access-Control-Allow-Origin"] == origin
            assert method in preflight.headers["Access-Control-Allow-Methods"]
            assert "content-type" in preflight.headers["Access-Control-Allow-Headers"].lower()
        def answers(**headers):
            asked = [("POST", POLL, json.dumps({"topics": [topic], "timeout": timeout})) for timeout in (0, 1)]
            asked += [("GET", STATS, None), ("GET", POLL, None)] + [("POST", POLL, body) for body in (b"", b'{"topics": [""]}', b" " * (max_body(2) + 1))]
            return [server.request(method, path, body, headers=headers) for method, path, body in asked]

        for asking in origin, "https://other.example":
            found = answers(Origin=asking)
            assert [answer.status for answer in found] == [200, 200, 200, 405, 422, 400, 413]
            for answer in found:
                assert answer.headers["Access-Control-Allow-Origin"] == asking, answer
                assert answer.headers["Access-Control-Allow-Credentials"] == "true", answer
                assert answer.headers["Access-Control-Expose-Headers"] == "Retry-After, WWW-Authenticate", answer
                assert "Origin" in answer.headers["Vary"], answer
        preflight = server.request("OPTIONS", POLL, headers={**asks, "Origin": "https://app.example.evil"})
        for answer in [*answers(), *answers(Origin="https://app.example.evil"), preflight]:
            assert answer.status != 403 and "Access-Control-Allow-Origin" not in answer.headers, answer
            assert "Access-Control-Allow-Credentials" not in answer.headers, answer
            assert "Origin" in answer.headers["Vary"], answer

        def too_many():
            return server.poll("a", "b", "c", status=422).json["detail"][0]["msg"] == "ensure this value has at most 2 items"

        assert too_many()
        server.publish(topic, *["x" * 48] * 5)   # 50 bytes each
        pages = [server.poll(topic, since={topic: "0"}, limit=limit).has_more for limit in (1, 2, 3, 5)]
        assert pages == [True] * 4 and len(server.read(topic)) == 5

        server.sql("CREATE OR REPLACE FUNCTION pgpoll.can_poll(remote_user text, topic text) RETURNS boolean LANGUAGE sql AS 'SELECT false'")
        until(lambda: answers(Origin=origin)[0].status == 403, "nobody may poll")
        assert answers(Origin=origin)[0].headers["Access-Control-Allow-Origin"] == origin
        server.unrestrict()
        until(lambda: answers(Origin=origin)[0].status == 200, "everybody may poll")

        (poll,) = server.wait("unheard", timeout=20)
        server.publish_unheard("unheard")
        answer = poll.result()
        assert answer.payloads == ["unheard"] and answer.seconds < 10  # after PGPOLL_REREAD_S, not after the default of 15 s
        idle = server.poll(topic, timeout=4)
        assert re.match(r"\n{1,3}\{", idle.text) and not idle.messages  # PGPOLL_HEARTBEAT_S

        server.reload()
        assert too_many() and answers(Origin=origin)[0].headers["Access-Control-Allow-Origin"] == origin


def anonymous_kib(pid):
    with open(f"/proc/{pid}/smaps_rollup") as memory:
        return int(re.search(r"^Anonymous: +(\d+) kB$", memory.read(), re.M)[1])


@pytest.mark.parametrize("mode", ["managed", "direct"])
def test_a_thousand_topics(mode, topic):
    """This is the largest setting. The largest poll has 6 MB and can be sent again; workers of a manager keep none of that memory."""
    server = Server(1, PGPOLL_MAX_TOPICS="1000", PGPOLL_QUERY_TIMEOUT_S="30")   # reading so many topics may take long
    server.mode = mode
    with server:
        uuids = [str(uuid.uuid4()) for _ in range(700)]
        long = [f"{topic}{i:03}".translate({code: code + 0x1d000 for code in range(128)}).ljust(255, "\U0001f600") for i in range(1000)]
        for _ in range(20):
            server.poll(topic)
        before = {pid: anonymous_kib(pid) for pid in server.until_workers()}
        for topics in uuids, long:
            server.publish(topics[-1], 1)
            answer = server.poll(*topics, since=dict.fromkeys(topics, "0"))
            assert answer.payloads == [1] and not answer.gaps
            answer = server.poll(*topics, since=answer.next_since, timeout=1)
            assert answer.payloads == [] and not answer.gaps
            (waiting,) = server.wait(*topics, since=answer.next_since, timeout=20)
            server.publish(topics[0], 2)
            assert waiting.result().payloads == [2]
        body = json.dumps({"topics": long, "since": answer.next_since, "timeout": 0})
        assert 6_100_000 < len(body) < max_body(1000)
        assert server.request("POST", POLL, body.ljust(max_body(1000))).payloads == [2]
        assert server.request("POST", POLL, body.ljust(max_body(1000) + 1)).status == 413
        kept = {pid: anonymous_kib(pid) - kib for pid, kib in before.items()}
        assert max(kept.values()) < (400 if mode == "managed" else 4000), kept   # libpq keeps its buffers at the largest size that was needed


def test_bad_settings_stop_the_start():
    with not_started() as server:
        for name, value in ("MAX_TOPICS", "many"), ("MAX_TOPICS", "0"), ("CORS_ORIGIN", "a\r\nb: c"), ("LOG_LEVEL", "loud"), \
                ("CORS_ORIGIN", "https://a, https://b/"), ("LOGLEVEL", "debug"):
            server.settings = {"PGPOLL_" + name: value}
            fails_to_start(server, "PGPOLL_" + name)


def test_a_schema_of_another_version_is_refused(own):
    own.sql("CREATE OR REPLACE FUNCTION pgpoll.schema_version() RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT 999'")
    own.stop()
    fails_to_start(own, "version")
