"""GET /messages/poll/metrics, read with Prometheus' own promtool."""
import contextlib
import datetime
import os
import pathlib
import re
import signal
import socket
import subprocess
import time

import pytest

from between import manager, pgbouncer, wire
from documents import shown
from server import METRICS, MODE, POLL, SCHEMA_VERSION, STALL_S, VERSION, Postgres, Server, max_body, new_topic, until

managed = pytest.mark.skipif(MODE == "direct", reason="there is no manager")


@pytest.fixture(scope="module", autouse=MODE == "managed")
def deaf(server, tmp_path_factory):
    """Starts two more managers of the database whose LISTEN delivers nothing: one behind a pooler that ignores LISTEN, one on a connection that
    drops notifications from now on. They must be detected while the other tests run. Yields for each host when it became deaf, when the metrics
    showed it, and its log."""
    logs = {host: tmp_path_factory.mktemp(host) / "log" for host in ("pooled", "wired")}
    for log in logs.values():
        log.touch()

    def time_of(host, state):
        until(lambda: listener_up(server, host) == state, f"{host}: listener_up {state}", seconds=30)
        return time.time()

    def told(host):
        until(lambda: "LISTEN delivers nothing" in logs[host].read_text(), "the log", seconds=30)
        return time_of(host, 0)

    with pgbouncer(server) as pooler, wire(server) as (line, lossy):
        since = {"pooled": time.time()}
        with manager(server, "pooled", logs["pooled"], PGHOST=pooler), manager(server, "wired", logs["wired"], PGHOST=lossy):
            time_of("wired", 1)
            line.deaf, since["wired"] = True, time.time()
            yield {host: (since[host], server.threads.submit(told, host), logs[host]) for host in logs}


class Metrics(dict):
    """Maps (name, labels as text without the host) to a value summed over hosts."""

    def __init__(self, server):
        super().__init__()
        self.answer = server.request("GET", METRICS)
        assert self.answer.status == 200, self.answer
        for line in self.answer.text.splitlines():
            if not line.startswith("#"):
                name, labels, value = re.fullmatch(r"pgpoll_(\w+?)(?:\{(.*)\})? (\S+)", line).groups()
                key = name, re.sub(r'host="[^"]*",?', "", labels or "")
                self[key] = self.get(key, 0) + float(value)

    def __missing__(self, key):
        return 0


def settled(server):
    """Returns the metrics when everything so far was counted."""
    key = "polls_total", 'outcome="too_large"'
    before = Metrics(server)[key]
    assert server.request("POST", POLL, b" " * (max_body() + 1)).status == 413
    return until(lambda: (now := Metrics(server))[key] > before and now, "the last poll counted")


def counted(server, before, **wanted):
    """Waits until the wanted counts were added since before. Returns all other counts that were added."""
    def change():
        now = Metrics(server)
        return {key: now[key] - before[key] for key in now if now[key] != before[key]}
    names = {tuple(name.split("__")) if "__" in name else (name, ""): value for name, value in wanted.items()}
    keys = {(name, f'outcome="{label}"' if name == "polls_total" else label): value for (name, label), value in names.items()}
    return until(lambda: (now := change()) and all(now.get(key, 0) == value for key, value in keys.items()) and now,
                 f"{keys}", seconds=4 + STALL_S)


def is_readable(promtool, answer):
    done = subprocess.run([promtool, "check", "metrics"], input=answer.text, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done


def test_prometheus_can_read_it(server, promtool, topic):
    (poll,) = server.wait(topic, timeout=20)
    server.publish(topic, 1)
    poll.result()
    answer = Metrics(server).answer
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-store"
    is_readable(promtool, answer)
    types = re.findall(r"^# TYPE (\w+)", answer.text, re.M)
    assert types == re.findall(r"^# HELP (\w+)", answer.text, re.M) and len(types) > 10


def test_methods_and_stats_beside_it(server):
    assert server.request("HEAD", METRICS).text == ""
    assert server.request("POST", METRICS, "{}").status == 405
    assert server.request("GET", METRICS + "/x").status == 404
    assert server.request("GET", METRICS + "?x=1").status == 200


def test_polls_by_outcome(server, topic):
    before = settled(server)
    server.poll(topic)                                             # timeout
    server.publish(topic, 1, "two")
    server.poll(topic, since={topic: "0"})                         # ok
    assert server.poll(topic, since={topic: "nonsense"}).gaps      # ok as well
    for body, status in ((b"", 422), (b'{"topics": [""]}', 400), (b" " * (max_body() + 1), 413)):
        assert server.request("POST", POLL, body).status == status
    text = server.poll(topic, since={topic: "0"}).text             # ok
    size = len(text[text.index("[") + 1:text.rindex('],"has_more"')].encode())
    now = counted(server, before, polls_total__ok=3, polls_total__timeout=1, polls_total__invalid=1, polls_total__no_topic=1,
                  polls_total__too_large=1, delivered_messages_total=6, delivered_bytes_total=3 * size, **{'gaps_total__reason="unknown"': 1})
    assert now.get(("pages_total", 'source="table"'), 0) + now.get(("pages_total", 'source="window"'), 0) >= 4
    assert not any(name.startswith("delivery") for name, _ in now)   # no poll waited


def test_waits_and_latencies(server, topic):
    before = settled(server)
    (poll,) = server.wait(topic, timeout=20)
    published = time.time()
    server.publish(topic, 1)
    poll.result()
    took = time.time() - published
    server.poll(topic, timeout=1)
    now = counted(server, before, polls_total__ok=1, polls_total__timeout=1, delivery_latency_seconds_count=1, wait_seconds_count=2)
    assert 0 <= now.get(("delivery_latency_seconds_sum", ""), 0) <= took + 0.001
    assert 0.9 < now["wait_seconds_sum", ""] < 1.2 + took + 5
    assert now["wait_seconds_bucket", 'le="+Inf"'] == 2 and now["wait_seconds_bucket", 'le="5"'] == 2


def test_clients_that_leave(server, topic):
    before = settled(server)
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        body = b'{"topics":["%s"],"timeout":30}' % topic.encode()
        client.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (POLL.encode(), len(body), body))
        assert client.recv(100).startswith(b"HTTP/1.1 200")
        until(lambda: Metrics(server)["polls_waiting", ""] == before["polls_waiting", ""] + 1, "counted as waiting")
    counted(server, before, polls_total__client_gone=1)
    until(lambda: Metrics(server)["polls_waiting", ""] == before["polls_waiting", ""], "not waiting any more")


def test_gauges_while_every_worker_waits(small, topic):
    until(lambda: Metrics(small)["workers_free", ""] == small.worker_count, "all workers free")
    polls = small.wait(topic, polls=2, timeout=20)
    names = "polls_waiting", "workers", "workers_free", "topics_waited_for"
    until(lambda: (now := Metrics(small)) and [now[name, ""] for name in names] == [2, small.worker_count, small.worker_count - 2, 1], "both waiting")
    small.publish(topic, 1)
    assert [poll.result().payloads for poll in polls] == [[1], [1]]
    until(lambda: Metrics(small)["workers_free", ""] == small.worker_count, "all workers free again")


def test_no_topic_is_a_label(server):
    def polls():
        server.poll(new_topic("sesame"), "x\"} 1\npgpoll_evil 1", status=422)
        server.poll(new_topic("sesame"))
        return settled(server)

    before = len(polls())
    for _ in range(4):
        polls()
    (poll,) = server.wait(topic := new_topic("sesame"), timeout=20)
    until(lambda: server.stats()["topic_subscriber_counts"].get(topic), "in the statistics")
    now = Metrics(server)
    assert "sesame" not in now.answer.text and len(now) == before
    server.publish(topic, 1)
    poll.result()


def test_a_host_tells_its_own_numbers(server, topic):
    """So that nothing counts twice if Prometheus asks every host. The others are in the database."""
    (poll,) = server.wait(topic, timeout=20)
    server.sql("SELECT pgpoll.write_statistics('elsewhere', '{\"pid\":1,\"workers\":7,\"counts\":[{\"metric\":\"polls\",\"label\":\"ok\",\"n\":9}]}')")
    text = Metrics(server).answer.text
    assert set(re.findall(r'host="([^"]*)"', text)) == {socket.gethostname()}
    names = [line.split(" ")[0] for line in text.splitlines() if not line.startswith("#")]
    assert len(names) == len(set(names))
    assert of_host(server, "workers", "elsewhere") == 7 and of_host(server, "workers", socket.gethostname()) > 0
    assert f'pgpoll_build_info{{host="{socket.gethostname()}",version="{VERSION}",schema="{SCHEMA_VERSION}"}} 1\n' in text
    server.publish(topic, 1)
    poll.result()


@contextlib.contextmanager
def hanging(server, postgres):
    """Stops all processes of PostgreSQL, the connections of the statistics program included, as a full disk may."""
    postmaster = int(postgres.data.joinpath("postmaster.pid").read_text().split()[0])
    pids = [postmaster, *(pid for (pid,) in server.sql("SELECT pid FROM pg_stat_activity WHERE usename = 'pgpoll_worker'"))]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def turn_taken(server):
    """A statistics process has its turn to ask the database, and does not end it."""
    def holder():
        owners = {int(line.split()[4]) for line in pathlib.Path("/proc/locks").read_text().splitlines() if " POSIX " in line and "->" not in line}
        return owners & server.named("pgpoll-stats.fc")

    with contextlib.closing(server.connect()) as session, session.cursor() as cursor:
        cursor.execute("LOCK TABLE pgpoll.counters IN ACCESS EXCLUSIVE MODE")
        request = server.threads.submit(server.request, "GET", METRICS)
        (pid,) = until(holder, "a statistics process that asks")
        os.kill(pid, signal.SIGSTOP)
        try:
            assert holder() == {pid}
            yield
        finally:
            session.rollback()
            os.kill(pid, signal.SIGCONT)
            request.result()


def test_without_the_database(promtool):
    """The host tells what it knows, and Prometheus does not wait longer for that than it does by default, 10 s. After a crash, which empties the
    statistics, they are complete again."""
    with Server(2, errors="poll/metrics: database_away") as own:
        manager = own.manager if MODE == "managed" else None
        up = ("database_up", "manager_up", "listener_up") if manager else ("database_up",)
        before, postgres = until(lambda: all((now := Metrics(own))[name, ""] == 1 for name in up) and now, "all up", 8 + STALL_S), Postgres(own)
        with turn_taken(own):
            assert Metrics(own).get(("database_up", "")) == (1 if manager else None)
        postgres.stop("immediate")
        away = until(lambda: (now := Metrics(own))["database_up", ""] == now["listener_up", ""] == 0 and now, "the database away")
        is_readable(promtool, away.answer)
        assert ("polls_waiting", "") not in away and [key for key in away if key[0] == "build_info"]
        if manager:
            assert away["manager_up", ""] == 1 and away["workers", ""] == away["workers_free", ""] == own.worker_count
            age = away["statistics_age_seconds", ""]
            until(lambda: Metrics(own)["statistics_age_seconds", ""] > age, "the statistics get older")
        postgres.start()
        until(lambda: all((now := Metrics(own))[name, ""] == 1 for name in up), "all up again", 8 + STALL_S)
        if manager:
            # Each counter begins again at 0, so that a rate shows its first change.
            after = until(lambda: ("polls_total", 'outcome="ok"') in (now := Metrics(own)) and now, "the counters are back")
            assert {key for key in before if "total" in key[0]} == {key for key in after if "total" in key[0]}
            until(lambda: Metrics(own)["listener_reconnects_total", ""] == 1, "the reconnect")
            assert said(own.log()) == ["LISTEN connection failed", "connected to the database again"]
            os.kill(manager, signal.SIGKILL)
            until(lambda: (now := Metrics(own))["manager_up", ""] == now["workers", ""] == now["listener_up", ""] == 0, "a dead manager hears nothing", 30)
            with hanging(own, postgres):
                began = time.monotonic()
                assert Metrics(own)["database_up", ""] == 0 and time.monotonic() - began < 10 + STALL_S


# --- the listener

def said(lines):
    """Returns the log lines about the connection that LISTENs."""
    return re.findall("LISTEN connection failed|connected to the database again|LISTEN delivers (?:nothing|again)", "\n".join(lines))


def of_host(server, metric, host):
    """Returns a metric of another host, of which the database knows."""
    ((text,),) = server.sql("SELECT pgpoll.metrics()")
    found = re.search(rf'^pgpoll_{metric}{{host="{host}"}} (\d+)$', text, re.M)
    return found and int(found[1])


def listener_up(server, host):
    return of_host(server, "listener_up", host)


@managed
def test_deaf_listeners(server, deaf):
    """They are detected within 15 s, in the metrics and in the log."""
    for name, (since, found, log) in deaf.items():
        assert found.result() - since < 15 + STALL_S
        (line, *_) = [line for line in log.read_text().splitlines() if re.search(shown("error: LISTEN delivers nothing") + "$", line)]
        assert datetime.datetime.fromisoformat(line.split()[0]).timestamp() - since < 15 + STALL_S, line
        # It is logged once, and a new connection alone is not logged as a recovery.
        until(lambda: of_host(server, "listener_reconnects_total", name), "the next connection", 30)
        assert set(said(log.read_text().splitlines())[::2]) == {"LISTEN delivers nothing"}
        assert set(said(log.read_text().splitlines())[1::2]) <= {"LISTEN delivers again"}
    assert listener_up(server, "wired") == 0    # the manager behind the pooler may receive its own NOTIFY for a while, if both share a server connection
