"""A hundred thousand polls of every kind (with SOAK=1; otherwise fewer): memory and descriptors do not grow, and the sanitizers report nothing,
in particular no leak."""
import contextlib
import json
import os
import pathlib
import random
import sys
import threading

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
from fastcgi import connect, poll_as, read_all, reply, request
from server import Server, max_body, new_topic, until

SOAK = bool(os.environ.get("SOAK"))
POLLS = 100_000 if SOAK else 1_500
SANITIZERS = "address,undefined"
WATCHED = [("direct", SANITIZERS)] + [("managed", SANITIZERS)] * SOAK   # the leak sanitizer does not check a manager's workers, which end with _exit()
CLIENTS = 8


def quietly(function, *arguments):
    with contextlib.suppress(OSError):
        function(*arguments)


class Client:
    """A client that polls in all ways, in turn and at random."""

    def __init__(self, server, seed, big):
        self.server, self.dice, self.big = server, random.Random(seed), big
        self.topic, self.since = new_topic("endurance"), None
        server.publish(self.topic, *range(20))
        self.ways = [self.from_now, self.page, self.news, self.many_topics, self.rubbish, self.wrong, self.broken, self.too_large, self.denied,
                     self.left, self.large, self.no_request]

    def raw(self, body, **parameters):
        with connect(self.server) as client:
            client.sendall(request(body, **parameters))
            return reply(read_all(client))

    def ask(self, *topics, **fields):
        """Polls again after a 503: on a busy machine half a second may be too short for an answer."""
        for _ in range(5):
            status, answer = poll_as(self.server, "", *topics, **fields)
            if status != 503:
                break
        assert status == 200, answer
        return answer

    def poll(self, **fields):
        return self.ask(self.topic, **fields)

    def from_now(self):
        self.since = self.poll()["next_since"]

    def page(self):
        assert len(self.poll(since={self.topic: "0"}, limit=7)["messages"]) == 7

    def news(self):
        """Waits in a poll that a message ends."""
        since = self.poll()["next_since"]
        threading.Timer(0.01, self.server.publish, (self.topic, "news")).start()
        assert [message["payload"] for message in self.poll(since=since, timeout=10)["messages"]] == ["news"]

    def many_topics(self):
        names = [f"{self.topic}-{self.dice.randrange(1000)}-{n}" for n in range(30)]
        assert not self.ask(*names, since={name: "0" for name in names})["messages"]

    def rubbish(self):
        assert self.poll(since={self.topic: "rubbish" * self.dice.randrange(1, 50)}, limit=1)["gaps"]

    def wrong(self):
        assert self.raw(b'{"topics":["a",5,{}],"since":[],"timeout":-1,"limit":"x"}')[0] == 422

    def broken(self):
        assert self.raw(b'{"topics":["a", {"b":["c"')[0] == 422

    def too_large(self):
        assert self.raw(b" " * (max_body() + 1))[0] == 413

    def denied(self):
        assert poll_as(self.server, "mallory", "closed")[0] in (403, 503)

    def left(self):
        with connect(self.server) as client:
            client.sendall(request(json.dumps({"topics": [self.topic], "timeout": 20}).encode()))

    def large(self):
        assert len(self.ask(self.big, since={self.big: "0"}, limit=1)["messages"][0]["payload"]) == 500_000

    def no_request(self):
        with connect(self.server) as client:
            quietly(client.sendall, self.dice.randbytes(self.dice.randrange(1, 500)))
            quietly(client.shutdown, 1)
            read_all(client)

    def run(self, polls):
        for n in range(polls):
            self.ways[n % len(self.ways) if n < len(self.ways) else self.dice.randrange(len(self.ways))]()
        return polls


def processes(server):
    return server.until_workers(20) | ({server.manager} if server.manager else set())


def memory_kb(server):
    """Returns the private memory of all processes together. Their shared memory has a fixed size."""
    def own(pid):
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        return int(status.split("RssAnon:")[1].split()[0])
    return sum(own(pid) for pid in processes(server))


def descriptors(server):
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in processes(server))


def serve(server, polls, seed):
    big = new_topic("big")
    server.publish(big, "x" * 500_000)
    clients = [Client(server, f"{seed} {n}", big) for n in range(CLIENTS)]
    done = [server.threads.submit(client.run, polls // CLIENTS) for client in clients]
    assert sum(client.result() for client in done) == polls // CLIENTS * CLIENTS


@pytest.mark.parametrize("mode, sanitizers", [("managed", "")] + [("direct", "")] * SOAK + WATCHED)
def test_endurance(mode, sanitizers):
    server = Server(16, SANITIZE=sanitizers, PGPOLL_PEER_TIMEOUT_S="2", PGPOLL_WINDOW_BYTES="1000000")
    server.mode = mode
    with server:
        server.restrict("topic <> 'closed'", refused="closed")
        before = processes(server)
        serve(server, POLLS // 5, "warm")   # buffers grow to the size of the largest answer
        memory, files = memory_kb(server), descriptors(server)
        serve(server, POLLS, "long")
        until(lambda: descriptors(server) <= files, "every descriptor closed", 10)
        assert processes(server) == before
        if not sanitizers:   # allocators of sanitizers keep freed memory
            assert memory_kb(server) < memory * 1.05 + 1000
