"""Tests that take too long for `make test`: the longest polls, and slow clients, through every web server."""
import contextlib
import http.client
import json
import re
import resource
import socket
import subprocess
import threading
import time

from test_web import fronted, slow_clients, under_fcgid

import h2_client
import pytest

import web
from server import POLL, STATS, Server, new_topic, until

BUSY_S, WAIT_S, POLLS = 10, 60, 8


def ask(port, topic, timeout, answers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=90)
    connection.request("POST", POLL, json.dumps({"topics": [topic], "timeout": timeout}))
    response = connection.getresponse()
    answers.append((response.status, response.read()))
    connection.close()


def ask_http_2(port, topic, timeout, answers):
    with h2_client.connect(port) as client:
        answers.append((200, client.answer(client.post(POLL, {"topics": [topic], "timeout": timeout}))))


def test_every_poll_survives():
    """A poll survives seventy seconds: sixty of waiting after ten in the queue, while every worker is busy; and sixty over TLS and HTTP/2, and
    through mod_fcgid. There are no heartbeats, so that nothing is sent meanwhile."""
    answers, threads = {}, []

    def start(function, name, *arguments):
        for _ in range(POLLS):
            threads.append(threading.Thread(target=function, args=(*arguments, answers.setdefault(name, []))))
            threads[-1].start()

    with contextlib.ExitStack() as stack:
        shared = stack.enter_context(Server(100, PGPOLL_CONNECTIONS="40"))
        topic = new_topic()
        for name, kind in web.SERVERS.items():
            own = Server(POLLS)
            own.mode = "direct"   # a manager would answer the first polls early
            stack.enter_context(own)
            door = stack.enter_context(fronted(own, kind))
            start(ask, f"{name}, busy", door.port, topic, BUSY_S)
            own.until_waiting(topic, POLLS)
            start(ask, f"{name}, queued", door.port, topic, WAIT_S)
            door = stack.enter_context(fronted(shared, kind, tls=True))
            start(ask, name, door.port, topic, WAIT_S)
            start(ask_http_2, f"{name}, HTTP/2", door.tls_port, topic, WAIT_S)
        door = stack.enter_context(fronted(shared, **under_fcgid(shared, edit=lambda text: text.replace("HEARTBEAT_S 10", "HEARTBEAT_S 0"))))
        start(ask, "mod_fcgid", door.port, topic, WAIT_S)
        for thread in threads:
            thread.join(100)
    for name, got in answers.items():
        assert [status for status, _ in got] == [200] * POLLS, (name, got)
        assert all(json.loads(body)["messages"] == [] for _, body in got)


def cut_off(client):
    try:
        client.setblocking(False)
        while client.recv(1000):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def test_clients_that_stop_in_the_middle_are_disconnected():
    """They stop in the middle of a header or a body. Apache also disconnects clients that send less than 500 bytes per second, counted from the
    start."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Server(4))
        clients = [(name, number, client, byte) for name, kind in web.SERVERS.items()
                   for number, (client, byte) in enumerate(slow_clients(stack.enter_context(fronted(server, kind)).port))
                   if name == "apache" or not byte]
        until_then = time.monotonic() + 150
        while clients and time.monotonic() < until_then:
            time.sleep(1)
            clients = [entry for entry in clients if not cut_off(entry[2])]
            for _, _, client, byte in clients:
                with contextlib.suppress(OSError):
                    client.send(byte)
        assert not clients


def test_hundreds_wait():
    """More polls wait than each web server allows in Debian's configuration: Apache 150, lighttpd 341, nginx 384 per process."""
    polls = 400
    with Server(polls) as server:
        for kind in web.SERVERS.values():
            topic = new_topic()
            body = json.dumps({"topics": [topic], "timeout": 60})
            with fronted(server, kind) as door, contextlib.ExitStack() as stack:
                clients = [stack.enter_context(socket.create_connection(("127.0.0.1", door.port), 20)) for _ in range(polls)]
                for client in clients:
                    client.sendall(f"POST {POLL} HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
                server.until_waiting(topic, polls, seconds=30)
                server.publish(topic, "for all")
                for client in clients:
                    text = b"".join(iter(lambda: client.recv(65536), b"")).decode()
                    assert " 200 " in text.split("\r\n")[0] and "for all" in text


def without_http_2(text):
    """Disables HTTP/2 if lighttpd accepts only a tenth of max-fds connections with it."""
    version = re.search(r"lighttpd/(\d+)\.(\d+)\.(\d+)", subprocess.check_output([web.Lighttpd.binary, "-v"], text=True)).groups()
    return re.sub(r"(?m)^#(server\.feature-flags)", r"\1", text) if tuple(map(int, version)) >= (1, 4, 83) else text


def two_processes(text):
    return without_http_2(text) + "server.max-worker = 2\n"


def as_shipped(text):
    """Whether lighttpd may open the 65535 files that our configuration sets. In some containers root may not."""
    return text if resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= 65535 else without_http_2(text)


@pytest.mark.parametrize("polls, edit", ((500, str), (5000, as_shipped), (10000, two_processes)))
def test_lighttpd_holds_what_the_documents_say(polls, edit):
    """lighttpd holds the polls of each row of the table in docs/operate.md at the same time, and the statistics are answered meanwhile."""
    topic = new_topic()
    body = json.dumps({"topics": [topic], "timeout": 60})
    request = f"POST {POLL} HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    with Server(polls) as server, fronted(server, web.Lighttpd, edit=edit) as door, contextlib.ExitStack() as stack:
        until(lambda: server.sql("SELECT sum(workers) >= %s FROM pgpoll.listening", polls) == [(True,)], "all workers", 90)
        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", door.port), 60)) for _ in range(polls)]
        for client in clients:
            client.sendall(request)
        until(lambda: server.sql("SELECT count(*) FROM pgpoll.live_waiters WHERE topics = %s", [topic]) == [(polls,)], f"{polls} polls", 55)
        answer = door.request("GET", STATS)
        assert answer.status == 200 and answer.json["topic_subscriber_counts"] == {topic: polls}
        server.publish(topic, "for all")
        for client in clients:
            assert b"for all" in b"".join(iter(lambda: client.recv(65536), b""))
