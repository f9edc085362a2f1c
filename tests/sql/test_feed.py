"""What a manager reads: read_feed(), new_messages() and what batches announce."""
import concurrent.futures
import random

import pytest

from sessions import FOLLOW, FOLLOW_LIMIT, FOLLOWER_SETTINGS, LEVELS, Reader, assign, connect, publish, run, wait_until, waits_for_lock

FEED = "SELECT topic, position, payload, complete_to, more, deleted_to FROM pgpoll.read_feed(%s, %s, %s, %s)"


class Manager:
    """Follows the feed as a manager does, without looking at announcements: each page goes on where the one before ended."""

    def __init__(self, session):
        self.session = session
        self.complete_to = run(session, FEED, 1, 1, None, [])[0][3]
        self.deleted_to = 0
        self.got = []

    def read(self, messages=100, max_bytes=1 << 20, wanted=None):
        pages = 0
        while True:
            head, *rows = run(self.session, FEED, messages, max_bytes, self.complete_to, wanted)
            assert head[:3] == (None, None, None) and len(rows) <= messages
            assert all(row[3:] == head[3:] for row in rows) and [row[1] for row in rows] == sorted(row[1] for row in rows)
            assert all(self.complete_to < row[1] <= head[3] for row in rows)
            self.got += [(topic, payload) for topic, _, payload, *_ in rows]
            self.complete_to, more, deleted_to = head[3:]
            pages += 1
            if not more:
                lost, self.deleted_to = deleted_to > self.deleted_to, max(deleted_to, self.deleted_to)
                return pages, lost


class Follower(Manager):
    """Follows the feed with the statement of a manager that follows another one, and reads with read_feed() only what that does not return."""

    def __init__(self, session):
        super().__init__(session)
        run(session, FOLLOWER_SETTINGS)
        self.fell_back = 0

    def read(self):
        more, lost = True, False
        while more:
            rows = run(self.session, FOLLOW.replace("$1", "%s"), self.complete_to)
            if rows and rows[0][5] > self.complete_to:
                lost, self.deleted_to = lost or rows[0][5] > self.deleted_to, max(rows[0][5], self.deleted_to)
            for topic, position, _, payload, *_ in rows:
                if payload is None:
                    break
                assert position > self.complete_to
                self.got.append((topic, payload))
                self.complete_to = position
            else:
                more = len(rows) == FOLLOW_LIMIT
                if rows:
                    continue
            self.fell_back += 1
            return 1, super().read()[1] or lost
        return 1, lost


def start(admin, manager=Manager):
    assign(admin)
    return manager(connect())


def test_pages_have_everything_in_order(admin):
    manager = start(admin)
    for n in range(25):
        publish(admin, f"t{n % 3}", n)
        if n % 4 == 0:
            assign(admin)
    assign(admin)
    assert manager.read(messages=4)[0] == 7
    assert manager.got == [(f"t{n % 3}", n) for n in range(25)]
    assert manager.read() == (1, False) and len(manager.got) == 25


def test_bytes_bound_a_page_of_whole_messages(admin):
    manager = start(admin)
    publish(admin, "large", "x" * 50, "y" * 50, "z" * 50)
    publish(admin, "other", 1)
    assign(admin)
    assert manager.read(max_bytes=60)[0] == 3
    assert [payload[0] for topic, payload in manager.got if topic == "large"] == ["x", "y", "z"]
    again = start(admin)
    again.complete_to = 0
    assert again.read(max_bytes=1, wanted=["other"])[0] == 1
    assert again.got == [("large", None)] * 3 + [("other", 1)]


def reads_of_large_values(session):
    """How many large values the session has read in this transaction. PostgreSQL reads each from a table of its own."""
    return run(session, "SELECT coalesce(idx_scan, 0) FROM pg_stat_xact_all_tables t JOIN pg_class c ON t.relid = c.reltoastrelid"
                        " WHERE c.oid = 'pgpoll.messages'::regclass")[0][0]


@pytest.mark.parametrize("before", ["nothing", "in the same transaction", "in one that began before", "of this transaction"])
@pytest.mark.parametrize("repeated, counts_as", [(1, 150000 * 32 + 2), (4, 1 << 30)])     # PostgreSQL compresses the second
def test_to_give_a_position_no_large_message_is_read(admin, before, repeated, counts_as):
    """One that cannot be read in time would keep all others from ever getting a position."""
    large = ("INSERT INTO pgpoll.messages (topic, payload)"
             f" SELECT 'large', to_json(string_agg(repeat(md5(n::text), {repeated}), '')) FROM generate_series(1, 150000) n")
    assign(admin)
    publisher, session = connect("READ COMMITTED"), connect("READ COMMITTED")
    if before == "in the same transaction":
        publish(publisher, "small", 1)
    elif before == "in one that began before":
        publish(publisher, "small", 1)
        publish(admin, "small", 2)
        assign(admin)
    if before == "of this transaction":
        run(session, large)
    else:
        run(publisher, large)
        publisher.commit()
    more = True
    while more:
        reads = reads_of_large_values(session)     # to write one takes a look, too
        (more,), = run(session, "SELECT more FROM pgpoll.assign_positions()")
        assert reads_of_large_values(session) == reads
        session.commit()
    assert run(admin, "SELECT bytes FROM pgpoll.feed WHERE topic = 'large'") == [(counts_as,)]
    reader = Reader(admin, ["large"], {"large": 0})
    (payload,) = reader.read()
    assert len(payload) == 150000 * 32 * repeated


@pytest.mark.parametrize("others", [0, 3])
def test_messages_larger_than_a_page_come_without_payload(admin, others):
    """So a manager reads on. Its workers have the table read."""
    manager = start(admin)
    publish(admin, "large", *["x" * 100] * (others + 1))
    publish(admin, "other", *range(others))
    assign(admin)
    rows = run(connect(), "SELECT topic, created_at IS NOT NULL, payload, metadata FROM pgpoll.read_feed(100, 60, %s, NULL) WHERE topic IS NOT NULL",
               manager.complete_to)
    assert rows == [("large", True, None, None)] * (others + 1) + [("other", True, n, None) for n in range(others)]
    publish(admin, "large", "y" * 100)
    rows = run(connect(), "SELECT topic, created_at IS NOT NULL, payload, metadata FROM pgpoll.new_messages(100, 60) WHERE topic IS NOT NULL")
    assert rows == [("large", True, None, None)]


def test_only_wanted_messages_are_read(admin):
    manager = start(admin)
    publish(admin, "a", 1)
    publish(admin, "b", 2)
    publish(admin, "a", 3)
    assign(admin)
    manager.read(wanted=["a"])
    assert manager.got == [("a", 1), ("b", None), ("a", 3)]


def test_a_deleted_message_is_left_out(admin):
    """An operator may delete a message; then a manager must not wait for it."""
    manager = start(admin)
    publish(admin, "a", 1, 2)
    assign(admin)
    run(admin, "DELETE FROM pgpoll.messages WHERE payload::text = '1'")
    manager.read(wanted=["a"])
    assert manager.got == [("a", 2)]


def test_a_page_of_one_message(admin):
    """It has queries of its own."""
    manager = start(admin)
    for n, wanted in enumerate((None, ["a"], ["b"], [])):
        publish(admin, "a", n)
        assign(admin)
        assert manager.read(wanted=wanted) == (1, False)
    assert manager.got == [("a", 0), ("a", 1), ("a", None), ("a", None)]
    before = manager.complete_to
    publish(admin, "a", 4)
    assign(admin)
    _, (topic, position, payload, complete_to, *_) = run(admin, FEED.replace(")", ", %s)"), 100, 1, before, [], before)
    assert (topic, payload) == ("a", 4) and position == complete_to > before
    run(admin, "DELETE FROM pgpoll.messages WHERE payload::text = '4'")
    for wanted in ["a"], []:
        manager.complete_to = before
        assert manager.read(wanted=wanted) == (1, False) and manager.complete_to == complete_to
    assert manager.got[4:] == [("a", None)]


@pytest.mark.parametrize("prune", ["SELECT pgpoll.prune('0')", "CALL pgpoll.prune_topics('0', '%')"])
def test_pruned_before_it_was_read(admin, prune):
    manager, late = start(admin), start(admin)
    publish(admin, "a", 1)
    assign(admin)
    assert manager.read() == (1, False)
    run(admin, prune)
    assert manager.read() == (1, False), "it has read all that was pruned"
    assert late.read() == (1, True) and not late.got
    publish(admin, "a", 2)
    assign(admin)
    assert late.read() == (1, False) and late.got == [("a", 2)]


def test_truncated_before_it_was_read(admin):
    manager, late = start(admin), start(admin)
    publish(admin, "a", 1)
    assign(admin)
    assert manager.read() == (1, False)
    run(admin, "TRUNCATE pgpoll.messages")
    assert manager.read() == (1, False) and late.read() == (1, True)
    publish(admin, "a", 2)      # it gets no position
    run(admin, "TRUNCATE pgpoll.messages")
    assert manager.read() == (1, True) and late.read() == (1, True)
    assert manager.complete_to == run(admin, "SELECT pruned_to FROM pgpoll.retention WHERE topic = 'a'")[0][0]


def test_truncated_while_it_is_read(admin):
    """A read may begin while TRUNCATE has its lock and has noted nothing yet. Its snapshot then shows positions without messages."""
    late, other = start(admin), connect(LEVELS[0])
    publish(admin, "a", 1)
    assign(admin)
    run(other, "LOCK TABLE pgpoll.messages")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        read = pool.submit(late.read)
        wait_until(lambda: waits_for_lock(admin, late.session))
        run(other, "TRUNCATE pgpoll.messages")
        other.commit()
        assert read.result(60) == (1, True) and not late.got


def test_a_truncate_that_is_undone_is_no_lasting_gap(admin):
    """It is counted all the same, once."""
    manager, other = start(admin), connect(LEVELS[0])
    publish(admin, "a", 1)
    run(other, "TRUNCATE pgpoll.messages")
    other.rollback()
    assert manager.read() == (1, True)
    assert manager.read() == (1, False)
    assign(admin)
    assert manager.read() == (1, False) and manager.got == [("a", 1)]


def test_a_restored_database_is_behind(admin):
    manager = start(admin)
    publish(admin, "a", 1)
    assign(admin)
    manager.complete_to += 1 << 40
    head, = run(admin, FEED, 10, 1000, manager.complete_to, [])
    assert head[3] < manager.complete_to and not head[4]


def test_a_manager_that_numbers_gets_what_others_numbered_first(admin):
    manager = start(admin)
    publish(admin, "a", 1)
    publish(admin, "b", 2)
    assign(admin)
    publish(admin, "a", 3)
    publish(admin, "b", 4)
    rows = run(connect(), "SELECT topic, payload, assigned, more, deleted_to FROM pgpoll.new_messages(10, 1000, %s, '{a}')", manager.complete_to)
    assert rows == [(None, None, 2, False, 0), *((topic, payload, 2, False, 0) for topic, payload in (("a", 1), ("b", None), ("a", 3), ("b", 4)))]


NEW = "SELECT topic, position, payload, assigned, complete_to, more FROM pgpoll.new_messages(%s, 1000000, %s, %s, false)"


def test_a_busy_manager_gets_no_messages_that_nobody_waits_for(admin):
    """It is told up to where it has everything all the same, of one message, several, none, and of a backlog. (If the look that finds none is
    slow, it stores an empty batch, after which the next page is not that of its own batch.)"""
    manager = start(admin)
    session, complete_to, got = connect(), manager.complete_to, []
    for topics, wanted, found in (("a", "a", "a"), ("b", "a", None), ("bab", "a", "a"), ("bcb", "a", ""), ("ab", "", ""), ("cbaab", "ac", "caa"), ("", "a", "")):
        for topic in topics:
            publish(admin, topic, 0)
        head, *rows = run(session, NEW, 10, complete_to, list(wanted))
        last = run(admin, "SELECT max(position) FROM pgpoll.feed")[0][0] or complete_to
        assert head[3] == len(topics) and head[4] == last and not head[5]
        got = [row[0] for row in (head, *rows) if row[1]]
        assert found is None or "".join(got) == found, topics      # one message alone may come in any case
        complete_to = last
    for n in range(23):
        publish(admin, "ab"[n % 2], n)
    begin, got, more = complete_to, [], True
    while more:
        rows = run(session, NEW, 5, complete_to, ["a"])
        assert all(complete_to < row[1] <= row[4] for row in rows if row[1]) and rows[0][4] >= complete_to
        got += [row[1:3] for row in rows if row[0] == "a"]
        complete_to, more = rows[0][4:]
    assert got == run(admin, """SELECT f.position, m.payload FROM pgpoll.feed f JOIN pgpoll.messages m ON m.id = f.message_id
                                WHERE f.position > %s AND f.topic = 'a' ORDER BY f.position""", begin) and len(got) == 12


def test_it_never_passes_what_is_under_way(admin):
    """A batch that has not committed is not in the page, and the page does not end after it."""
    manager, assigner = start(admin), connect(LEVELS[0])
    publish(admin, "a", 1)
    assign(assigner)
    before = manager.complete_to
    assert manager.read() == (1, False) and manager.complete_to == before
    assigner.commit()
    assert manager.read() == (1, False) and manager.got == [("a", 1)]


def test_writers_and_managers(admin):
    """Four sessions give positions while eight transactions publish to thousands of topics; each manager reads the same history."""
    managers = [start(admin) for _ in range(3)]
    begin = complete_to = managers[0].complete_to
    few, busy, got = [f"user-{n}" for n in range(0, 2500, 31)], connect(), []
    writers = [connect(LEVELS[n % 3]) for n in range(8)]
    numberers = [connect() for _ in range(4)]
    for turn in range(60):
        for n, writer in enumerate(writers):
            run(writer, "INSERT INTO pgpoll.messages (topic, payload) SELECT 'user-' || (%s * 97 + i * 31) %% 2500, json_build_array(%s::integer, i)"
                        " FROM generate_series(1, 8) AS i", turn + n, turn * 8 + n)
            if (turn + n) % 3 == 0:
                writer.commit()
        run(numberers[turn % 4], "SELECT pgpoll.assign_positions()" if turn % 2 else "SELECT pgpoll.new_messages(100, 100000)")
        managers[turn % 3].read(messages=7 + turn)
        rows = run(busy, NEW, 40, complete_to, few)
        got += [(row[0], row[2]) for row in rows if row[0] in few]
        complete_to = rows[0][4]
    for writer in writers:
        writer.commit()
    assign(admin)
    for manager in managers:
        manager.read()
    wanted = [(topic, payload) for topic, payload in run(admin, """SELECT f.topic, m.payload FROM pgpoll.feed f JOIN pgpoll.messages m ON m.id = f.message_id
                                                                   WHERE f.position > %s ORDER BY f.position""", begin)]
    assert len(wanted) == 60 * 8 * 8 and all(manager.got == wanted for manager in managers)
    more = True
    while more:
        rows = run(busy, NEW, 40, complete_to, few)
        got += [(row[0], row[2]) for row in rows if row[0] in few]
        complete_to, more = rows[0][4:]
    assert got and got == [message for message in wanted if message[0] in few]


def heard(listener):
    run(listener, "SELECT 1")
    found = [n.payload for n in listener.notifies if n.payload]
    listener.notifies.clear()
    return found


def test_many_topics_do_not_fit_into_an_announcement(admin):
    listener = connect()
    run(listener, "LISTEN pgpoll")
    for topics, form in (900, "hashes"), (901, "*"):
        run(admin, "INSERT INTO pgpoll.messages (topic, payload) SELECT 'topic-' || n, 'null' FROM generate_series(1, %s) AS n", topics)
        assert assign(admin) == topics
        wait_until(lambda: run(listener, "SELECT 1") and listener.notifies)
        (announced,) = heard(listener)
        position, rest = announced.split(" ")
        assert int(position) == run(admin, "SELECT max(position) FROM pgpoll.feed")[0][0]
        assert rest == "*" if form == "*" else len(set(rest[at:at + 8] for at in range(0, len(rest), 8))) == topics


def test_a_follower_reads_page_after_page(admin):
    follower, count = start(admin, Follower), 3 * FOLLOW_LIMIT
    run(admin, "INSERT INTO pgpoll.messages (topic, payload, metadata) SELECT 't' || n %% 7, to_json(n), '{}' FROM generate_series(1, %s) AS n", count)
    assign(admin)
    assert follower.read() == (1, False) and follower.got == [(f"t{n % 7}", n) for n in range(1, count + 1)]
    assert follower.fell_back == 1, "for what follows a full page"
    columns = run(admin, FOLLOW.replace("$1", "0"))[0]
    assert columns[:5] == run(admin, """SELECT topic, position, created_at, payload, metadata FROM pgpoll.read_feed(1, 100, 0, NULL)
                                        WHERE position IS NOT NULL""")[0]


def test_a_follower_leaves_large_and_deleted_messages_to_read_feed(admin):
    follower = start(admin, Follower)
    publish(admin, "t", 1, "x" * 65534, 2)
    assign(admin)
    assert follower.read() == (1, False) and follower.fell_back == 0, "65,536 bytes with the quotes"
    publish(admin, "t", 3, "x" * 65535, 4)
    assign(admin)
    assert follower.read() == (1, False) and follower.fell_back == 1
    publish(admin, "t", 5, 6, 7)
    assign(admin)
    run(admin, "DELETE FROM pgpoll.messages WHERE payload::text = '6'")
    assert follower.read() == (1, False) and follower.fell_back == 2
    assert [payload for _, payload in follower.got if not isinstance(payload, str)] == [1, 2, 3, 4, 5, 7]


@pytest.mark.parametrize("ends", ["commit", "rollback"])
@pytest.mark.parametrize("change", ["TRUNCATE pgpoll.messages", "SELECT pgpoll.prune('0')"])
def test_deleted_while_a_follower_reads(admin, change, ends):
    """The read begins before the transaction that deletes has ended. TRUNCATE makes it wait. It either gets the message or tells that it is gone."""
    follower, other = start(admin, Follower), connect(LEVELS[0])
    publish(admin, "a", 1)
    assign(admin)
    run(admin, "SELECT pg_sleep(0.002)")
    if change.startswith("TRUNCATE"):
        run(other, "LOCK TABLE pgpoll.messages")
    else:
        run(other, change)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        read = pool.submit(follower.read)
        if change.startswith("TRUNCATE"):
            wait_until(lambda: waits_for_lock(admin, follower.session))
            run(other, change)
        else:
            read.result(60)
        getattr(other, ends)()
        _, lost = read.result(60)
    assert lost, "also if it is undone; it is counted once"
    gone = change.startswith("TRUNCATE") and ends == "commit"
    assert follower.got == [] if gone else follower.got == [("a", 1)]
    publish(admin, "a", 2)
    assign(admin)
    assert follower.read() == (1, False) and follower.got[-1] == ("a", 2)


def test_a_follower_of_a_restored_database_is_ahead(admin):
    follower = start(admin, Follower)
    publish(admin, "a", 1)
    assign(admin)
    follower.complete_to += 1 << 40
    assert run(follower.session, FOLLOW.replace("$1", "%s"), follower.complete_to) == []
    head, = run(admin, FEED, 10, 1000, follower.complete_to, [])
    assert head[3] < follower.complete_to


@pytest.mark.parametrize("seed", range(4))
def test_followers_get_what_read_feed_returns(admin, seed):
    """Whatever is published, rolled back, deleted, pruned and truncated in between."""
    chance, publisher = random.Random(seed), connect(LEVELS[0])
    managers = [(start(admin), start(admin, Follower)) for _ in range(3)]
    run(admin, "INSERT INTO pgpoll.retention_rules VALUES ('t1', '0', 2)")

    def insert():
        run(publisher, "INSERT INTO pgpoll.messages (topic, payload) SELECT 't' || %s, to_json(repeat('x', %s)) FROM generate_series(1, %s)",
            chance.randrange(4), chance.choice((5, 5, 70000)), chance.choice((1, 1, 2, 200)))

    steps = [insert, insert, publisher.commit, publisher.commit, publisher.rollback, lambda: assign(admin), lambda: assign(admin),
             lambda: run(admin, "DELETE FROM pgpoll.messages WHERE id %% 5 = %s", chance.randrange(5)),
             lambda: run(admin, "CALL pgpoll.prune_topics('1 day')"),
             lambda: run(admin, "CALL pgpoll.prune_topics('0', 't2')"),
             lambda: publisher.commit() or run(admin, "TRUNCATE pgpoll.messages")]
    try:
        for _ in range(120):
            chance.choices(steps, [6, 6, 6, 6, 1, 6, 6, 1, 1, 1, 0.4])[0]()
            for plain, follower in chance.sample(managers, chance.randrange(3)):
                assert plain.read()[1] == follower.read()[1]
                assert follower.got == plain.got
    finally:
        publisher.rollback()
        run(admin, "DELETE FROM pgpoll.retention_rules")
    assert all(follower.got and follower.fell_back for _, follower in managers)


def test_newest_positions(admin):
    publish(admin, "a", 1, 2)
    publish(admin, "b", 3)
    assign(admin)
    run(admin, "SELECT pgpoll.prune('0', 2)")
    publish(admin, "a", 4)
    assign(admin)
    newest = dict(run(admin, "SELECT topic, max(position) FROM pgpoll.feed GROUP BY topic"))
    rows = run(admin, "SELECT newest, now, hash FROM pgpoll.newest_positions('{b,none,a}')")
    assert [row[:2] for row in rows] == [(newest["b"],) * 2, (0, 0), (newest["a"],) * 2]
    run(admin, "SELECT pgpoll.prune('0')")
    assert run(admin, "SELECT newest FROM pgpoll.newest_positions('{a,b}')") == [(newest["a"],), (newest["b"],)], "what was pruned counts"
