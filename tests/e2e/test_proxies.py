"""Proxies in front of the web server, configured as docs/proxies.md says."""
import contextlib
import http.client
import json
import re
import socket
import subprocess
import time

import pytest
from test_web import fronted, get

import h2_client
import hosts
import web
from documents import TEXTS, blocks
from server import POLL, STALL_S, STATS, Server, until

PAGE = TEXTS["docs/proxies.md"]
HEARTBEAT_S = 2


@pytest.fixture(scope="module")
def server():
    """As a web server that believes the proxies; with heartbeats."""
    with Server(32, PGPOLL_HEARTBEAT_S=str(HEARTBEAT_S)) as server, \
            fronted(server, web.Lighttpd, edit=lambda text: web.uncomment(text, "Behind another proxy")) as door:
        yield door


@contextlib.contextmanager
def running(directory, port, *command):
    with open(directory / "log", "w") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        until(lambda: web.listens(port), "the proxy")
        yield
    finally:
        process.terminate()
        process.wait(20)


@contextlib.contextmanager
def haproxy(server, directory, edit=lambda text: text):
    """Gives its ports, for HTTP and HTTPS."""
    tls_port, pem = web.free_port(), directory / "site.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj",
                    "/CN=localhost", "-keyout", directory / "key.pem", "-out", directory / "cert.pem"], check=True, stderr=subprocess.DEVNULL)
    pem.write_text((directory / "key.pem").read_text() + (directory / "cert.pem").read_text())

    def with_tls(text):
        text, count = re.subn("#bind :443 ssl crt /etc/haproxy/site.pem", f"bind 127.0.0.1:{tls_port} ssl crt {pem}", text)
        assert count == 1
        return edit(text)

    with hosts.haproxy([server], directory, with_tls) as (port, _):
        yield port, tls_port


@contextlib.contextmanager
def nginx(server, directory, edit=lambda text: text):
    port = web.free_port()
    (location,) = blocks("nginx", PAGE)
    (directory / "nginx.conf").write_text(f"""
        pid {directory}/pid; error_log {directory}/error.log; events {{ }}
        http {{ access_log off; server {{ listen 127.0.0.1:{port};
            {edit(location).replace("127.0.0.1:8080", f"127.0.0.1:{server.port}")} }} }}
        """)
    with running(directory, port, "/usr/sbin/nginx", "-c", str(directory / "nginx.conf"), "-g", "daemon off;"):
        yield port, None


@pytest.fixture(params=[haproxy, nginx], ids=["haproxy", "nginx"])
def proxy(request, server, tmp_path):
    with request.param(server, tmp_path) as (port, _):
        yield port


def ask(port, method, body=None, source="127.0.0.1"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=90, source_address=(source, 0))
    try:
        connection.request(method, POLL, json.dumps(body) if body else None)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def test_polls_get_through(server, proxy, topic):
    poll = server.threads.submit(ask, proxy, "POST", {"topics": [topic], "timeout": 30}, "127.0.0.2")
    server.until_waiting(topic)
    (client,), = server.sql("SELECT client FROM pgpoll.waiting WHERE %s = ANY (topics)", topic)
    assert client == "127.0.0.2"
    server.publish(topic, 1)
    status, text = poll.result(20)
    assert status == 200 and [message["payload"] for message in json.loads(text)["messages"]] == [1]


def test_statistics_stay_closed_to_others(server, proxy):
    def status(source, headers=""):
        with socket.create_connection(("127.0.0.1", proxy), 20, (source, 0)) as client:
            client.sendall(f"GET {STATS} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n".encode())
            return int(client.makefile("rb").readline().split()[1])

    assert (status("127.0.0.1"), status("127.0.0.2")) == (200, 403)
    assert status("127.0.0.2", "X-Forwarded-For: 127.0.0.1\r\n") == 403
    assert get(server, STATS, "127.0.0.2")[0] == 403


def test_a_client_that_leaves_frees_its_worker(server, proxy, topic):
    """Behind HAProxy only the heartbeats find that out before the poll's timeout."""
    body = json.dumps({"topics": [topic], "timeout": 60})
    with socket.create_connection(("127.0.0.1", proxy)) as client:
        client.sendall(f"POST {POLL} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        server.until_waiting(topic)
    server.until_waiting(topic, 0, seconds=2 * HEARTBEAT_S + 1 + STALL_S)


def test_heartbeats_keep_a_poll_through_an_idle_timeout(server, topic, tmp_path):
    def impatient(text):
        text, count = re.subn(r"timeout server 75s", f"timeout server {HEARTBEAT_S + STALL_S + 1}s", text)
        assert count == 1
        return text

    with haproxy(server, tmp_path, impatient) as (port, _):
        began = time.monotonic()
        status, text = ask(port, "POST", {"topics": [topic], "timeout": 8})
        assert status == 200 and json.loads(text)["messages"] == [] and time.monotonic() - began > 7.5


def test_haproxy_serves_many_polls_over_an_http_2_connection(server, topic, tmp_path):
    """More than lighttpd's eight."""
    with haproxy(server, tmp_path) as (_, tls_port), h2_client.connect(tls_port) as client:
        streams = [client.post(POLL, {"topics": [topic], "timeout": 30}) for _ in range(20)]
        server.until_waiting(topic, 20)
        server.publish(topic, 1)
        for stream in streams:
            assert [message["payload"] for message in json.loads(client.answer(stream))["messages"]] == [1]
