"""Row-level security: policies for publishers work; rows hidden from pgpoll itself cause an error and no loss."""
import psycopg2.errors
import pytest

from conftest import Cluster
from sessions import FOLLOW, FOLLOWER_SETTINGS, Reader, close_all, publish, run

# Each uses one of the tables or more.
USES = {
    "SELECT pgpoll.assign_positions()": {"messages", "batches"},
    "SELECT pgpoll.new_messages(10, 1000)": {"messages", "batches"},
    "SELECT pgpoll.catch_up('{t}', '{0}', 10, 1000)": {"messages", "feed", "retention"},
    FOLLOWER_SETTINGS + "; " + FOLLOW.replace("$1", "0"): {"messages", "feed"},
    "SELECT pgpoll.prune('1 day')": {"messages", "feed", "retention", "retention_rules", "position_times"},
    "SELECT pgpoll.prune_part(NULL, '0', 0, 1, NULL)": {"messages", "feed", "retention", "retention_rules", "position_times"},
    "TRUNCATE pgpoll.messages": {"messages", "feed", "retention", "batches"},
    """SELECT pgpoll.write_statistics('h', '{"pid": 1, "workers": 1}')""": {"waiters", "listeners", "counters"},
    "SELECT pgpoll.sweep_waiters()": {"waiters", "listeners", "counters"},
    "SELECT pgpoll.metrics()": {"waiters", "listeners", "counters"},
}


@pytest.fixture(scope="module")
def one():
    made = Cluster()
    try:
        made.start("fsync=off")
        made.create("d")
        run(made.connect("d"), "CREATE ROLE pgpoll_owner LOGIN CREATEROLE; GRANT CREATE ON DATABASE d TO pgpoll_owner")
        made.install("d", user="pgpoll_owner")
        run(made.connect("d"), "CREATE ROLE app LOGIN IN ROLE pgpoll_publisher, pgpoll_poller")
        yield made
    finally:
        close_all()
        made.remove()


@pytest.fixture
def owner(one):
    """An owner without superuser rights; the tables are empty."""
    session = one.connect("d")
    run(session, "SET SESSION AUTHORIZATION pgpoll_owner; TRUNCATE pgpoll.messages; TRUNCATE pgpoll.waiters, pgpoll.retention")
    yield session
    for table in sorted(set.union(*USES.values())):
        run(session, f"ALTER TABLE pgpoll.{table} NO FORCE ROW LEVEL SECURITY; ALTER TABLE pgpoll.{table} DISABLE ROW LEVEL SECURITY")
    run(session, "DROP POLICY IF EXISTS mine ON pgpoll.messages")
    close_all()


@pytest.fixture
def app(one, owner):
    """A role that publishes and polls."""
    session = one.connect("d")
    run(session, "SET SESSION AUTHORIZATION app")
    return session


@pytest.mark.parametrize("table", sorted(set.union(*USES.values())))
def test_what_is_hidden_from_the_owner_is_an_error(owner, app, table):
    client = Reader(app, ["t"], {"t": 0})
    publish(owner, "t", 1)
    assert client.read() == [1]
    run(owner, f"ALTER TABLE pgpoll.{table} ENABLE ROW LEVEL SECURITY; ALTER TABLE pgpoll.{table} FORCE ROW LEVEL SECURITY")
    if table == "messages":
        run(owner, "CREATE POLICY mine ON pgpoll.messages FOR INSERT WITH CHECK (true)")    # an owner that may publish and not read
    publish(app, "t", 2)
    for statement, tables in USES.items():
        if table in tables:
            with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="(?s)row-level security.*NO FORCE ROW LEVEL SECURITY"):
                run(owner, statement)
    run(owner, f"ALTER TABLE pgpoll.{table} NO FORCE ROW LEVEL SECURITY")
    assert client.read() == [2] and not client.gaps


def test_the_remedy_where_messages_are_not_english(cluster, monkeypatch):
    monkeypatch.setenv("LANGUAGE", "de")    # counts for every locale but C
    cluster.start("fsync=off", "lc_messages=C.UTF-8")
    cluster.create("d")
    admin = cluster.connect("d")
    run(admin, "CREATE ROLE pgpoll_owner LOGIN CREATEROLE; GRANT CREATE ON DATABASE d TO pgpoll_owner")
    cluster.install("d", user="pgpoll_owner")
    run(admin, "SET SESSION AUTHORIZATION pgpoll_owner; ALTER TABLE pgpoll.messages ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    assert "NO FORCE ROW LEVEL SECURITY" in run(admin, "SELECT pgpoll.try_position()")[0][0]


def test_policies_for_publishers(owner, app):
    """Policies decide which roles publish what; positions, pages and prune() are unaffected."""
    run(owner, "ALTER TABLE pgpoll.messages ENABLE ROW LEVEL SECURITY")
    run(owner, "CREATE POLICY mine ON pgpoll.messages FOR INSERT TO app WITH CHECK (topic LIKE 'app.%')")
    publish(app, "app.news", 1)
    with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="new row violates row-level security policy"):
        publish(app, "others", 2)
    publish(owner, "others", 3)
    client = Reader(app, ["app.news", "others"], {"app.news": 0, "others": 0})
    assert client.read() == [1, 3]
    run(app, FOLLOWER_SETTINGS)
    assert [row[3] for row in run(app, FOLLOW.replace("$1", "0"))] == [1, 3]
    run(owner, "SELECT pg_sleep(0.002)")
    assert run(owner, "SELECT pgpoll.prune('0')") == [(2,)]
