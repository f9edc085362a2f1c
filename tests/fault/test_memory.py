"""Each allocation of a whole poll, in our code and in libraries, fails once in the worker that serves it."""
import concurrent.futures
import json
import mmap
import os
import pathlib
import struct
import subprocess
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
from fastcgi import ask_as, connect, read_all, reply, request
from server import Server, new_topic, until

SOAK = bool(os.environ.get("SOAK"))
NONE = 0


class Allocation:
    """Controls the workers' allocator through failing_allocation.c."""

    def __init__(self, directory):
        self.library, self.path = directory / "failing_allocation.so", directory / "allocation"
        source = pathlib.Path(__file__).with_name("failing_allocation.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", self.library, source, "-ldl"], check=True)
        self.path.write_bytes(bytes(16))
        self.path.chmod(0o666)
        with open(self.path, "r+b") as file:
            self.control = mmap.mmap(file.fileno(), 16)

    def spare(self, pid):
        self.control[8:] = struct.pack("q", pid)

    def fail(self, nth):
        self.control[:8] = struct.pack("q", nth)

    @property
    def left(self):
        return struct.unpack("q", self.control[:8])[0]


@pytest.fixture(scope="module", params=["managed", "direct"])
def server(request):
    """A server with many workers, because those that end are not replaced, or only after growing pauses."""
    server = Server(300 if SOAK else 130, errors=r"out of memory|Cannot allocate memory|a worker died as soon as it was started|poll [^ ]+ from [^ ]*: memory")
    server.mode = request.param
    server.allocation = Allocation(server.home)
    # A build of its own: a statically linked worker ignores preloaded libraries.
    server.variables = {"BUILD": "build/dynamic", "WORKER_LDFLAGS": ""}
    server.settings = {"LD_PRELOAD": str(server.allocation.library), "MALLOC_FAILURES": str(server.allocation.path)}
    with server:
        server.allocation.spare(server.manager or 0)
        yield server


@pytest.fixture
def seldom(server):
    """Skips in `make test` without a manager: the code is the same, and nothing restarts the workers."""
    if server.mode == "direct" and not SOAK:
        pytest.skip("in make soak")


@pytest.fixture
def allocation(server):
    return server.allocation


def ask(server, body, nth=NONE):
    """Returns the status and text of the answer to a poll whose nth allocation fails; None: the connection was closed without an answer."""
    if nth == NONE:
        return ask_as(server, "", body)
    server.allocation.fail(nth)
    with connect(server) as client:
        try:
            client.sendall(request(body))
        except ConnectionError:
            return None
        return reply(read_all(client))


def is_error(answer):
    return answer and answer[0] == 503 and json.loads(answer[1]) == {"detail": "Service Unavailable"}


def endings(server):
    """Returns how many workers have ended and logged why."""
    return sum(line.endswith("error: out of memory: this process exits") for line in server.log())


def sweep(server, allocation, poll, right, also=lambda answer: False):
    """Polls with the 1st, 2nd, ... allocation failing, until a poll has fewer. right, also: the answers that are allowed."""
    outcomes = {"right": 0, "error": 0, "ended": 0}
    said = endings(server)
    assert right(poll(NONE))
    for nth in range(1, 5000):
        answer = poll(nth)
        failed = allocation.left <= 0
        allocation.fail(NONE)
        outcome = "right" if right(answer) else "error" if is_error(answer) or also(answer) else "ended" if answer is None else answer
        assert outcome in outcomes, (nth, outcome)
        outcomes[outcome] += 1
        if not failed:
            assert outcome == "right"
            break
    assert not failed and nth > 20
    assert right(poll(NONE))
    # No worker crashed: each that ended has logged it.
    assert endings(server) - said == outcomes["ended"]
    print(outcomes)
    return outcomes


def test_a_poll_that_is_answered_at_once(server, allocation):
    topic = new_topic()
    server.publish(topic, 1, {"a": "b" * 100})
    body = json.dumps({"topics": [topic, "é\\", "none"], "since": {topic: "0", "none": "rubbish"}, "timeout": 0}).encode()
    wanted = ask(server, body)
    assert wanted[0] == 200 and len(json.loads(wanted[1])["messages"]) == 2 and json.loads(wanted[1])["gaps"]
    outcomes = sweep(server, allocation, lambda nth: ask(server, body, nth), lambda answer: answer == wanted)
    assert outcomes["ended"] and outcomes["error"]


def test_a_request_that_is_refused(seldom, server, allocation):
    body = b'{"topics":["a",5],"since":[],"timeout":-1}'
    wanted = ask(server, body)
    assert wanted[0] == 422
    sweep(server, allocation, lambda nth: ask(server, body, nth), lambda answer: answer == wanted)


def test_a_poll_that_waits(seldom, server, allocation):
    """The failure comes before the wait, during it, or with the answer."""
    topic = new_topic()
    begin, start = json.dumps({"topics": [topic], "timeout": 0}).encode(), {}

    def now():
        """Returns a cursor. (The failure before may have hit a reader; other polls may get 503 for about a second.)"""
        answer = ask(server, begin)
        return answer and answer[0] == 200 and json.loads(answer[1])["next_since"]

    def poll(nth):
        """Polls, and publishes a message about when the poll begins to wait; in a soak test when its head has arrived."""
        start.update(until(now, "a cursor"))
        body = json.dumps({"topics": [topic], "since": start, "timeout": 5}).encode()
        client = server.threads.submit(ask, server, body, nth)
        concurrent.futures.wait([client], 0.3 if SOAK else 0.01)
        server.publish(topic, "news")
        return client.result(30)

    def right(answer):
        return answer and answer[0] == 200 and [message["payload"] for message in json.loads(answer[1])["messages"]] == ["news"]

    def is_empty(answer):
        return answer and answer[0] == 200 and json.loads(answer[1]) == {"messages": [], "has_more": False, "next_since": start}

    sweep(server, allocation, poll, right, is_empty)
