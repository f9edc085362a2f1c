"""Anything that is no FastCGI request may arrive on the workers' socket. It delays no other client and kills no worker."""
import contextlib
import json
import random
import statistics
import struct
import time

import pytest

from fastcgi import (ABORT, BEGIN, DATA, GET_VALUES, KEEP_CONNECTION, PARAMS, STDIN, begin, connect, parameter, parameters,
                     read_all, record, request, stream)
from server import STALL_S, Server, max_body, soon, until
from stalls import again_after_a_stall

BOUND = 4   # PGPOLL_PEER_TIMEOUT_S, in seconds
KEEPER = 2  # how long libfcgi waits for the first byte of a connection, in seconds


@pytest.fixture(scope="module")
def server():
    with Server(12, PGPOLL_PEER_TIMEOUT_S=str(BOUND)) as server:
        yield server


def body(topic, timeout=0, **fields):
    return json.dumps({"topics": [topic], "timeout": timeout, **fields}).encode()


@contextlib.contextmanager
def unharmed(server, topic):
    """Asserts that the workers are the same before and after, and that they serve polls."""
    before = server.until_workers()
    yield
    assert answer_to(server, request(body(topic))).count(b'{"messages":[]') == 1
    assert server.poll(topic).status == 200
    assert server.worker_pids() == before


def one_request(server, content, **more):
    client = connect(server)
    client.sendall(request(content, **more))
    return client


def answer_to(server, *parts):
    """Sends a request in these parts. Returns all that the worker answers."""
    def ask():
        with connect(server) as client:
            for part in parts:
                client.sendall(part)
            return read_all(client)

    return again_after_a_stall(ask, lambda said: b"Status: 503" in said)


def send(server, content):
    """Sends as much as the worker accepts. Returns what it sends until it closes the connection."""
    with connect(server) as client:
        with contextlib.suppress(ConnectionError):
            client.sendall(content)
        return read_all(client)


def noise(seed):
    dice = random.Random(seed)
    return dice.randbytes(dice.randrange(1, 3000))


GOOD = parameters()
REFUSED = {   # and there is no answer
    "padding that libfcgi takes for records": begin(padding=8) + stream(PARAMS, GOOD) + stream(STDIN, b"{}"),
    "the same behind a stream's end": begin() + record(PARAMS, GOOD) + record(PARAMS, padding=8) + stream(STDIN, b"{}"),
    "HTTP": b"POST /messages/poll HTTP/1.1\r\nHost: x\r\n\r\n{}",
    "version 0": begin(version=0),
    "version 2": begin() + record(PARAMS, GOOD, version=2),
    "request 0": begin(request=0),
    "another request's record": begin() + record(PARAMS, GOOD, request=2),
    "two requests at a time": begin() + begin(request=2),
    "a request begun twice": begin() + begin(),
    "two requests one after the other": request(b"{}", flags=KEEP_CONNECTION) * 2,
    "no beginning": stream(PARAMS, GOOD) + stream(STDIN, b"{}"),
    "a beginning without content": record(BEGIN),
    "a beginning with too much": record(BEGIN, bytes(65535)),
    "an unknown role": begin(role=77) + stream(PARAMS, GOOD) + stream(STDIN, b"{}"),
    "an unknown type": begin() + record(99, b"?"),
    "a question for values": record(GET_VALUES, parameter("FCGI_MAX_CONNS", ""), request=0),
    "a question that overruns libfcgi's buffer": record(GET_VALUES, parameter("FCGI_MPXS_CONNS", "") * 1000, request=0),
    "the same within a request": begin() + record(GET_VALUES, parameter("FCGI_MPXS_CONNS", "") * 1000, request=0),
    "an unknown management record": record(99, b"?", request=0),
    "lengths that overflow (CVE-2025-23016)": begin() + record(PARAMS, struct.pack(">II", 0xffffffff, 0xffffffff) + b"x" * 1000),
    "lengths that overflow by less": begin() + record(PARAMS, struct.pack(">II", 0xfffffffe, 0xfffffffe) + b"x" * 1000),
    "a name of 1 GiB": begin() + record(PARAMS, struct.pack(">IB", 1 << 31 | 1 << 30, 1) + b"x" * 1000),
    "a value of 1 GiB": begin() + record(PARAMS, struct.pack(">BI", 1, 1 << 31 | 1 << 30) + b"x" * 1000),
    "a user's name that goes on behind a zero": begin() + stream(PARAMS, parameters(REMOTE_USER="alice\0")) + stream(STDIN, b"{}"),
    "endless parameters": begin() + record(PARAMS, parameter("A", "b") * 10_000) * 100,
    "parameters that end within a length": begin() + stream(PARAMS, GOOD + b"\x80\0"),
    "parameters that end within a name": begin() + stream(PARAMS, GOOD + b"\x09\x01x"),
    "an input before the parameters": begin() + stream(STDIN, b"{}"),
    "an abort before the parameters": begin() + record(ABORT),
    "an abort within them": begin() + record(PARAMS, GOOD) + record(ABORT),
}


@pytest.mark.parametrize("content", REFUSED.values(), ids=REFUSED.keys())
def test_invalid_requests_are_cut_at_once(server, topic, content):
    def cut():
        started = time.monotonic()
        assert b"Status:" not in send(server, content)
        return time.monotonic() - started

    with unharmed(server, topic):
        assert soon(cut, BOUND / 4)


def test_noise(server, topic):
    with unharmed(server, topic):
        for seed in range(100):
            assert b"Status:" not in send(server, noise(seed))
        # A valid beginning that turns into noise at any place.
        good = request(body(topic))
        for seed in range(200):
            cut = random.Random(seed).randrange(len(good))
            with connect(server) as client:
                with contextlib.suppress(ConnectionError):
                    client.sendall(good[:cut] + noise(seed))
                    client.shutdown(1)
                assert read_all(client).count(b"Status:") <= 1
        until(lambda: server.connections() == 0, "every connection closed")


def test_requests_in_unusual_pieces(server, topic):
    """All of them are valid."""
    server.publish(topic, "here")
    content = body(topic, since={topic: "0"})
    pieces = {
        "byte by byte": [bytes([byte]) for byte in request(content)],
        "every record a byte": [begin(), *(record(PARAMS, bytes([byte]), padding=255) for byte in parameters()), record(PARAMS),
                                *(record(STDIN, bytes([byte]), padding=1) for byte in content), record(STDIN)],
        "another number": [begin(request=65535), stream(PARAMS, parameters(), request=65535), stream(STDIN, content, request=65535)],
        "long lengths": [begin(), stream(PARAMS, parameters(LONG="x" * 30_000)), stream(STDIN, content)],
    }
    with unharmed(server, topic):
        for name, parts in pieces.items():
            assert answer_to(server, *parts).count(b'"payload":"here"') == 1, name


def test_a_body_that_does_not_end_is_no_poll(server, topic):
    """The JSON is complete, but the end of the body is missing."""
    with unharmed(server, topic):
        for end in b"", record(ABORT), record(DATA, b"x"), record(STDIN, b"x", version=3):
            with connect(server) as client:
                client.sendall(begin() + stream(PARAMS, GOOD) + record(STDIN, body(topic, timeout=60)) + end)
                client.shutdown(1)
                assert b"Status:" not in read_all(client)
        assert not server.waiting(topic)


# --- silence

def dripping(client, content):
    """Sends a byte now and then, and never the whole request."""
    with contextlib.suppress(OSError):
        for byte in content:
            client.sendall(bytes([byte]))
            time.sleep(0.2)


def flooding(client, content):
    with contextlib.suppress(OSError):
        while True:
            client.sendall(content)


SILENT = {
    "nothing": b"",
    "one byte": b"\x01",
    "half a head": begin()[:7],
    "a head without content": begin()[:8],
    "no parameters": begin(),
    "half the parameters": begin() + record(PARAMS, GOOD)[:40],
    "parameters without an end": begin() + record(PARAMS, GOOD),
    "no body": begin() + stream(PARAMS, GOOD),
    "half a body": begin() + stream(PARAMS, GOOD) + record(STDIN, b'{"topics"'),
}


def test_a_silent_connection_occupies_a_worker_for_a_limited_time(server, topic):
    """Eleven connections at a time are silent, of thirteen workers in managed and twelve in direct mode. The others serve polls."""
    with unharmed(server, topic):
        started = time.monotonic()
        clients = {name: connect(server) for name in [*SILENT, "a drip", "a flood"]}
        for name, content in SILENT.items():
            clients[name].sendall(content)
        clients["a flood"].sendall(begin() + stream(PARAMS, GOOD))
        busy = [server.threads.submit(dripping, clients["a drip"], request(body(topic))),
                server.threads.submit(flooding, clients["a flood"], record(STDIN, bytes(60_000)))]
        assert statistics.median(server.poll(topic).seconds for _ in range(9)) < 1
        for name, client in clients.items():
            assert b"Status:" not in read_all(client), name
            assert time.monotonic() - started < BOUND + KEEPER + STALL_S, name
            client.close()
        for sender in busy:
            sender.result(20)
        until(lambda: server.connections() == 0, "every connection closed")


def test_an_answer_that_is_not_read(server, topic):
    with unharmed(server, topic):
        server.publish(topic, "x" * 4_000_000)
        before = len(server.log())
        with one_request(server, body(topic, since={topic: "0"})) as client:
            until(lambda: any("the web server did not accept an answer within PGPOLL_PEER_TIMEOUT_S" in line for line in server.log()[before:]), "given up")
            assert len(read_all(client)) < 4_000_000
        # A client that reads slowly gets the whole answer, however long that takes.
        with one_request(server, body(topic, since={topic: "0"})) as client:
            got, started = 0, time.monotonic()
            while piece := client.recv(8192):
                got += len(piece)
                time.sleep(0.01)
            assert got > 4_000_000 and time.monotonic() - started > BOUND
    server.prune(topic)


# --- one request, one connection

def test_a_connection_is_closed_after_its_request(server, topic):
    """Also if the web server asks to keep it (nginx's fastcgi_keep_conn), because workers watch only the listening socket."""
    def refused(content):
        started = time.monotonic()
        with one_request(server, content, flags=KEEP_CONNECTION) as client:
            assert read_all(client).count(b"Status: 4") == 1
        return time.monotonic() - started

    with unharmed(server, topic):
        for _ in range(15):
            assert answer_to(server, request(body(topic), flags=KEEP_CONNECTION)).count(b"Status: 200") == 1
        for content in b"{}", b"x" * (max_body() + 1), b"{":   # also after errors, and without waiting for the other side
            assert soon(lambda: refused(content), 1)


def test_data_that_arrive_while_a_poll_waits(server, topic):
    """Noise is dropped. An abort record ends the poll."""
    with unharmed(server, topic):
        with one_request(server, body(topic, timeout=30)) as client:
            server.until_waiting(topic)
            client.sendall(b"noise" * 5000)
            server.publish(topic, "here")
            answer = read_all(client)
            assert answer.count(b"Status:") == 1 and b'"payload":"here"' in answer
        with one_request(server, body(topic, timeout=30)) as client:
            server.until_waiting(topic)
            client.sendall(record(ABORT))
            started = time.monotonic()
            read_all(client)
            assert time.monotonic() - started < 1 + STALL_S
        until(lambda: not server.waiting(topic), "nobody waiting")


def test_the_stats_workers_are_protected_too(server, topic):
    def workers():
        return {pid for pid, command in server.processes().items() if "pgpoll-stats.fcgi" in command.split(" ", 1)[0]}

    before = workers()
    for content in REFUSED.values():
        with connect(server, "stats") as client:
            with contextlib.suppress(ConnectionError):
                client.sendall(content)
            assert b"Status:" not in read_all(client)
    silent = [connect(server, "stats") for _ in range(2)]   # occupies both workers
    for client in silent:
        client.sendall(b"\x01")
    for client in silent:
        assert not read_all(client)
        client.close()
    assert server.stats()["active_waiters"] >= 0
    assert workers() == before and len(before) == 2


def test_silent_connections_do_not_keep_workers_from_ending(server):
    """This is the last test here, because the server ends. It must end by itself, not because it is killed after 10 s."""
    clients = [connect(server) for _ in range(server.worker_count)]
    for client in clients:
        client.sendall(b"\x01")
    server.stop()
    assert not server.worker_pids() and (server.mode == "direct" or "all workers have ended" in server.log()[-1])
    for client in clients:
        client.close()
