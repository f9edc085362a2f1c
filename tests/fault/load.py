"""Writers and clients on a server while faults happen."""
import collections
import contextlib
import os
import random
import signal
import threading
import time

import psycopg2

from faults import Faults, Proxy, Supervisor
from history import BUSINESS, Check, Client, Gate, Roamer, Sent, Single, Waiter, Writer, check_failures, end_of, position
from server import STALL_S, Server, new_topic, until

LATECOMERS_S = 10
AHEAD = 300     # how many messages writers may be ahead of the referee, at first
SLOW_S = 0.15   # if an empty query takes this long, the database counts as away for a poll that does not wait
# Small limits, so that the ring overflows, answers are cut into pages, and dead connections are noticed soon.
SMALL = {"PGPOLL_WINDOW_BYTES": "65536", "PGPOLL_PAGE_BYTES": "8192", "PGPOLL_QUERY_TIMEOUT_S": "2", "PGPOLL_REREAD_S": "3",
         "PGPOLL_CONNECTIONS": "16"}
# Few topics have a number at the same time. No message comes in time because a poll reads again: only if its worker is woken.
RESTLESS = {**SMALL, "PGPOLL_WINDOW_BYTES": "500000", "PGPOLL_MAX_TOPICS": "2", "PGPOLL_REREAD_S": "60"}


@contextlib.contextmanager
def under_load(mode, errors="as soon as it was started", settings=SMALL, run=None, others=None, kind=None, **load):
    """Yields the load and the faults, and checks everything at the end. errors, run: arguments of Server. others: the mode of another host on the
    same database, whose faults are faults.others. kind: the class of the load, by default Load."""
    server = new_server(mode, run=run, errors=errors, **settings)
    with contextlib.ExitStack() as stack:
        stack.enter_context(server)
        proxy = stack.enter_context(Proxy(f"{server.env['PGHOST']}/.s.PGSQL.5432"))
        database = {"PGHOST": str(proxy.directory)}
        supervisor, hosts = stack.enter_context(Supervisor(server, **database)), [server]
        if others:
            hosts.append(stack.enter_context(new_server(others, errors=errors, **settings)))
            other_supervisor = stack.enter_context(Supervisor(hosts[1], PGPOLL_HOST="other", **database))
        load = stack.enter_context((kind or Load)(server, [f"127.0.0.1:{host.port}" for host in hosts], **load))
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
        self.ends, self.passed = [], []     # passed: further topics
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
        return self.join(Client([host], self.topics, self.fork(), "0", patience=self.patience))

    def join(self, client):
        self.clients.append(client)
        self.early += 1
        self.start(client)
        return client

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
            for topic in self.topics + self.passed:
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


class Restless(Load):
    """Topics come and go, and publishers pause. Some clients poll for many topics, a few at a time, and leave them and take them up again, so that
    topics are often opened anew. Others wait for lasting topics: what is published in a pause must reach them because they are woken.
    """

    PASSING = 6         # how many topics there are beside the lasting ones, until others take their places
    CROWD = 100         # names of which one client takes up a few after the other, so that topics lose their numbers soon
    WAKE_S = STALL_S    # a message must arrive in this time. A manager looks by itself for the first time 5 s after what it numbered last.

    def __init__(self, server, hosts, roamers=4, mutes=True, **more):
        """mutes: whether there is a manager, which mutes publishers."""
        super().__init__(server, hosts, **{"writers": 3, "clients": 1, "topics": 2, **more})
        self.mutes = mutes
        self.referee = Waiter(hosts, self.topics, self.fork(), "0")     # no client looks for messages all the time
        self.clients = [self.referee]
        self.gate, self.rooms, self.news = Gate(), Gate(), Gate()   # for writers, roamers, and what roamers publish
        self.passing = [new_topic("passing") for _ in range(self.PASSING)]
        crowd = [new_topic("crowd") for _ in range(self.CROWD)]
        self.passed += self.passing + crowd
        self.published = self.topics + self.passing
        for writer in self.writers:
            writer.topics, writer.gate, writer.is_ahead = self.published, self.gate, lambda: False
        self.singles = []
        self.lone, self.slow = self.single("lone"), self.single("slow")
        self.waiters = [Waiter([host], self.topics, self.fork(), "$") for host in hosts for _ in range(2)]
        self.roamers = [Roamer(hosts, self.passing, self.fork(), 2, self.rooms, self.single(f"roamer {n}", self.news)) for n in range(roamers)]
        self.hurried = Roamer(hosts, crowd, self.fork(), 2, self.rooms, self.single("hurried", self.news), rests=False)
        self.hurried.chatty = 0.05
        self.disturbed = []

    def single(self, name, gate=None):
        single = Single(name, self.connect, self.fork(), gate)
        self.singles.append(single)
        return single

    def __enter__(self):
        super().__enter__()
        for client in [*self.waiters, *self.roamers, self.hurried]:
            self.join(client)
        return self

    def until_answered(self):
        """Returns when every waiter has had an answer, so that its next poll has cursors."""
        until(lambda: self.died() or all(waiter.answered for waiter in self.waiters), "the waiters answered")

    def renew(self):
        for _ in range(self.PASSING // 3):
            self.passing[self.dice.randrange(self.PASSING)] = name = new_topic("passing")
            self.passed.append(name)
        self.published[:] = self.topics + self.passing

    @contextlib.contextmanager
    def quiet(self):
        """Nobody publishes, and no poll begins but those of the waiters and of roamers that rest."""
        gates = [self.gate, self.news, self.rooms]
        for gate in gates:
            gate.close()
        yield
        for gate in gates:
            gate.reopen()

    def is_muted(self, cursor):
        cursor.execute("SELECT last_value > extract(epoch FROM clock_timestamp()) * 1000 FROM pgpoll.doorbell")
        return cursor.fetchone()[0]

    @staticmethod
    def naps(cursor):
        cursor.execute("SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
        return bool(cursor.fetchall())

    def burst(self, seconds, lasts=lambda cursor: False, then=lambda: None):
        """Publishes so much that a manager mutes publishers, and ends while they are muted. lasts(cursor): whether it must go on. then(): is called
        at once after the last message."""
        ends, most, muted = time.monotonic() + seconds, time.monotonic() + 10, False
        with contextlib.closing(self.server.connect()) as session, session.cursor() as cursor:
            session.autocommit = True
            while time.monotonic() < ends or (((self.mutes and not muted) or lasts(cursor)) and time.monotonic() < most):
                cursor.execute("INSERT INTO pgpoll.messages (topic, payload) SELECT 'rush', '0' FROM generate_series(1, 20)")
                muted = self.is_muted(cursor)
            then()
        assert muted or not self.mutes, "publishers were not muted"

    def until_unmuted(self):
        with contextlib.closing(self.server.connect()) as session, session.cursor() as cursor:
            session.autocommit = True
            until(lambda: not self.is_muted(cursor), "the end of the mute")

    def send(self, topic, single=None, **more):
        """Publishes one message. Returns its text."""
        return until(lambda: (single or self.lone).send(topic, **more), "one message committed")

    def until_woken(self, text, waiters, seconds=WAKE_S):
        until(lambda: self.died() or all(text in waiter.received for waiter in waiters), f"{text} received by those that wait", seconds)
        assert not self.died(), [thread.exception() for thread in self.died()]

    def pause(self, shortest, longest):
        """After a burst publishers pause for so many seconds, and then one publishes a single message."""
        self.burst(self.dice.uniform(0.02, 0.2))
        time.sleep(self.dice.uniform(shortest, longest))
        self.until_woken(self.send(self.dice.choice(self.topics)), self.waiters)

    def commit_late(self):
        """A transaction of a burst commits in the pause that follows."""
        self.burst(self.dice.uniform(0.02, 0.2))
        self.until_woken(self.nap(self.dice.uniform(0.2, 0.6)).result(), self.waiters)

    def nap(self, seconds, then=lambda: None):
        """Ends a burst when a transaction commits that takes so long. Returns the text of its message as a future. then: as of burst()."""
        sending = self.server.threads.submit(self.send, self.dice.choice(self.topics), self.slow, nap_s=seconds)
        self.burst(0, lasts=lambda cursor: not sending.done() and not self.naps(cursor), then=then)
        return sending

    def stall(self):
        """One worker stands still for a moment, as on a busy machine."""
        with stopped([self.dice.choice(self.workers)]):
            time.sleep(self.dice.uniform(0, 0.03))

    def bustle(self, seconds):
        """Topics come and go while much is published, which sometimes pauses. Clients that rest are woken."""
        self.renew()
        self.workers = sorted(self.server.worker_pids())
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            self.stall()
            for roamer in self.roamers:
                self.send(self.dice.choice([*roamer.topics] or self.published))
        if self.dice.random() < 0.5:
            self.gate.close()
            self.burst(self.dice.uniform(0.02, 0.2))
            time.sleep(self.dice.random())
            for topic in self.dice.sample(self.published, 3):
                self.send(topic)
            self.gate.reopen()

    def go_on(self, rounds, longest):
        """longest: how many seconds a pause may last."""
        for _ in range(rounds):
            self.bustle(1)
            with self.quiet():
                for roamer in self.roamers:
                    self.wake(roamer)
                # When a manager does not end its mute, that lasts for 0.1 s and more.
                pauses = [(self.pause, 0.03, 0.12), (self.pause, 0, longest), (self.commit_late,)]
                self.dice.shuffle(pauses)
                for what, *seconds in pauses:
                    what(*seconds)

    def wake(self, roamer):
        """Publishes a message for the poll in which a roamer rests."""
        polls, topics = len(roamer.polls), list(roamer.topics)
        if roamer.resting:
            text = self.send(self.dice.choice(topics))
            until(lambda: len(roamer.polls) > polls or not roamer.resting, f"{text} received by one that rests", self.WAKE_S)

    def settle(self):
        """Returns when messages reach all that wait, after a fault."""
        self.until_woken(self.send(self.dice.choice(self.topics)), self.waiters, 60)

    def disturb(self, fault):
        """A message may be late that was published during a fault, and until messages flow again."""
        disturbance = [time.monotonic(), float("inf")]
        self.disturbed.append(disturbance)
        fault()
        self.settle()
        disturbance[1] = time.monotonic() + self.WAKE_S

    def delete_unread(self, managers):
        """Deletes messages before anybody has been given them. Those that wait are told so."""
        topic = self.dice.choice(self.topics)
        told = {waiter: waiter.told[topic] for waiter in self.waiters}
        with contextlib.closing(self.server.connect()) as session, session.cursor() as cursor, stopped(managers):
            session.autocommit = True
            cursor.execute("SET statement_timeout = '1s'")      # a manager may have been stopped while it held a lock
            text = self.send(topic)
            with contextlib.suppress(psycopg2.errors.QueryCanceled):
                if self.dice.random() < 0.3:
                    cursor.execute("TRUNCATE pgpoll.messages")
                for _ in range(3):
                    cursor.execute("SELECT pgpoll.prune('0')")
        until(lambda: all(text in waiter.received or waiter.told[topic] > told[waiter] for waiter in self.waiters),
              f"{text} received or a gap reported", self.WAKE_S)

    def finish(self, seconds=120):
        for gate in self.news, self.rooms:      # nobody begins to poll for a topic after its end
            gate.close()
        super().finish(seconds)
        auditor = Roamer(self.hosts, [], self.fork(), 2, self.rooms, None)
        auditor.cursors = dict.fromkeys(self.passed, "0")
        deadline = time.monotonic() + 60
        auditor.read_to_the_end(self.ending, lambda: deadline)
        self.clients.append(auditor)

    @property
    def sent(self):
        return super().sent + [sent for single in self.singles for sent in single.sent]

    def check(self, faults, **options):
        super().check(faults, wake_s=self.WAKE_S, disturbed=self.disturbed, **options)


@contextlib.contextmanager
def stopped(pids):
    """These processes are stopped meanwhile, if they still exist."""
    def send_all(number):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    send_all(signal.SIGSTOP)
    try:
        yield
    finally:
        send_all(signal.SIGCONT)
