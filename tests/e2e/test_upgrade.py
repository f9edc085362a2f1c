"""Upgrades of the schema and of the programs while clients poll and publishers publish."""
import os
import re
import shutil
import subprocess
import threading

import pytest

import fastcgi
from between import accepts, manager, wire
from server import ROOT, SCHEMA_VERSION, Server, new_topic, until

NEXT = int(SCHEMA_VERSION) + 1


@pytest.fixture(scope="module")
def next_tree(tmp_path_factory):
    """The sources of an invented next version. Only files that contain the version are compiled again."""
    tree = tmp_path_factory.mktemp("next")
    subprocess.run(["cp", "-a", *(ROOT / name for name in ("Makefile", "build", "deploy", "examples", "fcgi", "sql", "src")), tree], check=True)
    (tree / "sql/version.sql").write_text(f"\\set schema_version {NEXT}\n")
    (tree / "sql/upgrades").mkdir(exist_ok=True)
    (tree / f"sql/upgrades/{NEXT}.sql").write_text("ALTER TABLE pgpoll.messages ADD COLUMN colour text;\n")
    try:
        yield tree
    finally:
        shutil.rmtree(tree)


@pytest.fixture(scope="module")
def server():
    """A server that is upgraded once."""
    with Server(8, errors="pgpoll schema|permission denied for schema|: schema, 0 messages") as server:
        yield server


class Client(threading.Thread):
    """A client that polls in a loop. It counts answers with 503 and repeats those polls; any other error fails the test."""

    def __init__(self, server, topic):
        super().__init__(daemon=True)
        self.server, self.topic, self.got, self.refused, self.ending, self.failure = server, topic, [], 0, False, None
        self.since = server.poll(topic).next_since
        self.start()

    def run(self):
        try:
            while not self.ending:
                body = '{"topics": ["%s"], "since": {"%s": "%s"}, "timeout": 2}' % (self.topic, self.topic, self.since[self.topic])
                answer = self.server.request("POST", "/messages/poll", body)
                if answer.status == 503 and "Retry-After" in answer.headers:
                    self.refused += 1
                    continue
                assert answer.status == 200 and not answer.gaps, answer
                self.got += answer.payloads
                self.since = answer.next_since
        except BaseException as failure:
            self.failure = failure

    def end(self):
        self.ending = True
        self.join(30)
        assert not self.is_alive()
        assert self.failure is None, self.failure


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
    """In the order of pgpoll-setup(8). The old workers log what to do, and no client misses a message or gets one twice."""
    topic = new_topic()
    clients = [Client(server, topic) for _ in range(3)]
    server.publish(topic, *range(5))
    until(lambda: all(client.got == list(range(5)) for client in clients), "the first messages delivered")

    assert f"upgraded from version {NEXT - 1} to {NEXT}" in pgpoll_setup(server, next_tree)
    newer = f'database pgpoll has version {NEXT}, this program .* only knows version {NEXT - 1}: install the pgpoll that upgraded it'
    server.publish(topic, *range(5, 10))
    server.request("POST", "/messages/poll", '{"topics": ["a"], "timeout": 0}')
    until(told(server, newer), "the old workers say that the schema is newer")

    server.reload(top=next_tree)
    server.publish(topic, *range(10, 15))
    until(lambda: all(client.got == list(range(15)) for client in clients), "every message delivered", 60)
    for client in clients:
        client.end()
        assert client.got == list(range(15))


def test_programs_first_then_schema(next_tree, topic):
    """In this order clients wait, as while the database is away."""
    with Server(2, errors="pgpoll schema|: schema, 0 messages") as own:
        own.publish(topic, 1)
        own.reload(top=next_tree)
        poll = own.poll_later(topic, since={topic: "0"}, timeout=30)
        older = f'database pgpoll has version {NEXT - 1}, this program needs version {NEXT}: to upgrade it, run pgpoll-setup pgpoll'
        own.poll(topic, status=503)
        until(told(own, older), "the new workers say that the schema is older")
        assert not poll.done()
        pgpoll_setup(own, next_tree)
        assert poll.result().payloads == [1]


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
