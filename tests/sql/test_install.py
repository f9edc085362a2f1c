"""sql/install.sql and sql/uninstall.sql, run by psql in fresh databases."""
import os
import re
import subprocess

import pytest

from conftest import INSTALL, UNINSTALL, Cluster
from sessions import (LEVELS, Background, Reader, assign, check_refusals, close_all, connect, opened, publish, run,
                      wait_until, waits_for_lock, write_statistics)

ROLES_SCRIPT = os.path.join(os.path.dirname(INSTALL), "roles.sql")
PRUNE = os.path.join(os.path.dirname(INSTALL), "prune.sql")
ROLES = "SELECT rolname::text FROM pg_roles WHERE rolname ~ '^pgpoll_' ORDER BY 1"
ALL_ROLES = [("pgpoll_monitor",), ("pgpoll_poller",), ("pgpoll_publisher",)]
WORKER = "SELECT rolname::text FROM pg_roles WHERE rolname = 'pgpoll'"


@pytest.fixture(name="one", scope="module")
def cluster_for_all():
    made = Cluster()
    try:
        made.start("fsync=off", "wal_level=logical")
        yield made
    finally:
        made.remove()


@pytest.fixture(name="server")
def empty(one):
    """A cluster without databases and roles: drops those of the last test."""
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
    assert assign(admin) == 1
    before = run(admin, "SELECT position FROM pgpoll.feed")
    run(admin, "COMMENT ON FUNCTION pgpoll.can_poll(text, text) IS 'ours'")
    run(admin, """CREATE OR REPLACE FUNCTION pgpoll.authenticate("authorization" text) RETURNS text LANGUAGE sql STABLE AS
                  $$ SELECT CASE WHEN $1 = 'Bearer 1' THEN 'alice' END $$""")
    vacuum = server.connect("a", LEVELS[0])
    run(vacuum, "LOCK TABLE pgpoll.messages IN SHARE UPDATE EXCLUSIVE MODE")    # the lock that VACUUM takes
    server.install("a")
    vacuum.rollback()
    assert run(admin, "SELECT obj_description('pgpoll.can_poll(text, text)'::regprocedure, 'pg_proc')") == [("ours",)]
    run(admin, "SET ROLE app")
    publish(admin, "t", 2)
    assert Reader(admin, ["t"], {"t": 0}).read() == [1, 2]
    assert run(admin, "SELECT pgpoll.refused_topic('', '{mine}'), pgpoll.refused_topic('', '{mine,t}')") == [(0, 2)]
    assert run(admin, "SELECT pgpoll.authenticate('Bearer 1'), pgpoll.has_authenticate()") == [("alice", True)]
    run(admin, "RESET ROLE")
    assert run(admin, "SELECT position FROM pgpoll.feed ORDER BY position")[:1] == before


def test_installs_at_the_same_time(server):
    """One after the other, also if one takes longer than the 3 s for which they wait for transactions of publishers, or than statements may take
    in this database."""
    server.create("a")
    slow, admin = server.connect("a", LEVELS[0]), server.connect("a")
    run(admin, "ALTER DATABASE a SET statement_timeout = '2s'")
    run(slow, "SELECT pg_advisory_xact_lock(hashtext('pgpoll.install'))")
    command = ["psql", "-X", "-d", "a", "-f", INSTALL]
    running = [subprocess.Popen(command, env=server.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(4)]
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND clock_timestamp() - waitstart > '3.5 s'"
    wait_until(lambda: run(admin, waiting) == [(4,)] or any(p.poll() is not None for p in running))
    slow.rollback()
    assert [(p.communicate()[0], p.returncode) for p in running] == [("", 0)] * 4


def test_another_encoding_is_refused(server):
    server.create("latin", "-E", "LATIN1", "--locale=C", "-T", "template0")
    refused = server.psql("latin", "-f", INSTALL)
    assert refused.returncode == 3 and "pgpoll needs a database with encoding UTF8" in refused.stderr
    admin = server.connect("latin")
    assert run(admin, "SELECT to_regnamespace('pgpoll')") == [(None,)] and run(admin, ROLES) == []


def test_database_with_other_defaults(server):
    """prune.sql gives positions in it, too."""
    server.create("a")
    admin = server.connect("a")
    for setting in ("standard_conforming_strings = off", "default_transaction_isolation = 'serializable'", "intervalstyle = 'iso_8601'",
                    "datestyle = 'German'", "plpgsql.extra_errors = 'all'", "plpgsql.extra_warnings = 'all'", "quote_all_identifiers = on",
                    "client_encoding = 'LATIN1'", "synchronous_commit = off"):
        run(admin, "ALTER DATABASE a SET " + setting)
    server.install("a")
    server.install("a")
    admin = server.connect("a")
    publish(admin, "t", "\u00fc")
    admin.set_client_encoding("UTF8")
    check_refusals(admin)

    def pruned():
        server.install("a", PRUNE, arguments=("-q", "-v", "keep=0"))
        return run(admin, "SELECT 1 FROM pgpoll.messages") == []
    wait_until(pruned)


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
    run(admin, "CREATE ROLE pgpoll LOGIN IN ROLE pgpoll_poller; CREATE ROLE bystander IN ROLE pgpoll_poller")
    server.install("a", UNINSTALL)
    assert run(admin, "SELECT to_regnamespace('pgpoll')") == [(None,)] and run(admin, ROLES) == []
    assert run(admin, WORKER) == [] and run(admin, "SELECT to_regrole('bystander') IS NULL") == [(False,)]
    run(admin, "CREATE ROLE pgpoll LOGIN")      # of something else
    server.install("a", UNINSTALL)
    assert run(admin, WORKER) == [("pgpoll",)]
    server.install("a")
    publish(admin, "t", 2)
    assert Reader(admin, ["t"], {"t": 0}).read() == [2] and run(admin, ROLES) == ALL_ROLES


def test_uninstall_leaves_roles_that_another_database_uses(server):
    for database in ("a", "b"):
        server.create(database)
        server.install(database)
    other = server.connect("b")
    run(other, "CREATE ROLE pgpoll LOGIN IN ROLE pgpoll_poller")
    done = server.psql("a", "-f", UNINSTALL)
    assert done.returncode == 0 and "role pgpoll_poller was not dropped" in done.stderr
    assert run(other, ROLES) == ALL_ROLES and run(other, WORKER) == [("pgpoll",)]
    run(other, "SET ROLE pgpoll_publisher")
    publish(other, "t", 1)
    run(other, "SET ROLE pgpoll_poller")
    assert Reader(other, ["t"], {"t": 0}).read() == [1]


def test_owner_need_not_be_superuser(server):
    """The first owner needs CREATEROLE; the owner of a second database finds the roles there."""
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


# Each matches its call better than the original in pg_catalog, so it is called wherever search_path has public.
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


def test_objects_in_public_are_not_used(server):
    """A publisher creates them, before and after the installation, where public is open to all (before PostgreSQL 15)."""
    server.create("a")
    server.install("a")
    admin = server.connect("a")
    run(admin, "GRANT CREATE ON SCHEMA public TO PUBLIC; SET ROLE pgpoll_publisher")
    run(admin, TRAPS)
    run(admin, "RESET ROLE; DROP VIEW pgpoll.stats CASCADE")   # and the functions that use its row type
    server.install("a")
    run(admin, "SET ROLE pgpoll_publisher; CREATE FUNCTION public.row_to_json(pgpoll.stats) RETURNS json LANGUAGE sql"
               " AS 'SELECT public.spring()::text::json'; SET search_path = public, pg_catalog")
    publish(admin, "t", 1)
    run(admin, "RESET ROLE; SET search_path = public, pg_catalog; SET ROLE pgpoll_poller")
    assert Reader(admin, ["t"], {"t": 0}).read() == [1]
    write_statistics(admin, "h", 1, began=["t"])
    write_statistics(admin, "h", 2, began=["t"])
    run(admin, "SELECT pgpoll.sweep_waiters()")
    counts = run(admin, "RESET search_path; SELECT pg_catalog.row_to_json(s) FROM pgpoll.stats s")[0][0]
    assert counts["topic_subscriber_counts"] == {"t": 2}
    write_statistics(admin, "h", 1, ended=[1])
    run(admin, "RESET ROLE; SET search_path = public, pg_catalog; SELECT pgpoll.prune('0')")


PSQL = "psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null"


def test_a_server_that_is_too_old(server):
    server.create("a")
    done = server.psql("a", "-c", "\\set SERVER_VERSION_NUM 130023", "-c", "\\set SERVER_VERSION_NAME 13.23", "-f", INSTALL)
    assert done.returncode == 3 and "pgpoll needs PostgreSQL 14 or later, this is 13.23" in done.stderr
    assert server.psql("a", "-qAtc", "SELECT to_regnamespace('pgpoll')").stdout == "\n"


def dump_of(source, *options):
    """The output of pg_dump. Skips the test if pg_dump is too old for the server (see tests/postgres)."""
    program = int(re.search(r" (\d+)", subprocess.run(["pg_dump", "--version"], check=True, capture_output=True, text=True).stdout)[1])
    if program * 10000 > int(source.psql("postgres", "-qAtc", "SHOW server_version_num").stdout):
        pytest.skip("pg_dump is newer than the server, which does not know all settings that it writes")
    return subprocess.run(["pg_dump", *options], env=source.environment, check=True, capture_output=True).stdout


def restore(source, from_database, target, to_database, form="plain", program=PSQL):
    dump = dump_of(source, "-F", form, "-d", from_database)
    target.psql("postgres", "-f", ROLES_SCRIPT)
    target.create(to_database)
    done = subprocess.run([*program, "-d", to_database], env=target.environment, input=dump, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("program", [("plain", PSQL), ("custom", ("pg_restore", "--exit-on-error"))], ids=["psql", "pg_restore"])
def test_restored_dump(server, program):
    """Nothing is delivered twice, old cursors stay valid, positions grow on, and pruned_to is kept."""
    server.create("a")
    server.install("a")
    admin = server.connect("a")
    publish(admin, "t", 1)
    assign(admin)
    wait_until(lambda: run(admin, "SELECT pgpoll.prune('0')") == [(1,)])
    publish(admin, "t", 2, 3)
    client = Reader(admin, ["t"], {"t": 0})
    client.page(messages=1)
    restore(server, "a", server, "b", *program)
    client.session = server.connect("b")
    check_refusals(client.session)
    server.install("b")
    check_refusals(client.session)
    assert client.read() == [3]
    publish(client.session, "t", 4)
    assert client.read() == [4]
    fresh = Reader(client.session, ["t"], {"t": 0})
    assert fresh.read() == [2, 3, 4] and [gap[1] for gap in fresh.gaps] == ["expired"]


def test_restored_data_only(server, cluster):
    """Data of another cluster, restored into an installed schema. (pg_restore leaves all triggers enabled.)"""
    cluster.start("fsync=off")
    for where, database in ((server, "a"), (cluster, "b")):
        where.create(database)
        where.install(database)
    admin = server.connect("a")
    client = Reader(admin, ["t"], {"t": 0})
    publish(admin, "t", 1, 2)
    assert client.read() == [1, 2]
    publish(admin, "t", 3, 4)
    dump = dump_of(server, "--data-only", "--disable-triggers", "-d", "a")
    done = subprocess.run([*PSQL, "-d", "b"], env=cluster.environment, input=dump, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    client.session = admin = cluster.connect("b")
    publish(admin, "t", 5)
    assert client.read() == [3, 4, 5]
    run(admin, "DO $$BEGIN FOR n IN 1..2000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END$$")    # beyond those of the other cluster
    publish(admin, "t", 6)
    assert client.read() == [6] and client.gaps == [] and Reader(admin, ["t"], {"t": 0}).read() == [1, 2, 3, 4, 5, 6]


@pytest.fixture(name="subscribed")
def subscribed_databases(server, cluster):
    """A function that creates a database with messages 1 and 2, of which 1 has its position, and a second database that
    subscribes to it. Returns a session in each."""
    cluster.start("fsync=off")
    sessions = []

    def subscribe(publication):
        for where, database in ((server, "a"), (cluster, "b")):
            where.create(database)
            where.install(database)
            sessions.append(where.connect(database))
        origin, copy = sessions
        publish(origin, "t", 1)
        assign(origin)
        publish(origin, "t", 2)
        run(origin, "CREATE PUBLICATION p " + publication)
        run(copy, f"CREATE SUBSCRIPTION s CONNECTION 'host={server.directory} port=5432 user=postgres dbname=a' PUBLICATION p")
        return sessions
    yield subscribe
    run(sessions[1], "DROP SUBSCRIPTION IF EXISTS s")


def test_moved_by_logical_replication(subscribed):
    """All tables are replicated; then the copy replaces the original. (Sequences are not replicated.)"""
    origin, copy = subscribed("FOR ALL TABLES")
    client = Reader(origin, ["t"], {"t": 0})
    assert client.read() == [1, 2]
    publish(origin, "t", 3)
    tables = "SELECT (SELECT max(id) FROM pgpoll.messages), (SELECT max(position) FROM pgpoll.feed), (SELECT max(position) FROM pgpoll.batches)"
    wait_until(lambda: run(origin, tables) == run(copy, tables))
    run(copy, "DROP SUBSCRIPTION s")
    run(copy, "SELECT setval('pgpoll.messages_id_seq', (SELECT max(id) FROM pgpoll.messages))")   # as docs/operate.md says
    client.session = copy
    publish(copy, "t", 4)
    assert client.read() == [3, 4] and client.gaps == []
    assert Reader(copy, ["t"], {"t": 0}).read() == [1, 2, 3, 4]


def test_messages_by_logical_replication(subscribed):
    """The subscriber announces them at once and keeps them until it prunes them itself."""
    origin, copy = subscribed("FOR TABLE pgpoll.messages WITH (publish = 'insert')")
    client, bell = Reader(copy, ["t"], {"t": 0}), connect(**copy.info.dsn_parameters)
    wait_until(lambda: client.read() == [1, 2])
    run(bell, "LISTEN pgpoll")
    publish(origin, "t", 3)
    wait_until(lambda: [run(bell, "SELECT 1"), [n for n in bell.notifies if n.payload == ""]][1])
    assert client.read() == [3]
    wait_until(lambda: run(origin, "SELECT pgpoll.prune('0') FROM pgpoll.messages") == [])
    publish(origin, "t", 4)
    wait_until(lambda: client.read() == [4])
    assert Reader(copy, ["t"], {"t": 0}).read() == [1, 2, 3, 4]


def numbers(server):
    """The next transaction number of a cluster."""
    return run(server.connect("postgres"), "SELECT pg_current_xact_id()::text::bigint")[0][0]


def check_restored(source, target):
    """Messages with and without a position, published before the first batch and while a backlog is worked off."""
    source.create("a")
    source.install("a")
    admin = source.connect("a")
    assert assign(admin) == 0   # the first batch of all reads the whole table
    under_way = source.connect("a", "READ COMMITTED")
    publish(under_way, "t", "not in the dump")
    publish(admin, "t", 1, 2)
    client = Reader(admin, ["t"], {"t": 0})
    assert client.read() == [1, 2]
    publish(admin, "t", 3, 4)
    restore(source, "a", target, "b")

    admin, client.session, under_way = target.connect("b"), target.connect("b"), target.connect("b", "READ COMMITTED")
    publish(admin, "t", 5)
    publish(under_way, "t", 6)
    slow = target.connect("b", "READ COMMITTED")
    run(slow, "ALTER SEQUENCE pgpoll.last_position CACHE 1")     # which is read after the snapshot
    reading = Background(client.read)
    wait_until(lambda: waits_for_lock(admin, client.session))
    under_way.commit()
    publish(admin, "t", 7)
    slow.rollback()
    assert reading.join() == [3, 4, 5] and client.read() == [6, 7]
    publish(admin, "t", 8)
    assert client.read() == [8] and assign(admin) == 0 and client.gaps == []
    assert Reader(admin, ["t"], {"t": 0}).read() == list(range(1, 9))


def test_restored_in_another_cluster(server, cluster):
    """A cluster whose transaction numbers are much higher, and then one whose numbers are much lower."""
    cluster.start("fsync=off")
    cluster.stop()
    if not cluster.has_program("pg_resetwal"):
        pytest.skip("tests/postgres has no pg_resetwal for this server")
    cluster.server_program("pg_resetwal", "-D", "data", "-x", str(1 << 25))
    cluster.start()
    assert numbers(server) < 1 << 20 < numbers(cluster)
    check_restored(server, cluster)
    check_restored(cluster, server)


def test_copy_of_the_cluster(server, cluster):
    """A promoted standby. A dump of it, restored in the original cluster, has transaction numbers of the future there."""
    server.create("a")
    server.install("a")
    admin = server.connect("a")
    publish(admin, "t", 1, 2)
    client = Reader(admin, ["t"], {"t": 0})
    assert client.read() == [1, 2]
    publish(admin, "t", 3)
    cluster.copy(server)
    cluster.start()
    publish(admin, "t", 4)
    copy = cluster.connect("a")
    wait_until(lambda: run(copy, "SELECT count(*) FROM pgpoll.messages") == [(4,)])
    cluster.server_program("pg_ctl", "-D", "data", "-w", "promote")
    client.session = copy
    assert client.read() == [3, 4]
    publish(copy, "t", 5)
    assert client.read() == [5] and client.gaps == []

    run(copy, "DO $$BEGIN FOR n IN 1..500 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END$$")
    assign(copy)
    publish(copy, "t", 6)
    assert numbers(server) < numbers(cluster)
    restore(cluster, "a", server, "b")
    back = client.session = server.connect("b")
    publish(back, "t", 7)
    assert client.read() == [6, 7] and assign(back) == 0
    publish(back, "t", 8)
    assert client.read() == [8] and client.gaps == []
    assert Reader(back, ["t"], {"t": 0}).read() == list(range(1, 9))


def test_copy_of_the_cluster_restored_late(server, cluster):
    """The same, after the original cluster has used those numbers itself."""
    server.create("a")
    server.install("a")
    cluster.copy(server)
    cluster.start()
    cluster.server_program("pg_ctl", "-D", "data", "-w", "promote")
    copy = cluster.connect("a")
    run(copy, "DO $$BEGIN FOR n IN 1..500 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END$$")
    client = Reader(copy, ["t"], {"t": 0})
    publish(copy, "t", 1)
    assert client.read() == [1]
    publish(copy, "t", 2)
    restore(cluster, "a", server, "b")
    back = client.session = server.connect("b")
    publish(back, "t", 3)
    assert numbers(server) < numbers(cluster)
    run(back, "DO $$BEGIN FOR n IN 1..1000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END$$")
    assert numbers(server) > numbers(cluster)
    assert client.read() == [2, 3]


def test_restart(server):
    """A restart updates no row, and skips the positions that a crash may have lost after clients saw them."""
    server.create("a")
    server.install("a")
    admin = server.connect("a")
    run(admin, "SELECT setval('pgpoll.last_position', ((extract(epoch FROM clock_timestamp()) + 3600) * 1000)::bigint << 16)")
    client = Reader(admin, ["t"], {"t": 0})
    publish(admin, "t", 1)
    assert client.read() == [1]
    publish(admin, "t", 2)
    rows = "SELECT id, xid::text, xmin::text FROM pgpoll.messages ORDER BY id"
    before = run(admin, rows)
    server.stop()
    server.start()
    admin = client.session = server.connect("a")
    assert client.read() == [2] and run(admin, rows) == before
    assert client.got[1][0] - client.got[0][0] > 600 << 16
    publish(admin, "t", 3)
    assert client.read() == [3] and client.gaps == []
