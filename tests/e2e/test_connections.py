"""Connections to PostgreSQL: their number stays bounded however PostgreSQL hangs, and a slow resolver delays nobody."""
import contextlib
import ctypes
import itertools
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time

import psycopg2
import pytest

import between
import fastcgi
import standby
from fastcgi import ask_as, poll_as
from server import MODE, POLL, STALL_S, Server, children, new_topic, until
from test_reload import held_back

SECONDS = float(os.environ.get("HANG_S", "5"))     # PostgreSQL hangs for this long
TIMEOUT_S = os.environ.get("HANG_TIMEOUT_S", "1")
READERS = 2
# Three of a manager, one per reader and statistics process (docs/operate.md).
SESSIONS = 3 + READERS + 2


@pytest.fixture(scope="module")
def own():
    with Server(6, PGPOLL_QUERY_TIMEOUT_S=TIMEOUT_S, PGPOLL_CONNECTIONS=str(READERS)) as server:
        yield server


class Watch:
    """Counts the sessions of pgpoll continuously."""

    def __init__(self, server):
        self.most, self.stopping = 0, False
        self.connection = server.connect()
        self.connection.autocommit = True
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        with self.connection.cursor() as cursor:
            while not self.stopping:
                cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE usename = 'pgpoll_worker'")
                self.most = max(self.most, cursor.fetchone()[0])
                time.sleep(0.02)

    def stop(self):
        self.stopping = True
        self.thread.join()
        self.connection.close()
        return self.most


@contextlib.contextmanager
def hanging(server, sql):
    """Runs a statement in another session, whose COMMIT hangs because there is no standby."""
    server.sql("SET synchronous_commit = local")
    session = server.connect()
    session.autocommit = True

    def run():
        with contextlib.suppress(psycopg2.Error), session.cursor() as cursor:
            cursor.execute(sql)

    thread = threading.Thread(target=run, daemon=True)
    pid = session.get_backend_pid()
    with standby.away(server.connect):
        thread.start()
        until(lambda: server.sql("SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = 'SyncRep'", pid), "the COMMIT hangs")
        yield
    thread.join(20)
    session.close()


@contextlib.contextmanager
def locked(server, table):
    session = server.connect()
    with session.cursor() as cursor:
        cursor.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        yield
    session.rollback()
    session.close()


@contextlib.contextmanager
def stopped(server):
    """Stops all present backends, so that they do not even react to pg_terminate_backend()."""
    pids = [pid for pid, in server.backends()]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    yield
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


# A transaction that writes nothing would not wait.
NOTIFY = "SELECT pg_notify('another', ''), pg_logical_emit_message(true, 'another', '')"
HANGS = {
    "no standby": lambda server: hanging(server, "INSERT INTO pgpoll.messages (topic, payload) VALUES ('hangs', '1')"),
    "another program's NOTIFY": lambda server: hanging(server, NOTIFY),
    "backends stopped": stopped,
    "feed locked": lambda server: locked(server, "pgpoll.feed"),
    "messages locked": lambda server: locked(server, "pgpoll.messages"),
    "statistics locked": lambda server: locked(server, "pgpoll.listeners, pgpoll.waiters"),
}


@pytest.mark.parametrize("hang", HANGS if os.environ.get("SOAK") else [*HANGS][:4])
def test_the_connections_do_not_run_out(own, topic, hang):
    own.publish(topic, 1)
    assert own.poll(topic, since={topic: "0"}, timeout=10).payloads == [1]
    watch, stop = Watch(own), threading.Event()

    def keep_polling(number):
        while not stop.is_set():
            own.ask("POST", POLL, json.dumps({"topics": [topic], "timeout": 1, "since": {topic: "0"} if number else {}}))

    clients = [own.threads.submit(keep_polling, number) for number in range(4)]
    with HANGS[hang](own):
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:      # asserts that nothing happens meanwhile
            time.sleep(0.5)
    own.publish(topic, 2)
    until(lambda: [message["payload"] for message in own.read(topic)] == [1, 2], "messages flow again", 10 + STALL_S)
    stop.set()
    for client in clients:
        client.result(30)
    limit = SESSIONS if own.mode == "managed" else own.workers + 2
    assert watch.stop() <= (2 * limit if hang == "backends stopped" else limit)


@pytest.mark.skipif(os.environ.get("MODE") == "direct", reason="once is enough")
def test_bookkeeping_waits_for_no_standby(own):
    """The role's commits wait for a standby."""
    own.sql("CREATE TABLE IF NOT EXISTS kept (n integer)")
    with contextlib.closing(own.connect()) as session, session.cursor() as cursor, hanging(own, "INSERT INTO kept VALUES (1)"):
        def run():
            for statement in "mute_doorbell(200)", "unmute_doorbell()", "sweep_waiters()", """write_statistics('x', '{"pid": 1, "workers": 1}')""":
                cursor.execute(f"SELECT pgpoll.{statement}")
                session.commit()
            return True

        assert own.threads.submit(run).result(20)


@pytest.mark.skipif(os.environ.get("MODE") == "direct", reason="a manager gets the messages with their positions")
def test_a_commit_that_fails_gives_no_positions(own, topic):
    """The COMMIT waits for another program's NOTIFY and then fails, after new_messages() returned the messages."""
    (poll,) = own.wait(topic, timeout=30)
    before = len(own.log())
    with hanging(own, NOTIFY):
        own.publish_unheard(topic)
        until(lambda: any("lock timeout" in line and "statistics" not in line for line in own.log()[before:]), "a COMMIT that failed")
    assert [message["message_id"] for message in poll.result().messages] == [message["message_id"] for message in own.read(topic)]


def test_positions_wait_for_a_standby_but_not_for_ever(own, topic):
    """Messages of publishers that do not wait for the standby are delivered: the numbering is cancelled, which commits it on this server."""
    (poll,) = own.wait(topic, timeout=30)
    own.sql("SET synchronous_commit = local")
    with standby.away(own.connect):
        own.publish(topic, 1)
        assert poll.result().payloads == [1]
    own.publish(topic, 2)
    until(lambda: [message["payload"] for message in own.read(topic)] == [1, 2], "everything as before", 10 + STALL_S)


def test_a_primary_without_its_standby_does_not_say_that_cursors_are_ahead(own, topic):
    """It may be an old primary that was cut off from the new one, which gave these cursors."""
    own.publish(topic, 1)
    since = {topic: "msg_7fffffffffffffff"}
    assert own.poll(topic, since=since).gaps[topic]["reason"] == "ahead"
    own.sql("SET synchronous_commit = local")
    with standby.away(own.connect):
        poll = own.poll_later(topic, since=since, timeout=20)
        until(lambda: any("SyncRep" in row for row in own.sql("SELECT wait_event FROM pg_stat_activity WHERE wait_event IS NOT NULL")), "a COMMIT that hangs")
        assert not poll.done()
    assert poll.result().gaps[topic]["reason"] == "ahead"


# --- host names


class Resolver:
    """A slow DNS server that knows one name. under: a command that makes the system use it, as a list of words."""

    NUMBERS = itertools.count(77)   # an address stays in use while a thread waits for questions

    def __init__(self, directory):
        self.address = f"127.{next(self.NUMBERS)}.{os.getpid() >> 8 & 255}.{os.getpid() & 255 or 1}"
        self.delay_s, self.asked = 0, 0
        (directory / "resolv.conf").write_text(f"nameserver {self.address}\noptions timeout:30 attempts:1\n")
        (directory / "nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files dns\n")
        mounts = " && ".join(f"mount --bind {directory}/{name} /etc/{name}" for name in ("resolv.conf", "nsswitch.conf"))
        self.under = ["unshare", "-m", "sh", "-c", f'{mounts} && exec "$@"', "sh"]

    def __enter__(self):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((self.address, 53))
        threading.Thread(target=self.serve, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.socket.close()

    def serve(self):
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self.answer, args=self.socket.recvfrom(512), daemon=True).start()

    def answer(self, question, client):
        self.asked += 1
        time.sleep(self.delay_s)
        end = question.index(b"\0", 12) + 5
        is_a = question[end - 4:end - 2] == b"\0\1"
        found = b"\xc0\x0c" + struct.pack(">HHIH4B", 1, 1, 0, 4, 127, 0, 0, 1) if is_a else b""
        with contextlib.suppress(OSError):
            self.socket.sendto(question[:2] + struct.pack(">HHHHH", 0x8180, 1, is_a, 0, 0) + question[12:end] + found, client)


class Listener:
    """Has a thread run serve(client) for each connection. namespace: the network namespace in which it listens."""

    def __init__(self, address="127.0.0.1", namespace=None):
        self.address, self.namespace = address, namespace

    def __enter__(self):
        with within(self.namespace) if self.namespace else contextlib.nullcontext():
            self.socket = socket.create_server((self.address, 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self.serve, args=(self.socket.accept()[0],), daemon=True).start()


class Forwarder(Listener):
    """A TCP proxy in front of a server's PostgreSQL."""

    def __init__(self, server, *where, **options):
        super().__init__(*where, **options)
        self.target, self.ends = f"{server.env['PGHOST']}/.s.PGSQL.5432", []

    def __exit__(self, *_):
        super().__exit__()
        self.cut()

    def serve(self, client):
        with contextlib.suppress(OSError):
            far = socket.socket(socket.AF_UNIX)
            far.connect(self.target)
            self.ends += [client, far]
            threading.Thread(target=self.pump, args=(client, far), daemon=True).start()
            self.pump(far, client)

    def pump(self, source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        for end in source, sink:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self):
        for end in self.ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self.ends = []


class WithoutServer(Listener):
    """A pooler whose server is away: it opens sessions, and ends them at their first statement, as PgBouncer does."""

    statements = 0

    def serve(self, client):
        def send(kind, contents):
            client.sendall(kind + struct.pack(">I", 4 + len(contents)) + contents)

        with client, contextlib.suppress(OSError):
            while len(client.recv(1 << 16)) == 8:   # SSLRequest, GSSENCRequest
                client.sendall(b"N")
            send(b"R", struct.pack(">I", 0))
            send(b"S", b"server_version\0" + b"15.0\0")
            send(b"K", struct.pack(">II", 1, 1))
            send(b"Z", b"I")
            self.statements += client.recv(1) != b""
            send(b"E", b"SFATAL\0C08P01\0Mserver login has been failing\0\0")


@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount a resolv.conf")
def test_a_slow_resolver_stops_nobody(own, topic, tmp_path):
    """Resolving takes longer than PGPOLL_QUERY_TIMEOUT_S. An attempt's time starts after the name is resolved, or no attempt would succeed; the
    poll's own timeout is not extended."""
    tmp_path.chmod(0o755)
    managed = own.mode == "managed"
    own.publish(topic, 1)
    with Resolver(tmp_path) as resolver, Forwarder(own) as forwarder, \
            between.manager(own, "resolves", tmp_path / "log", under=resolver.under, workers=2 if managed else 0, PGHOST="db.pgpoll.test",
                            PGPORT=forwarder.port, PGPOLL_QUERY_TIMEOUT_S=2) as manager:
        until(lambda: between.accepts(manager.socket), "its socket")
        assert poll_as(manager.socket, "", topic, since={topic: "0"}, timeout=20)[1]["messages"]
        assert resolver.asked
        resolver.delay_s, began = 6, time.monotonic()
        forwarder.cut()
        if managed:
            (worker, *_) = workers = all_workers_of(manager)
            os.kill(worker, signal.SIGKILL)     # the manager's loop runs: it starts another worker at once
            until(lambda: worker not in (now := workers_of(manager)) and len(now) == len(workers), "a worker in its place", 2 + STALL_S)
        now = json.dumps({"topics": [topic], "since": {topic: "0"}, "timeout": 0}).encode()
        asked = time.monotonic()
        status, _ = ask_as(manager.socket, "", now)
        assert (status == 503 or asked > began + resolver.delay_s) and time.monotonic() - asked < 2 + STALL_S
        # A client that asks now and then: who rests in between does not begin to resolve again.
        until(lambda: ask_as(manager.socket, "", now)[0] == 200 or time.sleep(1.5), "an answer")
        status, answer = poll_as(manager.socket, "", topic, since={topic: "0"}, timeout=20)
        assert status == 200 and answer["messages"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount a resolv.conf")
@pytest.mark.skipif(MODE != "managed", reason="of a manager")
def test_a_reload_while_a_name_is_resolved(own, topic, tmp_path):
    """The threads that resolve it are not in the old manager. It begins again, and serves the polls that wait."""
    tmp_path.chmod(0o755)
    poll = fastcgi.request(json.dumps({"topics": [topic], "timeout": 60}).encode())
    with Resolver(tmp_path) as resolver, Forwarder(own) as forwarder, \
            between.manager(own, "reloads", tmp_path / "log", under=resolver.under, PGHOST="db.pgpoll.test", PGPORT=forwarder.port) as manager:
        all_workers_of(manager)
        with fastcgi.connect(manager.socket) as client, held_back(own):
            client.sendall(poll)
            own.until_waiting(topic)
            resolver.delay_s = 60
            forwarder.cut()
            until(lambda: len(os.listdir(f"/proc/{manager.pid}/task")) == 3, "both sessions resolving the name")
            resolver.delay_s = 0
            os.kill(manager.pid, signal.SIGHUP)
            until(lambda: children(manager.pid, "pgpoll-old"), "the old manager")
            own.publish(topic, 1)
            status, text = fastcgi.reply(fastcgi.read_all(client))
        assert status == 200 and [message["payload"] for message in json.loads(text)["messages"]] == [1]


def workers_of(manager):
    """Returns the ids of the workers. The process of spawn-fcgi has become the manager."""
    return set(children(manager.pid, "pgpoll-worker"))


def all_workers_of(manager):
    """Returns the ids of the workers of a manager with workers=2, which keeps one more, when all have started."""
    return until(lambda: len(found := workers_of(manager)) == 3 and found, "its workers")


# --- several hosts


def test_a_silent_host_does_not_keep_from_the_next(own, topic, tmp_path):
    """A third of PGPOLL_QUERY_TIMEOUT_S passes before the second host is tried. Then it is remembered, also through a reload."""
    own.publish(topic, 1)
    with between.Silent() as silent, Forwarder(own) as forwarder, \
            between.manager(own, "silent", tmp_path / "log", workers=2 if own.mode == "managed" else 0, PGHOST="127.0.0.1,127.0.0.1",
                            PGPORT=f"{silent.port},{forwarder.port}", PGPOLL_QUERY_TIMEOUT_S=6) as manager:
        until(lambda: between.accepts(manager.socket), "its socket")
        began = time.monotonic()
        status, answer = poll_as(manager.socket, "", topic, since={topic: "0"}, timeout=20)
        assert status == 200 and answer["messages"] and time.monotonic() - began < 4 + STALL_S
        silent.answer()
        forwarder.cut()
        status, answer = poll_as(manager.socket, "", topic, since={topic: "0"}, timeout=20)
        assert status == 200 and answer["messages"] and not silent.is_asked()
        if own.mode == "managed":
            old = all_workers_of(manager)
            manager.send_signal(signal.SIGHUP)
            until(lambda: (new := workers_of(manager)) and not new & old, "new workers only")
            status, answer = poll_as(manager.socket, "", topic, since={topic: "0"}, timeout=20)
            assert status == 200 and answer["messages"] and not silent.is_asked()


def test_a_pooler_without_its_server_does_not_keep_from_the_next(own, topic, tmp_path):
    own.publish(topic, 1)
    with WithoutServer() as pooler, Forwarder(own) as forwarder, \
            between.manager(own, "pooler", tmp_path / "log", workers=2 if own.mode == "managed" else 0, PGHOST="127.0.0.1,127.0.0.1",
                            PGPORT=f"{pooler.port},{forwarder.port}") as manager:
        until(lambda: between.accepts(manager.socket), "its socket")
        status, answer = poll_as(manager.socket, "", topic, since={topic: "0"}, timeout=20)
        assert status == 200 and answer["messages"] and pooler.statements
        asked = pooler.statements
        forwarder.cut()
        status, answer = poll_as(manager.socket, "", topic, since={topic: "0"}, timeout=20)
        assert status == 200 and answer["messages"] and pooler.statements == asked   # it begins with the one that served it last


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True)


@contextlib.contextmanager
def within(namespace):
    """Runs this thread in a network namespace. Its sockets stay there."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as before, open(f"/run/netns/{namespace}") as there:
        assert libc.setns(there.fileno(), 0) == 0, os.strerror(ctypes.get_errno())
        try:
            yield
        finally:
            assert libc.setns(before.fileno(), 0) == 0, os.strerror(ctypes.get_errno())


@contextlib.contextmanager
def network(*addresses):
    """Makes two network namespaces, one with these addresses and one that reaches them, and yields their names. The machine's own network does
    not change: Chromium, which the tests run elsewhere at the same time, ends its requests when it does."""
    hosts, client = names = [f"pgpoll{os.getpid()}{end}" for end in ("hosts", "client")]
    own = "10.213.7.9"
    with contextlib.ExitStack() as namespaces:
        for name in names:
            ip("netns", "add", name)
            namespaces.callback(ip, "netns", "delete", name)
        ip("-n", hosts, "link", "add", "veth", "type", "veth", "peer", "name", "veth", "netns", client)
        for name, here, there in (hosts, addresses, [own]), (client, [own], addresses):
            ip("-n", name, "link", "set", "veth", "up")
            for address in here:
                ip("-n", name, "address", "add", f"{address}/32", "dev", "veth")
            for address in there:
                ip("-n", name, "route", "add", address, "dev", "veth")
        yield names


@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("ip"), reason="only root may make a network namespace")
@pytest.mark.parametrize("busy", [False, True] if os.environ.get("SOAK") else [False])
def test_a_host_falls_silent(own, topic, tmp_path, busy):
    """As if it lost its power: nothing comes from its address any more. By default that is noticed, and the next host serves, within 8 s."""
    first, second = "10.213.7.1", "10.213.7.2"
    with network(first, second) as (hosts, client), Forwarder(own, first, hosts) as one, Forwarder(own, second, hosts) as two, \
            between.manager(own, "falls-silent", tmp_path / "log", under=["ip", "netns", "exec", client], workers=4 if own.mode == "managed" else 0,
                            PGHOST=f"{first},{second}", PGPORT=f"{one.port},{two.port}") as manager:
        until(lambda: between.accepts(manager.socket), "its socket")
        poll = own.threads.submit(poll_as, manager.socket, "", topic, since={topic: "0"}, timeout=40)
        until(lambda: own.sql("SELECT 1 FROM pgpoll.waiters WHERE %s = ANY (topics)", topic), "it waits")
        publishers = [own.threads.submit(keep_publishing, own, topic + " other", poll) for _ in range(2 if busy else 0)]
        ip("-n", hosts, "address", "delete", f"{first}/32", "dev", "veth")
        began = time.monotonic()
        own.publish(topic, 1)
        status, answer = poll.result(60)
        assert status == 200 and [message["payload"] for message in answer["messages"]] == [1]
        assert time.monotonic() - began < 8 + STALL_S
        if own.mode == "managed":
            assert f"connected to the database again, at host {second} port {two.port}" in (tmp_path / "log").read_text()
        for publisher in publishers:
            publisher.result(20)


def keep_publishing(server, topic, until):
    with contextlib.closing(server.connect()) as session, session.cursor() as cursor:
        while not until.done():
            cursor.execute("INSERT INTO pgpoll.messages (topic, payload) VALUES (%s, '1')", (topic,))
            session.commit()


@pytest.mark.skipif(os.environ.get("MODE") == "direct", reason="a manager's relay prepares statements")
def test_a_pooler_in_between(own, tmp_path):
    """A pooler may give the relay another session, which does not have what the relay prepared. The relay fails once, and then prepares nothing."""
    log = tmp_path / "log"

    def poll(number):
        """Polls a topic that the manager does not know, which has it number messages."""
        topic = new_topic("pooled")
        own.publish(topic, number)
        with fastcgi.connect(process.socket) as client:
            client.sendall(fastcgi.request(json.dumps({"topics": [topic], "since": {topic: "0"}, "timeout": 10}).encode()))
            status, text = fastcgi.reply(fastcgi.read_all(client))
        assert (status, [message["payload"] for message in json.loads(text)["messages"]]) == (200, [number])

    def failures():
        return log.read_text().count(", reconnecting: ")

    with between.wire(own) as (line, home), between.manager(own, "pooled", log, PGHOST=home) as process:
        until(lambda: line.heartbeats, "a heartbeat", 20)
        poll(1)
        until(lambda: poll(2) or line.uses_prepared, "a prepared statement", 20)
        line.forgets, before = True, line.heartbeats
        poll(3)
        assert failures() == 1 and 'cannot give positions to new messages, reconnecting: prepared statement "pgpoll_old_messages' in log.read_text()
        until(lambda: line.heartbeats > before, "a heartbeat in the new session", 20)
        poll(4)
        poll(5)
        assert failures() == 1
