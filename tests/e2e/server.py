"""A pgpoll server for tests. It is started, reloaded and stopped through make, as users do it, polled over HTTP, and observed through SQL."""
import concurrent.futures
import contextlib
import http.client
import json
import os
import pathlib
import pwd
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import uuid

import psycopg2

import web
from stalls import again_after_a_stall

ROOT = pathlib.Path(__file__).resolve().parents[2]
POLL = "/messages/poll"
STATS = "/messages/poll/stats"
METRICS = "/messages/poll/metrics"
VERSION = re.search(r"^VERSION := (.*)$", (ROOT / "Makefile").read_text(), re.M)[1]
SCHEMA_VERSION = re.search(r"^\\set schema_version (\d+)$", (ROOT / "sql/version.sql").read_text(), re.M)[1]
MODE = os.environ.get("MODE", "managed")   # or direct: the mode in which the tests run pgpoll
WEB = os.environ.get("WEB", "lighttpd")     # or apache, nginx: the web server under test
# A busy machine may take this many seconds longer than promised.
STALL_S = 3
# The worker of a client that has disconnected is free after this many seconds. Apache hides the disconnect, so a heartbeat per second finds it.
LEAVING_S = (3 if WEB == "apache" else 1) + STALL_S
# The log must contain no report of a sanitizer and no error, which is logged only for faults of pgpoll.
LOG_LINE = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z pgpoll(-stats)?\.fcgi\[\d+\] (warning|info|debug): ")


def max_body(topics=50):
    """Returns the size of the longest request that is accepted if this many topics are allowed."""
    return 65_536 + topics * 6_400


def new_topic(name="topic"):
    return f"{name}-{uuid.uuid4().hex[:12]}"


def name_of(pid):
    """Returns the name of a process, or None if there is no process with this id."""
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{pid}/comm").read_text().strip()
    return None


def children(pid, name=None):
    """Returns the ids of a process's children, or of those with this name, the oldest first."""
    found = map(int, pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return [child for child in found if name in (None, name_of(child))]


def until(condition, what, seconds=20.0):
    """Calls condition() until it returns a true value, and returns that. Fails if there is none in time. seconds: the promised time, plus
    STALL_S."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)
    return value


def soon(measure, seconds):
    """Whether measure(), which returns a duration, returns less than this in one of a few attempts. During any of them the machine may be busy."""
    return any(measure() < seconds for _ in range(5))


def breaks(poll):
    """Whether a poll, given as a future, ends without an answer. (For Python a timeout is an OSError, too.)"""
    return isinstance(poll.exception(20), (AssertionError, http.client.HTTPException, OSError))


def accepts_polls(pid):
    """Whether a worker has begun to watch the socket for polls."""
    try:
        return any(os.readlink(fd) == "anon_inode:[eventpoll]" for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


class Answer:
    """An HTTP answer that was read completely."""

    def __init__(self, response, seconds):
        self.status, self.headers, self.seconds = response.status, response.headers, seconds
        self.text = response.read().decode()

    def __repr__(self):
        return f"<{self.status} in {self.seconds:.3f} s: {self.text[:300]}>"

    @property
    def json(self):
        return json.loads(self.text)

    @property
    def messages(self):
        return self.json["messages"]

    @property
    def payloads(self):
        return [message["payload"] for message in self.messages]

    @property
    def has_more(self):
        return self.json["has_more"]

    @property
    def next_since(self):
        return self.json["next_since"]

    @property
    def gaps(self):
        return self.json.get("gaps", {})


class Server:
    """A running server. errors: a regular expression for errors that the test expects in the log."""

    def __init__(self, workers, run=None, port=None, errors=None, **settings):
        self.home = None if run else pathlib.Path(tempfile.mkdtemp(prefix="pgpoll-e2e-", dir="/tmp"))  # sockets: short paths
        if self.home:
            self.home.chmod(0o755)
        self.run = run or self.home / "run"
        self.workers, self.port, self.settings = workers, port or web.free_port(), settings
        self.variables = {}     # further variables for make
        self.url = f"http://127.0.0.1:{self.port}"
        self.front = None   # a web server to use instead of make's own, which then listens on an unused port
        self.make_port = self.port if WEB == "lighttpd" else web.free_port()
        # What can_poll() answers counts at once, so that a test which replaces it need not wait; test_login.py tests the memory.
        self.settings.setdefault("PGPOLL_ACCESS_MEMORY_S", "0")
        if WEB == "apache":
            self.settings.setdefault("PGPOLL_HEARTBEAT_S", "1")
        self.mode, self.errors = MODE, errors
        self.threads = concurrent.futures.ThreadPoolExecutor(200)
        self.db = None

    def make(self, goal, *, top=ROOT, **settings):
        """Runs make. Returns its exit code and output, which goes through a file so that processes left running do not keep a pipe open."""
        variables = {"RUN": self.run, "PORT": self.make_port, "WORKERS": self.workers, "MODE": self.mode, **self.variables}
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "MAKE", "MFLAGS"))}
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(["make", "-s", "-C", top, goal, *(f"{k}={v}" for k, v in variables.items())],
                                  env={**ours, **self.settings, **settings}, stdin=subprocess.DEVNULL,
                                  stdout=output, stderr=subprocess.STDOUT, timeout=120)
            output.seek(0)
            return done.returncode, output.read()

    def start(self):
        code, output = self.make("start")
        assert code == 0, output
        if WEB != "lighttpd":
            self.front = web.SERVERS[WEB](self.run / "fcgi", self.port).start()
        return self

    def stop(self):
        self.close_db()
        if self.front:
            self.front.stop()
            self.front = None
        code, output = self.make("stop")
        assert code == 0, output

    def reload(self, **options):
        code, output = self.make("reload", **options)
        assert code == 0, output

    def begin_reload(self):
        """Begins a manager's reload. Returns when the new program is the manager."""
        before = self.named("pgpoll-forker")
        os.kill(self.manager, signal.SIGHUP)
        until(lambda: not self.named("pgpoll-forker") & before, "the next program")

    def stop_lighttpd(self):
        """Kills lighttpd, which cuts its connections."""
        pid = int((self.run / "lighttpd.pid").read_text())
        os.kill(pid, signal.SIGTERM)
        until(lambda: not pathlib.Path(f"/proc/{pid}/exe").exists(), "lighttpd gone")

    def start_lighttpd(self):
        environment = {"PATH": f"{os.environ['PATH']}:/usr/sbin", "PGPOLL_RUN": str(self.run.resolve()), "PORT": str(self.port)}
        with (self.run / "log" / "lighttpd.err").open("a") as errors:
            subprocess.run(["lighttpd", "-f", self.run / "lighttpd.conf"], env=environment, stderr=errors, check=True)

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.remove()
            raise

    def __exit__(self, *_):
        """Stops the server. Fails if the log contains something unexpected."""
        try:
            self.stop()
            lines = self.log()
        finally:
            self.remove()
        odd = [line for line in lines if not LOG_LINE.match(line) and not (self.errors and re.search(self.errors, line))]
        assert not odd, "\n".join(odd[:50])

    def remove(self):
        try:
            self.stop()
        finally:
            self.threads.shutdown(wait=False, cancel_futures=True)
            if self.home:
                shutil.rmtree(self.home, ignore_errors=True)

    def log(self):
        return (self.run / "log" / "pgpoll.log").read_text().splitlines()

    def processes(self):
        """Returns the command lines of all processes of this server, by process id."""
        found = {}
        for entry in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                told = command + (entry / "environ").read_bytes().decode(errors="replace") + os.readlink(entry / "cwd") + "\0"
            except OSError:
                continue
            if command and any(f"{self.run}{end}" in told for end in "/ \0"):
                found[int(entry.name)] = command
        return found

    @property
    def manager(self):
        """The process id of the manager; None in direct mode."""
        return int((self.run / "poll.pids").read_text()) if self.mode == "managed" else None

    def worker_pids(self):
        return self.named("pgpoll-worker" if self.mode == "managed" else "pgpoll.fcgi")

    def named(self, name):
        """Returns the ids of the server's processes with this name."""
        return {pid for pid in self.processes() if name_of(pid) == name}

    @property
    def worker_count(self):
        """The number of worker processes. A manager runs a few more than polls may wait, so that one of them can accept."""
        return self.workers + (min(max(self.workers // 20, 1), 32) if self.mode == "managed" else 0)

    def until_workers(self, seconds=20.0):
        """Waits until as many workers run as configured and all of them accept polls. Returns their process ids."""
        return until(lambda: len(pids := self.worker_pids()) == self.worker_count and all(map(accepts_polls, pids)) and pids,
                     f"{self.worker_count} workers", seconds)

    def connections(self):
        """Returns how many connections of web servers the workers have accepted. They are found by the name of the socket; those that no worker has
        accepted yet have another state."""
        with open("/proc/net/unix") as table:
            return sum(line.endswith("/fcgi/poll.sock\n") and line.split()[5] == "03" for line in table if str(self.run) in line)

    def backends(self):
        """Returns the PostgreSQL sessions of the programs."""
        return self.sql("SELECT pid FROM pg_stat_activity WHERE usename = 'pgpoll_worker'")

    @contextlib.contextmanager
    def nobody_delivers(self):
        """Stops the manager, or all workers without one. Nothing that they have asked the database before is still under way."""
        stopped = [self.manager] if self.mode == "managed" else self.until_workers()
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            until(lambda: not self.sql("SELECT pid FROM pg_stat_activity WHERE usename = 'pgpoll_worker' AND state <> 'idle'"), "all sessions idle")
            yield
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)

    def restrict(self, condition, refused):
        """Makes can_poll() return this SQL condition on remote_user and topic, and deny the refused topic. Returns when that is in force; a
        manager may use what it knew for up to 5 s."""
        self.sql("CREATE OR REPLACE FUNCTION pgpoll.can_poll(remote_user text, topic text) RETURNS boolean"
                 f" LANGUAGE sql STABLE AS $$ SELECT {condition} $$")
        # A poll that may wait, because the manager asks about others each time.
        body = json.dumps({"topics": [refused], "timeout": 1})
        until(lambda: self.request("POST", POLL, body).status == 403, "can_poll() heeded", 5 + STALL_S if self.mode == "managed" else 0)

    def unrestrict(self):
        """Restores can_poll() as it was installed."""
        self.sql("CREATE OR REPLACE FUNCTION pgpoll.can_poll(remote_user text, topic text) RETURNS boolean"
                 " LANGUAGE sql STABLE AS 'SELECT true'")

    def authenticate_as_installed(self):
        self.sql('CREATE OR REPLACE FUNCTION pgpoll.authenticate("authorization" text) RETURNS text'
                 " LANGUAGE sql STABLE AS $$SELECT text ''$$")

    # --- the database

    @property
    def env(self):
        shell = subprocess.run(["sh", "-ac", '. "$0" && env -0', self.run / "env"], env={"PATH": os.environ["PATH"]},
                               check=True, capture_output=True, text=True)
        return dict(line.split("=", 1) for line in shell.stdout.split("\0") if "=" in line)

    def connect(self, **options):
        words = {"PGHOST": "host", "PGPORT": "port", "PGUSER": "user", "PGDATABASE": "dbname", "PGPASSWORD": "password"}
        env = self.env
        return psycopg2.connect(**{word: env[name] for name, word in words.items() if name in env} | options)

    def close_db(self):
        if self.db:
            self.db.close()
        self.db = None

    def sql(self, query, *arguments):
        if self.db is None:
            self.db = self.connect()
            self.db.autocommit = True
        with self.db.cursor() as cursor:
            cursor.execute(query, arguments or None)
            return cursor.fetchall() if cursor.description else []

    def publish(self, topic, *payloads):
        """Publishes each message in a transaction of its own."""
        for payload in payloads:
            self.sql("INSERT INTO pgpoll.messages (topic, payload) VALUES (%s, %s)", topic, json.dumps(payload))

    def publish_unheard(self, topic):
        """Publishes a message without a NOTIFY, as if it were lost."""
        self.sql("""BEGIN;
                    ALTER TABLE pgpoll.messages DISABLE TRIGGER ring_doorbell;
                    INSERT INTO pgpoll.messages (topic, payload) VALUES (%s, '"unheard"');
                    ALTER TABLE pgpoll.messages ENABLE ALWAYS TRIGGER ring_doorbell;
                    COMMIT""", topic)

    def prune(self, topic):
        """Prunes all messages committed so far, at least those of this topic."""
        left = "SELECT count(*) FROM pgpoll.feed WHERE topic = %s"
        until(lambda: self.sql("SELECT pgpoll.prune('0')") and self.sql(left, topic) == [(0,)], "topic pruned")

    def waiting(self, *topics):
        """Returns the process ids of the workers whose poll waits for one of these topics. Leaves out polls that a message has reached and that
        are still in the statistics."""
        return [pid for pid, in self.sql("""
            SELECT w.pid FROM pgpoll.live_waiters w WHERE w.topics && %s AND w.deadline > now() AND NOT EXISTS
                (SELECT FROM pgpoll.feed f JOIN pgpoll.messages m ON m.id = f.message_id
                 WHERE f.topic = ANY (w.topics) AND m.created_at > w.started_at)""", list(topics))]

    def until_waiting(self, topic, count=1, seconds=20.0):
        return until(lambda: len(pids := self.waiting(topic)) == count and (pids or True),
                     f"{count} polls waiting for {topic}", seconds)

    # --- HTTP

    def request(self, *arguments, **options):
        """Like ask(), for any method and path."""
        return again_after_a_stall(lambda: self.ask(*arguments, **options), lambda answer: answer.status == 503)

    def ask(self, method, path, body=None, headers={}, began=None, **options):
        """Sends a request. Sets the event began when the head of the answer arrives without a length, which shows that the poll waits."""
        started = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=90)
        try:
            connection.request(method, path, body, headers, **options)
            response = connection.getresponse()
            if began and "Content-Length" not in response.headers:
                began.set()
            answer = Answer(response, 0)
            answer.seconds = time.monotonic() - started
            return answer
        finally:
            connection.close()

    def poll(self, *topics, status=200, began=None, **fields):
        """Polls with these fields: since, timeout (by default 0), limit."""
        answer = self.request("POST", POLL, json.dumps({"timeout": 0, "topics": topics, **fields}), began=began)
        assert answer.status == status, answer
        if status == 200:
            assert set(answer.next_since) == set(topics)
        return answer

    def poll_later(self, *topics, **fields):
        return self.threads.submit(self.poll, *topics, **fields)

    def wait(self, *topics, polls=1, **fields):
        """Starts polls and returns them as futures when they wait. (They may appear in the statistics a second later.)"""
        began = [threading.Event() for _ in range(polls)]
        futures = [self.poll_later(*topics, began=event, **fields) for event in began]
        for event, future in zip(began, futures):
            assert event.wait(20), f"a poll that does not wait: {future.result(0) if future.done() else future}"
        return futures

    def poll_on(self, *topics, answer, **fields):
        """Continues polling from an answer until there is a message: if all workers wait, a manager answers polls early."""
        while not answer.messages and self.mode == "managed":
            answer = self.poll(*topics, since=answer.next_since, **fields)
        return answer

    def read(self, *topics, since="0"):
        """Returns all messages after since, reading page by page."""
        messages, since, more = [], dict.fromkeys(topics, since), True
        while more:
            answer = self.poll(*topics, since=since)
            messages, since, more = messages + answer.messages, answer.next_since, answer.has_more
        return messages

    def stats(self):
        answer = self.request("GET", STATS)
        assert answer.status == 200, answer
        return answer.json


class Postgres:
    """The PostgreSQL cluster of a server, which the test can stop and start while the server runs. under: a command that runs it, as a list of
    words."""

    def __init__(self, server, under=()):
        self.server, self.under = server, under
        self.data = pathlib.Path(server.sql("SHOW data_directory")[0][0])
        self.options = self.data.joinpath("postmaster.opts").read_text()
        postmaster = self.data.joinpath("postmaster.pid").read_text().split()[0]
        self.pg_ctl = str(pathlib.Path(os.readlink(f"/proc/{postmaster}/exe")).with_name("pg_ctl"))

    def _pg_ctl(self, *arguments):
        self.server.close_db()
        command = [*self.under, self.pg_ctl, "-s", "-w", "-D", str(self.data), *arguments]
        owner = pwd.getpwuid(self.data.stat().st_uid).pw_name
        if os.getuid() == 0:
            command = ["runuser", "-u", owner, "--", *command]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd="/", timeout=120)

    def stop(self, mode="fast"):
        self._pg_ctl("stop", "-m", mode)

    def start(self):
        options = shlex.join(shlex.split(self.options)[1:])
        self._pg_ctl("start", "-l", "/dev/null", "-o", options)

    def restart(self, mode="fast"):
        self.stop(mode)
        self.start()
