"""Several web hosts of one database, each with a manager, statistics and lighttpd of its own, and HAProxy in front as deploy/haproxy configures it."""
import contextlib
import csv
import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import threading

import web
from between import accepts
from server import POLL, ROOT, until

HEALTH = POLL + "/health"
HAPROXY_CFG = "deploy/haproxy/haproxy.cfg"


def ask(port, method, path, body=None, source="127.0.0.1", seconds=90):
    """Returns the status, the headers and the text of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds, source_address=(source, 0))
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, response.headers, response.read().decode()
    finally:
        connection.close()


class Host:
    """A web host on the database of a Server. Needs no root; as root its programs run as www-data."""

    def __init__(self, server, name, workers=8, **settings):
        self.home = pathlib.Path(tempfile.mkdtemp(prefix="pgpoll-host-", dir="/tmp"))
        self.home.chmod(0o755)
        self.server, self.name, self.workers = server, name, workers
        self.environment = {"PATH": os.environ["PATH"], **server.env, "PGUSER": "pgpoll_worker", "PGPOLL_HOST": name,
                            "PGPOLL_LOG": str(self.home / "log"), **{key: str(value) for key, value in settings.items()}}
        self.front = web.Lighttpd(self.home)
        self.port = self.front.port
        self.manager = self.stats = None
        (self.home / "log").touch()
        if os.getuid() == 0:
            for path in self.home, self.home / "log":
                shutil.chown(path, "www-data", "www-data")

    def spawn(self, pool, *program):
        as_web = ["-u", "www-data", "-U", "www-data"] if os.getuid() == 0 else []
        path = self.home / f"{pool}.sock"
        path.unlink(missing_ok=True)
        return subprocess.Popen(["spawn-fcgi", "-n", "-s", path, "-b", "4096", "-M", "0600", *as_web, "--", *program],
                                env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def start_manager(self):
        """The process of spawn-fcgi becomes the manager."""
        self.manager = self.spawn("poll", self.server.run / "bin/pgpoll.fcgi", "--workers", str(self.workers))

    def start_stats(self):
        self.stats = self.spawn("stats", "/usr/bin/multiwatch", "-f", "2", "--", self.server.run / "bin/pgpoll-stats.fcgi")

    def __enter__(self):
        try:
            self.start_manager()
            self.start_stats()
            self.front.start()
            until(lambda: self.poll_status() == 200, f"{self.name} serves polls")
            return self
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_):
        for process in self.manager, self.stats:
            if process and process.poll() is None:
                process.send_signal(signal.SIGUSR1)     # which does not drain
                process.send_signal(signal.SIGCONT)
                process.wait(30)
        if self.front.process:
            self.front.process.send_signal(signal.SIGCONT)
        self.front.stop()
        shutil.rmtree(self.home, ignore_errors=True)

    def poll_status(self):
        return ask(self.port, "POST", POLL, '{"topics": ["a"], "timeout": 0}')[0]

    def health(self, method="GET", **options):
        """Returns the status of the answer, and the text that it has for programs."""
        status, _, text = ask(self.port, method, HEALTH, **options)
        try:
            return status, json.loads(text)["status"]
        except ValueError:      # of lighttpd
            return status, None

    def detail(self):
        """Returns what the answer says to people."""
        return ask(self.port, "GET", HEALTH)[2]

    def until_health(self, *expected, seconds=20.0):
        """Waits for one of these; returns the HTTP status."""
        return until(lambda: (answer := self.health())[1] in expected and answer, f"{self.name} {expected}", seconds)[0]

    def log(self):
        return (self.home / "log").read_text()


@contextlib.contextmanager
def haproxy(hosts, directory, edit=lambda text: text):
    """Runs HAProxy in front of hosts, web1 and so on. Yields its port and a function that returns their states by name, such as UP."""
    port, admin = web.free_port(), directory / "admin"
    text = (ROOT / HAPROXY_CFG).read_text()
    for ours, here in ("bind :80\n", f"bind 127.0.0.1:{port}\n"), ("global\n", f"global\n    stats socket {admin}\n"), \
            ("maxconn 20000", "maxconn 1000"):
        assert text.count(ours) == 1, ours
        text = text.replace(ours, here)
    head, servers = text.split("    server web1 ", 1)
    assert servers.count("server ") == 1, servers
    lines = [f"    server web{number} 127.0.0.1:{host.port}\n" for number, host in enumerate(hosts, 1)]
    (directory / "haproxy.cfg").write_text(edit(head + "".join(lines)))

    def states():
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(admin))
            client.sendall(b"show stat\n")
            rows = csv.DictReader(client.makefile())
            return {row["svname"]: row["status"].split()[0] for row in rows if row["svname"].startswith("web")}

    with open(directory / "haproxy.log", "w") as log:
        process = subprocess.Popen(["/usr/sbin/haproxy", "-db", "-f", str(directory / "haproxy.cfg")], stdin=subprocess.DEVNULL,
                                   stdout=log, stderr=log)
    try:
        until(lambda: (web.listens(port) and accepts(admin)) or process.poll() is not None, "HAProxy")
        assert process.poll() is None, (directory / "haproxy.log").read_text()
        until(lambda: set(states().values()) == {"UP"}, "all hosts up")
        yield port, states
    finally:
        process.terminate()
        process.wait(20)


class Clients:
    """Clients that poll a topic in a loop, each until it has the message "last". errors has what is not an answer with status 200. got has what
    each client received."""

    def __init__(self, server, port, topic, count, timeout=10):
        self.server, self.port, self.topic, self.timeout = server, port, topic, timeout
        (self.start,) = [answer.next_since for answer in [server.poll(topic)]]
        self.errors, self.got, self.stopped = [], [[] for _ in range(count)], threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(got,), daemon=True) for got in self.got]
        for thread in self.threads:
            thread.start()

    def run(self, got):
        since = self.start
        while "last" not in got and not self.stopped.is_set():
            body = json.dumps({"topics": [self.topic], "since": since, "timeout": self.timeout})
            try:
                status, _, text = ask(self.port, "POST", POLL, body)
                answer = json.loads(text)
            except (OSError, http.client.HTTPException, ValueError) as error:
                status, answer = repr(error), None
            if status == 200:
                got += [message["payload"] for message in answer["messages"]]
                since = answer["next_since"]
            else:
                self.errors.append(status)
                self.stopped.wait(0.1)

    def until_got(self, payload, seconds=20.0):
        until(lambda: all(payload in got for got in self.got), f"everybody has {payload}", seconds)

    def finish(self, seconds=30.0):
        """Ends the clients. Returns the errors."""
        self.server.publish(self.topic, "last")
        try:
            self.until_got("last", seconds)
        finally:
            self.stopped.set()
        for thread in self.threads:
            thread.join(seconds)
        return self.errors
