"""Produces what docs/troubleshooting.md shows: log lines, answers and rows, by symptom."""
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import threading

import psycopg2
import pytest

import between
import standby
from documents import TEXTS, command, shown
from server import MODE, POLL, Postgres, Server, new_topic, until

pytestmark = pytest.mark.skipif(MODE != "managed", reason="of a manager")


@pytest.fixture(scope="module")
def own():
    errors = "can_poll|LISTEN connection failed|cannot write statistics|cannot ask|read-only|database_away|: schema,"
    with Server(2, PGPOLL_QUERY_TIMEOUT_S="1", errors=errors) as server:
        yield server


def is_logged(server, start):
    return any(re.search(" " + shown(start) + "$", line) for line in server.log())


def logged(server, start):
    """Waits for the shown line in the log."""
    until(lambda: is_logged(server, start), start, 30)


def health(server, answer):
    until(lambda: re.fullmatch(shown(answer), server.request("GET", "/messages/poll/health").text), answer, 30)


def ask(server, query):
    """Returns the rows as dictionaries."""
    with server.db.cursor() as cursor:
        cursor.execute(query)
        return [dict(zip((column.name for column in cursor.description), row)) for row in cursor.fetchall()]


def poll(server):
    return server.request("POST", POLL, json.dumps({"topics": [new_topic()], "timeout": 0}))


def is_refused(server):
    answer = poll(server)
    return answer.status == 503 and answer.text in re.findall("`(.*?)`", TEXTS["docs/troubleshooting.md"])


def configure(server, setting):
    server.sql(f"ALTER SYSTEM SET {setting}")
    server.sql("SELECT pg_reload_conf()")


@contextlib.contextmanager
def can_poll(server, language, body):
    ((before,),) = server.sql("SELECT pg_get_functiondef('pgpoll.can_poll'::regproc)")
    server.sql(f"CREATE OR REPLACE FUNCTION pgpoll.can_poll(remote_user text, topic text) RETURNS boolean LANGUAGE {language} AS $${body}$$")
    try:
        yield
    finally:
        server.sql(before)


def test_a_function_that_fails_or_is_slow(own):
    with can_poll(own, "plpgsql", "BEGIN RAISE 'no table users'; END"):
        until(lambda: is_refused(own), "503", 30)
        logged(own, "warning: pgpoll.can_poll() failed: ")
        logged(own, "warning: poll … from …: can_poll_failed, ")
    with can_poll(own, "sql", "SELECT pg_sleep(60) IS NULL"):
        until(lambda: is_refused(own), "503", 30)
        logged(own, "warning: pgpoll.can_poll() did not answer ")
        logged(own, "warning: poll … from …: can_poll_timeout, ")


def test_the_database_away(own):
    postgres = Postgres(own)
    postgres.stop()
    try:
        until(lambda: is_refused(own), "503", 30)
        logged(own, "warning: poll … from …: database_away, ")
        logged(own, "warning: LISTEN connection failed, reconnecting: …")
        health(own, '{ "status": "ok", "detail": "Polls wait ')
    finally:
        postgres.start()
    until(lambda: poll(own).status == 200, "polls are served", 30)
    logged(own, "info: connected to the database again")


def test_a_database_that_does_not_answer(own):
    """Its backends are stopped, so they do not even end when the manager gives them up."""
    before, pids = len(own.log()), [pid for pid, in own.backends()]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        until(lambda: is_refused(own), "503", 30)
        logged(own, "warning: cannot …, reconnecting: no answer within ")
        assert not [line for line in own.log()[before:] if "LISTEN connection failed" in line]
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    until(lambda: poll(own).status == 200, "polls are served", 30)


def test_a_server_that_accepts_and_does_not_answer(own, tmp_path):
    log = tmp_path / "log"
    with socket.create_server(("127.0.0.1", 0)) as silent, \
            between.manager(own, "unanswered", log, PGHOST="127.0.0.1", PGPORT=silent.getsockname()[1], PGPOLL_QUERY_TIMEOUT_S=1):
        line = " " + shown("warning: LISTEN connection failed, reconnecting: the server ") + "$"
        until(lambda: log.exists() and re.search(line, log.read_text(), re.M), "the log", 30)


def test_a_schema_of_another_version(own):
    version = "CREATE OR REPLACE FUNCTION pgpoll.schema_version() RETURNS integer LANGUAGE sql AS 'SELECT %s'"
    ((before,),) = own.sql("SELECT pgpoll.schema_version()")
    try:
        own.sql(version % "1000")
        own.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'pgpoll_worker'")
        logged(own, "error: LISTEN connection failed, reconnecting: the pgpoll schema ")
        until(lambda: is_refused(own), "503", 30)
    finally:
        own.sql(version % before)
    until(lambda: poll(own).status == 200, "polls are served", 30)


def test_a_read_only_database(own):
    topic = new_topic()
    own.sql("SET default_transaction_read_only = off")      # in this session
    configure(own, "default_transaction_read_only = on")
    try:
        until(lambda: own.publish(topic, 1) or is_logged(own, "warning: the database is read-only "), "the log", 30)
        own.publish(topic, 2)
        assert ask(own, command("SELECT without_position FROM"))[0]["without_position"] > 0
    finally:
        configure(own, "default_transaction_read_only = off")
    # Polls that wait, because those that do not are refused until the manager is connected again.
    until(lambda: own.poll(topic, since={topic: "-1"}, timeout=20).payloads == [2], "delivered", 30)


def test_a_manager_that_hangs(own):
    manager = own.manager
    os.kill(manager, signal.SIGSTOP)
    try:
        health(own, '{ "status": "deaf", ')
    finally:
        os.kill(manager, signal.SIGCONT)


def test_well(own):
    until(lambda: own.sql("SELECT 1 FROM pgpoll.listening WHERE hears"), "a manager that hears", 30)
    health(own, '{ "status": "ok", "detail": "Polls are served" }')
    typed = command("curl http://127.0.0.1:8080/messages/poll/health").replace("http://127.0.0.1:8080", own.url)
    assert re.fullmatch(shown('{ "status": "ok", "detail": "Polls are served" }'), subprocess.check_output(["sh", "-c", typed], text=True, stderr=subprocess.DEVNULL))
    (listening,) = ask(own, command("SELECT kind, alive, hears FROM"))
    assert listening == {"kind": "manager", "alive": True, "hears": True}
    until(lambda: ask(own, command("SELECT without_position FROM")) == [{"without_position": 0}], "each message has its position")


# --- COMMIT hangs

@contextlib.contextmanager
def publisher(server):
    """Publishes in another session, in the background."""
    session = server.connect()
    session.autocommit = True

    def publish():
        with contextlib.suppress(psycopg2.Error), session.cursor() as cursor:
            cursor.execute("INSERT INTO pgpoll.messages (topic, payload) VALUES ('hangs', '1')")

    thread = threading.Thread(target=publish, daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join(30)
        session.close()


def row_of(waits_for):
    """Returns waits_for, blocked_by_state and blocked_by_wait_event of the row that the document shows."""
    (row,) = re.findall(rf"^\| ({re.escape(waits_for)}) \| (.*?) \| (.*?) \|", TEXTS["docs/troubleshooting.md"], re.M)
    return row


def held_up(server, waits_for):
    wanted = row_of(waits_for)
    until(lambda: wanted in [(row["waits_for"], row["blocked_by_state"], row["blocked_by_wait_event"]) for row in ask(server, command("SELECT waits_for, blocked_by"))],
          f"{wanted}", 30)


def test_blocked_by_a_lock(own):
    holder = own.connect()
    with holder.cursor() as cursor:
        cursor.execute("LOCK TABLE pgpoll.messages IN SHARE MODE")
        with publisher(own):
            held_up(own, "pgpoll.messages")
            holder.rollback()
    holder.close()


def test_the_manager_is_blocked_by_a_lock(own):
    holder = own.connect()
    with holder.cursor() as cursor:
        cursor.execute("LOCK TABLE pgpoll.feed_lock")
        own.publish(new_topic(), 1)
        logged(own, "warning: cannot give positions to new messages, reconnecting: ")
        until(lambda: "pgpoll.feed_lock" in {row["waits_for"] for row in ask(own, command("SELECT waits_for, blocked_by"))}, "its wait is shown", 30)
        holder.rollback()
    holder.close()


def test_blocked_by_a_commit_that_waits_for_a_standby(own):
    own.sql("SET synchronous_commit = local")
    with contextlib.ExitStack() as publishers:
        with standby.away(own.connect):
            publishers.enter_context(publisher(own))
            until(lambda: own.sql("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE 'INSERT%'"), "a COMMIT that waits")
            publishers.enter_context(publisher(own))
            held_up(own, "NOTIFY")
