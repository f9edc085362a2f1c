"""A manager and its workers: what only this mode promises."""
import contextlib
import http.client
import json
import os
import pathlib
import random
import re
import resource
import select
import shutil
import signal
import socket
import statistics
import subprocess
import threading
import time

import psycopg2
import pytest

from fastcgi import PARAMS, begin, connect, read_all, record, reply, request
from server import METRICS, MODE, POLL, ROOT, STALL_S, STATS, Postgres, Server, breaks, children, new_topic, until

pytestmark = pytest.mark.skipif(MODE != "managed", reason="of a manager")
DIES_YOUNG = "a worker died as soon as it was started"   # the killed worker may have replaced another one a moment ago


@pytest.fixture(scope="module")
def crowd():
    """A server on which a hundred polls can wait."""
    with Server(100, errors=DIES_YOUNG) as server:
        yield server


@pytest.fixture(scope="module")
def eight():
    with Server(8, errors=DIES_YOUNG) as server:
        yield server


@pytest.fixture(scope="module")
def narrow():
    """A server whose limits are all small."""
    settings = {"WINDOW_BYTES": 65_536, "PAGE_BYTES": 20_000, "CONNECTIONS": 2}
    with Server(40, errors=DIES_YOUNG, **{f"PGPOLL_{name}": str(value) for name, value in settings.items()}) as server:
        yield server


class Client:
    """A client that polls in a loop and sends next_since back each time. A gap, or an answer other than 200, ends it."""

    def __init__(self, server, *topics, timeout=20, since=None):
        self.got, self.longest, self.polls, self.stopped = [], 0, 0, False
        self.since = since or server.poll(*topics).next_since
        self.done = server.threads.submit(self.run, server, topics, timeout)

    def run(self, server, topics, timeout):
        answered = time.monotonic()
        while not self.stopped:
            answer = server.poll(*topics, since=self.since, timeout=timeout)
            assert not answer.gaps
            self.got, self.since, self.polls = self.got + answer.payloads, answer.next_since, self.polls + 1
            self.longest, answered = max(self.longest, time.monotonic() - answered), time.monotonic()

    def stop(self):
        self.stopped = True
        self.done.result()


def finish(server, clients, topic, sent):
    """Asserts that every client gets all published messages in order."""
    until(lambda: any(c.done.done() for c in clients) or all(len(c.got) >= len(sent) for c in clients), "everything delivered", 10 + STALL_S)
    for client in clients:
        client.stopped = True
    server.publish(topic, "end")
    for client in clients:
        client.stop()
        assert client.got[:len(sent)] == sent


@contextlib.contextmanager
def publishing(server, topic, pause=0.02):
    """Publishes 0, 1, 2, ... on a connection of its own."""
    sent, stop = [], threading.Event()

    def publish():
        connection = server.connect()
        connection.autocommit = True
        with connection.cursor() as cursor:
            while not stop.wait(pause):
                cursor.execute("INSERT INTO pgpoll.messages (topic, payload) VALUES (%s, %s)", (topic, str(len(sent))))
                sent.append(len(sent))
        connection.close()

    publisher = server.threads.submit(publish)
    try:
        yield sent
    finally:
        stop.set()
        publisher.result()


def cpu_s(pid):
    """Returns the CPU time that a process has used, in seconds."""
    with open(f"/proc/{pid}/stat") as file:
        return sum(map(int, file.read().rsplit(")", 1)[1].split()[11:13])) / os.sysconf("SC_CLK_TCK")


def send_request(server, body):
    """Sends a poll on a connection of its own, and returns the connection."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=90)
    connection.request("POST", POLL, body)
    return connection


def logged(server, words):
    return [line for line in server.log() if words in line]


# --- what waiting costs

def test_a_hundred_waiting_polls_need_few_connections(crowd, topic):
    others = [new_topic() for _ in range(9)]
    polls = [poll for name in [topic, *others] for poll in crowd.wait(name, polls=10, timeout=60)]
    assert len(crowd.backends()) < 10
    until(lambda: crowd.stats()["active_waiters"] == 100, "all of them in the stats", seconds=2 + STALL_S)
    assert crowd.stats()["topic_subscriber_counts"].items() >= dict.fromkeys([topic, *others], 10).items()
    busy = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'pgpoll_worker' AND state <> 'idle'"
    until(lambda: crowd.sql(busy) == [(0,)], "all idle")   # now and then a session writes statistics
    for name in topic, *others:
        crowd.publish(name, name)
    assert [poll.result().payloads for poll in polls] == [[name] for name in [topic, *others] for _ in range(10)]


def test_the_statistics_are_written_once_a_second(crowd, topic):
    """All rows of a write have the same time."""
    began, polls = time.monotonic(), []
    for _ in range(60):     # in 3 s, or more
        polls.append(crowd.poll_later(topic, timeout=30))
        time.sleep(0.05)
    crowd.until_waiting(topic, len(polls))
    seconds = time.monotonic() - began
    ((batches,),) = crowd.sql("SELECT count(DISTINCT seen_at) FROM pgpoll.waiters WHERE topics = ARRAY[%s]", topic)
    assert 2 <= batches <= seconds + 1 and len(polls) > 3 * batches
    crowd.publish(topic, 1)
    assert all(poll.result().payloads == [1] for poll in polls)


# --- nobody polls

def last_questions(server):
    """The start of each session's last statement."""
    return server.sql("SELECT pid, query_start FROM pg_stat_activity WHERE usename = 'pgpoll_worker' ORDER BY pid")


def test_a_manager_that_nobody_polls_is_quiet(topic):
    """It writes nothing, asks at most once, is not taken for dead, and answers the first poll at once."""
    with Server(8, PGPOLL_IDLE_S="1") as server:
        server.sql("ALTER SYSTEM SET autovacuum = off")     # which writes, too
        server.sql("SELECT pg_reload_conf()")
        server.publish(topic, 1)
        assert server.poll(topic, since={topic: "0"}).payloads == [1]
        until(lambda: server.sql("SELECT quiet FROM pgpoll.listeners") == [(True,)], "quiet", 10 + STALL_S)
        until(lambda: server.sql("SELECT count(*) FROM pg_stat_activity WHERE usename = 'pgpoll_worker' OR backend_type ~ 'autovacuum'")
              == [(2,)], "only the two sessions of the manager left")
        xids, asked = server.sql("SELECT pg_snapshot_xmax(pg_current_snapshot())"), last_questions(server)
        # A heartbeat would come after 5 s.
        until(lambda: server.sql("SELECT last_seen > '6 s' FROM pgpoll.listening") == [(True,)], "a while", 6 + STALL_S)
        assert server.sql("SELECT pg_snapshot_xmax(pg_current_snapshot())") == xids
        assert sum(before != after for before, after in zip(asked, last_questions(server), strict=True)) <= 1
        assert server.sql("SELECT alive, hears, free_workers FROM pgpoll.listening") == [(True, True, 9)]
        assert server.sql("SELECT message FROM pgpoll.listeners, pgpoll.problems(host, 8, 20) WHERE message ~ 'manager'") == []

        (poll,) = server.wait(topic, timeout=30)
        server.until_waiting(topic)
        server.publish(topic, 2)
        assert poll.result().payloads == [2]
        assert server.sql("SELECT quiet FROM pgpoll.listeners") == [(False,)]
        os.kill(server.manager, signal.SIGKILL)
        until(lambda: server.sql("SELECT alive FROM pgpoll.listening") == [(False,)], "its death noticed")


# --- full is not an error

def test_six_clients_share_two_workers(small, topic):
    """When another client wants to wait, the poll that has waited longest is answered early."""
    clients = [Client(small, topic) for _ in range(6)]
    until(lambda: all(client.polls >= 2 for client in clients), "everybody's turn, twice", seconds=40)
    small.publish(topic, 1)
    finish(small, clients, topic, [1])


def test_the_poll_that_has_waited_longest_is_answered_early(eight):
    """One poll is answered early for each new one; another one, if the machine takes more than 50 ms to end the first."""
    def early():
        topic = new_topic()
        polls = [poll for _ in range(8) for poll in eight.wait(topic, timeout=30)]
        until(lambda: eight.sql("SELECT min(now() - started_at) > '0.6 s' FROM pgpoll.live_waiters WHERE topics = ARRAY[%s]"
                                " HAVING count(*) = 8", topic) == [(True,)], "all of them have waited long enough to be asked")
        for n in range(1, 4):
            polls += eight.wait(topic, timeout=30)
            until(lambda: sum(poll.done() for poll in polls) >= n, "room made")
        eight.publish(topic, 1)
        got = [poll.result().payloads for poll in polls]
        assert got == [[]] * (count := got.count([])) + [[1]] * (11 - count) and count >= 3
        return count

    assert any(early() == 3 for _ in range(5))


def test_three_clients_for_each_worker(eight):
    shared, dice = new_topic("shared"), random.Random(1)
    own = [new_topic("own") for _ in range(24)]
    sent = {name: [] for name in [shared, *own]}
    quiet = [new_topic("quiet") for _ in range(3)]
    begin = [eight.poll(shared, name).next_since for name in own]
    clients = [Client(eight, shared, name, since=since) for name, since in zip(own, begin)]
    quiet_clients = [Client(eight, name, since={name: "0"}) for name in quiet]
    stats, end, n = [], time.monotonic() + 6, 0
    while time.monotonic() < end:
        name = dice.choice([shared, *own, *own])
        eight.publish(name, n)
        sent[name].append(n)
        n += 1
        if n % 20 == 0:
            stats.append(eight.request("GET", STATS))
        time.sleep(dice.random() * 0.05)
    for name, client in zip(own, clients):
        expected = sorted(sent[shared] + sent[name])
        until(lambda: client.done.done() or len(client.got) >= len(expected), f"everything of {name}", seconds=10 + STALL_S)
        assert not client.done.done() and client.got == expected
    until(lambda: all(client.polls > 2 for client in clients + quiet_clients), "everybody's turn, several times", seconds=40)
    for client in clients + quiet_clients:
        client.stopped = True
    for name in own + quiet:
        eight.publish(name, "end")
    for client in clients + quiet_clients:
        client.stop()
        # 27 clients take turns on 8 workers, each for at least half a second, so each waits less than 2 s
        assert client.longest < 3 + STALL_S
    assert stats and all(answer.status == 200 and answer.json["active_waiters"] <= 9 for answer in stats)
    assert statistics.median(answer.seconds for answer in stats) < 1


def test_while_workers_start_no_poll_is_answered_early(eight, topic, tmp_path):
    """As many polls as may wait are there before the first worker, so none is idle before the last ones have started. The fork server pauses
    meanwhile; another attempt, if it was too fast for that, or paused for so long that it was replaced."""
    environment = {"PATH": os.environ["PATH"], **eight.env, "PGUSER": "pgpoll_worker", "PGPOLL_HOST": "starts", "PGPOLL_LOG": str(tmp_path / "log")}
    body = json.dumps({"topics": [topic], "timeout": 60}).encode()

    def pause(manager):
        """Stops the fork server when it has forked some workers. Returns its id and their number."""
        while manager.poll() is None:
            for forker in children(manager.pid, "pgpoll-forker")[:1]:     # a new worker has the same name for a moment
                os.kill(forker, signal.SIGSTOP)
                if some := len(children(manager.pid, "pgpoll-worker")):
                    return forker, some
                os.kill(forker, signal.SIGCONT)

    def early():
        """Returns how many polls are answered early."""
        with contextlib.ExitStack() as held:
            listener = held.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(path := str(tmp_path / new_topic()))
            listener.listen(100)
            polls = [held.enter_context(connect(path, seconds=60)) for _ in range(100)]
            for poll in polls:
                poll.sendall(request(body))
            manager = subprocess.Popen([eight.run / "bin/pgpoll.fcgi", "--workers", "100"], stdin=listener, env=environment)
            held.callback(manager.wait, 30)
            held.callback(manager.terminate)
            forker, some = pause(manager)
            until(lambda: len(select.select(polls, [], [], 0)[0]) >= min(some, 100), "those that have a worker wait")
            os.kill(forker, signal.SIGCONT)
            answers = [eight.threads.submit(read_all, poll) for poll in polls]
            until(lambda: eight.sql("SELECT count(*) FROM pgpoll.waiters WHERE host = 'starts'")[0][0] + sum(answer.done() for answer in answers) == 100,
                  "the others wait, too")
            eight.publish(topic, 1)
            got = [len(json.loads(reply(answer.result())[1])["messages"]) for answer in answers]
            return got.count(0) if some < 100 else -1

    assert any(early() == 0 for _ in range(3))


# --- workers and manager come and go

def test_a_killed_worker_is_replaced_and_costs_nobody_else_anything(crowd, topic):
    other = new_topic("other")
    (victim,), polls = crowd.wait(topic, timeout=30), crowd.wait(other, polls=10, timeout=30)
    before, manager = crowd.until_workers(), crowd.manager
    (pid,) = crowd.until_waiting(topic)
    os.kill(pid, signal.SIGKILL)
    assert breaks(victim)
    after = crowd.until_workers(seconds=2 + STALL_S)
    assert before - after == {pid} and len(after - before) == 1 and crowd.manager == manager
    until(lambda: not crowd.waiting(topic), "its row gone", seconds=2 + STALL_S)
    assert not any(poll.done() for poll in polls)
    crowd.publish(other, 1)
    assert [poll.result().payloads for poll in polls] == [[1]] * 10
    assert logged(crowd, f"worker {pid} was killed by signal 9")


@pytest.mark.parametrize("send", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_worker_told_to_end_answers_and_is_replaced(eight, topic, send):
    (poll,) = eight.wait(topic, timeout=30)
    (pid,) = eight.until_waiting(topic)
    before = eight.until_workers()
    os.kill(pid, send)
    assert poll.result(20).messages == []
    after = until(lambda: len(pids := eight.worker_pids() - {pid}) == eight.worker_count and pids, "another in its place")
    assert len(before & after) == len(before) - 1


def test_many_workers_killed_at_once(crowd, topic):
    polls = crowd.wait(topic, polls=40, timeout=30)
    waiting = set(crowd.until_waiting(topic, 40))
    victims = sorted(waiting)[:30] + sorted(crowd.worker_pids() - waiting)[:20]
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    crowd.until_workers()
    until(lambda: sum(poll.done() for poll in polls) == 30, "30 broken polls")
    crowd.publish(topic, 1)
    outcomes = [None if breaks(poll) else poll.result().payloads for poll in polls]
    assert sorted(outcomes, key=str) == sorted([None] * 30 + [[1]] * 10, key=str)
    polls = crowd.wait(topic, polls=100, timeout=30)
    crowd.publish(topic, 2)
    assert [poll.result().payloads for poll in polls] == [[2]] * 100


def test_a_killed_manager_takes_its_workers_down_in_order(topic):
    with Server(6) as server:
        polls = server.wait(topic, polls=6, timeout=30)
        server.until_waiting(topic, 6)
        os.kill(server.manager, signal.SIGKILL)
        killed = time.monotonic()
        answers = [poll.result(20) for poll in polls]
        assert all(not answer.messages and not answer.gaps for answer in answers)
        until(lambda: server.stats()["active_waiters"] == 0, "its rows not counted", seconds=5 + STALL_S)
        until(lambda: not server.worker_pids(), "its workers gone", seconds=5 + STALL_S)
        assert time.monotonic() - killed < 5 + STALL_S and server.poll(topic, status=503)
        server.publish(topic, 1)
        server.close_db()
        server.start()   # as systemd does
        assert [server.poll(topic, since=answer.next_since, timeout=20).payloads for answer in answers] == [[1]] * 6
        until(lambda: server.sql("SELECT * FROM pgpoll.live_waiters") == [], "nobody waits")


def test_a_worker_knows_nothing_of_postgresql(crowd, topic):
    """Libraries that a worker does not map cost no memory."""
    (poll,) = crowd.wait(topic, timeout=20)
    (pid,) = crowd.until_waiting(topic)
    with open(f"/proc/{pid}/maps") as maps:
        mapped = maps.read()
    assert "pgpoll-manager" in mapped and ".so" not in mapped
    crowd.publish(topic, 1)
    assert poll.result().payloads == [1]


def test_a_killed_fork_server_is_replaced(crowd, topic):
    polls = crowd.wait(topic, polls=10, timeout=30)
    before, manager = crowd.until_workers(), crowd.manager
    (fork_server,) = crowd.named("pgpoll-forker")
    os.kill(fork_server, signal.SIGKILL)
    until(lambda: logged(crowd, f"fork server {fork_server} was killed by signal 9"), "its death noticed")
    for pid in sorted(before - set(crowd.until_waiting(topic, 10)))[:5]:
        os.kill(pid, signal.SIGKILL)
    until(lambda: len(crowd.worker_pids() & before) == len(before) - 5, "five workers gone")
    crowd.until_workers()
    assert crowd.manager == manager and crowd.named("pgpoll-forker") - {fork_server}
    crowd.publish(topic, 1)
    assert [poll.result().payloads for poll in polls] == [[1]] * 10


def test_a_hanging_fork_server_is_replaced(topic):
    with Server(4, errors="cannot start a worker|a worker died as soon as it was started") as server:
        before = server.until_workers()
        (fork_server,) = server.named("pgpoll-forker")
        os.kill(fork_server, signal.SIGSTOP)
        victim = min(before)
        os.kill(victim, signal.SIGKILL)
        after = until(lambda: len(pids := server.worker_pids() - {victim}) == server.worker_count and pids, "another worker", seconds=30)
        assert len(after & before) == len(before) - 1 and fork_server not in server.processes()


def test_workers_that_keep_dying_are_replaced_ever_slower(topic):
    # The test also kills the fork server, perhaps in the middle of a fork.
    with Server(3, errors="a worker died as soon as it was started: starting the next one in|cannot start a worker: No child processes") as server:
        manager, killed = server.manager, set()
        end = time.monotonic() + 2
        while time.monotonic() < end:
            for pid in children(manager):
                with contextlib.suppress(ProcessLookupError):   # the manager may have waited for the process just now
                    os.kill(pid, signal.SIGKILL)
                    killed.add(pid)     # again and again, until the manager has waited for it
            time.sleep(0.005)
        assert 4 <= len(killed) <= 40   # without pauses there would be one in 5 ms, more than 400
        assert logged(server, "a worker died as soon as it was started: starting the next one in")
        server.until_workers(seconds=30)
        assert server.manager == manager
        polls = server.wait(topic, polls=3, timeout=20)
        server.publish(topic, 1)
        assert [poll.result().payloads for poll in polls] == [[1]] * 3


def test_reloads_under_load(eight, topic, tmp_path):
    """There are more clients than workers, a publisher, and a different program in each reload. No poll is refused and no message is late."""
    clients = [Client(eight, topic) for _ in range(16)]
    with publishing(eight, topic) as sent:
        for version in b"one", b"two":
            build = eight.home / version.decode()
            shutil.copytree(ROOT / "build", build, ignore=lambda _, names: [name for name in names if not name.startswith("pgpoll")])
            for name in "pgpoll.fcgi", "pgpoll-worker", "pgpoll-reader":
                with open(build / name, "ab") as program:
                    program.write(version)
            before, manager = eight.until_workers(), eight.manager
            done = subprocess.run([ROOT / "deploy" / "local", "reload"], env={**os.environ, "RUN": eight.run, "BUILD": build},
                                  stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, done.stdout + done.stderr
            until(lambda: not eight.worker_pids() & before, "the old workers gone", seconds=5 + STALL_S)
            assert eight.manager == manager
            for pid in {manager, *eight.until_workers(), *eight.named("pgpoll-forker")}:
                with open(f"/proc/{pid}/exe", "rb") as program:
                    assert program.read().endswith(version)
            until(lambda: len(eight.named("pgpoll-forker")) == 1, "the old fork server gone")
            count = len(sent)
            until(lambda: all(client.done.done() or len(client.got) > count for client in clients), "news for everybody", seconds=2 + STALL_S)
    finish(eight, clients, topic, sent)
    eight.reload()   # runs the original program again


# On a busy machine a start of 1.5 s may take 2 s. Then it is given up and repeated.
TOO_SLOW = "cannot start a worker: No child processes"
SLOW_WORKER = """#include <unistd.h>
int main(int argc, char **argv) { (void)argc; sleep(1); usleep(500000); return execv("%s", argv); }"""


@contextlib.contextmanager
def slow_to_start(server):
    """Workers of the next program start only after 1.5 s."""
    worker = server.run / "bin" / "pgpoll-worker"
    worker.rename(worker.with_name("pgpoll-worker-itself"))
    source = server.home / "slow.c"
    source.write_text(SLOW_WORKER % worker.with_name("pgpoll-worker-itself"))
    subprocess.run(["cc", "-o", worker, source], check=True)
    yield
    worker.with_name("pgpoll-worker-itself").rename(worker)


def test_short_polls_while_a_new_program_is_slow_to_start(topic):
    """The new manager runs, and for 1.5 s there are only old workers. Polls must be answered in time all the same."""
    def poll_on(fields):
        while not stop.is_set():
            server.poll(topic, **fields) if fields else server.poll(new_topic())

    with Server(20, errors=TOO_SLOW) as server, slow_to_start(server):
        server.publish(topic, 1)
        stop = threading.Event()
        kinds = [{}, {"timeout": 0}, {"timeout": 1}, {"timeout": 2}, {"timeout": 1, "since": {topic: "0"}}]
        clients = [server.threads.submit(poll_on, kind) for kind in kinds * 3]
        for _ in range(3):
            before = server.until_workers()
            os.kill(server.manager, signal.SIGHUP)
            until(lambda: not server.worker_pids() & before, "the old workers gone", seconds=10 + STALL_S)
        stop.set()
        for client in clients:
            client.result(30)


def test_reloaded_again_before_the_new_workers_are_there(topic):
    """The workers of the first manager, whose polls no message wakes any more, are told to end."""
    with Server(4, errors=TOO_SLOW) as server, slow_to_start(server):
        server.publish(topic, "before")
        polls = server.wait(topic, polls=4, timeout=30)
        before = server.until_workers()
        server.begin_reload()
        os.kill(server.manager, signal.SIGHUP)
        until(lambda: not server.worker_pids() & before, "the oldest workers gone")
        server.publish(topic, "after")
        assert [server.poll(topic, since=poll.result().next_since, timeout=5).payloads for poll in polls] == [["after"]] * 4


def test_told_to_end_in_the_middle_of_a_reload(topic):
    """The manager ends only after the old workers have ended."""
    with Server(4, errors=TOO_SLOW) as server, slow_to_start(server):
        polls = server.wait(topic, polls=4, timeout=30)
        before, manager = server.until_workers(), server.manager
        held = connect(server)
        held.sendall(begin() + record(PARAMS))   # an incomplete request
        server.begin_reload()
        os.kill(manager, signal.SIGTERM)
        assert [poll.result(20).messages for poll in polls] == [[]] * 4
        until(lambda: len(server.worker_pids() & before) == 1, "the others gone")
        assert manager in server.processes()
        held.close()
        until(lambda: manager not in server.processes(), "the manager gone")


def test_a_manager_sleeps_while_its_last_worker_is_busy(topic):
    """The manager was told to end, and a worker still reads a request."""
    with Server(4) as server, connect(server) as held:
        server.until_workers()
        held.sendall(begin())
        (poll,) = server.wait(topic, timeout=30)
        os.kill(server.manager, signal.SIGTERM)
        poll.result(20)
        until(lambda: len(server.worker_pids()) == 1, "one worker left")
        before = cpu_s(server.manager)
        time.sleep(1)   # to see that nothing happens
        assert len(server.worker_pids()) == 1 and cpu_s(server.manager) - before < 0.2


def test_make_stop_answers_every_waiting_poll(topic):
    with Server(20) as server:
        polls = server.wait(topic, polls=20, timeout=60)
        server.stop()
        assert [poll.result(20).messages for poll in polls] == [[]] * 20
        assert not server.worker_pids()


# --- unusual ways to start a manager


@contextlib.contextmanager
def bare(tmp_path, errors=subprocess.DEVNULL, prepare=None, **settings):
    """Starts a manager as a supervisor does, with a socket and without a database. Yields its process."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "poll.sock"))
        listening.listen()
        environment = {**os.environ, "PGHOST": "/nowhere", "PGPOLL_WORKERS": "4", **settings}
        process = subprocess.Popen([ROOT / "build" / "pgpoll.fcgi"], stdin=listening, stderr=errors, env=environment, preexec_fn=prepare)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def workers_of(process):
    return set(children(process.pid, "pgpoll-worker"))


@pytest.mark.parametrize("kind", ["of a log that nobody reads", "SIGCHLD ignored"])
def test_a_bare_manager_replaces_workers_and_ends_when_told_to(tmp_path, kind):
    read_end, write_end = os.pipe()
    prepare = (lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN)) if kind == "SIGCHLD ignored" else None
    with bare(tmp_path, errors=write_end, prepare=prepare) as process:
        os.close(write_end)
        before = until(lambda: len(pids := workers_of(process)) == 5 and pids, "its workers")
        os.close(read_end)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        until(lambda: len(pids := workers_of(process)) == 5 and not pids & before, "others in their place", seconds=10)
        process.terminate()
        assert process.wait(5) == 0


NO_WATCHES = """#include <errno.h>
struct epoll_event;
int epoll_ctl(int set, int operation, int fd, struct epoll_event *event);
int epoll_ctl(int set, int operation, int fd, struct epoll_event *event)
{ (void)set; (void)operation; (void)fd; (void)event; errno = ENOSPC; return -1; }"""


def test_a_worker_that_cannot_watch_for_requests_ends_when_told_to(tmp_path):
    """Its user may add no more watches (epoll(7)). The worker keeps trying."""
    library = tmp_path / "no_watches.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-x", "c", "-o", library, "-"], input=NO_WATCHES, text=True, check=True)
    with bare(tmp_path, subprocess.PIPE, PGPOLL_WORKERS="0", LD_PRELOAD=str(library)) as process:
        assert b"cannot watch for requests: No space left on device" in process.stderr.readline()
        process.terminate()
        assert process.wait(5) == 0


REAPS = """#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
static int reaped, most;
pid_t waitpid(pid_t pid, int *status, int options)
{
    const pid_t dead = wait4(pid, status, options, NULL);
    reaped += dead > 0;
    return dead;
}
int poll(struct pollfd *fds, nfds_t count, int timeout_ms)
{
    if (reaped > most) {
        FILE *file = fopen(getenv("PGPOLL_PROGRAM"), "w");
        fprintf(file, "%d", most = reaped);
        fclose(file);
    }
    reaped = 0;
    return ppoll(fds, count, timeout_ms < 0 ? NULL : &(struct timespec){ timeout_ms / 1000, timeout_ms % 1000 * 1000000 }, NULL);
}
int __poll_chk(struct pollfd *fds, nfds_t count, int timeout_ms, size_t size)
{
    (void)size;
    return poll(fds, count, timeout_ms);
}"""


def test_many_deaths_hold_the_managers_loop_up_only_for_a_moment(tmp_path):
    """It removes a few dead workers in each turn, so that messages do not wait for all of them."""
    library, most = tmp_path / "reaps.so", tmp_path / "most"
    subprocess.run(["cc", "-D_GNU_SOURCE", "-shared", "-fPIC", "-x", "c", "-o", library, "-"], input=REAPS, text=True, check=True)
    # PGPOLL_PROGRAM is a name that programs accept and managers do not use.
    with bare(tmp_path, PGPOLL_WORKERS="200", LD_PRELOAD=str(library), PGPOLL_PROGRAM=str(most)) as process:
        before = until(lambda: len(pids := workers_of(process)) == 210 and pids, "its workers")
        process.send_signal(signal.SIGSTOP)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        until(lambda: all(") Z " in pathlib.Path(f"/proc/{pid}/stat").read_text() for pid in before), "their deaths")
        process.send_signal(signal.SIGCONT)
        until(lambda: len(pids := workers_of(process)) == 210 and not pids & before, "others in their place", seconds=15)
        assert int(most.read_text()) == 64
        process.terminate()
        assert process.wait(5) == 0


@pytest.mark.parametrize("limit, most, why", [("AS", 2**28, "Cannot allocate memory"), ("NOFILE", 4, "Too many open files")])
def test_without_resources_a_manager_logs_that_and_ends(tmp_path, limit, most, why):
    def prepare():
        resource.setrlimit(getattr(resource, f"RLIMIT_{limit}"), (most, most))

    with bare(tmp_path, subprocess.PIPE, prepare, PGPOLL_WINDOW_BYTES=str(2**30)) as process:
        said = process.stderr.read().decode()
        assert process.wait(5) == 1 and said.endswith(f"cannot set up the manager: {why}\n")


# --- the database

def test_the_listening_connection_is_lost_again_and_again(eight, topic):
    clients = [Client(eight, topic) for _ in range(6)]
    with publishing(eight, topic) as sent:
        for _ in range(8):
            until(lambda: eight.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'pgpoll_worker'"),
                  "connections cut")
            count = len(sent)
            until(lambda: all(client.done.done() or len(client.got) > count for client in clients), "news for everybody", seconds=5 + STALL_S)
    finish(eight, clients, topic, sent)


# --- events that must make the manager read at once (its periodic read of all topics comes later than these tests wait)


@pytest.fixture(scope="module")
def no_rereading():
    with Server(8, PGPOLL_REREAD_S="60") as server:
        yield server


@pytest.mark.parametrize("count, payload", [(3000, "to_json(n)"), (12, "to_json(repeat('x', 1000000))")])
def test_a_transaction_larger_than_a_read(no_rereading, topic, count, payload):
    """All its messages are delivered at once, and other topics are not delayed."""
    other = new_topic()
    since = no_rereading.poll(topic, other).next_since
    large, small = no_rereading.wait(topic, since=since, timeout=10 + STALL_S) + no_rereading.wait(other, since=since, timeout=10 + STALL_S)
    no_rereading.until_waiting(topic)
    no_rereading.until_waiting(other)
    no_rereading.sql(f"INSERT INTO pgpoll.messages (topic, payload) SELECT %s, {payload} FROM generate_series(1, {count}) n", topic)
    no_rereading.publish(other, "small")
    assert small.result().payloads == ["small"]
    answer, got = large.result(), []
    while answer.messages:
        got += answer.payloads
        answer = no_rereading.poll(topic, since=answer.next_since, timeout=0)
    assert len(got) == count and (payload != "to_json(n)" or got == list(range(1, count + 1)))


def test_forged_announcements(no_rereading, topic):
    """Every role that can connect can send NOTIFY. Forged announcements delay no message."""
    for position in 2**62, 2**63 - 1, -1, 0:
        no_rereading.sql("SELECT pg_notify('pgpoll', %s)", str(position))
        for n in range(3):
            (poll,) = no_rereading.wait(topic, timeout=10 + STALL_S)
            no_rereading.until_waiting(topic)
            no_rereading.publish(topic, n)
            assert poll.result().payloads == [n]


def test_a_message_deleted_before_the_manager_has_read_it(no_rereading, topic):
    """The other messages of its batch are delivered. (Another host's manager gave the positions.)"""
    (poll,) = no_rereading.wait(topic, timeout=10 + STALL_S)
    no_rereading.until_waiting(topic)
    with no_rereading.nobody_delivers():
        no_rereading.sql("INSERT INTO pgpoll.messages (topic, payload) VALUES (%s, '1'), (%s, '2')", topic, topic)
        assert no_rereading.sql("SELECT assigned FROM pgpoll.assign_positions()") == [(2,)]
        no_rereading.sql("DELETE FROM pgpoll.messages WHERE topic = %s AND payload::text = '2'", topic)
        (now,), = no_rereading.sql("SELECT clock_timestamp()")
    # The manager has read the announced messages, then looked for more. (is_open_to_all() comes last if it is due, too.)
    until(lambda: no_rereading.sql("""SELECT pid FROM pg_stat_activity WHERE query ~ 'new_messages|is_open_to_all' AND state = 'idle'
                                      AND usename = 'pgpoll_worker' AND state_change > %s""", now), "read")
    no_rereading.publish(topic, 3)
    answer = poll.result()
    got = answer.payloads
    until(lambda: got[-1:] == [3] or got.extend(no_rereading.poll(topic, since=answer.next_since, timeout=0).payloads), "the last")
    assert got == [1, 3]


@contextlib.contextmanager
def quiet_publisher(server, topic):
    """Returns a session with an uncommitted message that was published while NOTIFY was muted."""
    publisher, muted = server.connect(), False
    try:
        with publisher.cursor() as cursor:
            while not muted:    # the mute may have expired meanwhile
                publisher.rollback()
                server.sql("SELECT pgpoll.mute_doorbell(1000)")
                cursor.execute("INSERT INTO pgpoll.messages (topic, payload) VALUES (%s, '\"quiet\"')", (topic,))
                cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
                ((muted,),) = server.sql("SELECT last_value > extract(epoch FROM clock_timestamp()) * 1000 FROM pgpoll.doorbell")
        yield publisher
    finally:
        publisher.close()


def test_a_quiet_publisher_while_the_connection_is_lost(no_rereading, topic):
    """The publisher commits after the manager has reconnected and looked for messages."""
    looked = ("SELECT count(*) > 0 FROM pg_stat_activity WHERE usename = 'pgpoll_worker' AND state = 'idle'"
              " AND query ~ 'new_messages|catch_up|is_open_to_all' AND backend_start > %s")
    (poll,) = no_rereading.wait(topic, timeout=20)
    no_rereading.until_waiting(topic)
    with quiet_publisher(no_rereading, topic) as publisher:
        ((now,),) = no_rereading.sql("SELECT clock_timestamp()")
        no_rereading.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'pgpoll_worker'")
        until(lambda: no_rereading.sql(looked, now) == [(True,)], "a new connection that has looked")
        publisher.commit()
        assert poll.result(4).payloads == ["quiet"]


def test_a_quiet_publisher_whose_manager_is_lost(no_rereading, topic):
    """The manager of another host has died after it muted. This host's manager looks every 5 s."""
    (poll,) = no_rereading.wait(topic, timeout=20)
    no_rereading.until_waiting(topic)
    with quiet_publisher(no_rereading, topic) as publisher:
        publisher.commit()
        assert poll.result(5 + STALL_S).payloads == ["quiet"]


@contextlib.contextmanager
def publishing_flat_out(server, topic):
    stop = threading.Event()

    def publish():
        with contextlib.closing(server.connect()) as session, session.cursor() as cursor:
            session.autocommit = True
            while not stop.is_set():
                cursor.execute("DO $$BEGIN FOR n IN 1..100 LOOP INSERT INTO pgpoll.messages (topic, payload)"
                               f" VALUES ('{topic}-' || n, 'null'); COMMIT; END LOOP; END$$")

    publisher = server.threads.submit(publish)
    try:
        yield
    finally:
        stop.set()
        publisher.result()


def test_topics_that_are_new_to_a_busy_manager(eight, topic):
    """While it mutes publishers, it asks for messages only of the topics that are polled. Nobody misses one who comes with others."""
    with publishing_flat_out(eight, f"{topic}-else"):
        until(lambda: eight.sql("SELECT last_value > extract(epoch FROM clock_timestamp()) * 1000 FROM pgpoll.doorbell") == [(True,)], "a mute")
        for n in range(10):
            own = f"{topic}-{n}"
            eight.publish(own, "before")
            first = eight.poll(own, timeout=0)
            assert first.payloads == []
            (waiting,) = eight.wait(own, since=first.next_since, timeout=20)
            eight.publish(own, 1, 2, 3)
            got = waiting.result()
            payloads = got.payloads
            while len(payloads) < 3:
                got = eight.poll(own, since=got.next_since, timeout=20)
                payloads += got.payloads
            assert payloads == [1, 2, 3]


def test_polls_that_ask_just_as_the_connection_is_lost(eight, topic):
    """After the reconnect, their questions are handled before the news, and must not replace them."""
    stop, elsewhere = threading.Event(), new_topic()

    def ask():
        while not stop.is_set():
            eight.poll(elsewhere)

    askers = [eight.threads.submit(ask) for _ in range(3)]
    for n in range(6):
        polls = eight.wait(topic, polls=2, timeout=30)
        eight.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'pgpoll_worker'")
        eight.publish(topic, n)
        for poll in polls:
            answer = poll.result()
            assert answer.payloads == [n] and answer.seconds < 5 + STALL_S
    stop.set()
    for asker in askers:
        asker.result()


def test_a_database_that_is_away_for_seconds(eight, topic):
    """There are waiting polls, a poll that begins meanwhile, and a poll that needs the table."""
    eight.publish(topic, "old")
    since = eight.poll(topic, since={topic: "0"}).next_since
    polls = eight.wait(topic, polls=2, timeout=30) + eight.wait(topic, since=since, timeout=30)
    postgres = Postgres(eight)
    postgres.stop()
    unknown = new_topic()
    polls += [eight.poll_later(topic, since=since, timeout=30)]
    late, table = eight.poll_later(unknown, timeout=30), eight.poll_later(topic, since={topic: "0"}, timeout=30)
    time.sleep(2)   # nothing to observe: the database is down
    postgres.start()
    assert table.result().payloads[0] == "old"
    until(lambda: set(eight.stats()["topic_subscriber_counts"]) == {topic, unknown}, "all who wait in the stats")
    eight.publish(topic, "new")
    eight.publish(unknown, "known")
    assert [poll.result().payloads for poll in polls] == [["new"]] * 4 and late.result().payloads == ["known"]


def take_all_connections(server):
    """Takes all free connections, as other programs may. pgpoll keeps those that it has."""
    taken = []
    with pytest.raises(psycopg2.OperationalError, match="too many clients"):
        while True:
            taken.append(server.connect())
    return taken


def test_polls_are_served_while_others_have_all_connections(topic):
    """Polls are served from the ring and through the manager's connection, also first polls of topics that are new to the host."""
    with Server(4) as server:
        known, unknown = new_topic("known"), new_topic("unknown")
        server.sql("SELECT 1")
        until(lambda: server.sql("SELECT hears FROM pgpoll.listening WHERE hears"), "a manager that hears, through both of its sessions")
        until(lambda: len(server.backends()) == 2, "no reader connected")
        taken = take_all_connections(server)
        try:
            since = server.poll(topic).next_since
            (poll,) = server.wait(topic, since=since, timeout=30)
            first = server.poll(topic).next_since
            server.publish(topic, 1)
            assert poll.result().payloads == [1]
            for since in since, first:
                assert server.poll(topic, since=since, timeout=30).payloads == [1]
                assert server.poll(topic, since=since).payloads == [1]
            (poll,) = server.wait(known, timeout=30)
            since = server.poll(unknown, topic, known).next_since
            server.publish(unknown, 2)
            server.publish(known, 3)
            assert poll.result().payloads == [3]
            assert server.poll(unknown, since={unknown: since[unknown]}, timeout=30).payloads == [2]
            assert len(server.backends()) == 2
        finally:
            for connection in taken:
                connection.close()
        assert server.poll(topic, since={topic: "0"}).payloads == [1]


# --- limits of memory

@pytest.mark.parametrize("size", [15_000, 30_000, 100_000, 3_000_000])
def test_messages_of_any_size(narrow, topic, size):
    """PGPOLL_PAGE_BYTES is 20,000, PGPOLL_WINDOW_BYTES is 65,536."""
    polls = narrow.wait(topic, polls=5, timeout=20)
    sent = [letter * size for letter in "abcde"]
    narrow.sql("INSERT INTO pgpoll.messages (topic, payload) SELECT %s, to_json(repeat(l, %s)) FROM unnest(%s) WITH ORDINALITY u (l, n)"
               " ORDER BY n", topic, size, list("abcde"))
    for poll in polls:
        answer, got = poll.result(), []
        while True:
            assert len(answer.messages) == 1 and answer.has_more == (len(got) < 4) and not answer.gaps
            got += answer.payloads
            if not answer.has_more:
                break
            answer = narrow.poll(topic, since=answer.next_since, timeout=20)
            assert answer.seconds < 10
        assert got == sent
    narrow.publish(topic, "small again")
    assert narrow.poll(topic, since=answer.next_since, timeout=20).payloads == ["small again"]
    narrow.prune(topic)


def test_a_message_that_cannot_be_read_in_time_stops_no_other(topic):
    """Neither its topic's polls nor the manager, which gives it a position, keep other messages from being delivered."""
    with Server(4, PGPOLL_QUERY_TIMEOUT_S="1") as server:
        others = new_topic("other")
        (large,) = server.wait(topic, timeout=15)
        (other,) = server.wait(others, timeout=60)
        server.sql("INSERT INTO pgpoll.messages (topic, payload) SELECT %s, ('\"' || repeat('x', 400000000) || '\"')::json", topic)
        for n in range(5):
            server.publish(others, n)
            assert other.result(20).payloads == [n]
            (other,) = server.wait(others, timeout=60, since=other.result().next_since)
        assert large.result(30).messages == []
        assert server.sql("SELECT without_position FROM pgpoll.retained") == [(0,)]
        server.publish(others, "end")
        assert other.result(20).payloads == ["end"]


def test_a_ring_that_overflows(narrow):
    """Twenty times its size is published in a few seconds, on topics with fast and with slow readers."""
    topics = [new_topic("over") for _ in range(4)]
    clients = [Client(narrow, *names) for names in ([topics[0]], [topics[1]], topics, topics[2:])]
    slow = [narrow.poll(name).next_since for name in topics]
    sent = {name: [] for name in topics}
    for n in range(400):
        name = topics[n % 7 % 4]
        sent[name].append(n)
        narrow.sql("INSERT INTO pgpoll.messages (topic, payload, metadata) VALUES (%s, %s, to_json(repeat('x', 3000)))", name, str(n))
    for names, client in zip(([topics[0]], [topics[1]], topics, topics[2:]), clients):
        expected = sorted(sum((sent[name] for name in names), []))
        until(lambda: client.done.done() or len(client.got) >= len(expected), "everything delivered", seconds=20 + STALL_S)
        assert client.got[:len(expected)] == expected
        client.stopped = True
        narrow.publish(names[0], "end")
        client.stop()
    for name, since in zip(topics, slow):
        assert [message["payload"] for message in narrow.read(name, since=since[name])][:len(sent[name])] == sent[name]


def test_thirty_clients_come_back_with_old_cursors(narrow, topic):
    """PGPOLL_CONNECTIONS is 2."""
    narrow.sql("INSERT INTO pgpoll.messages (topic, payload, metadata)"
               " SELECT %s, to_json(n), to_json(repeat('x', 1000)) FROM generate_series(1, 200) n", topic)
    most, stop = [0], threading.Event()
    fixed = 4   # two of the manager and two of the statistics processes

    def watch():
        connection = narrow.connect()
        connection.autocommit = True
        with connection.cursor() as cursor:
            while not stop.wait(0.005):
                cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE usename = 'pgpoll_worker'")
                most[0] = max(most[0], cursor.fetchone()[0])
        connection.close()

    watcher = narrow.threads.submit(watch)
    until(lambda: most[0] or watcher.done(), "the manager's sessions counted")
    readers = [narrow.threads.submit(narrow.read, topic) for _ in range(30)]
    for reader in readers:
        assert [message["payload"] for message in reader.result()] == list(range(1, 201))
    stop.set()
    watcher.result()
    assert 0 < most[0] <= fixed + 2 * 2   # each may replace a session that is just ending
    until(lambda: len(narrow.backends()) <= fixed, "what was opened to catch up closed again")


@contextlib.contextmanager
def reading(server, topic, polls):
    """Starts polls that need the table, two at a time, while it is locked. Yields them when workers have all of them."""
    server.publish(topic, 1)   # before the topic is known to the manager, so that the message is not in the ring
    (poll,) = server.wait(topic, timeout=20)
    server.publish(topic, 2)
    assert poll.result().payloads == [2]
    connection = server.connect()
    try:
        with connection.cursor() as cursor:
            cursor.execute("LOCK TABLE pgpoll.feed IN ACCESS EXCLUSIVE MODE")
        polls = [server.poll_later(topic, since={topic: "0"}, timeout=20) for _ in range(polls)]
        until(lambda: len(server.named("pgpoll-reader")) == 2 and server.sql(
            "SELECT count(*) >= 2 FROM pg_stat_activity WHERE query LIKE '%pgpoll.catch_up%' AND wait_event_type = 'Lock'") == [(True,)],
              "two of them read")
        until(lambda: server.connections() == len(polls), "workers have the others, too")
        yield polls
    finally:
        connection.close()


def before_pages(what):
    """Statements that make readers do what before they read a page."""
    return f"""
    ALTER FUNCTION pgpoll.catch_up(text[], bigint[], integer, bigint) RENAME TO catch_up_alone;
    CREATE FUNCTION pgpoll.catch_up(topics text[], positions bigint[], max_messages integer, max_bytes bigint)
    RETURNS TABLE (topic_no integer, "position" bigint, created_at timestamptz, payload json, metadata json, gap text, oldest bigint)
    LANGUAGE plpgsql SECURITY DEFINER AS $$
    BEGIN
        PERFORM {what};
        RETURN QUERY SELECT * FROM pgpoll.catch_up_alone(topics, positions, max_messages, max_bytes);
    END $$;"""


def test_clients_that_leave_before_their_turn_to_read_free_their_workers(topic):
    """One reader is held up all the time. What the others wait for is not in the ring."""
    with Server(5, PGPOLL_CONNECTIONS="1", PGPOLL_QUERY_TIMEOUT_S="60") as own:
        own.publish(topic, 1, 2)
        since = {topic: own.read(topic)[0]["message_id"]}
        (poll,) = own.wait(topic, timeout=60)   # from here on the manager need not be asked about the topic
        own.publish(topic, 3)
        assert poll.result().payloads == [3]
        own.sql(before_pages("pg_advisory_xact_lock_shared(7)"))

        def free():
            return own.sql("SELECT free_workers FROM pgpoll.listening")[0][0]

        with contextlib.closing(own.connect()) as holder, holder.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(7)")
            reads = own.poll_later(topic, since=since, timeout=60)
            until(lambda: own.sql("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = 7 AND NOT granted"), "a reader that is held up")
            stays = own.poll_later(topic, since=since, timeout=60)
            body = json.dumps({"topics": [topic], "since": since, "timeout": 60})
            leaving = [send_request(own, body) for _ in range(4)]
            until(lambda: free() == 0, "all workers taken")
            for connection in leaving:
                connection.close()
            until(lambda: free() == 4, "the workers of those that left are free")
            assert not reads.done() and not stays.done()
        assert reads.result().payloads == stays.result().payloads == [2, 3]


def test_killed_readers_cost_time_only(narrow, topic):
    """The polls that are being read and those in the queue are answered later. PGPOLL_CONNECTIONS is 2."""
    with reading(narrow, topic, polls=10) as polls:
        readers = narrow.named("pgpoll-reader")
        for pid in readers:
            os.kill(pid, signal.SIGKILL)
        until(lambda: not narrow.named("pgpoll-reader") & readers, "the readers dead")
    assert [poll.result().payloads for poll in polls] == [[1, 2]] * 10
    until(lambda: logged(narrow, f"reader {min(readers)} was killed by signal 9"), "its death noticed")


def test_a_stopped_reader_is_replaced(narrow, topic):
    """It would not take questions ever again, and as long as one poll at a time reads, there is no other reader."""
    narrow.publish(topic, 1)

    def readers():
        """Returns the readers, if no process of the manager is about to become one."""
        pids = narrow.named("pgpoll-reader")
        return pids if len(children(narrow.manager)) == narrow.worker_count + 1 + len(pids) else None

    stopped = until(readers, "readers")
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    assert narrow.poll(topic, since={topic: "0"}, timeout=60).payloads == [1]
    assert logged(narrow, f"reader {min(stopped)} does not answer: killed, starting another one")
    assert not narrow.named("pgpoll-reader") & stopped


def test_a_worker_killed_as_its_page_is_read(narrow, topic):
    """The reader continues with the next question, and other workers can use its permit."""
    before = narrow.until_workers()
    with reading(narrow, topic, polls=4) as polls:
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        until(lambda: not narrow.worker_pids() & before, "all workers dead")
        later = [narrow.poll_later(topic, since={topic: "0"}, timeout=20) for _ in range(6)]
        assert all(breaks(poll) for poll in polls)
    assert [poll.result().payloads for poll in later] == [[1, 2]] * 6


@contextlib.contextmanager
def numbering_held_up(server):
    """A session holds the lock under which positions are given."""
    with contextlib.closing(server.connect()) as holder, holder.cursor() as cursor:
        cursor.execute("LOCK TABLE pgpoll.feed_lock IN SHARE UPDATE EXCLUSIVE MODE")
        yield


def test_who_comes_back_does_not_wait_for_new_positions(eight, topic):
    """The manager gives them. The table is read by itself, while something new waits for its position."""
    eight.publish(topic, 1, 2, 3)
    (waiting,) = eight.wait(topic, timeout=30)     # from here on the manager reads the topic ahead
    until(lambda: eight.sql("SELECT hears FROM pgpoll.listening WHERE hears"), "a manager that hears")
    eight.poll(topic)   # which makes it look
    with numbering_held_up(eight):
        eight.publish(topic, "new")
        answer = eight.poll(topic, since={topic: "0"}, timeout=30)
        assert answer.payloads == [1, 2, 3] and not waiting.done()
    assert waiting.result().payloads == ["new"]


SLOW_NUMBERING = before_pages("pg_advisory_xact_lock_shared(7), pg_sleep(0.05)") + """
    CREATE FUNCTION pgpoll.wait_for_pages() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_sleep(0.02 * count(*)) FROM pg_locks WHERE locktype = 'advisory' AND objid = 7 AND mode = 'ShareLock';
        RETURN NULL;
    END $$;
    CREATE TRIGGER wait_for_pages AFTER INSERT ON pgpoll.feed FOR EACH STATEMENT EXECUTE FUNCTION pgpoll.wait_for_pages()"""


def test_readers_are_held_back_while_they_slow_deliveries_down(topic):
    """Here numbering takes 20 ms longer for each page that is being read. Who catches up gets what there is, all the same."""
    old, stop = f"{topic}-old", threading.Event()

    def allowed(server):
        return int(re.search(r"(?m)^pgpoll_readers_allowed{.*} (\d+)$", server.request("GET", METRICS).text)[1])

    def catch_up(server):
        pages = 0
        while not stop.is_set():
            assert server.poll(old, since={old: "0"}, timeout=20).payloads == [1, 2, 3]
            pages += 1
        return pages

    with Server(16, PGPOLL_CONNECTIONS="4") as own:
        own.publish(old, 1, 2, 3)
        own.sql(SLOW_NUMBERING)
        client = Client(own, topic)
        with publishing(own, topic) as sent:
            until(lambda: len(client.got) > 20, "cycles that are as usual")
            until(lambda: allowed(own) == 4, "all readers allowed")
            catching_up = [own.threads.submit(catch_up, own) for _ in range(8)]
            until(lambda: allowed(own) == 1, "a single reader allowed, as reads begin")
            count = len(client.got)
            until(lambda: len(client.got) > count + 50, "slow cycles", 30)
            until(lambda: allowed(own) == 1, "a single reader allowed, since cycles are slow")
            stop.set()
            assert all(pages.result() > 0 for pages in catching_up)
        finish(own, [client], topic, sent)
        until(lambda: allowed(own) == 4, "all readers allowed again")


# --- can_poll()

def test_an_error_of_can_poll_affects_one_poll(topic):
    with Server(8, errors="a poll's question failed") as server:
        server.sql("CREATE OR REPLACE FUNCTION pgpoll.can_poll(remote_user text, topic text) RETURNS boolean LANGUAGE plpgsql STABLE AS"
                   " $$ BEGIN IF topic LIKE 'bad%' THEN RAISE EXCEPTION 'broken for %', topic; END IF; RETURN topic <> 'secret'; END $$")
        body = json.dumps({"topics": ["bad"], "timeout": 0})
        until(lambda: server.request("POST", "/messages/poll", body).status == 503, "can_poll() heeded", 5 + STALL_S)
        stop, bad = threading.Event(), []

        def ask():
            while not stop.is_set():
                bad.append(server.poll(topic, "bad", status=503))

        askers = [server.threads.submit(ask) for _ in range(2)]
        clients = [Client(server, topic) for _ in range(3)]
        with publishing(server, topic) as sent:
            until(lambda: len(bad) > 20 and len(sent) > 50, "some of each", seconds=30)
            server.poll("secret", topic, status=403)
            count = len(sent)
            until(lambda: all(client.done.done() or len(client.got) > count for client in clients), "news for everybody", seconds=2 + STALL_S)
        stop.set()
        for asker in askers:
            asker.result()
        assert all(int(answer.headers["Retry-After"]) > 0 for answer in bad)
        finish(server, clients, topic, sent)
        server.unrestrict()
        server.poll("bad")


def test_errors_of_can_poll_do_not_delay_others(topic):
    with Server(24) as server:
        server.restrict("CASE WHEN topic LIKE 'bad%' THEN 1 / length(remote_user) > 0 ELSE topic <> 'secret' END", "secret")
        bad = [server.poll_later("bad", timeout=5, status=503) for _ in range(20)]
        until(lambda: logged(server, "pgpoll.can_poll() failed: division by zero"), "the first failure")
        assert server.poll(topic, timeout=1).seconds < 1 + STALL_S     # the others last for 5 s
        for refused in bad:
            refused.result()


def test_a_slow_can_poll_delays_no_waiting_poll(topic):
    with Server(8, errors="pgpoll.can_poll\\(\\) failed|database_away", PGPOLL_QUERY_TIMEOUT_S="1") as server:
        server.sql("CREATE OR REPLACE FUNCTION pgpoll.can_poll(remote_user text, topic text) RETURNS boolean LANGUAGE sql STABLE AS"
                   " $$ SELECT CASE WHEN topic LIKE 'slow%' THEN (SELECT true FROM pg_sleep(30)) ELSE topic <> 'secret' END $$")
        body = json.dumps({"topics": ["secret"], "timeout": 0})
        until(lambda: server.request("POST", "/messages/poll", body).status == 403, "can_poll() heeded", 5 + STALL_S)
        (poll,) = server.wait(topic, timeout=20)
        slow = [server.poll_later(f"slow-{n}", timeout=3, status=503) for n in range(3)]
        server.publish(topic, 1)
        answer = poll.result(1 + STALL_S)
        assert answer.payloads == [1]
        for refused in slow:
            refused.result()
        body = json.dumps({"topics": [topic], "timeout": 0})
        until(lambda: server.request("POST", "/messages/poll", body).status == 200, "others asked about again", 2 + STALL_S)
        server.unrestrict()


def test_more_topics_than_can_be_listened_to(topic):
    """There is room for 4096 topics. Polls of other topics read the table, which is slower, but no poll is refused or forgotten."""
    with Server(100) as server:
        crowd = [server.poll_later(*[f"{topic}-{i}-{n}" for n in range(50)], timeout=60) for i in range(100)]
        until(lambda: server.stats()["active_waiters"] == 100, "a hundred polls")
        for i in range(100):
            server.publish(f"{topic}-{i}-{i % 50}", i)
        assert [poll.result(40).payloads for poll in crowd] == [[i] for i in range(100)]
        (poll,) = server.wait(topic, timeout=20)   # there is room again, at the latest when the topics have been unused for a while
        server.publish(topic, "after")
        assert poll.result().payloads == ["after"]
