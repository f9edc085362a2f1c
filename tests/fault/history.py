"""Records what writers commit and what clients are answered, and compares the two.

The check asserts these promises:
- A message that was committed reaches every client that sends its cursors back; one that was rolled back reaches nobody. If the
  connection died at COMMIT, either may have happened, but it is the same for all.
- A message has one id. The ids that a client gets rise over all its topics and answers, so all clients see one order, and none gets a message
twice.
- In that order a writer's messages are in the order in which it wrote them, and a message whose INSERT began after another's COMMIT had returned comes
  after it.
- From one cursor of a topic to the next, an answer has every message in between, or it reports a gap, and then a message was missing.
- Only where the database itself has lost what it had committed (a standby promoted too early, a backup restored) may what was
  lost stay away, or come late from a manager's memory, and a message that survived come a second time, with another id. A client
  ahead of the database is told so.
"""
import bisect
import collections
import contextlib
import dataclasses
import http.client
import itertools
import json
import math
import random
import threading
import time

import psycopg2

POLL = "/messages/poll"
LEVELS = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]
AGAIN = ("40001", "40P01", "55P03")     # serialization failure, deadlock, lock timeout: the transaction had no effect
UNDONE = ("23503", "53100", "42P01", "3F000")   # foreign key violation, disk full, missing tables (while a backup is restored)
PAUSE_S = 0.05                          # the longest pause between transactions
AGAIN_S = 1.5                           # the longest pause between a manager's attempts to connect, plus the read that follows
LATE_S = 8                              # an answer may be this late after its timeout: a frozen database costs up to 5.5 s
FRESH = [None, "$", "0", "-3", "-1000"]     # cursors for a topic of which a client has none


@dataclasses.dataclass
class Sent:
    writer: str
    topic: str
    text: str
    began: float                # before its INSERT
    ended: float = math.inf     # after its COMMIT had returned; inf: it is unknown whether it was committed


@dataclasses.dataclass
class Poll:
    topics: list
    since: dict
    limit: int
    timeout: float
    began: float
    ended: float
    status: object              # HTTP status; "cut": no answer or an incomplete one; "left": the client disconnected
    retry_after: str = None
    messages: list = ()         # (topic, id, text)
    next_since: dict = None
    gaps: dict = None
    has_more: bool = False
    said: str = ""              # text of an error
    host: str = None            # that was asked


# --- writers

BUSINESS = """
    CREATE SCHEMA IF NOT EXISTS business;
    CREATE TABLE IF NOT EXISTS business.account (id integer PRIMARY KEY, n bigint NOT NULL DEFAULT 0);
    INSERT INTO business.account SELECT generate_series(1, 5) ON CONFLICT DO NOTHING;
    CREATE TABLE IF NOT EXISTS business.customer (id text PRIMARY KEY);
    CREATE TABLE IF NOT EXISTS business.purchase (
        customer text NOT NULL REFERENCES business.customer DEFERRABLE INITIALLY DEFERRED);
    CREATE TABLE IF NOT EXISTS business.nap (seconds float8);
    CREATE OR REPLACE FUNCTION business.nap() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_sleep(NEW.seconds); RETURN NULL; END';
    DO $$ BEGIN
        IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgname = 'nap') THEN
            CREATE CONSTRAINT TRIGGER nap AFTER INSERT ON business.nap DEFERRABLE INITIALLY DEFERRED
                FOR EACH ROW EXECUTE FUNCTION business.nap();
        END IF;
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'fault_writer') THEN
            CREATE ROLE fault_writer LOGIN IN ROLE pgpoll_publisher;
            ALTER ROLE fault_writer SET deadlock_timeout = '200ms';
        END IF;
    END $$;
    GRANT USAGE ON SCHEMA business TO fault_writer;
    GRANT ALL ON ALL TABLES IN SCHEMA business TO fault_writer;
"""


class Gate:
    """Lets writers and clients begin something, or nobody while it is closed."""

    def __init__(self):
        self.changed, self.open, self.inside = threading.Condition(), True, 0

    def enter(self, stop=None):
        """Returns whether the gate is open; then leave() must follow. stop: an event; waits until the gate is open or the event is set."""
        with self.changed:
            while stop and not self.open and not stop.is_set():
                self.changed.wait(0.1)
            self.inside += self.open
            return self.open

    def leave(self):
        with self.changed:
            self.inside -= 1
            self.changed.notify_all()

    def close(self):
        """Returns when nobody is inside."""
        with self.changed:
            self.open = False
            while self.inside:
                self.changed.wait()

    def reopen(self):
        with self.changed:
            self.open = True
            self.changed.notify_all()


class Writer:
    """Publishes in transactions of every kind until it is told to stop. Other work in them can make them fail."""

    def __init__(self, name, connect, topics, dice, is_ahead, gate=None):
        """is_ahead(): whether to pause for a second, because readers are too far behind."""
        self.name, self.connect, self.topics, self.dice, self.is_ahead, self.gate = name, connect, topics, dice, is_ahead, gate or Gate()
        self.session, self.n = None, 0
        self.sent = []
        self.outcomes = collections.Counter()

    def run(self, stop):
        while not stop.is_set():
            if self.session is None or self.session.closed:
                self.reconnect(stop)
                continue
            if not self.gate.enter(stop):
                continue
            first, seed = self.n, self.dice.random()
            try:
                while self.transaction(random.Random(seed)) == "again" and not self.session.closed:
                    self.n = first      # the same messages again: a rolled back message may be sent again
            finally:
                self.gate.leave()
            time.sleep(self.dice.random() * PAUSE_S)
            if self.is_ahead():
                stop.wait(1)
        if self.session:
            self.session.close()

    def reconnect(self, stop):
        try:
            self.session = self.connect()
            self.session.autocommit = True
        except psycopg2.OperationalError:
            stop.wait(0.05)

    def transaction(self, dice):
        pending, committing = [], False
        try:
            with self.session.cursor() as cursor:
                cursor.execute("BEGIN ISOLATION LEVEL " + dice.choice(LEVELS))
                self.work(cursor, dice, pending)
                ending = "ROLLBACK" if dice.random() < 0.1 else "COMMIT"
                committing = ending == "COMMIT"
                cursor.execute(ending)
                outcome = cursor.statusmessage
        except psycopg2.Error as error:
            outcome = self.failed(error, committing)
        return self.committed(outcome, pending)

    def committed(self, outcome, pending):
        """Records the outcome of a transaction, and returns it."""
        if outcome == "COMMIT":
            ended = time.monotonic()
            for sent in pending:
                sent.ended = ended
        if outcome in ("COMMIT", "doubt"):
            self.sent += pending
        self.outcomes[outcome] += 1
        return outcome

    def failed(self, error, committing):
        """Returns the outcome of a transaction that ended with this error."""
        if error.pgcode is None or error.pgcode.startswith("57P"):  # the connection is lost
            self.session.close()
            return "doubt" if committing else "undone"
        if error.pgcode not in AGAIN + UNDONE:
            raise error
        try:
            with self.session.cursor() as cursor:
                cursor.execute("ROLLBACK")
        except psycopg2.Error:
            self.session.close()
        return "again" if error.pgcode in AGAIN else "undone"

    def work(self, cursor, dice, pending):
        customer = f"{self.name}:{self.n}" if dice.random() < 0.2 else None
        if customer:
            cursor.execute("INSERT INTO business.purchase VALUES (%s)", (customer,))
        if dice.random() < 0.15:
            cursor.execute("UPDATE business.account SET n = n + 1 WHERE id = %s", (dice.randint(1, 5),))
        for _ in range(dice.choice([1, 1, 1, 2, 3])):
            self.publish(cursor, dice, pending)
            if dice.random() < 0.1:
                time.sleep(dice.random() * 0.1)
        if customer and dice.random() < 0.9:    # otherwise the foreign key fails at COMMIT
            cursor.execute("INSERT INTO business.customer VALUES (%s)", (customer,))
            customer = None
        if dice.random() < 0.05 and not customer:
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        if dice.random() < 0.1:
            self.publish(cursor, dice, pending)

    def publish(self, cursor, dice, pending):
        """Runs an INSERT of one or more messages, which may be rolled back to a savepoint."""
        undone = dice.random() < 0.1
        if undone or dice.random() < 0.1:
            cursor.execute("SAVEPOINT here")
        began, rows = time.monotonic(), []
        for _ in range(dice.choice([1, 1, 1, 1, 2, 5])):
            self.n += 1
            rows.append(Sent(self.name, dice.choice(self.topics), f"{self.name}:{self.n}", began))
        padding = "x" * dice.choice([0, 0, 0, 100, 3000, 20_000])
        values = [(sent.topic, json.dumps([sent.text, padding])) for sent in rows]
        cursor.execute("INSERT INTO pgpoll.messages (topic, payload) VALUES " + ", ".join(["(%s, %s)"] * len(rows)),
                       [value for row in values for value in row])
        if undone:
            cursor.execute("ROLLBACK TO here")
        else:
            pending += rows


class Single(Writer):
    """Publishes one message when it is told to."""

    def __init__(self, name, connect, dice, gate=None):
        super().__init__(name, connect, [], dice, lambda: False, gate)
        self.nap_s, self.pending = 0, []

    def send(self, topic, nap_s=0):
        """Returns the text, or None if it is not known to be committed, or the gate is closed. nap_s: how long the commit takes after its NOTIFY
        was decided."""
        if not self.prepare(topic, nap_s):
            return None
        return f"{self.name}:{self.n}" if self.commit() == "COMMIT" else None

    def prepare(self, topic, nap_s=0):
        """Begins a transaction with one message. Returns False if that fails or the gate is closed; otherwise commit() must follow."""
        if not self.gate.enter():
            return False
        self.topics, self.nap_s, self.pending = [topic], nap_s, []
        if self.session is None or self.session.closed:
            self.reconnect(threading.Event())
        try:
            if self.session and not self.session.closed:
                with self.session.cursor() as cursor:
                    cursor.execute("BEGIN")
                    self.work(cursor, self.dice, self.pending)
                return True
        except psycopg2.Error as error:
            self.outcomes[self.failed(error, False)] += 1
        self.gate.leave()
        return False

    def commit(self):
        """Returns the outcome."""
        try:
            with self.session.cursor() as cursor:
                cursor.execute("COMMIT")
            outcome = self.committed("COMMIT", self.pending)
        except psycopg2.Error as error:
            outcome = self.committed(self.failed(error, True), self.pending)
        self.gate.leave()
        return outcome

    def work(self, cursor, dice, pending):
        self.n += 1
        sent = Sent(self.name, self.topics[0], f"{self.name}:{self.n}", time.monotonic())
        cursor.execute("INSERT INTO pgpoll.messages (topic, payload) VALUES (%s, %s)", (sent.topic, json.dumps([sent.text, ""])))
        if self.nap_s:
            cursor.execute("INSERT INTO business.nap VALUES (%s)", (self.nap_s,))
        pending.append(sent)


# --- clients

class Client:
    """A client that polls in a loop with random page sizes and timeouts, sends its cursors back in every form, and records each answer. hosts:
    their addresses with ports; it changes between them. since: its first cursor. dawdle: how many seconds it may pause between polls.
    patience: how many seconds after its timeout it gives a poll up."""

    roams = False       # whether its polls are about other topics each time

    def __init__(self, hosts, topics, dice, since, dawdle=0, patience=30):
        self.hosts, self.dice, self.dawdle, self.patience = hosts, dice, dawdle, patience
        self.topics, self.since = list(topics), dict.fromkeys(topics, since)
        self.wanting = set(self.topics)     # the topics whose last message it has not received
        self.polls = []
        self.http = self.host = None
        self.answered, self.count = False, 0

    def run(self, ending, deadline):
        """Polls until it has received the last message of every topic. ending: an event, set when the last messages are published. deadline(): by
        when they must have arrived."""
        while self.wanting and not (ending.is_set() and time.monotonic() > deadline()):
            leaves = not ending.is_set() and self.dice.random() < 0.03
            poll = self.poll(self.dice.choice([0, 1, 2, 5]), self.dice.choice([1, 2, 5, 20, 100, 1000]), leaves)
            self.recover(poll, ending)
            if poll.status == 200 and self.dawdle and self.dice.random() < 0.1:
                ending.wait(self.dice.random() * self.dawdle)
        self.hang_up()

    def recover(self, poll, ending):
        if poll.status == 503:
            ending.wait(min(int(poll.retry_after or 0), 1) * self.dice.random())
        elif poll.status == "cut":
            time.sleep(0.05)

    def hang_up(self):
        if self.http:
            self.http.close()
        self.http = None

    def poll(self, timeout, limit, leaves):
        if self.dice.random() < 0.3:
            self.dice.shuffle(self.topics)
        poll = Poll(list(self.topics), dict(self.since), limit, timeout, time.monotonic(), 0, None)
        body = json.dumps({"topics": poll.topics, "since": poll.since, "timeout": timeout, "limit": limit})
        try:
            response = self.ask(body, 0.4 if leaves else timeout + self.patience)
            text = response.read().decode()
            poll.status, poll.retry_after = response.status, response.headers["Retry-After"]
        except (OSError, http.client.HTTPException) as error:
            self.hang_up()
            poll.status, poll.said = "left" if leaves else "cut", repr(error)
        poll.ended, poll.host = time.monotonic(), self.host
        if poll.status == 200:
            self.take(poll, json.loads(text))
        elif poll.status not in ("cut", "left"):
            poll.said = text
        self.polls.append(poll)
        return poll

    def ask(self, body, timeout):
        """Sends the request on the present connection. If the web server has closed that, which is allowed, uses a new one."""
        if self.http and self.http.sock and self.dice.random() < 0.8:
            self.http.sock.settimeout(timeout)
            with contextlib.suppress(ConnectionError):
                self.http.request("POST", POLL, body)
                self.meanwhile()
                return self.http.getresponse()
        self.hang_up()
        self.host = self.dice.choice(self.hosts)
        self.http = http.client.HTTPConnection(self.host, timeout=timeout)
        self.http.request("POST", POLL, body)
        self.meanwhile()
        return self.http.getresponse()

    def meanwhile(self):
        """Is called when a request was sent, before its answer is read."""

    def take(self, poll, answer):
        poll.messages = [(m["topic"], m["message_id"], m["payload"][0]) for m in answer["messages"]]
        poll.next_since, poll.has_more, poll.gaps = answer["next_since"], answer["has_more"], answer.get("gaps", {})
        self.since = dict(poll.next_since)
        if self.dice.random() < 0.5:    # another cursor for the same position
            self.since.update((m["topic"], m[self.dice.choice(["message_id", "stream_id"])]) for m in answer["messages"])
        self.wanting -= {topic for topic, _, text in poll.messages if text == end_of(topic)}
        self.answered = True
        self.count += len(poll.messages)


class Waiter(Client):
    """A client that waits for the same topics all the time. received: the texts. told: how many gaps, by topic."""

    WAIT_S = 20

    def __init__(self, hosts, topics, dice, since):
        super().__init__(hosts, topics, dice, since)
        self.received, self.told = set(), collections.Counter()

    def run(self, ending, deadline):
        while self.wanting and not (ending.is_set() and time.monotonic() > deadline()):
            self.recover(self.poll(self.WAIT_S, 1000, False), ending)
        self.hang_up()

    def take(self, poll, answer):
        super().take(poll, answer)
        self.received.update(text for _, _, text in poll.messages)
        self.told.update(list(poll.gaps))


class Roamer(Client):
    """A client that polls for a few topics at a time, leaves them and takes them up again, often at the moment when a message is published. offer:
    the topics that it finds, a list that others change. most: how many topics it polls for at once. gate: while it is closed, it only waits. press:
    publishes its messages. rests: whether it also waits for topics; or else it hurries from one to the next."""

    roams = True
    WAIT_S = 20

    def __init__(self, hosts, offer, dice, most, gate, press, rests=True):
        super().__init__(hosts, [], dice, None)
        self.offer, self.most, self.gate, self.press, self.rests = offer, most, gate, press, rests
        self.cursors, self.finished, self.chatty, self.pressed, self.resting = {}, set(), 0.5, False, False

    def run(self, ending, deadline):
        while not ending.is_set():
            self.choose()
            if self.gate.enter(ending):
                try:
                    self.visit(self.dice.choice([0, 0, 1] if self.rests else [0]), ending)
                finally:
                    self.gate.leave()
            while self.rests and self.dice.random() < 0.6 and not ending.is_set():
                self.resting = True
                self.visit(self.WAIT_S, ending)
                self.resting = False
        self.read_to_the_end(ending, deadline)

    def read_to_the_end(self, ending, deadline):
        self.chatty, self.wanting = 0, set(self.cursors) - self.finished
        while self.wanting and time.monotonic() < deadline():
            self.take_up(sorted(self.wanting)[:self.most])
            self.visit(1, ending, 1000)
        self.hang_up()

    def choose(self):
        """Takes up new topics or those that it left before, more often the ones that others know, too."""
        known = list(self.cursors)
        found = [self.dice.choice(known if known and self.dice.random() < 0.3 else self.offer) for _ in range(self.dice.randint(1, self.most))]
        self.take_up([*dict.fromkeys(found)])

    def take_up(self, topics):
        self.topics, self.since = topics, {topic: self.cursors[topic] if topic in self.cursors else self.dice.choice(FRESH) for topic in topics}

    def visit(self, timeout, ending, limit=None):
        self.pressed = self.dice.random() < self.chatty and self.press.prepare(self.dice.choice(self.topics))
        poll = self.poll(timeout, limit or self.dice.choice([1, 5, 100, 1000]), False)
        self.meanwhile()    # it may not have been called
        if poll.status == 200:
            self.cursors.update(self.since)
        self.recover(poll, ending)

    def take(self, poll, answer):
        super().take(poll, answer)
        self.finished.update(topic for topic, _, text in poll.messages if text == end_of(topic))

    def meanwhile(self):
        """Commits at about the time when the topics are opened."""
        if self.pressed:
            time.sleep(self.dice.random() * 0.002)
            self.press.commit()
        self.pressed = False


def end_of(topic):
    return f"end of {topic}"


# --- the check

def position(cursor):
    """Returns a cursor as a number; None: from now on."""
    if cursor in (None, "$") or cursor.startswith("-"):
        return None
    if cursor.startswith("msg_"):
        return int(cursor[4:], 16)
    ms, _, n = cursor.partition("-")
    return int(ms) << 16 | int(n or 0)


def between(positions, after, last):
    return positions[bisect.bisect_right(positions, after):bisect.bisect_right(positions, last)]


class Check:
    """Compares the records. sent, clients: the records. outages: (what, from, to). pruned: messages were pruned meanwhile. deaf: notifications
    were lost, so messages after has_more may come late. several_hosts: one host may
    learn a moment later what another has already delivered. survivors: the messages that are left at the end, if the database has lost some.
    unread: messages were also pruned before anybody was given them. wake_s: so many seconds after a commit each poll that waits for the message
    must be answered. disturbed: (from, to), when that does not hold. complaints: the violations; the first word of each tells its kind."""

    def __init__(self, sent, clients, outages=(), pruned=False, deaf=False, several_hosts=False, survivors=None, unread=False, wake_s=None,
                 disturbed=()):
        self.unread, self.wake_s, self.disturbed = unread, wake_s, disturbed
        self.sent = {sent.text: sent for sent in sent}
        self.clients, self.outages, self.pruned, self.deaf, self.survivors = clients, outages, pruned, deaf, survivors
        self.several_hosts = several_hosts
        self.texts = {}                                     # position -> text
        self.positions = collections.defaultdict(set)       # text -> positions
        self.complaints = []
        self.hidden = collections.defaultdict(list)         # topic -> (a position before a message that nobody got, one after it)
        self.gather()
        if unread:
            self.gather_hidden()
        self.check_writers()
        for number, client in enumerate(clients):
            self.check_client(f"client {number}", client)

    def complain(self, kind, *words):
        self.complaints.append(f"{kind}: " + " ".join(map(str, words)))

    def gather(self):
        for client in self.clients:
            for poll in client.polls:
                for topic, message_id, text in poll.messages:
                    self.positions[text].add(position(message_id))
                    other = self.texts.setdefault(position(message_id), text)
                    if other != text:
                        self.complain("id", message_id, "is of", text, "and of", other)
                    if text not in self.sent:
                        self.complain("phantom", text)
                    elif self.sent[text].topic != topic:
                        self.complain("phantom", text, "was sent to", self.sent[text].topic, "and came in", topic)
        self.by_topic = collections.defaultdict(list)
        for place in sorted(self.texts):    # if a message was delivered again, its last id counts
            if self.texts[place] in self.sent and place == max(self.positions[self.texts[place]]):
                self.by_topic[self.sent[self.texts[place]].topic].append(place)

    def gather_hidden(self):
        """A message's position is above those of all messages that were committed before it was begun, and below those that were begun after its
        commit."""
        seen = [(min(self.positions[sent.text]), sent) for sent in self.sent.values() if self.positions[sent.text]]
        ended = sorted((sent.ended, place) for place, sent in seen if sent.ended < math.inf)
        began = sorted(((sent.began, place) for place, sent in seen), reverse=True)
        before = list(itertools.accumulate((place for _, place in ended), max))
        after = list(itertools.accumulate((place for _, place in began), min))
        for sent in self.sent.values():
            if not self.positions[sent.text]:
                low = bisect.bisect_left(ended, (sent.began,))
                high = bisect.bisect_left(began, -sent.ended, key=lambda pair: -pair[0])
                self.hidden[sent.topic].append((before[low - 1] if low else 0, after[high - 1] if high else math.inf))

    def is_left(self, text):
        return self.survivors is None or text in self.survivors

    def check_writers(self):
        last, latest = collections.defaultdict(int), -math.inf
        for sent in self.sent.values():
            places = self.positions[sent.text]
            if not places and sent.ended < math.inf and self.is_left(sent.text) and not self.unread:
                self.complain("lost", sent.text, "reached nobody")
            if len(places) > 1 and self.survivors is None:
                self.complain("id", sent.text, "has", len(places), "ids")
            if len(places) == 1 and sent.ended < math.inf:
                if min(places) < last[sent.writer]:
                    self.complain("order", sent.text, "comes before what its writer wrote before it")
                last[sent.writer] = min(places)
        for place in sorted(self.texts):
            sent = self.sent.get(self.texts[place])
            if sent and len(self.positions[sent.text]) == 1:
                if sent.ended < latest:
                    self.complain("order", sent.text, "comes after one that was begun when it was committed already")
                latest = max(latest, sent.began)

    def check_client(self, who, client):
        newest, more, beginning, told = -1, False, {}, collections.defaultdict(int)
        got = set()
        for poll in client.polls:
            if poll.status != 200:
                continue
            places = [position(message_id) for _, message_id, _ in poll.messages]
            in_order = [position(message_id) for _, message_id, text in poll.messages if self.is_left(text)]
            if any(a >= b for a, b in itertools.pairwise([newest, *in_order])):
                self.complain("order", who, "got", *(text for _, _, text in poll.messages), "after", self.texts.get(newest))
            if len(places) > poll.limit:
                self.complain("page", who, "got", len(places), "asked for", poll.limit)
            # A waiting poll reads the manager's ring. After an outage the table may be readable a second before that manager reconnects.
            behind = AGAIN_S if poll.timeout > 0 else 0
            late = (self.deaf or (self.several_hosts and poll.timeout > 0)
                    or any(began <= poll.ended and poll.began <= ended + behind for _, began, ended in self.outages))
            if more and not places and not poll.gaps and not late:
                self.complain("page", who, f"was told of more, and there was none from {poll.began:.2f} to {poll.ended:.2f},"
                              f" timeout {poll.timeout}")
            for topic in poll.topics:
                start = self.check_topic(who, poll, topic)
                beginning.setdefault(topic, start)
                if self.wake_s is not None:
                    self.check_wake(who, poll, topic, start)
                if topic in poll.gaps:
                    told[topic] = position(poll.next_since[topic])
            newest, more = -1 if client.roams else max([newest, *in_order]), poll.has_more and not client.roams
            if any(gap["reason"] == "ahead" for gap in poll.gaps.values()):
                newest = -1
            got.update(text for _, _, text in poll.messages)
        if client.wanting:
            self.complain("stuck", who, "did not get to the end of", *client.wanting)
        if self.survivors is not None:
            for topic, start in beginning.items():
                for place in self.by_topic[topic]:
                    text = self.texts[place]
                    if place > max(start, told[topic]) and text in self.survivors and text not in got:
                        self.complain("lost", who, "never got", text)

    def check_topic(self, who, poll, topic):
        """Checks one topic of an answer. Returns the position from which it was read."""
        got = [position(message_id) for name, message_id, _ in poll.messages if name == topic]
        start, end, gap = position(poll.since.get(topic)), position(poll.next_since[topic]), poll.gaps.get(topic)
        if self.survivors is not None and gap and gap["reason"] == "ahead":
            return end
        if self.survivors is not None and start and end < start and "-" in poll.since[topic]:
            return end      # a stream_id is read as a time before the first message
        if start is None or (poll.since[topic] == "0" and self.pruned):     # what is kept
            start = got[0] - 1 if got else end
            self.check_last(who, poll, topic, got, end)
        if end < start or (got and got[-1] > end):
            self.complain("cursor", who, "was sent back in", topic)
        if got and got[0] <= start:
            self.complain("twice", who, "got", self.texts[got[0]], "again")
        missing = [place for place in between(self.by_topic[topic], start, end)
                   if place not in got and self.is_left(self.texts[place])]
        if missing and not gap:
            self.complain("lost", who, "was not given", self.texts[missing[0]])
        if not gap and any(start <= low and high <= end for low, high in self.hidden[topic]):
            self.complain("lost", who, "was not told of a gap in", topic, "between", start, "and", end)
        may_miss = missing or any(low < end and start < high for low, high in self.hidden[topic])
        if gap and (not may_miss or not self.pruned or gap["reason"] != "expired"):
            self.complain("gap", who, "was told", gap, "and missed", len(missing))
        return start

    def check_wake(self, who, poll, topic, start):
        """No poll waits on while there is a message for it: neither until its timeout nor until somebody looks in case a notification was lost."""
        if poll.timeout == 0 or poll.ended - poll.began < self.wake_s:
            return
        places = self.by_topic[topic]
        for place in itertools.islice(places, bisect.bisect_right(places, start), None):
            sent = self.sent[self.texts[place]]
            since = max(sent.ended, poll.began)
            if sent.began > poll.ended:
                return
            stood = sum(max(min(poll.ended, ended) - max(since, began), 0) for _, began, ended in self.outages)
            if poll.ended - since > self.wake_s + stood and not any(began < poll.ended and since < ended for began, ended in self.disturbed):
                self.complain("slept", who, f"was answered at {poll.ended:.2f}, {poll.ended - since:.2f} s after", sent.text, "was there; it began at"
                              f" {poll.began:.2f} for {poll.timeout} s, from {poll.since.get(topic)}, and got", len(poll.messages))
                return

    def check_last(self, who, poll, topic, got, end):
        """For the last n, a page without more has n, or all that there were before the poll, up to where it ends (what a backlog
        still has follows), and perhaps what came during it."""
        count = poll.since.get(topic) or "$"
        if not count.startswith("-") or poll.has_more or self.pruned or self.survivors is not None:
            return
        before = [place for place in self.by_topic[topic] if place <= end and self.sent[self.texts[place]].ended < poll.began]
        if len(got) < min(int(count[1:]), len(before)):
            self.complain("last", who, "asked for", count, "of", topic, "and got", len(got), "of", len(before))


def check_failures(clients, outages=(), kills=0, dead=0):
    """Returns the errors that clients should not have seen. outages: (what, from, to), when the "database" or the "web" server was away or a
    "worker" could not work. kills: killed workers, each of which may fail a poll. dead: dead connections of idle workers, each of which may fail
    a poll that is too short for another attempt."""
    def during(what, poll):
        return any(w == what and began <= poll.ended and poll.began <= ended + 0.5 for w, began, ended in outages)

    def away_at_deadline(poll):
        return any(w == "database" and began <= poll.ended and poll.began + poll.timeout <= ended + 2.5 for w, began, ended in outages)

    complaints, broken, refused = [], [], []
    for poll in (poll for client in clients for poll in client.polls):
        if poll.status == 503 and poll.retry_after:
            if not away_at_deadline(poll) and not during("worker", poll):
                refused.append(poll)
        elif poll.status in (500, "cut"):
            if not during("web", poll):
                broken.append(poll)
        elif poll.status not in (200, "left"):
            complaints.append(f"error: {poll.status} {poll.said} at {poll.ended:.2f}")
        if poll.ended - poll.began > poll.timeout + LATE_S:
            complaints.append(f"late: {poll.ended - poll.began:.2f} s, timeout {poll.timeout}")
    for polls, most in (broken, kills), (refused, dead):
        if len(polls) > most:
            complaints += [f"error: {poll.status} {poll.said} after {poll.ended - poll.began:.2f} of {poll.timeout} s"
                           f" at {poll.ended:.2f}, and no more than {most} excused" for poll in polls]
    return complaints
