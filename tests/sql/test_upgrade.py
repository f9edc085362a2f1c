"""deploy/pgpoll-setup, and upgrades: from every version of the schema in schemas/, and to a made-up next one."""
import contextlib
import os
import pathlib
import re
import shutil
import subprocess

import psycopg2.errors
import pytest

from conftest import HERE, Cluster
from sessions import Background, Reader, assign, check_refusals, publish, run, wait_until, waits_for_lock

ROOT = pathlib.Path(HERE, "../..").resolve()
VERSION = int(re.search(r"^\\set schema_version (\d+)$", (ROOT / "sql/version.sql").read_text(), re.M)[1])
KEPT = {int(path.stem): path for path in pathlib.Path(HERE, "schemas").glob("*.sql")}


@pytest.fixture(scope="module")
def one():
    made = Cluster()
    try:
        made.start("fsync=off", "deadlock_timeout=100ms")
        yield made
    finally:
        made.remove()


@pytest.fixture
def server(one):
    """A cluster with an empty database d and no role of pgpoll."""
    admin = one.connect("postgres")
    for name, in run(admin, "SELECT datname FROM pg_database WHERE NOT datistemplate AND datname <> 'postgres'"):
        run(admin, f'DROP DATABASE "{name}" WITH (FORCE)')
    for name, in run(admin, "SELECT rolname FROM pg_roles WHERE rolname ~ '^pgpoll' ORDER BY rolcanlogin, rolname"):
        run(admin, f'DROP ROLE "{name}"')
    one.create("d")
    return one


@pytest.fixture
def next_sql(tmp_path):
    """A copy of sql/ with two more versions."""
    sql = tmp_path / "sql"
    shutil.copytree(ROOT / "sql", sql)
    for directory, _, _ in os.walk(tmp_path):   # psql may run as postgres
        os.chmod(directory, 0o755)
    raise_version(sql, VERSION + 1, "ALTER TABLE pgpoll.messages ADD COLUMN colour text;")
    raise_version(sql, VERSION + 2, "ALTER TABLE pgpoll.messages RENAME COLUMN colour TO color;")
    return sql


def raise_version(sql, version, script):
    (sql / "version.sql").write_text(f"\\set schema_version {version}\n")
    (sql / "upgrades").mkdir(exist_ok=True)
    (sql / "upgrades" / f"{version}.sql").write_text(script + "\n")


def set_up(server, *arguments, sql=ROOT / "sql", user="postgres", database=""):
    return subprocess.run([ROOT / "deploy/pgpoll-setup", "--sql", sql, *arguments], env={**server.environment, "PGUSER": user, "PGDATABASE": database},
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


def done(server, *arguments, **options):
    ran = set_up(server, *arguments, **options)
    assert (ran.returncode, ran.stderr) == (0, ""), ran
    return ran.stdout


def refused(server, *arguments, **options):
    ran = set_up(server, *arguments, **options)
    assert ran.returncode == 1, ran
    return ran.stderr


def version_of(server, database="d"):
    return run(server.connect(database), "SELECT pgpoll.schema_version()")[0][0]


def schema_of(server, database):
    """The lines of pg_dump, sorted, without the random names in it."""
    dump = subprocess.run(["pg_dump", "-s", "-n", "pgpoll", "-d", database], env=server.environment, check=True, capture_output=True,
                          text=True).stdout
    return sorted(line.strip().rstrip(",") for line in dump.splitlines() if not line.startswith("\\"))


def test_every_version_was_kept_and_can_be_left():
    assert set(KEPT) >= set(range(1, VERSION))
    upgrades = {int(path.stem) for path in (ROOT / "sql/upgrades").glob("*.sql")}
    assert upgrades == set(range(2, VERSION + 1))


@pytest.mark.parametrize("version", sorted(KEPT))
def test_upgrade_from(server, version):
    """Nothing is lost, no table is rewritten, old cursors stay valid, connected publishers continue, roles keep their
    rights, and the schema equals a fresh one."""
    server.install("d", KEPT[version])
    admin = server.connect("d")
    run(admin, "CREATE ROLE pgpoll_app LOGIN IN ROLE pgpoll_publisher")
    run(admin, """CREATE OR REPLACE FUNCTION pgpoll.can_poll(remote_user text, topic text) RETURNS boolean LANGUAGE sql
                  AS $$SELECT topic <> 'secret'$$""")
    publish(admin, "pruned", 0)
    wait_until(lambda: run(admin, "SELECT pgpoll.prune('0')") == [(1,)])
    publish(admin, "t", 1, {"two": 2.50}, "3")
    if run(admin, "SELECT to_regprocedure('pgpoll.assign_positions()') IS NOT NULL") == [(True,)]:
        run(admin, "SELECT pgpoll.assign_positions()")
    client = Reader(admin, ["t"], {"t": run(admin, "SELECT min(position) FROM pgpoll.feed WHERE topic = 't'")[0][0]})
    stored = run(admin, "SELECT id, topic, payload::text, metadata, created_at FROM pgpoll.messages ORDER BY id")
    retained = run(admin, "SELECT * FROM pgpoll.retention")
    files = "SELECT pg_relation_filenode('pgpoll.messages'), pg_relation_filenode('pgpoll.feed')"
    before = run(admin, files)
    publisher = server.connect("d")
    run(publisher, "SET ROLE pgpoll_app; PREPARE publish AS INSERT INTO pgpoll.messages (topic, payload) VALUES ($1, $2)")

    said = done(server, "d")
    assert re.search(f"upgraded from version {version} to {VERSION}" if version < VERSION else "already", said), said
    assert version_of(server) == VERSION
    assert run(admin, "SELECT id, topic, payload::text, metadata, created_at FROM pgpoll.messages ORDER BY id") == stored
    assert run(admin, "SELECT * FROM pgpoll.retention") == retained
    assert run(admin, files) == before
    run(publisher, "EXECUTE publish ('t', '4')")
    with pytest.raises(psycopg2.errors.CheckViolation):
        run(publisher, "EXECUTE publish (' ', '4')")
    check_refusals(admin)
    assert client.read() == [{"two": 2.50}, "3", 4]
    assert run(admin, "SELECT pgpoll.refused_topic('', '{t}'), pgpoll.refused_topic('', '{t,secret}')") == [(0, 2)]

    run(admin, "CREATE OR REPLACE FUNCTION pgpoll.can_poll(remote_user text, topic text) RETURNS boolean LANGUAGE sql STABLE AS 'SELECT true'")
    server.create("fresh")
    server.install("fresh")
    assert schema_of(server, "d") == schema_of(server, "fresh")


def test_several_versions_at_once(server, next_sql):
    done(server, "d")
    publish(server.connect("d"), "t", 1)
    assert f"upgraded from version {VERSION} to {VERSION + 2}" in done(server, "d", sql=next_sql)
    assert run(server.connect("d"), "SELECT color FROM pgpoll.messages") == [(None,)]
    assert "already" in done(server, "d", sql=next_sql)


def test_an_upgrade_that_fails_changes_nothing(server, next_sql):
    done(server, "d")
    raise_version(next_sql, VERSION + 3, "SELECT 1 / 0;")
    said = refused(server, "d", sql=next_sql)
    assert "division by zero" in said and "was not changed" in said, said
    assert version_of(server) == VERSION
    assert run(server.connect("d"), "SELECT 1 FROM pg_attribute WHERE attname ~ '^colou?r$'") == []


def test_an_open_transaction_is_not_waited_for_forever(server, next_sql):
    """Nor do other publishers wait behind it: the upgrade gives up, and succeeds later."""
    done(server, "d")
    open_one, other = server.connect("d", "READ COMMITTED"), server.connect("d")
    publish(open_one, "t", 1)
    said = refused(server, "d", sql=next_sql)
    assert "lock timeout" in said and version_of(server) == VERSION, said
    publish(other, "t", 2)
    assert "already" in done(server, "d")     # without an upgrade it waits for no lock
    open_one.commit()
    assert "upgraded" in done(server, "d", sql=next_sql)
    assert sorted(Reader(other, ["t"], {"t": 0}).read()) == [1, 2]


def test_an_upgrade_causes_no_deadlock(server, next_sql):
    """With all that may run meanwhile, stopped before each table that it locks, and a version that alters all tables."""
    done(server, "d")
    admin = server.connect("d")
    tables = ["messages", "feed", "retention", "feed_lock", "batches", "position_times"]
    for version, table in enumerate(tables, VERSION + 3):
        raise_version(next_sql, version, "".join(f"LOCK TABLE pgpoll.{name} IN ACCESS EXCLUSIVE MODE;" for name in tables))
        publish(admin, "t", 1)
        assign(admin)
        publish(admin, "t", 2)
        holder, others = server.connect("d", "READ COMMITTED"), []
        run(holder, f"LOCK TABLE pgpoll.{table} IN ACCESS EXCLUSIVE MODE")
        for statement in ("SELECT pgpoll.prune('0')", "SELECT pgpoll.new_messages(1, 1)", "SELECT pgpoll.assign_positions()",
                          "SELECT pgpoll.catch_up('{t}', '{0}', 10, 10000)", "TRUNCATE pgpoll.messages"):
            session = server.connect("d")
            others.append(Background(run, session, statement))
            wait_until(lambda: waits_for_lock(admin, session) or not others[-1].is_alive())
        upgrade = Background(lambda: set_up(server, "d", sql=next_sql))
        waits = "SELECT 1 FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE NOT l.granted AND a.application_name = 'psql'"
        wait_until(lambda: run(admin, waits) or not upgrade.is_alive())
        holder.rollback()
        for other in others:
            with contextlib.suppress(psycopg2.errors.LockNotAvailable):     # within 4 s
                other.join()
        ran = upgrade.join()
        assert ran.returncode == 0 or "lock timeout" in ran.stderr, ran     # 3 s, which a busy machine may exceed


def test_running_programs_have_to_check_the_version_again(server, next_sql):
    done(server, "d")
    program = server.connect("d")
    bystander = server.connect("d")
    run(program, "SET application_name = 'pgpoll'")
    ended = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'pgpoll'"
    done(server, "d")
    assert run(bystander, ended) == [(1,)]
    done(server, "d", sql=next_sql)
    wait_until(lambda: run(bystander, ended) == [])


def test_an_owner_without_the_right_to_end_sessions(server, next_sql):
    admin = server.connect("d")
    run(admin, "CREATE ROLE pgpoll_owner LOGIN CREATEROLE")
    run(admin, "GRANT CREATE ON DATABASE d TO pgpoll_owner")
    done(server, "d", user="pgpoll_owner")
    run(admin, "SET application_name = 'pgpoll'")
    ran = set_up(server, "d", sql=next_sql, user="pgpoll_owner")
    assert ran.returncode == 0 and "Reload them" in ran.stderr, ran
    assert run(admin, "SELECT pgpoll.schema_version()") == [(VERSION + 2,)]


def test_newer_schema_is_refused(server, next_sql):
    done(server, "d", sql=next_sql)
    said = refused(server, "d")
    assert f"version {VERSION + 2}, newer than these scripts (version {VERSION})" in said and "was not changed" in said, said
    assert version_of(server) == VERSION + 2


# --- pgpoll-setup itself

def test_setup_in_an_empty_database(server):
    said = done(server, "d")
    assert f"version {VERSION} of the schema is installed in d" in said and "PGDATABASE=d" in said and "PGUSER=pgpoll" in said, said
    worker = server.connect("d")
    run(worker, "SET SESSION AUTHORIZATION pgpoll")
    assert Reader(worker, ["t"], {"t": 0}).read() == []
    again = done(server, "d")
    assert "already" in again and again.splitlines()[1:] == said.splitlines()[1:], again


@pytest.mark.parametrize("name, arguments, variable", (
    ("-d", ["--", "-d"], ""), ("d", ["--role=pgpoll", "--", "d"], "other"), ("host=d", [], "host=d"), ("host=d", ["dbname='host=d'"], "other")),
    ids=("after --", "argument and variable", "variable", "connection string"))
def test_setup_takes_the_database_as_psql_does(server, name, arguments, variable):
    if name != "d":
        run(server.connect("postgres"), f'CREATE DATABASE "{name}"')
    said = done(server, *arguments, database=variable)
    assert "is installed" in said and f"PGDATABASE={name} " in said, said
    assert version_of(server, name) == VERSION


def test_setup_for_a_role_of_another_name(server):
    done(server, "--role", "pgpoll Web-Data", "d")
    worker = server.connect("d")
    run(worker, 'SET SESSION AUTHORIZATION "pgpoll Web-Data"')
    assert Reader(worker, ["t"], {"t": 0}).read() == []
    assert run(worker, "SELECT 1 FROM pg_roles WHERE rolname = 'pgpoll'") == []


STATEMENT = r"(?m)^((?:CREATE|GRANT) .*;)$"


@pytest.mark.parametrize("role", ("pgpoll", "pgpoll Web-Data"))
def test_setup_without_createrole_prints_what_an_administrator_runs(server, role):
    admin = server.connect("d")
    run(admin, "CREATE ROLE pgpoll_owner LOGIN")
    run(admin, "GRANT CREATE ON DATABASE d TO pgpoll_owner")
    asked = ("--role=" + role, "d")
    said = refused(server, *asked, user="pgpoll_owner")
    statements = re.findall(STATEMENT, said)
    assert "may not create roles" in said and len(statements) == 5, said
    assert run(admin, "SELECT to_regnamespace('pgpoll')") == [(None,)]
    for statement in statements:
        run(admin, statement)
    said = done(server, *asked, user="pgpoll_owner")
    assert "is installed" in said and "already" in done(server, *asked, user="pgpoll_owner")
    assert run(admin, "SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 'pgpoll'") == [("pgpoll_owner",)]
    worker = server.connect("d")
    run(worker, f'SET SESSION AUTHORIZATION "{role}"')
    assert Reader(worker, ["t"], {"t": 0}).read() == []

    run(admin, f'REVOKE pgpoll_poller FROM "{role}"')
    said = refused(server, *asked, user="pgpoll_owner")
    assert re.findall(STATEMENT, said) == statements[-1:] and "the schema is installed, but" in said, said


def test_setup_of_a_second_database_by_another_owner(server):
    """From PostgreSQL 16 on, CREATEROLE is no right over the roles that the first owner has created."""
    admin, asked = server.connect("d"), ("--role=pgpoll_second", "fresh")
    server.create("fresh")
    for owner, database in ("pgpoll_first", "d"), ("pgpoll_owner", "fresh"):
        run(admin, f"CREATE ROLE {owner} LOGIN CREATEROLE")
        run(admin, f"GRANT CREATE ON DATABASE {database} TO {owner}")
    first = done(server, "d", user="pgpoll_first")
    assert "ADMIN OPTION" not in first, first
    if admin.server_version >= 160000:
        said = refused(server, *asked, user="pgpoll_owner")
        assert "the schema is installed, but role pgpoll_second cannot use it" in said, said
        (statement,) = re.findall(STATEMENT, said)
        assert statement == "GRANT pgpoll_publisher, pgpoll_poller, pgpoll_monitor TO pgpoll_owner WITH ADMIN OPTION;"
        shared = done(server, "fresh", user="pgpoll_owner")   # with the first database's role, which may poll already
        assert f"unless somebody who may has run: {statement}" in shared, shared
        run(server.connect("d", user="pgpoll_first"), statement)
    said = done(server, *asked, user="pgpoll_owner")
    assert "role pgpoll_second may poll" in said and "ADMIN OPTION" not in said, said
    run(admin, "CREATE ROLE pgpoll_app")
    run(server.connect("fresh", user="pgpoll_owner"), "GRANT pgpoll_publisher TO pgpoll_app")
    worker = server.connect("fresh", user="pgpoll_second")
    assert Reader(worker, ["t"], {"t": 0}).read() == []


def test_install_without_createrole_names_the_roles(server):
    admin = server.connect("d")
    run(admin, "CREATE ROLE pgpoll_owner LOGIN")
    run(admin, "GRANT CREATE ON DATABASE d TO pgpoll_owner")
    ran = server.psql("d", "-f", ROOT / "sql/install.sql", user="pgpoll_owner")
    statements = re.findall(r"CREATE ROLE \w+ NOLOGIN;", ran.stderr)
    assert ran.returncode != 0 and "may not create role pgpoll_publisher" in ran.stderr and len(statements) == 3, ran
    for statement in statements:
        run(admin, statement)
    server.install("d", user="pgpoll_owner")


@pytest.mark.parametrize("arguments, words", (
    (["nowhere"], 'database "nowhere" does not exist'), ([], "usage"), (["d", "e"], "usage"), ([""], "usage"), (["--role"], "usage"),
    (["--rolle", "x", "d"], "unrecognized option '--rolle'"), (["--sql", "/nonexistent", "d"], "no SQL scripts in /nonexistent")))
def test_setup_refuses(server, arguments, words):
    said = refused(server, *arguments)
    assert words in said and "Traceback" not in said, said


def test_setup_helps(server):
    assert {"--role", "--sql"} <= set(done(server, "--help").split())
