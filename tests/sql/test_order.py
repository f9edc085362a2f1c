"""Races of a few sessions, step by step: which commits when, and what a reader sees between the steps."""
import hashlib
import random

import pytest

from sessions import LEVELS, Background, Reader, assign, connect, publish, run, wait_until, waits_for_lock, write_statistics


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


def test_reader_from_now_gets_transactions_under_way(admin, level):
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
    undone.rollback()
    publish(admin, "a", "next")
    assert client.read() == ["next"]


def test_open_transaction_delays_only_its_own_messages(admin, level):
    opened, other, client = connect(level), connect(level), reader()
    publish(opened, "a", "opened")
    publish(other, "a", "other")
    run(other, "SET statement_timeout = '5s'")
    other.commit()
    assert client.read() == ["other"]
    opened.commit()
    assert client.read() == ["opened"]


def test_publishers_wait_for_no_assigner(admin, level):
    publish(admin, "a", "first")
    assigner, other, client = connect("READ COMMITTED"), connect(level), reader()
    assert assign(assigner) == 1
    run(other, "SET statement_timeout = '5s'")
    publish(other, "a", "second")
    other.commit()
    assigner.commit()
    assert client.read() == ["first", "second"]


def test_two_assigners_take_turns(admin):
    first, second = connect("READ COMMITTED"), connect("READ COMMITTED")
    publish(admin, "a", 1, 2)
    assert assign(first) == 2
    waiting = Background(assign, second)
    wait_until(lambda: waits_for_lock(admin, second))
    publish(admin, "b", 3)
    assert run(admin, "SELECT 1 FROM pgpoll.feed") == []
    first.commit()
    assert waiting.join() == 1
    second.commit()
    assert reader().read() == [1, 2, 3]
    assert run(admin, "SELECT count(*), count(DISTINCT message_id), count(DISTINCT position) FROM pgpoll.feed") == [(3, 3, 3)]


def test_assigner_finds_that_another_was_faster(admin):
    first, second = connect("READ COMMITTED"), connect("READ COMMITTED")
    publish(admin, "a", 1)
    assert assign(first) == 1
    waiting = Background(assign, second)
    wait_until(lambda: waits_for_lock(admin, second))
    first.commit()
    assert waiting.join() == 0
    second.commit()
    assert reader().read() == [1]


def test_positions_undone(admin):
    """After a rollback the messages get higher positions, and no notification of the first ones is sent."""
    listener, assigner = connect(), connect("READ COMMITTED")
    run(listener, "SELECT pgpoll.listen('{a}')")
    publish(admin, "a", 1, 2)
    assert assign(assigner) == 2
    undone = run(assigner, "SELECT max(position) FROM pgpoll.feed")[0][0]
    assigner.rollback()
    publish(admin, "a", 3)
    assert assign(admin) == 3
    positions = [position for position, in run(admin, "SELECT position FROM pgpoll.feed ORDER BY position")]
    assert positions[0] > undone
    run(listener, "SELECT 1")
    assert [n.payload for n in listener.notifies if n.payload] == [str(positions[-1])]
    assert reader().read() == [1, 2, 3]


def test_commits_just_after_its_snapshot(admin, level):
    """The query that gives positions sees more than the snapshot before it, which defines the batch."""
    slow, slower, holder, assigner, client = connect(level), connect(level), connect("READ COMMITTED"), connect(), reader()
    publish(slower, "a", "under way for long")
    publish(admin, "a", "first")
    assert client.read() == ["first"]
    publish(slow, "a", "under way")
    publish(admin, "a", "seen")
    run(holder, "ALTER SEQUENCE pgpoll.last_position CACHE 1")      # which is read in between
    waiting = Background(assign, assigner)
    wait_until(lambda: waits_for_lock(admin, assigner))
    slow.commit()
    slower.commit()
    publish(admin, "b", "begun after it")
    holder.rollback()
    assert waiting.join() == 1
    assert client.read() == ["seen", "under way for long", "under way", "begun after it"] and assign(admin) == 0


def test_publishes_before_and_after_it_gives_positions(admin):
    mixed, other, client = connect("READ COMMITTED"), connect(), reader()
    publish(admin, "a", "of another")
    publish(mixed, "a", "before")
    run(mixed, "SAVEPOINT s")
    publish(mixed, "a", "in a savepoint")
    assert assign(mixed) == 3
    run(mixed, "RELEASE s")
    publish(mixed, "a", "between")
    publish(admin, "a", "another's")
    assert assign(mixed) == 2
    publish(mixed, "a", "after")
    waiting = Background(client.read)
    wait_until(lambda: waits_for_lock(admin, client.session))
    mixed.commit()
    assert waiting.join() == ["of another", "before", "in a savepoint", "between", "another's", "after"]
    run(other, "BEGIN")
    assert assign(other) == 0
    publish(other, "a", "first thing after")
    run(other, "COMMIT")
    assert client.read() == ["first thing after"]


@pytest.mark.parametrize("level", LEVELS[1:])
def test_gives_no_positions_with_an_old_snapshot(admin, level):
    old, client = connect(level), reader()
    publish(admin, "a", 1)
    assert assign(old) == 0
    assert client.read() == [1]
    publish(old, "a", 2)
    assert assign(old) == 0
    old.commit()
    assert client.read() == [2]


def test_many_under_way(admin):
    """Each message is in the first batch after its commit, in whatever order the transactions end."""
    sessions = [connect(LEVELS[n % 3]) for n in range(30)]
    client, dice = reader(), random.Random(1)
    for n, session in enumerate(sessions):
        publish(session, "a", n)
        if n % 4 == 0:
            run(session, "SAVEPOINT s")
            publish(session, "b", -n)
        if dice.random() < 0.3:
            assert client.read() == []
    order = list(range(30))
    dice.shuffle(order)
    expected = []
    for n in order:
        publish(sessions[n], "b", 100 + n)
        if n % 7 == 3:
            sessions[n].rollback()
        else:
            sessions[n].commit()
            expected += [n, -n, 100 + n] if n % 4 == 0 else [n, 100 + n]
        if dice.random() < 0.4:
            got = client.read()
            assert sorted(got) == sorted(expected)
            assert [n for n in got if n >= 100] == sorted((n for n in expected if n >= 100), key=[100 + n for n in order].index)
            expected = []
    assert sorted(client.read()) == sorted(expected) and assign(admin) == 0
    assert reader().read(messages=7) == [payload for _, payload in client.got]


def test_message_changed_before_it_has_a_position(admin, level):
    other, client = connect(level), reader()
    publish(admin, "a", 1, 2, 3, 4)
    run(other, "DELETE FROM pgpoll.messages WHERE payload::text = '1'")
    run(other, "UPDATE pgpoll.messages SET topic = 'b', payload = '22' WHERE payload::text = '2'")
    other.commit()
    run(other, "DELETE FROM pgpoll.messages WHERE payload::text = '3'")
    run(other, "UPDATE pgpoll.messages SET payload = '44' WHERE payload::text = '4'")
    assert client.read() == [22, 3, 4]
    other.commit()
    assert client.read() == [] and reader().read() == [22, 44]
    assert run(admin, "SELECT topic FROM pgpoll.feed ORDER BY position LIMIT 1") == [("b",)]


def cost(session):
    """Buffers that a call reads. The first call of a session also reads catalogs, and one in a hundred stores a batch."""
    look = "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT pgpoll.assign_positions()"
    plans = [run(session, look)[0][0][0]["Plan"] for _ in range(5)]
    return min(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] for plan in plans)


def call_often(session):
    run(session, "DO $$BEGIN FOR n IN 1..2000 LOOP PERFORM pgpoll.assign_positions(); COMMIT; END LOOP; END$$")


def test_bulk(admin):
    """Fifty thousand rows delay no other messages, whether under way, rolled back or delivered."""
    bulk, client = connect("READ COMMITTED"), reader()
    insert = "INSERT INTO pgpoll.messages (topic, payload) SELECT 'a', to_json(n) FROM generate_series(1, 50000) AS n"
    publish(admin, "b", "first")
    assert client.read() == ["first"]
    idle = cost(admin)
    run(bulk, insert)
    publish(admin, "b", "beside it")
    assert client.read() == ["beside it"] and cost(admin) <= idle + 10
    bulk.rollback()
    run(bulk, insert)
    call_often(admin)       # no other session publishes
    assert cost(admin) <= idle + 10
    bulk.rollback()
    call_often(admin)
    assert cost(admin) <= idle + 10

    run(bulk, insert)
    bulk.commit()
    assert assign(admin) == 50000
    assert run(admin, "SELECT max(position) - min(position) FROM pgpoll.feed WHERE topic = 'a'") == [(49999,)]
    assert client.read(messages=20000) == list(range(1, 50001))


def test_old_snapshot_does_not_slow_calls_down(admin):
    """The snapshot keeps the dead rows of a thousand batches and messages."""
    idle = cost(admin)
    old = connect("REPEATABLE READ")
    run(old, "SELECT 1")
    run(admin, """DO $$BEGIN FOR n IN 1..1000 LOOP
                      INSERT INTO pgpoll.messages (topic, payload) VALUES ('a', '0');
                      COMMIT;
                      PERFORM pgpoll.assign_positions();
                      COMMIT;
                  END LOOP; END$$""")
    assert len(reader(b=0).read(messages=1000)) == 1000
    run(admin, "DELETE FROM pgpoll.messages; DELETE FROM pgpoll.batches WHERE position < (SELECT max(position) FROM pgpoll.batches)")
    assert cost(admin) <= idle + 10
    publish(admin, "a", 1)
    assert assign(admin) == 1 and cost(admin) <= idle + 10


def test_batches_are_forgotten(admin):
    """Only the last row of batches is needed; old ones are deleted now and then."""
    publish(admin, "a", 0)
    assert assign(admin) == 1
    first = run(admin, "SELECT max(position) FROM pgpoll.batches")[0][0]
    run(admin, f"""DO $$BEGIN FOR n IN 1..20000 LOOP
                      INSERT INTO pgpoll.messages (topic, payload) VALUES ('a', '0');
                      COMMIT;
                      PERFORM pgpoll.assign_positions();
                      COMMIT;
                      EXIT WHEN NOT EXISTS (SELECT FROM pgpoll.batches WHERE position = {first});
                  END LOOP; END$$""")
    assert run(admin, "SELECT count(*) < 20000, min(position) > %s FROM pgpoll.batches", first) == [(True, True)]
    publish(admin, "a", 1)
    assert assign(admin) == 1


def test_publishers_do_not_fail_each_other(admin, level):
    """Serializable ones would fail if a commit read more than its own messages, for example by a sequential scan."""
    publish(admin, "a", 0)
    run(admin, "VACUUM ANALYZE pgpoll.messages")
    first, second, client = connect(level), connect(level), reader()
    publish(first, "a", 1)
    publish(second, "a", 2)
    second.commit()
    first.commit()
    assert client.read() == [0, 1, 2]


def test_message_deleted_by_another_before_a_reader_comes(admin, level):
    client, other = reader(), connect(level)
    publish(admin, "a", 1, 2, 3)
    run(other, "DELETE FROM pgpoll.messages WHERE payload::text = '2'")
    assert client.page(messages=2) is True
    other.commit()
    assert client.read() == [3] and reader().read(messages=1) == [1, 3]


def test_page_is_read_in_one_snapshot(admin):
    """A prune between the two queries of catch_up(), for gaps and for messages, must not cause a silent gap."""
    publish(admin, "a", "old")
    assign(admin)
    run(admin, "SELECT pg_sleep(0.002)")
    pruner, client = connect("READ COMMITTED"), reader()
    run(pruner, "LOCK TABLE pgpoll.messages IN ACCESS EXCLUSIVE MODE")
    page = Background(client.catch_up)
    wait_until(lambda: waits_for_lock(admin, client.session))
    assert run(pruner, "SELECT pgpoll.prune('0')") == [(1,)]
    pruner.commit()
    assert page.join() is False and [payload for _, payload in client.got] == ["old"] and client.gaps == []
    assert reader().read() == []


def test_two_prunes_take_turns(admin):
    publish(admin, "a", *range(10))
    assign(admin)
    run(admin, "SELECT pg_sleep(0.002)")
    first, second = connect("READ COMMITTED"), connect("READ COMMITTED")
    assert run(first, "SELECT pgpoll.prune('0', 4)") == [(4,)]
    prune = Background(run, second, "SELECT pgpoll.prune('0')")
    wait_until(lambda: waits_for_lock(admin, second))
    publish(admin, "b", "publishers go on")
    first.commit()
    assert prune.join() == [(6,)]
    second.commit()
    assert reader().read() == ["publishers go on"]


def test_announcements(admin):
    """A batch sends one NOTIFY to each topic's channel, with the topic's highest position, and one to channel pgpoll,
    with its last position and the topics' hashes. listen() returns the channels."""
    assign(admin)
    topics = ["a", "Ünï ' \" \\"]
    waiter, manager, assigner = connect(), connect(), connect(LEVELS[0])
    channels = ["pgpoll_" + hashlib.sha256(topic.encode()).hexdigest()[:56] for topic in topics]
    assert [channel for channel, in run(waiter, "SELECT pgpoll.listen(%s)", topics)] == channels
    publish(admin, "b", "not asked for")
    publish(admin, topics[1], 1, 2)
    publish(admin, topics[0], 3)
    publish(admin, topics[1], 4)
    publish(admin, "b", "last")
    run(manager, "LISTEN pgpoll")
    run(waiter, "SELECT 1")
    waiter.notifies.clear()         # sent by the publishers
    assert assign(assigner) == 6
    run(waiter, "SELECT 1")
    assert waiter.notifies == []
    assigner.commit()
    run(waiter, "SELECT 1")
    run(manager, "SELECT 1")
    positions = dict(run(admin, "SELECT topic, max(position)::text FROM pgpoll.feed GROUP BY topic"))
    assert {(n.channel, n.payload) for n in waiter.notifies} == {(channels[0], positions[topics[0]]), (channels[1], positions[topics[1]])}
    assert len(waiter.notifies) == 2
    (announced,) = [n.payload for n in manager.notifies if n.channel == "pgpoll"]
    position, hashes = announced.split(" ")
    known = [format(number, "08x") for number, in run(manager, "SELECT hash FROM pgpoll.newest_positions(%s)", [*topics, "b"])]
    assert position == positions["b"] and {hashes[at:at + 8] for at in range(0, len(hashes), 8)} == set(known)


def test_only_workers_without_a_manager_cause_a_notify_for_each_topic(admin):
    """For an hour after such a worker has begun to wait. Otherwise a batch NOTIFYs managers only."""
    waiter = connect()
    channel, = run(admin, "SELECT pgpoll.channel('a')")[0]
    for lone_until, alone, expected in (("-1 s", False, []), ("1 m", False, [channel]), ("-1 s", True, [channel]),
                                        ("1 day", True, [channel]), ("-1 s", False, [])):
        run(admin, "SELECT setval('pgpoll.lone_until', (extract(epoch FROM clock_timestamp() + %s) * 1000)::bigint)", lone_until)
        run(waiter, "SELECT pgpoll.listen('{a}', alone => %s)", alone)
        lasts = run(admin, "SELECT last_value / 1000.0 - extract(epoch FROM clock_timestamp()) FROM pgpoll.lone_until")[0][0]
        assert lasts < 3601 and (lasts > 1800 or not alone)
        publish(admin, "a", 1)
        run(waiter, "SELECT 1")
        waiter.notifies.clear()     # sent by the publisher
        assert assign(admin) == 1
        run(waiter, "SELECT 1")
        assert [n.channel for n in waiter.notifies] == expected, (lone_until, alone)


def test_a_worker_without_a_manager_waits_for_a_batch_that_does_not_know_of_it(admin):
    """A batch that began before listen() may NOTIFY no topic. The worker reads its messages, because it gives positions first."""
    assign(admin)
    client, assigner = Reader(connect(), "a", {"a": 0}), connect(LEVELS[0])
    run(admin, "SELECT setval('pgpoll.lone_until', 1)")
    publish(admin, "a", 1)
    assert assign(assigner) == 1
    run(client.session, "SELECT pgpoll.listen('{a}')")
    client.session.notifies.clear()
    read = Background(client.read)
    wait_until(lambda: waits_for_lock(admin, client.session))
    assigner.commit()
    assert read.join() == [1] and client.session.notifies == []


def test_a_killed_worker_is_not_counted(admin):
    worker = connect()
    write_statistics(worker, "host", 1, began=["a"])
    active = "SELECT active_waiters FROM pgpoll.stats"
    assert run(admin, active) == [(1,)]
    run(admin, "SELECT pg_terminate_backend(%s)", worker.info.backend_pid)
    wait_until(lambda: run(admin, active) == [(0,)])
    run(admin, "SELECT pgpoll.sweep_waiters()")
    assert run(admin, "SELECT 1 FROM pgpoll.waiters") == []
