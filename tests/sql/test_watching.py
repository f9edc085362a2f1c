"""sql/watch_views.sql: the tests that need several sessions."""
import pathlib
import sys

import pytest

from sessions import Background, connect, publish, run, wait_until

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
import standby  # noqa: E402

HELD_UP = """SELECT pid, usename::text, application_name, waits_for, blocked_by, blocked_by_user::text, blocked_by_application,
                    blocked_by_state, waited BETWEEN '0' AND '1 minute' FROM pgpoll.held_up"""


def test_blocked_by_a_lock(admin):
    watcher, holder, publisher = connect(), connect("READ COMMITTED", application_name="nightly job"), connect(application_name="shop")
    run(watcher, "SET ROLE pgpoll_monitor")
    run(publisher, "SET ROLE pgpoll_publisher")
    assert run(watcher, HELD_UP) == []
    run(holder, "LOCK TABLE pgpoll.messages IN SHARE MODE")
    publishing = Background(publish, publisher, "t", "sesame")
    wait_until(lambda: [row[-1] for row in run(watcher, HELD_UP)] == [True])    # waitstart is set a moment later
    held_up = [publisher.info.backend_pid, "postgres", "shop", "pgpoll.messages", holder.info.backend_pid, "postgres", "nightly job"]
    assert run(watcher, HELD_UP) == [(*held_up, None, True)]
    assert run(admin, HELD_UP) == [(*held_up, "idle in transaction", True)]
    assert "sesame" not in str(run(admin, "SELECT h::text FROM pgpoll.held_up h"))
    holder.rollback()
    publishing.join()
    assert run(watcher, HELD_UP) == []


@pytest.fixture
def standby_away():
    with standby.away(connect):
        yield


def test_blocked_at_commit_by_a_notify(admin, standby_away):
    watcher, first, second = connect(), connect(application_name="first"), connect(application_name="second")
    run(watcher, "SET ROLE pgpoll_monitor")
    run(first, "SET synchronous_commit = on")
    publishing = [Background(publish, first, "t", 1)]
    wait_until(lambda: run(admin, "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = 'SyncRep'", first.info.backend_pid))
    publishing.append(Background(publish, second, "t", 2))
    wait_until(lambda: [row[-1] for row in run(watcher, HELD_UP)] == [True])
    held_up = [second.info.backend_pid, "postgres", "second", "NOTIFY", first.info.backend_pid, "postgres", "first"]
    assert run(watcher, HELD_UP) == [(*held_up, None, True)]
    assert run(admin, HELD_UP) == [(*held_up, "active", True)]
    assert run(admin, "SELECT blocked_by_wait_event FROM pgpoll.held_up") == [("SyncRep",)]
    run(admin, "SELECT pg_cancel_backend(%s)", first.info.backend_pid)     # the transaction commits all the same
    for publisher in publishing:
        publisher.join()
    assert run(watcher, HELD_UP) == []


def test_the_topics_of_many_messages_are_estimated(admin):
    """The view reads a part of a large feed, and shows the largest topics."""
    run(admin, """INSERT INTO pgpoll.feed SELECT CASE n % 4 WHEN 0 THEN 'large' WHEN 1 THEN 'second' ELSE 't' || n END,
                      ((1e12::bigint + n) << 16), n, CASE n % 4 WHEN 0 THEN 300 ELSE 100 END FROM generate_series(1, 200000) AS n""")
    rows = run(admin, "SELECT topic, messages, bytes, extract(epoch FROM oldest)::float, extract(epoch FROM newest)::float, estimated FROM pgpoll.topics")
    assert [row[0] for row in rows[:2]] == ["large", "second"] and len(rows) == 200 and all(row[-1] for row in rows)
    for (_, messages, size, oldest, newest, _), each, first in zip(rows, (300, 100), (4, 1)):
        assert 30_000 < messages < 75_000 and size == pytest.approx(each * messages, abs=each)
        assert (oldest, newest) == (1e9 + first / 1000, 1e9 + (199_996 + first) / 1000)     # exact
    pages, = run(admin, "SELECT pg_relation_size('pgpoll.feed') / 8192")[0]
    for _ in range(2):
        plan = run(admin, "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT * FROM pgpoll.topics")[0][0][0]["Plan"]
    # The sample; and of each topic two ends and pruned_to, at four or so blocks each.
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < pages * 0.5 + 200 * 12, pages
    run(admin, "TRUNCATE pgpoll.feed")

