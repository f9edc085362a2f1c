"""Backlogs, which are more messages than one batch takes: order, readers, concurrent batches, crashes."""
import itertools
import random
import threading
import time

import pytest

from sessions import LEVELS, Background, Reader, assign, connect, publish, run, wait_until
from test_history import TOPICS, connect_again, is_gone, kill_cluster, start_writers

BULK = "INSERT INTO pgpoll.messages (topic, payload) SELECT 't' || n %% 3, json_build_array(%s::integer, n) FROM generate_series(1, %s) AS n"


@pytest.fixture(autouse=True)
def unhurried(admin):
    """A batch also ends after about 50 ms, which a busy machine may spend on a piece of which few messages are new. With this, it does not.
    Yields the statement that makes it end again."""
    ((before,),) = run(admin, "SELECT pg_get_functiondef('pgpoll.assign_backlog'::regproc)")
    assert before.count("'50 ms'") == 1
    run(admin, before.replace("'50 ms'", "'1 hour'"))
    yield before
    run(connect(), before)


def batch(session, most=5):
    """Runs one batch of at most so many messages. Returns how many got a position, and whether to call again."""
    rows = run(session, "SELECT assigned, more, position, complete_to FROM pgpoll.new_messages(%s, 1000000)", most)
    positions = [position for _, _, position, _ in rows if position is not None]
    assert rows[0][0] <= most and len(positions) in (0, rows[0][0])
    assert positions == list(range(positions[0], positions[0] + len(positions))) if positions else True
    assert not positions or positions[-1] == rows[0][3]
    return rows[0][:2]


def work_off(session, most=5):
    """Runs batches to the end. Returns how many messages got a position in each."""
    done = []
    while True:
        assigned, more = batch(session, most)
        done.append(assigned)
        if not more:
            return done


def everything(session):
    """All payloads in the order of delivery, without the message of start()."""
    return [tuple(payload) for payload, in run(session, """SELECT m.payload FROM pgpoll.feed f JOIN pgpoll.messages m ON m.id = f.message_id
                                                           WHERE f.topic <> 'start' ORDER BY f.position""")]


def state(session, column="seen"):
    return run(session, f"SELECT {column} FROM pgpoll.batches ORDER BY position DESC LIMIT 1")[0][0]


def reader(**cursors):
    return Reader(connect(), TOPICS, cursors or dict.fromkeys(TOPICS, 0))


def read(client):
    """Reads to the end without giving positions."""
    before = len(client.got)
    while client.catch_up():
        pass
    return [tuple(payload) for _, payload in client.got[before:]]


def start(session):
    """Runs the first batch after the tables were emptied: later ones know by it what is new."""
    publish(session, "start", 0)
    assign(session)


def test_a_backlog_is_worked_off_in_batches_in_the_order_of_one_batch(admin):
    start(admin)
    client = reader()
    run(admin, BULK, 1, 37)
    assert [n for n in work_off(admin) if n] == [5] * 7 + [2]
    assert read(client) == [(1, n) for n in range(1, 38)]
    assert batch(admin) == (0, False)
    publish(admin, "t0", [2, 1])
    assert batch(admin) == (1, False) and read(client) == [(2, 1)]


@pytest.mark.parametrize("columns", ["payload, metadata", "metadata, payload"])
def test_large_messages_are_a_backlog(admin, unhurried, columns):
    """To measure one is to read it: 800 MB in one batch would hold up everybody, or never end if the statement is cancelled."""
    run(admin, unhurried)
    start(admin)
    run(admin, f"INSERT INTO pgpoll.messages (topic, {columns})"
               " SELECT 't1', to_json(n || repeat('x', 4000000)), '1' FROM generate_series(1, 200) AS n")
    done = []
    while True:
        assigned, more = run(admin, "SELECT assigned, more FROM pgpoll.new_messages(1000, 0)")[0]
        done.append(assigned)
        if not more:
            break
    assert max(done) < 200 and sum(done) == 200
    assert run(admin, "SELECT message_id FROM pgpoll.feed WHERE topic = 't1' ORDER BY position") == \
        run(admin, "SELECT id FROM pgpoll.messages WHERE topic = 't1' ORDER BY id")


def test_what_is_committed_meanwhile_comes_after_it(admin):
    start(admin)
    client, slow = reader(), connect("READ COMMITTED")
    publish(slow, "t1", [0, 1])
    run(admin, BULK, 1, 12)
    assert batch(admin) == (5, True)
    slow.commit()
    publish(admin, "t0", [2, 1])
    assert batch(admin) == (5, True)
    publish(admin, "t2", [3, 1])
    assert sum(work_off(admin)) == 5
    assert read(client) == [*((1, n) for n in range(1, 13)), (0, 1), (2, 1), (3, 1)]


@pytest.mark.parametrize("level", LEVELS)
def test_a_long_transaction_of_many_messages(admin, level):
    """While it is under way, others get positions, some of them with higher ids."""
    start(admin)
    client, slow = reader(), connect(level)
    run(slow, BULK, 1, 20)
    publish(admin, "t0", [2, 1])
    assert work_off(admin)[0] == 1
    run(slow, BULK, 3, 3)
    run(slow, "SAVEPOINT s")
    run(slow, BULK, 4, 3)
    run(slow, "ROLLBACK TO s")
    slow.commit()
    publish(admin, "t0", [5, 1])
    assert sum(work_off(admin)) == 24
    assert read(client) == [(2, 1), *((1, n) for n in range(1, 21)), *((3, n) for n in range(1, 4)), (5, 1)]


def test_ids_that_do_not_come_from_the_sequence(admin):
    """A few of them, more than a batch, and after TRUNCATE ... RESTART IDENTITY."""
    start(admin)
    insert = "INSERT INTO pgpoll.messages (id, topic, payload) OVERRIDING SYSTEM VALUE SELECT n, 't0', json_build_array(1, n) FROM generate_series({}) AS n"
    for ids, count in (("-3, -1", 3), ("-30, -11", 20)):
        publish(admin, "t1", [0, 0])
        assign(admin)
        publish(admin, "t1", [0, 0])
        assign(admin)
        client = reader()
        read(client)
        run(admin, insert.format(ids))
        run(admin, BULK, 2, 12)
        assert sum(work_off(admin)) == count + 12
        low, high = map(int, ids.split(","))
        assert read(client) == [*((1, n) for n in range(low, high + 1)), *((2, n) for n in range(1, 13))]
    run(admin, "TRUNCATE pgpoll.messages RESTART IDENTITY")
    client = reader()
    read(client)
    run(admin, BULK, 3, 12)
    assert sum(work_off(admin)) == 12 and read(client) == [(3, n) for n in range(1, 13)]


def test_from_now_is_after_the_backlog(admin):
    """The client gets nothing of the backlog, which was committed before, and all that is committed later."""
    start(admin)
    run(admin, BULK, 1, 12)
    assert batch(admin) == (5, True)
    client, known = Reader(connect(), TOPICS), reader()
    assert read(client) == [] and len(read(known)) == 5
    publish(admin, "t0", [2, 1])
    ahead = Reader(connect(), TOPICS, dict.fromkeys(TOPICS, 1 << 62))
    assert read(ahead) == [] and {gap[1] for gap in ahead.gaps} == {"ahead"}
    assert read(client) == []
    work_off(admin)
    assert read(client) == read(ahead) == [(2, 1)] and len(read(known)) == 8
    assert client.gaps == [] and known.gaps == []


def test_readers_do_not_queue_for_a_backlog(admin):
    start(admin)
    run(admin, BULK, 1, 12)
    assert batch(admin) == (5, True)
    holder, client = connect("READ COMMITTED"), reader()
    assert batch(holder) == (5, True)
    assert run(admin, "SELECT * FROM pgpoll.assign_positions()") == [(None, True)]
    assert len(read(client)) == 5
    holder.commit()
    assert assign(admin) == 2 and read(client) == [(1, n) for n in range(6, 13)]


def test_a_batch_is_undone(admin):
    start(admin)
    run(admin, BULK, 1, 12)
    undone, client = connect("READ COMMITTED"), reader()
    assert batch(undone) == (5, True)
    undone.rollback()
    assert batch(admin) == (5, True)
    assert batch(undone) == (5, True)
    undone.rollback()
    assert sum(work_off(admin)) == 7 and read(client) == [(1, n) for n in range(1, 13)]


def test_message_changed_before_it_has_a_position(admin):
    start(admin)
    run(admin, BULK, 1, 12)
    client, deleter = reader(), connect("READ COMMITTED")
    assert batch(admin) == (5, True)
    run(admin, "DELETE FROM pgpoll.messages WHERE payload::text IN ('[1, 2]', '[1, 7]')")
    run(admin, "UPDATE pgpoll.messages SET payload = '[1, 88]' WHERE payload::text = '[1, 8]'")
    run(deleter, "DELETE FROM pgpoll.messages WHERE payload::text = '[1, 9]'")
    work_off(admin)
    deleter.rollback()
    assert read(client) == [(1, n) for n in (1, 3, 4, 5, 6, 88, 9, 10, 11, 12)]


def test_a_transaction_that_published_gives_positions(admin):
    """Its own messages, which other sessions do not see yet, get positions after its commit."""
    start(admin)
    mixed, client = connect("READ COMMITTED"), reader()
    run(mixed, BULK, 0, 2)
    run(admin, BULK, 1, 12)
    assert batch(mixed) == (5, True)
    run(mixed, BULK, 2, 2)
    mixed.commit()
    assert sum(work_off(admin)) == 11
    assert read(client) == [*((1, n) for n in range(1, 13)), (0, 1), (0, 2), (2, 1), (2, 2)]


def test_truncate_in_a_backlog(admin):
    """Clients are told of messages that had no position, and get all later ones."""
    start(admin)
    client = reader()
    run(admin, BULK, 1, 12)
    assert batch(admin) == (5, True)
    assert len(read(client)) == 5
    run(admin, "TRUNCATE pgpoll.messages RESTART IDENTITY")
    publish(admin, "t0", [2, 1])
    assert sum(work_off(admin)) == 1
    assert read(client) == [(2, 1)] and {gap[:2] for gap in client.gaps} == {(topic, "expired") for topic in TOPICS}


def test_prune_gives_positions_where_nobody_polls(admin):
    """In batches: the caller repeats it while it returns more than 0."""
    start(admin)
    run(admin, BULK, 1, 12000)
    given = [n for n, in iter(lambda: run(admin, "SELECT pgpoll.prune('1 day')")[0], (0,))]
    assert given and max(given) <= 5000
    assert run(admin, "SELECT without_position FROM pgpoll.retained") == [(0,)]
    assert len(everything(admin)) == 12000


class Numberer:
    """Gives positions in small batches, some of which it rolls back, until it is told to stop; then to the end."""

    def __init__(self, number, stop):
        self.session, self.stop, self.dice = connect("READ COMMITTED"), stop, random.Random(number)
        self.backlogs = 0

    def __call__(self):
        while True:
            last = self.stop.is_set()
            _, more = batch(self.session, self.dice.choice([1, 3, 8]))
            if not last and self.dice.random() < 0.1:
                self.session.rollback()
            else:
                self.session.commit()
            self.backlogs += more
            if last and not more:
                return
            time.sleep(self.dice.random() * 0.02)


def test_everybody_reads_the_same_history(admin):
    """Writers of all kinds, long transactions, and several sessions that give positions too slowly."""
    start(admin)
    done, stop = threading.Event(), threading.Event()
    writers, writing = start_writers(range(5), done)
    numberers = [Numberer(n, stop) for n in range(3)]
    numbering = [Background(numberer) for numberer in numberers]
    readers = [reader() for _ in range(2)]
    late, since = [], []
    bulk = connect("READ COMMITTED")
    for n in range(4):
        run(bulk, BULK, 100 + n, 60)
        wait_until(lambda: sum(len(writer.committed) for writer in writers) > 60 * (n + 1))
        for client in readers:
            read(client)
        late.append(Reader(connect(), TOPICS))
        read(late[-1])
        since.append(time.monotonic())
        bulk.commit()
    done.set()
    for thread in writing:
        thread.join()
    stop.set()
    for thread in numbering:
        thread.join()
    for client in readers + late:
        read(client)

    there = everything(admin)
    committed = [(payload, began, returned) for writer in writers for began, returned, payload in writer.committed]
    bulks = list(itertools.product(range(100, 104), range(1, 61)))
    assert sorted(there) == sorted([payload for payload, _, _ in committed] + bulks)
    inserted = {payload: when for writer in writers for payload, when in writer.inserted.items()}
    returned = {payload: when for payload, _, when in committed}
    earliest_after = float("inf")
    for payload in reversed(there):
        if payload in inserted:
            assert inserted[payload] <= earliest_after, "after a message that was committed before the other's INSERT"
            earliest_after = min(earliest_after, returned[payload])
    for client in readers:
        assert [tuple(payload) for _, payload in client.got] == there and client.gaps == []
    for client, when in zip(late, since):
        got = {tuple(payload) for _, payload in client.got}
        assert {payload for payload, began, _ in committed if began > when} <= got, "from now"
    assert sum(numberer.backlogs for numberer in numberers) > 20


def test_killed_between_batches(cluster):
    """Kills all processes four times in the middle of a backlog: nothing is lost or delivered twice."""
    cluster.start("wal_writer_delay=10s")
    cluster.create("crash")
    cluster.install("crash")
    admin = cluster.connect("crash")
    start(admin)
    client = Reader(admin, TOPICS, dict.fromkeys(TOPICS, 0))
    committed, uncertain = [], []
    for crash in range(4):
        stop = threading.Event()
        writers, writing = start_writers(range(4 * crash, 4 * crash + 3), stop, lambda: cluster.connect("crash"))
        run(admin, BULK, 100 + crash, 200)
        committed += [(100 + crash, n) for n in range(1, 201)]
        enough = len(client.got) + 60
        while len(client.got) < enough:
            batch(admin)
            read(client)
        assert state(admin) is not None
        other = cluster.connect("crash")
        kill_cluster(cluster.directory)
        for thread in writing:
            thread.join()
        committed += [payload for writer in writers for _, _, payload in writer.committed]
        uncertain += [payload for writer in writers for payload in writer.uncertain]
        wait_until(lambda: is_gone(other))
        cluster.start()
        admin = client.session = connect_again(cluster)
    work_off(admin, 50)
    read(client)
    there = everything(admin)
    assert len(there) == len(set(there)) and set(committed) <= set(there) <= set(committed + uncertain)
    assert [tuple(payload) for _, payload in client.got] == there and client.gaps == []


def test_adoption_in_batches(admin, cluster):
    """When transaction numbers have lost their meaning: no message is updated, messages with a position keep it, and the
    others get theirs in the order of ids. It continues after a restart."""
    cluster.start("fsync=off")
    cluster.create("d")
    cluster.install("d")
    owner = cluster.connect("d")
    start(owner)
    run(owner, BULK, 1, 3000)
    assert assign(owner) == 3000
    client = Reader(owner, TOPICS, dict.fromkeys(TOPICS, 0))
    assert len(client.read()) == 3000
    run(owner, BULK, 2, 30)
    # As after a restore in another cluster: the same numbers mean other transactions, and some are in the future.
    run(owner, "UPDATE pgpoll.batches SET cluster = 1; UPDATE pgpoll.messages SET xid = (id + 100)::text::xid8")
    rows = "SELECT sum(hashtext(id::text || xid::text || ctid::text)) FROM pgpoll.messages WHERE id < 3032"
    before = run(owner, rows)
    cluster.stop()
    cluster.start()
    owner = client.session = cluster.connect("d")
    under_way = cluster.connect("d", "READ COMMITTED")
    publish(under_way, "t0", [4, 1])
    first = batch(owner)
    assert first[1] and state(owner, "adopting")
    publish(owner, "t0", [3, 1])
    cluster.stop()
    cluster.start()
    owner = client.session = cluster.connect("d")
    assert sum(work_off(owner)) + first[0] == 31
    assert read(client) == [*((2, n) for n in range(1, 31)), (3, 1)] and client.gaps == []
    run(owner, "DO $$BEGIN FOR n IN 1..4000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END$$")    # beyond all these numbers
    assert run(owner, "SELECT assigned, more FROM pgpoll.assign_batch(true, 5000)") == [(0, False)], "all that look new have a position"
    publish(owner, "t0", [5, 1])
    assert work_off(owner) == [1] and read(client) == [(5, 1)]
    assert run(owner, rows) == before
