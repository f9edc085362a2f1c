"""Races of a few sessions, step by step: who commits when, and what a reader sees between the steps."""
import hashlib

import psycopg2
import pytest

from sessions import LEVELS, Background, Reader, connect, publish, run, wait_until, waits_for_commit

IMMEDIATE = "SET CONSTRAINTS ALL IMMEDIATE"


@pytest.fixture(params=LEVELS)
def level(request):
    return request.param


def reader(**cursors):
    return Reader(connect(), ["a", "b"], {"a": 0, "b": 0, **cursors})


def test_first_to_insert_last_to_commit(admin, level):
    slow, fast, client = connect(level), connect(level), reader()
    publish(slow, "a", "slow 1", "slow 2")
    publish(fast, "a", "fast")
    fast.commit()
    assert client.read() == ["fast"]
    publish(slow, "b", "slow 3")
    slow.commit()
    assert client.read() == ["slow 1", "slow 2", "slow 3"]
    assert reader().read() == ["fast", "slow 1", "slow 2", "slow 3"]


def test_reader_from_now_gets_what_was_under_way(admin, level):
    publish(admin, "a", "old")
    slow, client = connect(level), Reader(connect(), ["a", "b"])
    publish(slow, "a", "under way")
    publish(slow, "b", "under way too")
    assert client.read() == []
    slow.commit()
    assert client.read() == ["under way", "under way too"]


def test_savepoints(admin, level):
    slow, fast, client = connect(level), connect(level), reader()
    publish(slow, "a", "kept")
    run(slow, "SAVEPOINT s")
    publish(slow, "a", "undone")
    publish(slow, "b", "undone too")
    publish(fast, "a", "fast")
    fast.commit()
    run(slow, "ROLLBACK TO s")
    publish(slow, "a", "instead")
    run(slow, "SAVEPOINT s")
    publish(slow, "b", "released")
    run(slow, "RELEASE s")
    assert client.read() == ["fast"]
    slow.commit()
    assert client.read() == ["kept", "instead", "released"]


def test_rollback(admin, level):
    undone, client = connect(level), reader()
    publish(undone, "a", "undone")
    run(undone, IMMEDIATE)
    undone.rollback()
    publish(admin, "a", "next")
    assert client.read() == ["next"]


def test_positions_undone_in_a_savepoint(admin, level):
    slow, client = connect(level), reader()
    run(slow, "SAVEPOINT s")
    publish(slow, "a", "undone")
    run(slow, IMMEDIATE)
    run(slow, "ROLLBACK TO s")
    publish(admin, "a", "other")    # the lock went with the savepoint
    publish(slow, "a", "kept")
    slow.commit()
    assert client.read() == ["other", "kept"]


def test_open_transaction_holds_nobody_back(admin, level):
    opened, other, client = connect(level), connect(level), reader()
    publish(opened, "a", "opened")
    publish(other, "a", "other")
    run(other, "SET statement_timeout = '5s'")
    other.commit()
    assert client.read() == ["other"]
    opened.commit()
    assert client.read() == ["opened"]


def test_second_commit_waits_for_the_first(admin, level):
    first, second, client = connect(level), connect(level), reader()
    publish(second, "a", "second")
    publish(first, "a", "first")
    run(first, IMMEDIATE)
    commit = Background(second.commit)
    wait_until(lambda: waits_for_commit(admin, second))
    assert client.read() == []
    publish(first, "b", "first too")
    first.commit()
    commit.join()
    assert client.read() == ["first", "first too", "second"]


def test_commit_does_not_wait_for_ever(admin, level):
    run(admin, "ALTER FUNCTION pgpoll.assign_position() SET lock_timeout = '300ms'")
    try:
        first, second, client = connect(level), connect(level), reader()
        publish(first, "a", "first")
        run(first, IMMEDIATE)
        publish(second, "a", "second")
        with pytest.raises(psycopg2.errors.LockNotAvailable):
            second.commit()
        first.commit()
        publish(second, "a", "again")
        second.commit()
        assert client.read() == ["first", "again"]
    finally:
        run(admin, "ALTER FUNCTION pgpoll.assign_position() SET lock_timeout = '10s'")


def test_two_that_block_each_other(admin, level):
    """Rows of the business and the commit lock in opposite order: PostgreSQL ends one of them, the other's messages arrive."""
    run(admin, "CREATE TABLE IF NOT EXISTS account (id integer PRIMARY KEY, n integer)")
    run(admin, "INSERT INTO account VALUES (1, 0) ON CONFLICT DO NOTHING")
    early, late, client = connect(level), connect(level), reader()
    publish(early, "a", "early")
    run(early, IMMEDIATE)
    publish(late, "a", "late")
    run(late, "UPDATE account SET n = n + 1")
    commit = Background(late.commit)
    wait_until(lambda: waits_for_commit(admin, late))
    done = []
    for finish in (lambda: (run(early, "UPDATE account SET n = n + 1"), early.commit()), commit.join):
        try:
            finish()
            done.append(["early", "late"][finish == commit.join])
        except psycopg2.errors.OperationalError:    # a deadlock, or a row that changed since the snapshot
            early.rollback()
    assert done and client.read() == done


def test_publishers_do_not_fail_each_other(admin, level):
    """Serializable ones would if a commit read more than its own messages; a small table tempts the planner to."""
    publish(admin, "a", 0)
    run(admin, "VACUUM ANALYZE pgpoll.messages")
    first, second, client = connect(level), connect(level), reader()
    publish(first, "a", 1)
    publish(second, "a", 2)
    second.commit()
    first.commit()
    assert client.read() == [0, 2, 1]


def test_prepared_transactions_are_refused(admin, level):
    two_phase, client = connect(), reader()
    run(two_phase, f"BEGIN ISOLATION LEVEL {level}")
    publish(two_phase, "a", "prepared")
    with pytest.raises(psycopg2.errors.FeatureNotSupported):
        run(two_phase, "PREPARE TRANSACTION 'p'")
    publish(admin, "a", "next")     # nothing is left that holds the lock
    assert client.read() == ["next"]


def test_message_deleted_by_another_before_a_reader_comes(admin, level):
    client, other = reader(), connect(level)
    publish(admin, "a", 1, 2, 3)
    run(other, "DELETE FROM pgpoll.messages WHERE payload::text = '2'")
    assert client.page(messages=2) is True
    other.commit()
    assert client.read() == [3] and reader().read(messages=1) == [1, 3]


def test_page_is_read_in_one_snapshot(admin):
    """Pruned between catch_up's look for gaps and its look for messages: the one must not miss what the other does not tell."""
    publish(admin, "a", "old")
    run(admin, "SELECT pg_sleep(0.002)")
    pruner, client = connect("READ COMMITTED"), reader()
    run(pruner, "LOCK TABLE pgpoll.messages IN ACCESS EXCLUSIVE MODE")
    page = Background(client.read)
    wait_until(lambda: run(admin, "SELECT 1 FROM pg_locks WHERE pid = %s AND NOT granted", client.session.info.backend_pid))
    assert run(pruner, "SELECT pgpoll.prune('0')") == [(1,)]
    pruner.commit()
    assert page.join() == ["old"] and client.gaps == []
    assert reader().read() == []


def test_two_prunes_take_turns(admin):
    publish(admin, "a", *range(10))
    run(admin, "SELECT pg_sleep(0.002)")
    first, second = connect("READ COMMITTED"), connect("READ COMMITTED")
    assert run(first, "SELECT pgpoll.prune('0', 4)") == [(4,)]
    prune = Background(run, second, "SELECT pgpoll.prune('0')")
    wait_until(lambda: run(admin, "SELECT 1 FROM pg_locks WHERE pid = %s AND NOT granted", second.info.backend_pid))
    publish(admin, "b", "publishers go on")
    first.commit()
    assert prune.join() == [(6,)]
    second.commit()
    assert reader().read() == ["publishers go on"]


def test_notification(admin):
    """One on the channel of each topic, after the commit, with the position; listen() says the channels, end_wait() ends it."""
    topics = ["a", "Ünï ' \" \\"]
    waiter, other = connect(), connect(LEVELS[0])
    channels = ["pgpoll_" + hashlib.md5(topic.encode()).hexdigest() for topic in topics]
    assert [channel for channel, in run(waiter, "SELECT pgpoll.listen(%s)", topics)] == channels
    run(waiter, "SELECT pgpoll.begin_wait('host', 1, %s, 'client', 0, 1000)", topics)

    publish(other, "b", "not asked for")
    other.commit()
    publish(other, topics[1], "undone")
    other.rollback()
    publish(other, topics[1], "sent")
    publish(other, topics[0], "sent")
    run(waiter, "SELECT 1")
    assert waiter.notifies == []
    other.commit()
    run(waiter, "SELECT 1")
    positions = dict(run(admin, "SELECT topic, position::text FROM pgpoll.feed"))
    assert [(n.channel, n.payload) for n in waiter.notifies] == [(channels[1], positions[topics[1]]), (channels[0], positions[topics[0]])]

    waiter.notifies.clear()
    run(waiter, "SELECT pgpoll.unlisten(%s)", topics[:1])
    assert run(waiter, "SELECT pg_listening_channels()") == [(channels[1],)]
    run(waiter, "SELECT pgpoll.end_wait('host', 1)")
    assert run(waiter, "SELECT pg_listening_channels()") == [] and run(admin, "SELECT 1 FROM pgpoll.waiters") == []
    publish(admin, "a", "nobody listens")
    run(waiter, "SELECT 1")
    assert waiter.notifies == []


def test_killed_worker_is_not_counted(admin):
    worker = connect()
    run(worker, "SELECT pgpoll.begin_wait('host', 1, '{a}', 'client', 0, 60000)")
    active = "SELECT active_waiters FROM pgpoll.stats"
    assert run(admin, active) == [(1,)]
    run(admin, "SELECT pg_terminate_backend(%s)", worker.info.backend_pid)
    wait_until(lambda: run(admin, active) == [(0,)])
    run(admin, "SELECT pgpoll.sweep_waiters()")
    assert run(admin, "SELECT 1 FROM pgpoll.waiters") == []
