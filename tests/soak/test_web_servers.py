"""What takes too long for `make test`: polls as long as they come through every web server, and mod_fcgid, which starts its workers
itself."""
import contextlib
import http.client
import json
import socket
import threading
import time

from test_web import ELSEWHERE, basic, fronted, get, slow_clients

import h2_client
import web
from server import POLL, STATS, Server, new_topic

BUSY_S, WAIT_S, POLLS = 10, 60, 8


def under_fcgid(server, **options):
    """mod_fcgid with workers of its own, in the server's database."""
    database = {name: value for name, value in server.env.items() if name.startswith("PG") and name != "PGPOLL_URL"}
    return {"kind": web.Fcgid, "programs": server.run / "bin",
            "database": {**database, "PGUSER": "pgpoll_worker", "PGPOLL_LOG": str(server.run / "log" / "pgpoll.log")}, **options}


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
    """Seventy seconds: sixty of waiting after ten in the queue, when every worker is busy. And sixty over TLS and HTTP/2, and through
    mod_fcgid. Without heartbeats, so that nothing moves meanwhile."""
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
            own.mode = "direct"   # a manager would have the first polls answered early
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


def test_mod_fcgid():
    topic = new_topic()
    with Server(4, PGPOLL_CONNECTIONS="40") as server, fronted(server, **under_fcgid(
            server, edit=lambda text: web.uncomment(text, "Authentication").replace("HEARTBEAT_S 10", "HEARTBEAT_S 1"))) as door:
        def poll(**fields):
            return door.request("POST", POLL, json.dumps({"topics": [topic], "timeout": 20, **fields}), basic("ann:secret"))

        assert [door.request(method, POLL).status for method in ("POST", "GET", "OPTIONS")] == [401, 401, 204]
        server.restrict("remote_user = 'ann'", refused=topic)
        assert poll(timeout=0).messages == []
        polls = [server.threads.submit(poll) for _ in range(5)]
        server.until_waiting(topic, 5, seconds=20)
        server.publish(topic, 1)
        assert [answer.result(2).payloads for answer in polls] == [[1]] * 5

        body = json.dumps({"topics": [topic], "timeout": 60})
        with socket.create_connection(("127.0.0.1", door.port)) as client:
            client.sendall(f"POST {POLL} HTTP/1.1\r\nHost: x\r\nAuthorization: {basic('ann:secret')['Authorization']}\r\n"
                           f"Content-Length: {len(body)}\r\n\r\n{body}".encode())
            server.until_waiting(topic, 1)
        server.until_waiting(topic, 0, seconds=6)   # two heartbeats

        assert get(door, STATS, ELSEWHERE)[0] == 403 and door.stats()["active_waiters"] == 0
        assert door.request("GET", "/openapi.json").headers["X-Content-Type-Options"] == "nosniff"
        clients = list(slow_clients(door.port))
        assert poll(timeout=0).seconds < 1
        for client, _ in clients:
            client.close()


def test_silent_clients_are_cut_off():
    """In the middle of a header or a body. Apache cuts off those who only send too slowly as well."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Server(4))
        clients = {}
        for name, kind in web.SERVERS.items():
            door = stack.enter_context(fronted(server, kind))
            clients[name] = list(slow_clients(door.port))
        patience = time.monotonic() + 45
        gone = set()
        while time.monotonic() < patience:
            for name, pairs in clients.items():
                for number, (client, byte) in enumerate(pairs):
                    try:
                        client.setblocking(False)
                        if not client.recv(1000):
                            gone.add((name, number))
                    except BlockingIOError:
                        pass
                    except OSError:
                        gone.add((name, number))
                    with contextlib.suppress(OSError):
                        client.send(byte)
            time.sleep(1)
        left = {(name, number) for name, pairs in clients.items() for number, (_, byte) in enumerate(pairs)
                if (name, number) not in gone and (name == "apache" or not byte)}
        assert not left
