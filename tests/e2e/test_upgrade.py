"""Upgrades of the schema and of the programs while clients poll and publishers publish."""
import contextlib
import json
import os
import re
import socket
import subprocess
import threading

import pytest

import fastcgi
from between import accepts, directory, manager, wire
from next_version import NEXT, next_version
from server import METRICS, ROOT, STATS, Server, new_topic, until


@pytest.fixture(scope="module")
def next_tree(tmp_path_factory):
    with next_version(tmp_path_factory.mktemp("next")) as tree:
        yield tree


@pytest.fixture(scope="module")
def server():
    """A server that is upgraded once."""
    with Server(8, errors="pgpoll schema|permission denied for schema|: schema, 0 messages") as server:
        yield server


class Host:
    """A second host of the server's database: another manager, without a web server. Its socket stays when it is restarted, as under systemd."""

    def __init__(self, server, directory, tree):
        self.server, self.log_file, self.path, self.process = server, directory / "log", directory / "socket", None
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(self.path))
        self.socket.listen(64)
        self.restart(tree)

    def restart(self, tree):
        self.end()
        environment = {"PATH": os.environ["PATH"], **self.server.env, "PGUSER": "pgpoll_worker", "PGPOLL_HOST": "second", "PGPOLL_LOG": str(self.log_file)}
        self.process = subprocess.Popen([tree / "build/pgpoll.fcgi", "--workers", "8"], env=environment, stdin=self.socket, stdout=subprocess.DEVNULL)

    def end(self):
        if self.process:
            self.process.terminate()
            assert self.process.wait(30) == 0

    def log(self):
        return self.log_file.read_text().splitlines()


@contextlib.contextmanager
def hosts(server, tree):
    """Yields the server and, under a manager, a second host."""
    if server.mode == "direct":
        yield [server]
        return
    with directory() as home:
        second = Host(server, home, tree)
        try:
            yield [server, second]
        finally:
            second.end()


class Client(threading.Thread):
    """A client that polls one host after the other. It is never refused. Its last poll ends with a message "end"."""

    def __init__(self, hosts, topic, number):
        super().__init__(daemon=True)
        self.hosts, self.topic, self.polls, self.got, self.failure = hosts, topic, number, [], None
        self.since = hosts[0].poll(topic).next_since
        self.start()

    def poll(self):
        host = self.hosts[self.polls % len(self.hosts)]
        if isinstance(host, Host):
            return fastcgi.poll_as(host.path, "", self.topic, since=self.since, timeout=60)
        answer = host.request("POST", "/messages/poll", json.dumps({"topics": [self.topic], "since": self.since, "timeout": 60}))
        return answer.status, answer.json

    def run(self):
        try:
            while "end" not in self.got:
                status, answer = self.poll()
                assert status == 200 and "gaps" not in answer, answer
                self.got += [message["payload"] for message in answer["messages"]]
                self.since, self.polls = answer["next_since"], self.polls + 1
        except BaseException as failure:
            self.failure = failure

    def end(self, *expected):
        self.join(60)
        assert not self.is_alive()
        assert self.failure is None, self.failure
        assert self.got == [*expected, "end"]


def pgpoll_setup(server, tree):
    done = subprocess.run([tree / "deploy/pgpoll-setup", "--sql", tree / "sql", "--role", "pgpoll_worker", "pgpoll"],
                          env={**os.environ, **server.env}, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def told(server, words):
    return lambda: [line for line in server.log() if re.search(words, line)]


def test_no_right_to_the_schema(server, topic):
    server.sql("REVOKE pgpoll_poller FROM pgpoll_worker")
    server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pgpoll'")
    until(lambda: not server.backends(), "sessions ended")
    hint = r"that role pgpoll_worker can use in database pgpoll \(%s.*\): run pgpoll-setup --role pgpoll_worker pgpoll$"
    server.poll(topic, status=503)
    until(told(server, hint % "permission denied for schema pgpoll"), "what the role lacks")
    pgpoll_setup(server, ROOT)
    until(lambda: server.request("POST", "/messages/poll", '{"topics": ["a"], "timeout": 0}').status == 200, "service again")


def test_schema_first_then_programs(server, next_tree):
    """In the order of pgpoll-setup(8). The old workers log what to do. Clients wait, and are neither refused nor miss a message."""
    topic = new_topic()
    with hosts(server, ROOT) as both:
        clients = [Client(both, topic, number) for number in range(4)]
        server.publish(topic, *range(5))
        until(lambda: all(client.got == list(range(5)) for client in clients), "the first messages delivered")

        assert f"upgraded from version {NEXT - 1} to {NEXT}" in pgpoll_setup(server, next_tree)
        newer = f'database pgpoll has version {NEXT}, this program .* only knows version {NEXT - 1}: install the pgpoll that upgraded it'
        server.publish(topic, *range(5, 10))
        server.request("POST", "/messages/poll", '{"topics": ["a"], "timeout": 0}')
        for host in both:
            until(told(host, newer), "the old workers say that the schema is newer")

        server.reload(top=next_tree)
        for host in both[1:]:
            host.restart(next_tree)
        server.publish(topic, *range(10, 15), "end")
        for client in clients:
            client.end(*range(15))


def test_sessions_that_an_upgrade_could_not_close(server, topic):
    """The role that upgrades may not terminate them. Their next statement may call a function that is gone: the poll waits, as for the upgrade."""
    ((function,),) = server.sql("SELECT oid::regprocedure::text FROM pg_proc WHERE oid::regproc::text = 'pgpoll.catch_up'")
    server.publish(topic, 1)
    server.sql(f"ALTER FUNCTION {function} RENAME TO gone")
    try:
        poll = server.poll_later(topic, since={topic: "0"}, timeout=30)
        server.poll(topic, since={topic: "0"}, timeout=1, status=503)
        assert not poll.done()
    finally:
        server.sql(f"ALTER FUNCTION {function.replace('catch_up', 'gone')} RENAME TO catch_up")
    assert poll.result().payloads == [1]
    assert told(server, r"schema, 0 messages.*function pgpoll.catch_up\(.*\) does not exist")()


def test_programs_first_then_schema(next_tree, topic):
    """In this order clients wait, as while the database is away."""
    with Server(8, errors="pgpoll schema|: schema, 0 messages") as own, hosts(own, ROOT) as both:
        clients = [Client(both, topic, number) for number in range(4)]
        own.publish(topic, 0)
        own.reload(top=next_tree)
        for host in both[1:]:
            host.restart(next_tree)
        own.publish(topic, 1)
        older = f'database pgpoll has version {NEXT - 1}, this program needs version {NEXT}: to upgrade it, run pgpoll-setup pgpoll'
        own.poll(topic, status=503)
        for host in both:
            until(told(host, older), "the new workers say that the schema is older")
        metrics = own.request("GET", METRICS)
        assert metrics.status == 200 and re.search(r"^pgpoll_database_up\S* 0$", metrics.text, re.M)
        assert own.request("GET", STATS).status == 503
        pgpoll_setup(own, next_tree)
        own.publish(topic, "end")
        for client in clients:
            client.end(0, 1)


@pytest.mark.parametrize("workers", [2, 0], ids=["managed", "alone"])
def test_a_server_that_is_too_old(server, tmp_path, workers):
    log = tmp_path / "log"
    with wire(server) as (line, home):
        line.version = "13.23 (Debian)"
        with manager(server, "old", log, workers=workers, PGHOST=home) as process:
            until(lambda: accepts(process.socket), "its socket")
            with fastcgi.connect(process.socket) as client:
                client.sendall(fastcgi.request(b'{"topics": ["a"], "timeout": 0}'))
                assert fastcgi.reply(fastcgi.read_all(client))[0] == 503
            until(lambda: "pgpoll needs PostgreSQL 14 or later, but the server of database pgpoll has version 13.23 " in log.read_text(), "its reason")
