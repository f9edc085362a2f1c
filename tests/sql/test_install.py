"""sql/install.sql and sql/uninstall.sql, run by psql in fresh databases."""
import subprocess

import pytest

from conftest import INSTALL, UNINSTALL, Cluster
from sessions import Reader, close_all, opened, publish, run

ROLES = "SELECT rolname::text FROM pg_roles WHERE rolname ~ '^pgpoll_' ORDER BY 1"
ALL_ROLES = [("pgpoll_monitor",), ("pgpoll_poller",), ("pgpoll_publisher",)]


@pytest.fixture(name="one", scope="module")
def cluster_for_all():
    made = Cluster()
    try:
        made.start("fsync=off")
        yield made
    finally:
        made.remove()


@pytest.fixture(name="server")
def empty(one):
    """A cluster without databases and roles; what the last test made goes."""
    yield one
    close_all()
    admin = one.connect("postgres")
    for what, named in (("DATABASE", "SELECT datname FROM pg_database WHERE datname <> 'postgres' AND NOT datistemplate"),
                        ("ROLE", "SELECT rolname FROM pg_roles WHERE rolname <> 'postgres' AND rolname !~ '^pg_'")):
        for name, in run(admin, named):
            run(admin, f"DROP {what} {name}")
    opened.pop().close()


def test_installing_again_keeps_what_is_there(server):
    server.create("a")
    server.install("a")
    admin = server.connect("a")
    run(admin, "CREATE ROLE app; GRANT pgpoll_publisher TO app; GRANT pgpoll_poller TO app")
    run(admin, """CREATE OR REPLACE FUNCTION pgpoll.can_poll(remote_user text, topic text) RETURNS boolean LANGUAGE sql
                  AS $$SELECT topic = 'mine'$$""")
    publish(admin, "t", 1)
    before = run(admin, "SELECT position FROM pgpoll.feed")
    server.install("a")
    run(admin, "SET ROLE app")
    publish(admin, "t", 2)
    assert Reader(admin, ["t"], {"t": 0}).read() == [1, 2]
    assert run(admin, "SELECT pgpoll.may_poll('', '{mine}'), pgpoll.may_poll('', '{t}')") == [(True, False)]
    run(admin, "RESET ROLE")
    assert run(admin, "SELECT position FROM pgpoll.feed ORDER BY position")[:1] == before


def test_installs_at_the_same_time(server):
    server.create("a")
    command = ["psql", "-X", "-d", "a", "-f", INSTALL]
    running = [subprocess.Popen(command, env=server.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(4)]
    assert [(p.communicate()[0], p.returncode) for p in running] == [("", 0)] * 4


def test_another_encoding_is_refused(server):
    server.create("latin", "-E", "LATIN1", "--locale=C", "-T", "template0")
    refused = server.psql("latin", "-f", INSTALL)
    assert refused.returncode == 3 and "pgpoll needs a database with encoding UTF8" in refused.stderr
    admin = server.connect("latin")
    assert run(admin, "SELECT to_regnamespace('pgpoll')") == [(None,)] and run(admin, ROLES) == []


def test_newer_schema_is_refused(server):
    server.create("a")
    server.install("a")
    admin = server.connect("a")
    run(admin, "CREATE OR REPLACE FUNCTION pgpoll.schema_version() RETURNS integer LANGUAGE sql AS 'SELECT 1000'")
    refused = server.psql("a", "-f", INSTALL)
    assert refused.returncode == 3 and "newer than these scripts" in refused.stderr
    assert run(admin, "SELECT pgpoll.schema_version()") == [(1000,)]


def test_uninstall(server):
    server.create("a")
    server.install("a", UNINSTALL)
    server.install("a")
    admin = server.connect("a")
    publish(admin, "t", 1)
    server.install("a", UNINSTALL)
    assert run(admin, "SELECT to_regnamespace('pgpoll')") == [(None,)] and run(admin, ROLES) == []
    server.install("a")
    publish(admin, "t", 2)
    assert Reader(admin, ["t"], {"t": 0}).read() == [2] and run(admin, ROLES) == ALL_ROLES


def test_uninstall_leaves_roles_that_another_database_uses(server):
    for database in ("a", "b"):
        server.create(database)
        server.install(database)
    done = server.psql("a", "-f", UNINSTALL)
    assert done.returncode == 0 and "role pgpoll_poller is used elsewhere" in done.stderr
    other = server.connect("b")
    assert run(other, ROLES) == ALL_ROLES
    run(other, "SET ROLE pgpoll_publisher")
    publish(other, "t", 1)
    run(other, "SET ROLE pgpoll_poller")
    assert Reader(other, ["t"], {"t": 0}).read() == [1]


def test_owner_need_not_be_superuser(server):
    """The first needs CREATEROLE; the owner of a second database finds the roles there."""
    admin = server.connect("postgres")
    for owner, database in (("first", "a"), ("second", "b")):
        run(admin, f"CREATE ROLE {owner} LOGIN" + " CREATEROLE" * (owner == "first"))
        server.create(database, "-O", owner)
        server.install(database, user=owner)
        server.install(database, user=owner)
        client = server.connect(database)
        run(client, "SET ROLE pgpoll_publisher")
        publish(client, "t", 1)
        run(client, "SET ROLE pgpoll_poller")
        assert Reader(client, ["t"], {"t": 0}).read() == [1]
        run(client, f"SET ROLE {owner}")
        assert run(client, "SELECT pg_sleep(0.002); SELECT pgpoll.prune('0')") == [(1,)]
    done = server.psql("b", "-f", UNINSTALL, user="second")
    assert done.returncode == 0 and run(server.connect("b"), "SELECT to_regnamespace('pgpoll')") == [(None,)]
    assert run(admin, ROLES) == ALL_ROLES


# Each fits its call better than pg_catalog's own, so that it is taken wherever public is looked at.
TRAPS = """
    CREATE FUNCTION public.spring() RETURNS void LANGUAGE plpgsql AS $$BEGIN RAISE 'trapped'; END$$;
    CREATE FUNCTION public.spring(json, text, bigint) RETURNS json LANGUAGE plpgsql AS $$BEGIN RAISE 'trapped'; END$$;
    CREATE AGGREGATE public.json_object_agg(text, bigint) (SFUNC = public.spring, STYPE = json, INITCOND = '{}');
    CREATE FUNCTION public.row_to_json(pgpoll.stats) RETURNS json LANGUAGE sql AS 'SELECT public.spring()::text::json';
    CREATE FUNCTION public.count(pgpoll.live_waiters) RETURNS bigint LANGUAGE sql AS 'SELECT public.spring()::text::bigint';
    CREATE FUNCTION public.unnest(text[]) RETURNS SETOF text LANGUAGE sql AS 'SELECT public.spring()::text';
    CREATE FUNCTION public.now() RETURNS timestamptz LANGUAGE sql AS 'SELECT public.spring()::text::timestamptz';
    CREATE FUNCTION public.format(text, text) RETURNS text LANGUAGE sql AS 'SELECT public.spring()::text';
    CREATE FUNCTION public.hashtext(text) RETURNS integer LANGUAGE sql AS 'SELECT public.spring()::text::integer';
    CREATE FUNCTION public.schema_version() RETURNS integer LANGUAGE sql AS 'SELECT 1000';
    CREATE TABLE public.messages (id bigint, topic text, payload json);
    CREATE DOMAIN public.json AS text CHECK (false);
"""


def test_what_stands_in_public_is_not_looked_at(server):
    """By a publisher, where the public schema is open to all, as it was before PostgreSQL 15; before and after the installation."""
    server.create("a")
    server.install("a")
    admin = server.connect("a")
    run(admin, "GRANT CREATE ON SCHEMA public TO PUBLIC; SET ROLE pgpoll_publisher")
    run(admin, TRAPS)
    run(admin, "RESET ROLE; DROP VIEW pgpoll.stats CASCADE")   # with the functions of its type
    server.install("a")
    run(admin, "SET ROLE pgpoll_publisher; CREATE FUNCTION public.row_to_json(pgpoll.stats) RETURNS json LANGUAGE sql"
               " AS 'SELECT public.spring()::text::json'; SET search_path = public, pg_catalog")
    publish(admin, "t", 1)
    run(admin, "RESET ROLE; SET search_path = public, pg_catalog; SET ROLE pgpoll_poller")
    assert Reader(admin, ["t"], {"t": 0}).read() == [1]
    run(admin, "SELECT pgpoll.begin_wait('h', 1, '{t}', 'c', 0, 1000), pgpoll.sweep_waiters()")
    run(admin, """SELECT pgpoll.write_waiters('h', '[{"pid": 2, "topics": ["t"], "client": "c", "waited_ms": 1, "left_ms": 1000}]', '[]')""")
    counts = run(admin, "RESET search_path; SELECT pg_catalog.row_to_json(s) FROM pgpoll.stats s")[0][0]
    assert counts["topic_subscriber_counts"] == {"t": 2}
    run(admin, "SELECT pgpoll.end_wait('h', 1)")
    run(admin, "RESET ROLE; SET search_path = public, pg_catalog; SELECT pgpoll.prune('0')")


def test_restored_dump(server):
    """Nothing is sent twice, cursors of before stay good, positions go on, and so does the retention's floor."""
    server.create("a")
    server.install("a")
    admin = server.connect("a")
    publish(admin, "t", 1)
    run(admin, "SELECT pg_sleep(0.002)")
    run(admin, "SELECT pgpoll.prune('0')")
    publish(admin, "t", 2, 3)
    client = Reader(admin, ["t"], {"t": 0})
    client.page(messages=1)
    server.create("b")
    dump = subprocess.run(["pg_dump", "-d", "a"], env=server.environment, check=True, capture_output=True).stdout
    subprocess.run(["psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null", "-d", "b"], env=server.environment, check=True, input=dump)
    client.session = server.connect("b")
    server.install("b")
    assert client.read() == [3]
    publish(client.session, "t", 4)
    assert client.read() == [4]
    fresh = Reader(client.session, ["t"], {"t": 0})
    assert fresh.read() == [2, 3, 4] and [gap[1] for gap in fresh.gaps] == ["expired"]
