"""Whether publishers ring, and whether one who looks only when rung, or when told to, ever leaves a message lying."""
import hashlib
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
def bell(admin):
    """A session that hears the doorbell, and that of those who wait for topic a."""
    session = connect()
    run(session, "LISTEN pgpoll; SELECT pgpoll.listen('{a}')")
    return session


def rung(bell):
    """By publishers: who gives positions announces those, now and then also that there was nothing."""
    run(bell, "SELECT 1")
    heard = [(n.channel, n.payload) for n in bell.notifies if n.payload == ""]
    bell.notifies.clear()
    return heard


RUNG = [("pgpoll", ""), ("pgpoll_" + hashlib.sha256(b"a").hexdigest()[:56], "")]


def mute(session, milliseconds=1000):
    run(session, "SELECT pgpoll.mute_doorbell(%s)", milliseconds)


def unmute(session):
    return run(session, "SELECT pgpoll.unmute_doorbell()")[0][0]


def is_muted(session):
    return run(session, f"SELECT last_value > {NOW_MS} FROM pgpoll.doorbell")[0][0]


def keep_quiet(admin, bell, level, finish):
    """A session whose transaction found the doorbell muted: another one, should that have taken longer than a mute lasts."""
    while True:
        session = publisher(level)
        mute(admin)
        publish(session, "a", "quiet")
        finish(session)
        if is_muted(admin):
            return session
        session.close()
        assign(admin)
        rung(bell)


def test_rings(admin, bell, level):
    """Once a transaction, at its commit, with nothing that somebody might rely on."""
    session = publisher(level)
    publish(session, "a", 1, 2)
    publish(session, "b", 3)
    run(session, IMMEDIATE)
    publish(session, "a", 4)
    assert rung(bell) == []
    session.commit()
    assert sorted(rung(bell)) == RUNG
    publish(session, "a", "undone")
    session.rollback()
    assert rung(bell) == []
    assert Reader(admin, ["a", "b"], {"a": 0, "b": 0}).read() == [1, 2, 3, 4]


def test_rings_for_the_topic_it_was_left_with(admin, bell):
    run(admin, "BEGIN")
    publish(admin, "b", 1)
    run(admin, "UPDATE pgpoll.messages SET topic = 'a'")
    run(admin, "COMMIT")
    assert RUNG[1] in rung(bell)


def test_keeps_quiet_while_muted(admin, bell, level):
    keep_quiet(admin, bell, level, lambda session: session.commit())
    assert rung(bell) == []
    assert unmute(admin) and assign(admin) == 1


def test_rings_when_the_mute_has_lapsed(admin, bell, level):
    session = publisher(level)
    mute(admin, 5)
    wait_until(lambda: not is_muted(admin))
    publish(session, "a", 1)
    session.commit()
    assert sorted(rung(bell)) == RUNG


def test_rings_when_the_clock_was_set_back(admin, bell, level):
    """Then the mute lies further ahead than any."""
    session = publisher(level)
    run(admin, f"SELECT setval('pgpoll.doorbell', {NOW_MS} + 3600000)")
    publish(session, "a", 1)
    session.commit()
    assert sorted(rung(bell)) == RUNG and is_muted(admin)


def test_mute_lasts_a_second_at_most(admin):
    mute(admin, 3600000)
    assert run(admin, f"SELECT last_value <= {NOW_MS} + 1000 FROM pgpoll.doorbell") == [(True,)]


def test_rings_when_it_cannot_say_that_it_keeps_quiet(admin, bell, level):
    """Anybody can hold an advisory lock. Publishers do not wait for him."""
    other = connect()
    run(other, "SELECT pg_advisory_lock(%s, %s)", *LOCK)
    keep_quiet(admin, bell, level, lambda session: session.commit())
    assert sorted(rung(bell)) == RUNG
    assert not unmute(admin) and assign(admin) == 1
    run(other, "SELECT pg_advisory_unlock(%s, %s)", *LOCK)
    assert unmute(admin)


def test_unmuting_sees_who_keeps_quiet(admin, bell, level):
    """The race that matters: muted when the publisher looks, unmuted and looked before it commits."""
    session = keep_quiet(admin, bell, level, lambda session: run(session, IMMEDIATE))
    assert not unmute(admin) and assign(admin) == 0
    session.commit()
    assert rung(bell) == []
    assert unmute(admin) and assign(admin) == 1


def test_unmuted_before_the_publisher_looks(admin, bell, level):
    session = publisher(level)
    mute(admin)
    publish(session, "a", 1)
    assert unmute(admin) and assign(admin) == 0
    session.commit()
    assert sorted(rung(bell)) == RUNG and assign(admin) == 1


def test_publishers_ring_while_it_is_unmuted(admin, bell, level):
    """That holds the lock until its commit, before which nobody sees that it is unmuted."""
    session, manager = publisher(level), connect("READ COMMITTED")
    mute(admin)
    assert unmute(manager)
    publish(session, "a", 1)
    session.commit()
    assert sorted(rung(bell)) == RUNG


def test_quiet_publisher_rolls_back(admin, bell, level):
    session = keep_quiet(admin, bell, level, lambda session: run(session, IMMEDIATE))
    assert not unmute(admin)
    session.rollback()
    assert unmute(admin) and assign(admin) == 0


def test_quiet_in_a_savepoint(admin, bell, level):
    """What was decided in a savepoint is forgotten with it, and decided again."""
    def finish(session):
        run(session, "SAVEPOINT s")
        run(session, IMMEDIATE)
    session = keep_quiet(admin, bell, level, finish)
    assert not unmute(admin)
    run(session, "ROLLBACK TO s")
    assert unmute(admin)
    session.commit()
    assert sorted(rung(bell)) == RUNG and assign(admin) == 1


def test_prepared_while_muted(admin, bell, level):
    session = connect()
    while True:
        run(session, f"BEGIN ISOLATION LEVEL {level}")
        mute(admin)
        publish(session, "a", "prepared")
        try:
            run(session, "PREPARE TRANSACTION 'p'")
            break
        except psycopg2.errors.FeatureNotSupported:     # it took longer than a mute lasts
            assert not is_muted(admin)
            run(session, "ROLLBACK")
    session.close()
    assert not unmute(admin) and assign(admin) == 0
    publish(admin, "b", "goes on")
    assert assign(admin) == 1 and not unmute(admin)
    rung(bell)
    run(admin, "COMMIT PREPARED 'p'")
    assert rung(bell) == []
    assert unmute(admin) and assign(admin) == 1


def test_prepared_while_not_muted(admin, level):
    session = connect()
    run(session, f"BEGIN ISOLATION LEVEL {level}")
    publish(session, "a", "prepared")
    with pytest.raises(psycopg2.errors.FeatureNotSupported):
        run(session, "PREPARE TRANSACTION 'p'")
    assert unmute(admin) and assign(admin) == 0     # nothing is left that holds the lock


class Looker:
    """A manager, reduced to what matters here: it looks when the bell rings, when it feels like it while it mutes, and after that
    until unmute_doorbell() says that nobody is under way who kept quiet. All this at random; then it trusts the bell."""

    def __init__(self, seed, stop):
        self.session, self.stop, self.random = connect(), stop, random.Random(seed)
        self.muting = False
        self.count = {"muted": 0, "not yet": 0, "found quiet": 0}
        run(self.session, "LISTEN pgpoll")

    def has_rung(self):
        run(self.session, "SELECT 1")
        heard = [n for n in self.session.notifies if n.payload == ""]
        self.session.notifies.clear()
        return bool(heard)

    def look(self):
        if self.muting and (self.stop.is_set() or self.random.random() < 0.5):
            self.muting = not unmute(self.session)
            self.count["not yet"] += self.muting
        elif not self.stop.is_set() and self.random.random() < 0.5:
            mute(self.session, self.random.choice([1, 200, 1000]))
            self.muting = True
            self.count["muted"] += 1
        return assign(self.session)

    def work(self):
        """Until told to stop; then until it has nothing left to do."""
        while True:
            last = self.stop.is_set()
            rung_now = self.has_rung()
            if rung_now or self.muting:
                self.count["found quiet"] += bool(self.look()) and not rung_now
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


def test_nothing_is_left_lying(admin):
    """After each of many short rounds nobody publishes any more, the looker has nothing to do, and every message has its position."""
    dice, counts = random.Random(7), {}
    sessions = [publisher() for _ in range(5)]
    published = 0
    for number in range(150):
        stop = threading.Event()
        looker = Looker(number, stop)
        looker.muting = dice.random() < 0.8
        if looker.muting:
            mute(admin)
        working = Background(looker.work)
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
        # It was told to stop when all had committed: it hears everybody who rang before.
        looker.work()
        left = run(admin, "SELECT payload FROM pgpoll.messages m WHERE NOT EXISTS (SELECT FROM pgpoll.feed f WHERE f.message_id = m.id)")
        assert left == [], f"round {number}"
        for what, n in looker.count.items():
            counts[what] = counts.get(what, 0) + n
        looker.session.close()
    assert run(admin, "SELECT count(*), count(DISTINCT message_id) FROM pgpoll.feed") == [(published, published)]
    assert min(counts.values()) > 20, counts
