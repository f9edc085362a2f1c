"""The NOTIFY throttle (ARCHITECTURE.md): when publishers send a NOTIFY, and that a manager which relies on them misses
no message."""
import hashlib
import itertools
import random
import threading
import time

import psycopg2
import pytest

from sessions import LEVELS, Background, Reader, assign, connect, publish, run, wait_until

LOCK = (1885827180, 1)
NOW_MS = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
IMMEDIATE = "SET CONSTRAINTS ALL IMMEDIATE"


@pytest.fixture(params=LEVELS)
def level(request):
    return request.param


def publisher(level=None):
    session = connect(level)
    run(session, "SET ROLE pgpoll_publisher; SET statement_timeout = '10s'")
    if level:
        session.commit()
    return session


@pytest.fixture
def listener(admin):
    """A session that LISTENs as a manager does, and as a worker that waits for topic a."""
    session = connect()
    run(session, "LISTEN pgpoll; SELECT pgpoll.listen('{a}')")
    return session


def notified(listener):
    """The notifications that publishers sent. Those of batches, which carry a position, are left out."""
    run(listener, "SELECT 1")
    heard = [(n.channel, n.payload) for n in listener.notifies if n.payload == ""]
    listener.notifies.clear()
    return heard


NOTIFIED = [("pgpoll", ""), ("pgpoll_" + hashlib.sha256(b"a").hexdigest()[:56], "")]


def mute(session, milliseconds=1000):
    run(session, "SELECT pgpoll.mute_doorbell(%s)", milliseconds)


def unmute(session):
    return run(session, "SELECT pgpoll.unmute_doorbell()")[0][0]


def is_muted(session):
    """Compares as publishers do. (NOW_MS is rounded, so it can be half a millisecond ahead.)"""
    return run(session, "SELECT to_timestamp(last_value / 1000.0::float8) > clock_timestamp() FROM pgpoll.doorbell")[0][0]


def publish_muted(admin, listener, level, finish):
    """Returns a session whose transaction found NOTIFY muted. If the mute expired meanwhile, tries another session."""
    while True:
        session = publisher(level)
        mute(admin)
        publish(session, "a", "quiet")
        finish(session)
        if is_muted(admin):
            return session
        session.close()
        assign(admin)
        notified(listener)


def test_notifies(admin, listener, level):
    """Once per transaction, at its commit, with an empty payload."""
    session = publisher(level)
    publish(session, "a", 1, 2)
    publish(session, "b", 3)
    run(session, IMMEDIATE)
    publish(session, "a", 4)
    assert notified(listener) == []
    session.commit()
    assert sorted(notified(listener)) == NOTIFIED
    publish(session, "a", "undone")
    session.rollback()
    assert notified(listener) == []
    assert Reader(admin, ["a", "b"], {"a": 0, "b": 0}).read() == [1, 2, 3, 4]


def test_notifies_the_topic_that_the_row_has_at_commit(admin, listener):
    run(admin, "BEGIN")
    publish(admin, "b", 1)
    run(admin, "UPDATE pgpoll.messages SET topic = 'a'")
    run(admin, "COMMIT")
    assert NOTIFIED[1] in notified(listener)


def test_sends_nothing_while_muted(admin, listener, level):
    publish_muted(admin, listener, level, lambda session: session.commit())
    assert notified(listener) == []
    assert unmute(admin) and assign(admin) == 1


def test_notifies_when_the_mute_has_expired(admin, listener, level):
    session = publisher(level)
    mute(admin, 5)
    wait_until(lambda: not is_muted(admin))
    publish(session, "a", 1)
    session.commit()
    assert sorted(notified(listener)) == NOTIFIED


def test_notifies_when_the_clock_was_set_back(admin, listener, level):
    """Then the mute ends later than any mute can."""
    session = publisher(level)
    run(admin, f"SELECT setval('pgpoll.doorbell', {NOW_MS} + 3600000)")
    publish(session, "a", 1)
    session.commit()
    assert sorted(notified(listener)) == NOTIFIED and is_muted(admin)


def test_mute_lasts_a_second_at_most(admin):
    mute(admin, 3600000)
    assert run(admin, f"SELECT last_value <= {NOW_MS} + 1000 FROM pgpoll.doorbell") == [(True,)]


def test_notifies_when_it_cannot_take_the_lock(admin, listener, level):
    """Any session can hold an advisory lock. Publishers do not wait for it."""
    other = connect()
    run(other, "SELECT pg_advisory_lock(%s, %s)", *LOCK)
    publish_muted(admin, listener, level, lambda session: session.commit())
    assert sorted(notified(listener)) == NOTIFIED
    assert not unmute(admin) and assign(admin) == 1
    run(other, "SELECT pg_advisory_unlock(%s, %s)", *LOCK)
    assert unmute(admin)


def test_unmute_sees_a_quiet_publisher(admin, listener, level):
    """The race that matters: the publisher reads the mute; a manager unmutes and assigns; then the publisher commits."""
    session = publish_muted(admin, listener, level, lambda session: run(session, IMMEDIATE))
    assert not unmute(admin) and assign(admin) == 0
    session.commit()
    assert notified(listener) == []
    assert unmute(admin) and assign(admin) == 1


def test_unmuted_before_the_publisher_commits(admin, listener, level):
    session = publisher(level)
    mute(admin)
    publish(session, "a", 1)
    assert unmute(admin) and assign(admin) == 0
    session.commit()
    assert sorted(notified(listener)) == NOTIFIED and assign(admin) == 1


def test_publishers_notify_while_a_manager_unmutes(admin, listener, level):
    """The manager holds the lock until its commit; a sequence changes without a commit."""
    session, manager = publisher(level), connect("READ COMMITTED")
    mute(admin)
    assert unmute(manager)
    publish(session, "a", 1)
    session.commit()
    assert sorted(notified(listener)) == NOTIFIED


def test_quiet_publisher_rolls_back(admin, listener, level):
    session = publish_muted(admin, listener, level, lambda session: run(session, IMMEDIATE))
    assert not unmute(admin)
    session.rollback()
    assert unmute(admin) and assign(admin) == 0


def test_quiet_in_a_savepoint(admin, listener, level):
    """A rollback to the savepoint releases the lock. At the commit the trigger decides again."""
    def finish(session):
        run(session, "SAVEPOINT s")
        run(session, IMMEDIATE)
    session = publish_muted(admin, listener, level, finish)
    assert not unmute(admin)
    run(session, "ROLLBACK TO s")
    assert unmute(admin)
    session.commit()
    assert sorted(notified(listener)) == NOTIFIED and assign(admin) == 1


def test_prepared_while_muted(admin, listener, level):
    session = connect()
    while True:
        run(session, f"BEGIN ISOLATION LEVEL {level}")
        mute(admin)
        publish(session, "a", "prepared")
        try:
            run(session, "PREPARE TRANSACTION 'p'")
            break
        except psycopg2.errors.FeatureNotSupported:     # the mute expired before PREPARE
            assert not is_muted(admin)
            run(session, "ROLLBACK")
    session.close()
    assert not unmute(admin) and assign(admin) == 0
    publish(admin, "b", "goes on")
    assert assign(admin) == 1 and not unmute(admin)
    notified(listener)
    run(admin, "COMMIT PREPARED 'p'")
    assert notified(listener) == []
    assert unmute(admin) and assign(admin) == 1


def test_prepared_while_not_muted(admin, level):
    session = connect()
    run(session, f"BEGIN ISOLATION LEVEL {level}")
    publish(session, "a", "prepared")
    with pytest.raises(psycopg2.errors.FeatureNotSupported):
        run(session, "PREPARE TRANSACTION 'p'")
    assert unmute(admin) and assign(admin) == 0     # nothing holds the lock any more


class Manager:
    """A model of a manager. It gives positions when it is notified, at random times while it mutes, and after unmuting
    until unmute_doorbell() says that no quiet publisher is under way. From then on it relies on NOTIFY."""

    def __init__(self, seed, stop):
        self.session, self.stop, self.random = connect(), stop, random.Random(seed)
        self.muting = False
        self.count = {"muted": 0, "not yet": 0, "found quiet": 0}
        run(self.session, "LISTEN pgpoll")

    def was_notified(self):
        run(self.session, "SELECT 1")
        heard = [n for n in self.session.notifies if n.payload == ""]
        self.session.notifies.clear()
        return bool(heard)

    def step(self):
        if self.muting and (self.stop.is_set() or self.random.random() < 0.5):
            self.muting = not unmute(self.session)
            self.count["not yet"] += self.muting
        elif not self.stop.is_set() and self.random.random() < 0.5:
            mute(self.session, self.random.choice([1, 200, 1000]))
            self.muting = True
            self.count["muted"] += 1
        return assign(self.session)

    def work(self):
        """Runs until it is told to stop and has nothing left to do."""
        while True:
            last = self.stop.is_set()
            notified_now = self.was_notified()
            if notified_now or self.muting:
                self.count["found quiet"] += bool(self.step()) and not notified_now
            elif last:
                return
            time.sleep(self.random.random() * 0.001)


def publish_round(session, level, dice, number):
    run(session, "BEGIN ISOLATION LEVEL " + level)
    publish(session, "a", number)
    if dice.random() < 0.5:
        run(session, IMMEDIATE)
        time.sleep(dice.random() * 0.004)
    run(session, "COMMIT")


def test_no_message_is_left_without_a_position(admin):
    """After each of many short rounds, when no publisher and no manager is active, every message has a position. There are as many rounds as it
    takes until each thing has happened often: on a busy machine some happen rarely."""
    dice, counts = random.Random(7), {}
    sessions = [publisher() for _ in range(5)]
    published, deadline = 0, time.monotonic() + 120
    for number in itertools.count():
        stop = threading.Event()
        manager = Manager(number, stop)
        manager.muting = dice.random() < 0.8
        if manager.muting:
            mute(admin)
        working = Background(manager.work)
        publishing = [Background(publish_round, session, dice.choice(LEVELS), random.Random(f"{number} {n}"), published + n)
                      for n, session in enumerate(sessions)]
        published += len(sessions)
        time.sleep(dice.random() * 0.004)
        if dice.random() < 0.7:
            stop.set()
        for thread in publishing:
            thread.join()
        stop.set()
        working.join()
        # All have committed: their notifications have arrived.
        manager.work()
        left = run(admin, "SELECT payload FROM pgpoll.messages m WHERE NOT EXISTS (SELECT FROM pgpoll.feed f WHERE f.message_id = m.id)")
        assert left == [], f"round {number}"
        for what, n in manager.count.items():
            counts[what] = counts.get(what, 0) + n
        manager.session.close()
        if number >= 149 and min(counts.values()) > 20:
            break
        assert time.monotonic() < deadline, counts
    assert run(admin, "SELECT count(*), count(DISTINCT message_id) FROM pgpoll.feed") == [(published, published)]
