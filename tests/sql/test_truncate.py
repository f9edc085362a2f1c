"""TRUNCATE pgpoll.messages: clients are told of the gap, also of messages that had no position yet."""
import psycopg2
import pytest

from sessions import LEVELS, Background, Reader, assign, connect, publish, run, wait_until, waits_for_lock

TRUNCATE = "TRUNCATE pgpoll.messages"


def reader(*topics, **cursors):
    """A reader that has read its topics to the end, or that starts at the cursors given."""
    client = Reader(connect(), topics, cursors)
    client.read()
    return client


def gaps(client):
    """The topics for which the client gets the gap 'expired'."""
    client.gaps.clear()
    assert client.read() == []
    return sorted(topic for topic, gap, _, _ in client.gaps if gap == "expired")


def goes_on(admin, *clients):
    """No client is told of the gap again, and each gets what is published from here on."""
    for client in clients:
        assert gaps(client) == []
    for topic in {topic for client in clients for topic in client.topics}:
        publish(admin, topic, "next")
    for client in clients:
        assert client.read() == ["next"] * len(client.topics) and not client.gaps


def test_messages_without_a_position(admin):
    publish(admin, "a", 1)
    publish(admin, "quiet", 1)
    client, new = reader("a", "b", "quiet"), reader("b", "quiet")
    publish(admin, "a", 2, 3)
    publish(admin, "b", 4)
    run(admin, TRUNCATE)
    assert gaps(client) == ["a", "b"] and gaps(new) == ["b"]
    assert gaps(Reader(connect(), ["a"], {"a": 0})) == ["a"] and gaps(Reader(connect(), ["b"])) == []
    goes_on(admin, client, new)


def test_messages_with_and_without_a_position(admin):
    client = reader("a", "b", "c")
    publish(admin, "a", 1)
    publish(admin, "b", 2)
    assign(admin)
    after_b = reader("b")
    publish(admin, "a", 3)
    publish(admin, "c", 4)
    run(admin, TRUNCATE + " RESTART IDENTITY")
    assert gaps(client) == ["a", "b", "c"] and gaps(after_b) == []
    goes_on(admin, client, after_b)


def test_messages_of_a_transaction_that_the_last_batch_found_under_way(admin):
    slow, client = connect(LEVELS[0]), reader("a", "b")
    publish(slow, "a", 1)
    publish(admin, "b", 2)
    assert client.read() == [2]
    slow.commit()
    run(admin, TRUNCATE)
    assert gaps(client) == ["a"]
    goes_on(admin, client)


def test_messages_that_were_never_committed_are_no_gap(admin):
    undone, truncater, client = connect(LEVELS[0]), connect(LEVELS[0]), reader("a", "b", "c")
    publish(undone, "a", 1)
    undone.rollback()
    publish(truncater, "b", 2)
    run(truncater, "SAVEPOINT s")
    publish(truncater, "b", 3)
    run(truncater, "RELEASE s")
    publish(admin, "c", 4)
    run(truncater, "SET CONSTRAINTS ALL IMMEDIATE")     # PostgreSQL refuses TRUNCATE while triggers are pending
    run(truncater, TRUNCATE)
    publish(truncater, "b", "after it")
    truncater.commit()
    client.gaps.clear()
    assert client.read() == ["after it"] and [gap[0] for gap in client.gaps] == ["c"]


def test_undone(admin):
    truncater, client = connect(LEVELS[0]), reader("a")
    publish(admin, "a", 1)
    run(truncater, TRUNCATE)
    truncater.rollback()
    assert client.read() == [1] and not client.gaps


def test_truncate_is_announced(admin):
    """Like a batch: to each topic's channel and to the managers, with a position that was given."""
    waiter, manager = connect(), connect()
    channels = [channel for channel, in run(waiter, "SELECT pgpoll.listen('{a,b}')")]
    publish(admin, "a", 1)
    publish(admin, "a", 2)
    run(manager, "LISTEN pgpoll")
    run(waiter, "SELECT 1")
    waiter.notifies.clear()
    run(admin, TRUNCATE)
    run(waiter, "SELECT 1")
    run(manager, "SELECT 1")
    floor = run(admin, "SELECT pruned_to::text FROM pgpoll.retention WHERE topic = 'a'")[0][0]
    assert [(n.channel, n.payload) for n in waiter.notifies] == [(channels[0], floor)]
    assert [(n.channel, n.payload) for n in manager.notifies] == [("pgpoll", floor + " *")]
    assert run(admin, "SELECT DISTINCT assigned, complete_to::text FROM pgpoll.new_messages(1, 1)") == [(0, floor)]
    waiter.notifies.clear()
    run(admin, TRUNCATE)
    run(waiter, "SELECT 1")
    assert waiter.notifies == []        # there were no messages


def test_before_the_first_batch_after_a_server_start(admin, cluster):
    """Transaction numbers mean nothing: the database may come from another cluster."""
    cluster.start("fsync=off")
    cluster.create("d")
    cluster.install("d")
    owner = cluster.connect("d")
    publish(owner, "a", 1)
    run(owner, TRUNCATE)                # there was no batch yet
    client = Reader(owner, ["a", "b", "c"], {"a": 0, "b": 0, "c": 0})
    assert gaps(client) == ["a"]
    publish(owner, "a", 1)
    assert client.read() == [1]
    publish(owner, "b", 2)
    run(owner, "UPDATE pgpoll.batches SET cluster = 1, next_xid = '1000000000000'")
    cluster.stop()
    cluster.start()
    owner = client.session = cluster.connect("d")
    run(owner, TRUNCATE)
    assert gaps(client) == ["b"]
    goes_on(owner, client)


@pytest.mark.parametrize("level", LEVELS[1:])
def test_refused_with_an_old_snapshot(admin, level):
    """It does not show what was published since, which would be removed without a gap."""
    old, client = connect(level), reader("a")
    run(old, "SELECT 1 FROM pg_class")
    publish(admin, "a", 1)
    with pytest.raises(psycopg2.Error, match=f"(?s)that is {level}.*BEGIN ISOLATION LEVEL READ COMMITTED"):
        run(old, TRUNCATE)
    old.rollback()
    assert client.read() == [1]


def test_positions_wait_for_it(admin):
    """A batch that starts during a TRUNCATE gives positions after those that are removed."""
    truncater, assigner, client = connect(LEVELS[0]), connect(), reader("a")
    publish(admin, "a", 1)
    run(truncater, TRUNCATE)
    publish(truncater, "a", 2)
    looks = Background(run, assigner, "SELECT assigned, payload FROM pgpoll.new_messages(10, 1000)")
    wait_until(lambda: waits_for_lock(admin, assigner))
    truncater.commit()
    assert looks.join() == [(1, 2)]
    client.gaps.clear()
    assert client.read() == [2] and [gap[0] for gap in client.gaps] == ["a"]
