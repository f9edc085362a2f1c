"""Sessions of publishers and readers, for the Python tests here. Connections come from the PG* environment."""
import contextlib
import json
import pathlib
import re
import threading
import time

import psycopg2
import psycopg2.errors
import pytest

opened = []     # every session that connect() made; conftest.py closes them after the test
LEVELS = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]


def sent_by(module, function):
    """The statement that a function of src/postgres makes."""
    source = (pathlib.Path(__file__).parents[2] / "src/postgres" / module).read_text()
    made = re.search(rf"\b{function}\([^)]*\)\n.*?;", source, re.DOTALL)[0]
    for name, text in re.findall(r'^#define (\w+) (".*")$', source, re.M):
        made = re.sub(rf"\b{name}\b", text, made)
    return "".join(re.findall(r'"([^"]*)"', made))


# What the session of a manager that follows another one runs once, and for each read; $1 is the position after which it reads.
FOLLOWER_SETTINGS = sent_by("calls.c", "call_set_plans")
FOLLOW = sent_by("catch_up.c", "catch_up_followed_statement")
FOLLOW_LIMIT = int(re.search(r"LIMIT (\d+)$", FOLLOW)[1])


def connect(level=None, **where):
    """Opens a session: autocommit, or with explicit transactions at an isolation level."""
    session = psycopg2.connect(**where)
    opened.append(session)
    if level is None:
        session.autocommit = True
    else:
        session.set_session(isolation_level=level)
    return session


def close_all():
    """Cancels and closes all sessions of a test."""
    while opened:
        session = opened.pop()
        with contextlib.suppress(psycopg2.Error):
            session.cancel()
        session.close()


def run(session, statement, *arguments):
    with session.cursor() as cursor:
        cursor.execute(statement, arguments or None)
        return cursor.fetchall() if cursor.description else None


def publish(session, topic, *payloads):
    for payload in payloads:
        run(session, "INSERT INTO pgpoll.messages (topic, payload) VALUES (%s, %s)", topic, json.dumps(payload))


def write_statistics(session, host, pid, began=None, ended=()):
    """Reports that a worker without a manager begins to wait for topics, or that others have ended to wait."""
    report = {"pid": pid, "workers": 1, "ended": list(ended)}
    if began:
        report["began"] = [{"pid": pid, "topics": began, "client": "192.0.2.1", "waited_ms": 0, "left_ms": 60000}]
    run(session, "SELECT pgpoll.write_statistics(%s, %s)", host, json.dumps(report))


def check_refusals(session):
    """Rows that break the rules of the table are refused."""
    for column, value in *(("topic", name) for name in ("", " \u3000", "a\tb", "x" * 256)), ("created_at", "infinity"):
        with pytest.raises(psycopg2.errors.CheckViolation):
            run(session, "INSERT INTO pgpoll.messages (topic, payload, created_at) VALUES (%s, 'null', %s)",
                *{"topic": "t", "created_at": "now", column: value}.values())


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.005)


def waits_for_lock(admin, session):
    return bool(run(admin, "SELECT 1 FROM pg_locks WHERE pid = %s AND NOT granted", session.info.backend_pid))


def assign(session):
    """Gives positions until no backlog is left, as before each read. Returns how many messages got one."""
    total = 0
    while True:
        assigned, more = run(session, "SELECT * FROM pgpoll.assign_positions()")[0]
        total += assigned or 0
        if not more:
            return total
        if assigned is None:    # another session is working on it
            time.sleep(0.002)


class Background(threading.Thread):
    """Runs a function; join() gives its result, or raises what it raised."""

    def __init__(self, function, *arguments):
        super().__init__(daemon=True)
        self.function, self.arguments, self.error, self.result = function, arguments, None, None
        self.start()

    def run(self):
        try:
            self.result = self.function(*self.arguments)
        except BaseException as error:
            self.error = error

    def join(self, timeout=120):
        super().join(timeout)
        assert not self.is_alive(), "still running"
        if self.error:
            raise self.error
        return self.result


class Reader:
    """A client: pages through its topics and keeps a cursor for each. A missing cursor means from now."""

    def __init__(self, session, topics, cursors=None):
        self.session, self.topics = session, list(topics)
        self.cursors = dict(cursors or {})
        self.got = []       # (position, payload) in the order of arrival
        self.gaps = []      # (topic, kind, from, to)

    def page(self, **limits):
        """Reads one page, as a worker without a manager does. Returns whether there is more."""
        assign(self.session)
        return self.catch_up(**limits)

    def catch_up(self, messages=100, max_bytes=1 << 20):
        rows = run(self.session, "SELECT topic_no, position, created_at, payload, gap FROM pgpoll.catch_up(%s, %s::bigint[], %s, %s)",
                   self.topics, [self.cursors.get(topic) for topic in self.topics], messages, max_bytes)
        more = False
        for number, position, created_at, payload, gap in rows:
            topic = self.topics[number - 1]
            assert not more, "a row follows the row 'more'"
            if created_at is None:
                if gap:
                    self.gaps.append((topic, gap, self.cursors[topic], position))
                self.cursors[topic] = position
            elif payload is None:
                more = True
            else:
                assert position > self.cursors[topic], "not after the cursor"
                self.cursors[topic] = position
                self.got.append((position, payload))
        return more

    def read(self, **limits):
        """Reads to the end. Returns the new payloads."""
        before = len(self.got)
        while self.page(**limits):
            pass
        return [payload for _, payload in self.got[before:]]
