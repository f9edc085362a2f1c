"""Writers and clients on a server while faults happen."""
import collections
import contextlib
import os
import random
import threading
import time

import psycopg2

from faults import Faults, Proxy, Supervisor
from history import BUSINESS, Check, Client, Sent, Writer, check_failures, end_of, position
from server import Server, new_topic, until

LATECOMERS_S = 10
AHEAD = 300     # how many messages writers may be ahead of the referee, at first
SLOW_S = 0.15   # if an empty query takes this long, the database counts as away for a poll that does not wait
# Small limits, so that the ring overflows, answers are cut into pages, and dead connections are noticed soon.
SMALL = {"PGPOLL_WINDOW_BYTES": "65536", "PGPOLL_PAGE_BYTES": "8192", "PGPOLL_QUERY_TIMEOUT_S": "2", "PGPOLL_REREAD_S": "3",
         "PGPOLL_CONNECTIONS": "16"}


@contextlib.contextmanager
def under_load(mode, errors="as soon as it was started", settings=SMALL, run=None, others=None, **load):
    """Yields the load and the faults, and checks everything at the end. errors, run: arguments of Server. others: the mode of another host on the
    same database, whose faults are faults.others."""
    server = new_server(mode, run=run, errors=errors, **settings)
    with contextlib.ExitStack() as stack:
        stack.enter_context(server)
        proxy = stack.enter_context(Proxy(f"{server.env['PGHOST']}/.s.PGSQL.5432"))
        database = {"PGHOST": str(proxy.directory)}
        supervisor, hosts = stack.enter_context(Supervisor(server, **database)), [server]
        if others:
            hosts.append(stack.enter_context(new_server(others, errors=errors, **settings)))
            other_supervisor = stack.enter_context(Supervisor(hosts[1], PGPOLL_HOST="other", **database))
        load = stack.enter_context(Load(server, [f"127.0.0.1:{host.port}" for host in hosts], **load))
        faults = Faults(server, supervisor, proxy, load.fork(), load.outages)
        if others:
            faults.excuses["several_hosts"] = True
            faults.others = Faults(hosts[1], other_supervisor, proxy, load.fork(), load.outages)
        load.until_flowing()
        yield load, faults
        if not load.ending.is_set():
            load.until_flowing()
            load.finish()
        if others:
            faults.kills += faults.others.kills
        load.check(faults, **faults.excuses)


def new_server(mode, **more):
    server = Server(10 if mode == "managed" else 16, **more)
    server.mode = mode
    return server


class Load:
    """with Load(server, hosts) as load: faults ...; then load.finish() and load.check(). rush: also publish so much that publishers need not
    NOTIFY. patience: that of Client. where: how writers connect."""

    def __init__(self, server, hosts, writers=6, clients=12, topics=5, dawdle=0, rush=False, patience=30, where=None):
        seed = int(os.environ.get("SEED", time.time_ns() % 100_000))
        print("SEED =", seed)   # pytest shows it if the test fails
        self.server, self.hosts, self.dice, self.dawdle, self.rush = server, hosts, random.Random(seed), dawdle, rush
        self.patience, self.ahead = patience, AHEAD
        self.topics = [new_topic(name) for name in ["orders", "Ünï 'q\" 😀", *(f"topic {n}" for n in range(topics - 2))]]
        server.sql(BUSINESS)
        self.where = where or self.where_of(server.env)
        self.writers = [Writer(f"w{n}", self.connect, self.topics, self.fork(), self.is_ahead) for n in range(writers)]
        self.referee = Client(hosts, self.topics, self.fork(), "0", patience=patience)
        self.clients = [self.referee]
        self.latecomers, self.early = clients - 1, 1
        self.ends = []
        self.writing_over, self.rush_over, self.ending, self.deadline = threading.Event(), threading.Event(), threading.Event(), None
        self.watching_over = threading.Event()
        self.threads, self.outages = [], []     # (what was away, from, to)

    @staticmethod
    def where_of(env):
        return {"host": env["PGHOST"], "port": env["PGPORT"], "dbname": env["PGDATABASE"], "user": "fault_writer"}

    def fork(self):
        return random.Random(self.dice.random())

    def connect(self):
        return psycopg2.connect(**self.where)

    def is_ahead(self):
        return sum(len(writer.sent) for writer in self.writers) - self.referee.count > self.ahead

    def watch_database(self):
        """Records when the database is slow because the machine is busy."""
        session, began = None, time.monotonic()
        while not self.watching_over.wait(0.1):
            try:
                session = session or self.connect()
                with session.cursor() as cursor:
                    cursor.execute("SELECT 1")
                session.rollback()
            except psycopg2.Error:
                session = None
            if time.monotonic() - began > 0.1 + SLOW_S:
                self.outages.append(["database", began, time.monotonic()])
            began = time.monotonic()

    def publish_in_a_rush(self):
        """Publishes in a topic for which no client polls."""
        while not self.rush_over.wait(0.05):
            with contextlib.suppress(psycopg2.Error), contextlib.closing(self.connect()) as session, session.cursor() as cursor:
                session.autocommit = True
                while not self.rush_over.wait(0.01):
                    cursor.execute("INSERT INTO pgpoll.messages (topic, payload) SELECT 'rush', '0' FROM generate_series(1, 10)")

    def until_muted(self):
        muted = "SELECT last_value > extract(epoch FROM clock_timestamp()) * 1000 FROM pgpoll.doorbell"
        until(lambda: self.server.sql(muted) == [(True,)], "the doorbell muted")

    def __enter__(self):
        self.watch = self.server.threads.submit(self.watch_database)
        for writer in self.writers:
            self.threads.append(self.server.threads.submit(writer.run, self.writing_over))
        if self.rush:
            self.threads.append(self.server.threads.submit(self.publish_in_a_rush))
        self.start(self.referee)
        for _ in range(self.latecomers):
            dice = self.fork()
            self.threads.append(self.server.threads.submit(self.come_late, dice, dice.random() * LATECOMERS_S))
        return self

    def start(self, client):
        self.threads.append(self.server.threads.submit(client.run, self.ending, lambda: self.deadline))

    def stay(self, host):
        """Starts a client that polls at this host only."""
        self.clients.append(Client([host], self.topics, self.fork(), "0", patience=self.patience))
        self.early += 1
        self.start(self.clients[-1])
        return self.clients[-1]

    def come_late(self, dice, seconds):
        """A client that begins in the midst of it: from the beginning, from now, with the last few, or from a cursor
        that another has had."""
        self.writing_over.wait(seconds if dice.random() < 0.7 else 0)
        had = [message_id for poll in list(self.referee.polls) for _, message_id, _ in poll.messages]
        last = f"-{dice.choice([1, 20, 1000])}"
        kind = dice.choice(["0", "$", None, last, "message", "stream", "time"] if had else ["0", "$", None, last])
        if kind in ("message", "stream", "time"):
            cursor = dice.choice(had)
            place = position(cursor)
            kind = {"message": cursor, "stream": f"{place >> 16}-{place & 65535}", "time": f"{place >> 16}-0"}[kind]
        client = Client(self.hosts, dice.sample(self.topics, dice.randint(1, len(self.topics))), dice, kind,
                        dice.choice([0, self.dawdle]), self.patience)
        self.clients.append(client)
        client.run(self.ending, lambda: self.deadline)

    def __exit__(self, kind, error, trace):
        self.writing_over.set()
        self.rush_over.set()
        self.deadline = self.deadline or time.monotonic()
        self.ending.set()
        for thread in self.threads:
            if kind is None:
                thread.result()
            else:
                thread.exception()
        self.watching_over.set()
        self.watch.result()

    def read_again(self):
        """Reads all present messages with one more client. Returns the texts."""
        client = Client(self.hosts, self.topics, self.fork(), "0")
        self.clients.append(client)
        client.run(self.ending, lambda: time.monotonic() + 120)
        return {text for poll in client.polls for _, _, text in poll.messages}

    def until_flowing(self, seconds=30):
        """Waits until a new message has reached the referee."""
        since, seen = time.monotonic(), len(self.referee.polls)
        until(lambda: self.died() or any(poll.began > since and poll.messages for poll in self.referee.polls[seen:]),
              "messages again", seconds)
        assert not self.died(), [thread.exception() for thread in self.died()]

    def died(self):
        return [thread for thread in self.threads if thread.done() and thread.exception()]

    def finish(self, seconds=120):
        """Stops the writers, and lets every client read to the last message."""
        self.writing_over.set()
        self.rush_over.set()
        until(lambda: all(self.threads[n].done() for n in range(len(self.writers))), "writers done", 60)
        until(lambda: self.died() or (len(self.clients) == self.latecomers + self.early and all(client.answered for client in self.clients)),
              "every client answered once", 60)
        began = time.monotonic()
        with self.connect() as session, session.cursor() as cursor:
            for topic in self.topics:
                self.ends.append(Sent("end", topic, end_of(topic), began))
                cursor.execute("INSERT INTO pgpoll.messages (topic, payload) VALUES (%s, json_build_array(%s, ''))",
                               (topic, end_of(topic)))
        session.close()
        for sent in self.ends:
            sent.ended = time.monotonic()
        self.deadline = time.monotonic() + seconds
        self.ending.set()
        for thread in self.threads:
            thread.result()

    @property
    def sent(self):
        return [sent for writer in self.writers for sent in writer.sent] + self.ends

    def check(self, faults, **options):
        """Fails if the check finds violations."""
        complaints = Check(self.sent, self.clients, self.outages, **options).complaints
        complaints += check_failures(self.clients, self.outages, faults.kills, faults.dead)
        print(f"{len(self.sent)} messages, {sum(len(client.polls) for client in self.clients)} polls;",
              dict(sum((writer.outcomes for writer in self.writers), collections.Counter())))
        assert not complaints, f"{len(complaints)} complaints:\n" + "\n".join(complaints[:20])
