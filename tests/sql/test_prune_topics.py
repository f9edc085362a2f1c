"""How long messages are kept, by topic: rules, patterns, the last few; and what clients are told."""
import contextlib
import os
import pathlib
import random
import subprocess
import time

import psycopg2
import psycopg2.errors
import pytest

from sessions import Background, assign, connect, publish, run, wait_until, waits_for_lock

PRUNE = pathlib.Path(__file__).resolve().parents[2] / "sql" / "prune.sql"


@pytest.fixture(name="owner")
def without_rules(admin):
    yield admin
    run(admin, "DELETE FROM pgpoll.retention_rules")


def fill(session, topic, *ages):
    """Publishes messages that are so many minutes old, the oldest first; their payloads are their ages."""
    publish(session, topic, *ages)
    assign(session)
    for age in ages:
        run(session, "UPDATE pgpoll.feed f SET position = (extract(epoch FROM clock_timestamp() - %s * interval '1 min') * 1000)::bigint << 16"
                     " FROM pgpoll.messages m WHERE m.id = f.message_id AND m.topic = %s AND m.payload::text = %s", age, topic, str(age))


def kept(session):
    rows = run(session, "SELECT m.topic, m.payload::text::int FROM pgpoll.messages m ORDER BY m.topic, m.id")
    assert run(session, "SELECT count(*) FROM pgpoll.feed f LEFT JOIN pgpoll.messages m ON m.id = f.message_id WHERE m.id IS NULL") == [(0,)]
    found = {}
    for topic, age in rows:
        found.setdefault(topic, []).append(age)
    return found


def rule(session, topics, keep, keep_last=0):
    run(session, "INSERT INTO pgpoll.retention_rules (topics, keep, keep_last) VALUES (%s, %s, %s)", topics, keep, keep_last)


def test_rules(owner):
    for topic in "ticks.eur", "ticks.usd", "ticks", "orders", "audit.a", "rooms.1", "rooms.2":
        fill(owner, topic, 300, 200, 90, 30, 5)
    rule(owner, "ticks.%", "1 hour")
    rule(owner, "audit.%", "1 year")
    rule(owner, "rooms._", "0", 2)
    run(owner, "CALL pgpoll.prune_topics('2 hours')")
    assert kept(owner) == {"ticks.eur": [30, 5], "ticks.usd": [30, 5], "ticks": [90, 30, 5], "orders": [90, 30, 5],
                           "audit.a": [300, 200, 90, 30, 5], "rooms.1": [30, 5], "rooms.2": [30, 5]}
    gaps = run(owner, "SELECT topic_no, gap FROM pgpoll.catch_up('{ticks.eur,audit.a,rooms.1,new}', '{1,1,1,1}', 1, 1) WHERE created_at IS NULL")
    assert gaps == [(1, "expired"), (2, None), (3, "expired"), (4, None)]
    assert run(owner, "SELECT position = pruned_to FROM pgpoll.catch_up('{rooms.1}', '{-3}', 9, 99999), pgpoll.retention"
                      " WHERE topic = 'rooms.1' AND created_at IS NULL") == [(True,)]
    # A position that was really deleted is where the gap ends.
    assert run(owner, "SELECT bool_and(pruned_to < (SELECT min(position) FROM pgpoll.feed f WHERE f.topic = r.topic)) FROM pgpoll.retention r") == [(True,)]


@pytest.mark.parametrize("rules, topic, keeps", [
    ([("%", 0), ("a%", 1)], "abc", 1), ([("%c", 1), ("ab%", 2)], "abc", 2), ([("abc", 3), ("ab%c", 4), ("abc%", 5)], "abc", 3),
    ([("a_c", 1), ("ab%", 2), ("a%c", 3)], "abc", 3), ([(r"a\%c", 1), ("a%c", 2)], "a%c", 1), ([(r"a\_c", 1), ("a%", 2)], "abc", 2),
    ([(r"a\\c", 1), ("a%", 2)], "a\\c", 1), ([("A%", 1)], "abc", None), ([("ü%", 1), ("%", 2)], "üx", 1)])
def test_the_most_specific_rule(owner, rules, topic, keeps):
    """keeps: the rule's keep_last; None: no rule matches. An exact name is the most specific, then that with the most literal characters."""
    fill(owner, topic, *range(50, 40, -1))
    for pattern, last in random.sample(rules, len(rules)):
        rule(owner, pattern, "0", last)
    run(owner, "CALL pgpoll.prune_topics('1 day')")
    assert len(kept(owner).get(topic, [])) == (10 if keeps is None else keeps)


@pytest.mark.parametrize("pattern, keep, last", [("a\\", "1 day", 0), ("a", "-1 s", 0), ("a", None, 0), (None, "1 day", 0), ("a", "1 day", -1),
                                                 ("a", "2000 years", 0)])
def test_rules_that_are_refused(owner, pattern, keep, last):
    with pytest.raises((psycopg2.errors.CheckViolation, psycopg2.errors.NotNullViolation)):
        rule(owner, pattern, keep, last)


@pytest.mark.parametrize("arguments", ["NULL", "'-1 s'", "'1 s', 'a', -1", "'1 s', 'a', NULL", "'1 s', 'a', 0, 0"])
def test_arguments_that_are_refused(owner, arguments):
    with pytest.raises(psycopg2.errors.InvalidParameterValue):
        run(owner, f"CALL pgpoll.prune_topics({arguments})")


def test_a_pattern_by_hand(owner):
    """Whatever the rules say, and no other topics."""
    for topic in "a", "room.1", "room.2", "room", "z":
        fill(owner, topic, 30, 20, 10)
    rule(owner, "room.%", "1 year")
    run(owner, "CALL pgpoll.prune_topics('15 min', 'room.%')")
    assert kept(owner) == {"a": [30, 20, 10], "room.1": [10], "room.2": [10], "room": [30, 20, 10], "z": [30, 20, 10]}
    run(owner, "CALL pgpoll.prune_topics('0', '%o%', 1)")
    assert kept(owner) == {"a": [30, 20, 10], "room.1": [10], "room.2": [10], "room": [10], "z": [30, 20, 10]}
    run(owner, "CALL pgpoll.prune_topics('0', keep_last => 2)")
    assert kept(owner) == {"a": [20, 10], "room.1": [10], "room.2": [10], "room": [10], "z": [20, 10]}


def test_a_pattern_where_a_backslash_escapes(owner):
    """The body of a function is parsed by the settings of the session that calls it first."""
    fill(owner, "room_1", 30, 10)
    fill(owner, "room-1", 30, 10)
    session = connect()
    run(session, "SET standard_conforming_strings = off")
    run(session, r"CALL pgpoll.prune_topics('15 min', E'room\\_%')")
    assert kept(owner) == {"room_1": [10], "room-1": [30, 10]}
    assert session.notices == []


def test_what_the_timer_runs(owner):
    """sql/prune.sql, with rules and without, also where transactions are SERIALIZABLE by default."""
    fill(owner, "audit", 90, 10)
    fill(owner, "orders", 90, 10)
    publish(owner, "new", 1)
    rule(owner, "audit", "1 year")
    prune = ["psql", "-Xq", "-v", "keep=1 hour", "-f", PRUNE]
    env = {**os.environ, "PGOPTIONS": "-c default_transaction_isolation=serializable"}
    subprocess.run(prune, env=env, check=True, stdin=subprocess.DEVNULL)
    assert kept(owner) == {"audit": [90, 10], "orders": [10], "new": [1]}
    assert run(owner, "SELECT count(*) FROM pgpoll.feed WHERE topic = 'new'") == [(1,)]
    run(owner, "DELETE FROM pgpoll.retention_rules")
    subprocess.run(prune, env=env, check=True, stdin=subprocess.DEVNULL)
    assert kept(owner) == {"audit": [10], "orders": [10], "new": [1]}


def test_the_timer_takes_longer_than_a_statement_may(owner):
    """An operator has limited statements in the database. To delete all takes at least 50000 / 21500 s."""
    run(owner, "INSERT INTO pgpoll.messages (topic, payload) SELECT 'many', '1' FROM generate_series(1, 50000)")
    wait_until(lambda: run(owner, "SELECT more FROM pgpoll.assign_positions()") == [(False,)])
    run(owner, "SELECT pg_sleep(0.002)")
    env = {**os.environ, "PGOPTIONS": "-c statement_timeout=2s"}
    subprocess.run(["psql", "-Xq", "-v", "keep=0", "-f", PRUNE], env=env, check=True, stdin=subprocess.DEVNULL)
    assert kept(owner) == {}


def test_the_timer_is_stopped(owner):
    """Its session does not go on alone."""
    holder = connect("READ COMMITTED")
    run(holder, "LOCK TABLE pgpoll.retention")
    pruning = subprocess.Popen(["psql", "-Xq", "-v", "keep=0", "-f", PRUNE], stdin=subprocess.DEVNULL)
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'pgpoll.retention'::regclass"
    wait_until(lambda: run(owner, waiting) == [(1,)])
    pruning.terminate()
    pruning.wait()
    wait_until(lambda: run(owner, waiting) == [(0,)])
    holder.rollback()


def test_prune_does_not_ignore_rules(owner):
    fill(owner, "audit", 10)
    rule(owner, "audit", "1 year")
    with pytest.raises(psycopg2.errors.ObjectNotInPrerequisiteState, match="retention_rules") as error:
        run(owner, "SELECT pgpoll.prune('1 min')")
    assert "CALL pgpoll.prune_topics('00:01:00');" in error.value.diag.message_hint
    assert kept(owner) == {"audit": [10]}


@pytest.mark.parametrize("batch", [1, 3, 7, 1000])
def test_batches_end_anywhere(owner, batch):
    topics = [f"t{n}" for n in range(6)]
    for topic in topics:
        fill(owner, topic, 50, 40, 30, 20, 10)
    rule(owner, "t3", "0", 1)
    run(owner, "CALL pgpoll.prune_topics('25 min', batch => %s)", batch)
    assert kept(owner) == {topic: [10] if topic == "t3" else [20, 10] for topic in topics}


@pytest.mark.parametrize("arguments", ["'0'", "'0', '%%'"])
def test_pauses_leave_room_for_publishers(owner, arguments):
    """At most 21,500 messages a second are deleted, however fast the machine is."""
    run(owner, "INSERT INTO pgpoll.messages (topic, payload) SELECT 'many', to_json(n) FROM generate_series(1, 10000) AS n")
    wait_until(lambda: run(owner, "SELECT more FROM pgpoll.assign_positions()") == [(False,)])
    run(owner, "SELECT pg_sleep(0.002)")
    began = time.monotonic()
    run(owner, f"CALL pgpoll.prune_topics({arguments})")
    assert time.monotonic() >= began + 10000 / 21500 and kept(owner) == {}


def parts(session, *arguments):
    """What each transaction deletes, until the end."""
    reached, deleted = None, []
    while not deleted or reached is not None:
        part, reached = run(session, "SELECT * FROM pgpoll.prune_part(%s, %s, %s, %s, %s)", *arguments, reached)[0]
        deleted.append(part)
    return deleted


def test_work_is_bounded(owner):
    """A transaction deletes at most a batch, and stops after a while where there is nothing to delete."""
    run(owner, "INSERT INTO pgpoll.messages (topic, payload) SELECT 't' || n % 5000, '1' FROM generate_series(1, 20000) AS n")
    while run(owner, "SELECT more FROM pgpoll.assign_positions()")[0][0]:
        pass
    nothing = parts(owner, "t%", "1 day", 0, 100)
    assert set(nothing) == {0}
    run(owner, "SELECT pg_sleep(0.002)")
    deleted = parts(owner, "t%", "0", 1, 100)
    assert sum(deleted) == 15000 and max(deleted) == 100
    assert run(owner, "SELECT count(*), min(n) FROM (SELECT count(*) AS n FROM pgpoll.feed GROUP BY topic) f") == [(5000, 1)]


def test_beside_publishers_and_readers(owner):
    """A reader that is never far behind reads everything, in order, or is told of a gap."""
    rule(owner, "race.%", "0", 20)
    over, got, gaps = [], [], []

    def publishing(session):
        for n in range(300):
            publish(session, f"race.{n % 3}", n)
        over.append(True)

    def pruning(session):
        while not over:
            run(session, "CALL pgpoll.prune_topics('1 hour', batch => 7)")

    threads = [Background(publishing, connect()), Background(pruning, connect())]
    reader, cursor, publishing_on = connect(), 0, True
    while publishing_on or rows[1:]:
        publishing_on = threads[0].is_alive()
        assign(reader)
        rows = run(reader, "SELECT * FROM pgpoll.catch_up('{race.1}', ARRAY[%s], 5, 9999)", cursor)
        for _, position, created, payload, _, gap, *_ in rows:
            if created is None:
                gaps += [gap] if gap else []
                cursor = max(cursor, position)
            elif payload is not None:
                got.append(payload)
                cursor = position
    for thread in threads:
        thread.join()
    assert got == sorted(set(got)) and got[-1] == 298
    assert set(gaps) <= {"expired"} and (gaps or len(got) == 100)
    run(owner, "CALL pgpoll.prune_topics('1 hour')")
    assert [run(owner, "SELECT count(*) FROM pgpoll.feed WHERE topic = %s", f"race.{n}")[0][0] for n in range(3)] == [20, 20, 20]


def test_one_prune_at_a_time(owner):
    fill(owner, "a", 30)
    first, second = connect("READ COMMITTED"), connect()
    run(first, "SELECT pgpoll.prune_part('a', '0', 0, 1, NULL)")
    pruning = Background(run, second, "CALL pgpoll.prune_topics('0', 'a')")
    wait_until(lambda: waits_for_lock(owner, second))
    first.rollback()
    pruning.join()
    assert kept(owner) == {}


def test_positions_are_given_where_nobody_polls(owner):
    publish(owner, "a", 1)
    run(owner, "CALL pgpoll.prune_topics('1 day', 'a')")
    assert run(owner, "SELECT topic FROM pgpoll.feed") == [("a",)]


def test_only_the_owner(owner):
    for role in "pgpoll_publisher", "pgpoll_poller", "pgpoll_monitor":
        session = connect()
        run(session, f"SET ROLE {role}")
        for statement in "CALL pgpoll.prune_topics('1 day')", "SELECT pgpoll.prune_part(NULL, '1 day', 0, 1, NULL)":
            with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                run(session, statement)
        with contextlib.suppress(psycopg2.Error):
            run(session, "RESET ROLE")
