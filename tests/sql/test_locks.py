"""No deadlocks: one lock order for all that lock several of the tables (sql/tables.sql)."""
import contextlib

import psycopg2.errors
import pytest

from sessions import FOLLOW, LEVELS, Background, connect, publish, run, wait_until, waits_for_lock

TABLES = ["messages", "feed", "retention", "feed_lock", "batches", "position_times"]
WHOLE_TABLE = "LOCK TABLE pgpoll.{} IN ACCESS EXCLUSIVE MODE"
WRITERS = "LOCK TABLE pgpoll.{} IN SHARE MODE"
DOES = {
    "prune": "SELECT pgpoll.prune('0')",
    "prune topics": "SELECT pgpoll.prune_part(NULL, '0', 0, 10, NULL)",
    "truncate": "TRUNCATE pgpoll.messages",
    "assign": "SELECT pgpoll.assign_positions()",
    "new messages": "SELECT pgpoll.new_messages(10, 10000)",
    "catch up": "SELECT pgpoll.catch_up('{a,b}', '{0,0}', 10, 10000)",
    "follow": FOLLOW.replace("$1", "0"),
    "altering": "; ".join(WHOLE_TABLE.format(table) for table in ["feed_messages", *TABLES]),      # as an upgrade may
}


def put_messages(admin):
    """One message with and one without a position."""
    publish(admin, "a", 1)
    run(admin, "SELECT pgpoll.assign_positions()")
    publish(admin, "b", 2)


def do(what, session):
    """In one transaction. A lock_timeout is no deadlock: the machine may be busy."""
    with contextlib.suppress(psycopg2.errors.LockNotAvailable):
        run(session, DOES[what])
    session.commit()


@pytest.mark.parametrize("second", DOES)
@pytest.mark.parametrize("first", DOES)
def test_no_deadlock(admin, first, second):
    """Stops the first before each table that it locks, starts the second, and lets both continue."""
    one, other, holder = (connect(LEVELS[0]) for _ in range(3))
    for table in TABLES:
        for lock in WHOLE_TABLE, WRITERS:
            put_messages(admin)
            run(holder, lock.format(table))
            doing = Background(do, first, one)
            wait_until(lambda: waits_for_lock(admin, one) or not doing.is_alive())
            after = Background(do, second, other)
            wait_until(lambda: waits_for_lock(admin, other) or not after.is_alive())
            holder.rollback()
            doing.join()
            after.join()


def test_lock_of_the_messages_against_prune(admin):
    """LOCK TABLE before TRUNCATE, as by an operator who checks the table first."""
    put_messages(admin)
    truncater, pruner = connect(LEVELS[0]), connect()
    run(truncater, "LOCK TABLE pgpoll.messages")
    pruning = Background(run, pruner, DOES["prune"])
    wait_until(lambda: waits_for_lock(admin, pruner))
    run(truncater, DOES["truncate"])
    truncater.commit()
    assert pruning.join() == [(0,)]
