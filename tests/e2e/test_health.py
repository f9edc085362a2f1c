"""GET /messages/poll/health: whether a balancer should send polls to a host. It answers without the database and without the manager."""
import http.client
import json
import os
import pathlib
import re
import signal
import struct
import subprocess
import time

import pytest

from between import wire
from hosts import HEALTH, Host, ask
from server import METRICS, MODE, POLL, STALL_S, STATS, Postgres, Server, until

pytestmark = pytest.mark.skipif(MODE != "managed", reason="a worker without a manager has no health")
AWAY_S = 1 + STALL_S     # a manager that reloads counts as away until it is connected


@pytest.fixture(scope="module")
def database():
    """A server of which only PostgreSQL is used."""
    with Server(1, PGPOLL_DRAIN_S="60") as server:
        yield server


@pytest.fixture(scope="module")
def host(database):
    with Host(database, "one", workers=4, PGPOLL_HEALTH_AWAY_S=AWAY_S, PGPOLL_DRAIN_S=60, PGPOLL_QUERY_TIMEOUT_S=60) as host:
        yield host


def test_the_answer(host):
    """Everybody may ask; nobody keeps it."""
    until(lambda: "Polls are served" in ask(host.port, "GET", HEALTH)[2], "the database")
    for source in "127.0.0.1", "127.0.0.2":
        status, headers, text = ask(host.port, "GET", HEALTH, source=source)
        assert (status, json.loads(text)) == (200, {"status": "ok", "detail": "Polls are served"})
        assert headers["Cache-Control"] == "no-store" and headers["Content-Type"] == "application/json"
        assert ask(host.port, "HEAD", HEALTH, source=source)[::2] == (200, "")
    status, headers, _ = ask(host.port, "POST", HEALTH, "{}")
    assert (status, headers["Allow"]) == (405, "GET, HEAD, OPTIONS")


def workers(host):
    """Returns the worker processes, when those of an earlier reload have ended."""
    return until(lambda: len(found := all_workers(host)) == 5 and found, "5 workers")


def all_workers(host):
    return set(subprocess.run(["pgrep", "-P", str(host.manager.pid), "pgpoll-worker"], capture_output=True, text=True).stdout.split())


@pytest.mark.parametrize("layout", ["its own", "another", "none"])
def test_a_reload_is_invisible(host, layout):
    """`pgpoll.fcgi --reload` returns when the new workers serve, also if the old ones are of a version whose state it cannot read, or that
    has none."""
    old, seen = workers(host), set()
    program = host.server.run / "bin/pgpoll.fcgi"
    if layout == "another":
        (host.home / "other").write_bytes(b"\1" * 40)
        (host.home / "other").rename(host.home / "pgpoll.state")
    elif layout == "none":
        (host.home / "pgpoll.state").unlink()
    reload = subprocess.Popen([program, "--reload", str(host.manager.pid)], env={**host.environment, "PGPOLL_STATE_DIR": str(host.home)})
    while reload.poll() is None:
        seen.add(host.health())
    assert reload.returncode == 0 and (seen == {(200, "ok")} or layout != "its own"), host.log()
    assert len(all_workers(host) - old) == 5
    nobody = subprocess.run([program, "--reload", "999999"], env={**host.environment, "PGPOLL_LOG": "stderr"}, capture_output=True, text=True)
    assert nobody.returncode == 1 and "cannot reload process 999999: No such process" in nobody.stderr
    assert subprocess.run([program, "--reload", "x"], env=host.environment, capture_output=True).returncode == 1


def test_a_reload_that_cannot_be_followed(host):
    """It says so."""
    old = workers(host)
    done = subprocess.run([host.server.run / "bin/pgpoll.fcgi", "--reload", str(host.manager.pid)], capture_output=True, text=True,
                          env={**host.environment, "PGPOLL_LOG": "stderr"}, stdin=subprocess.DEVNULL)
    assert done.returncode == 0 and "when its new workers serve is not known: set its PGPOLL_STATE_DIR" in done.stderr
    until(lambda: not workers(host) & old, "the new workers alone")


def test_a_reload_without_a_program(host):
    """It is told; the manager goes on."""
    program, elsewhere = host.server.run / "bin/pgpoll.fcgi", host.server.run / "bin/elsewhere"
    program.rename(elsewhere)
    try:
        done = subprocess.run([elsewhere, "--reload", str(host.manager.pid)], capture_output=True, text=True,
                              env={**host.environment, "PGPOLL_LOG": "stderr", "PGPOLL_STATE_DIR": str(host.home)})
    finally:
        elsewhere.rename(program)
    assert done.returncode == 1 and f"cannot reload process {host.manager.pid}: the manager cannot execute its program" in done.stderr
    assert host.health() == (200, "ok") and host.poll_status() == 200


def test_a_reload_with_a_wrong_setting(host):
    """It fails, with the reason, and nothing is reloaded."""
    old = workers(host)
    done = subprocess.run([host.server.run / "bin/pgpoll.fcgi", "--reload", str(host.manager.pid)], capture_output=True, text=True,
                          env={**host.environment, "PGPOLL_LOG": "stderr", "PGPOLL_STATE_DIR": str(host.home), "PGPOLL_WORKERS": "25000"})
    assert done.returncode == 1 and "PGPOLL_WORKERS=25000: must be a whole number from 0 to 20000" in done.stderr
    assert host.poll_status() == 200 and workers(host) == old


def test_the_database_is_away(host):
    """A short absence is nothing; polls wait meanwhile."""
    postgres, began = Postgres(host.server), time.monotonic()
    postgres.stop()
    try:
        while (health := host.health())[0] == 200:
            assert health[1] == "ok"
            time.sleep(0.02)
        assert health == (503, "database_away") and time.monotonic() - began >= AWAY_S
        assert ask(host.port, "GET", HEALTH)[1]["Retry-After"]
    finally:
        postgres.start()
    host.until_health("ok")


def test_statistics_that_hang_with_the_database(host):
    """More requests for statistics than processes of the statistics; the database would keep each for PGPOLL_QUERY_TIMEOUT_S, a minute here."""
    host.server.close_db()
    postmaster = host.server.run.joinpath("data/postmaster.pid").read_text().split()[0]
    sessions = []
    assert ask(host.port, "GET", STATS)[0] == 200
    subprocess.run(["kill", "-STOP", postmaster], check=True)
    try:
        # From here on there are no new ones.
        sessions = subprocess.run(["pgrep", "-P", postmaster], check=True, capture_output=True, text=True).stdout.split()
        subprocess.run(["kill", "-STOP", *sessions], check=True)
        asked = [host.server.threads.submit(ask, host.port, "GET", STATS) for _ in range(3)]
        until(lambda: sum(poll.done() for poll in asked) == 2, "all but one refused")
        assert {poll.result()[0] for poll in asked if poll.done()} == {503}
        assert "another request waits for the database" in host.log()
        assert host.health(seconds=10 + STALL_S) == (200, "ok")
    finally:
        subprocess.run(["kill", "-CONT", postmaster, *sessions], check=True)
    assert 200 in {poll.result()[0] for poll in asked}


def test_a_frozen_manager(host):
    os.kill(host.manager.pid, signal.SIGSTOP)
    try:
        assert host.until_health("deaf", seconds=5 + STALL_S) == 503
    finally:
        os.kill(host.manager.pid, signal.SIGCONT)
    assert host.until_health("ok") == 200


def test_drain(host, topic):
    """SIGTERM makes health say so, and polls go on. The second one ends the manager at once, and answers those that wait."""
    def wait():
        """Begins a poll. Returns when it waits, with what returns its answer."""
        client = http.client.HTTPConnection("127.0.0.1", host.port, timeout=60)
        client.request("POST", POLL, json.dumps({"topics": [topic], "timeout": 30}))
        response = client.getresponse()     # the head, which a poll sends when it begins to wait
        return lambda: (response.status, [message["payload"] for message in json.loads(response.read())["messages"]])

    before = wait()
    os.kill(host.manager.pid, signal.SIGTERM)
    assert host.until_health("draining") == 503
    host.server.publish(topic, 1)
    assert before() == (200, [1])
    during = wait()
    host.server.publish(topic, 2)
    assert during() == (200, [2])
    last = wait()
    os.kill(host.manager.pid, signal.SIGHUP)    # comes too late
    os.kill(host.manager.pid, signal.SIGTERM)
    assert last() == (200, [])
    assert host.manager.wait(20) == 0 and host.health() == (503, "stopped")
    pathlib.Path(host.home / "pgpoll.state").unlink()
    assert host.health() == (503, "no_manager")


def test_listen_delivers_nothing(database):
    """The host says so in its metrics, and stays healthy, because messages come all the same, a few seconds late."""
    def metrics(host):
        return {name: int(value) for name, value in re.findall(r"^pgpoll_(database_up|manager_up|listener_up)\S* (\d)$", ask(host.port, "GET", METRICS)[2], re.M)}

    with wire(database) as (line, home), Host(database, "deaf", workers=1, PGHOST=home) as host:
        up = {"database_up": 1, "manager_up": 1, "listener_up": 1}
        until(lambda: metrics(host) == up, "all up", 20)
        line.deaf = True
        until(lambda: metrics(host) == {**up, "listener_up": 0}, "LISTEN delivers nothing", 20 + STALL_S)
        assert host.health() == (200, "ok")
        line.deaf = False
        until(lambda: metrics(host) == up and "LISTEN delivers again" in host.log(), "LISTEN delivers again", 20 + STALL_S)


def test_a_restart_forgets_the_timeline(database):
    """docs/several-hosts.md says so. The statistics may start first, and find what the manager before knew: here, a timeline that comes later."""
    with Host(database, "three", workers=1) as host:
        state = host.home / "pgpoll.state"

        def values():
            return struct.unpack("15q", state.read_bytes())

        until(lambda: values()[-1] != 0, "the timeline")
        for process in host.manager, host.stats:
            process.send_signal(signal.SIGUSR1)
            process.wait(20)
        state.write_bytes(struct.pack("15q", *values()[:-1], values()[-1] + 1))
        host.start_stats()
        until(lambda: ask(host.port, "GET", STATS)[0] == 200, "statistics")


def test_a_place_that_cannot_be_written(database, tmp_path):
    with Host(database, "two", workers=1, PGPOLL_STATE_DIR="/nowhere") as host:
        assert host.health() == (503, "no_manager")
        assert re.search("warning: GET /messages/poll/health says no_manager: cannot create /nowhere/pgpoll.state: No such file", host.log())


def test_make_stop_does_not_drain(database, topic):
    (poll,) = database.wait(topic, timeout=50)
    database.stop()
    assert poll.result(0).messages == []
