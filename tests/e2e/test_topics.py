"""Many topics: more than a host's polls once had room for, in batches and announcements of many topics, some of them forged."""
import contextlib
import json
import os
import random
import signal
import subprocess
import threading
import time

import pytest

from between import manager
from fastcgi import poll_as
from server import MODE, ROOT, Server, soon, until

STORM = ROOT / "build" / "tests" / "bench" / "storm"
CLIENTS, TOPICS, MESSAGES = 90, 50, 150
NO_RIGHT = "permission denied for view feed_messages"

pytestmark = pytest.mark.skipif(MODE == "direct", reason="about the manager")


class Crowd:
    """Clients with topics of their own. Each message goes to one of them; storm checks that all come, once, in order."""

    def __init__(self, server, prefix):
        command = [STORM, "own", "--target=pgpoll", f"--port={server.port}", f"--topic={prefix}", f"--clients={CLIENTS}", f"--topics={TOPICS}",
                   f"--messages={MESSAGES}", "--rate=200"]
        self.server, self.topics = server, [f"{prefix}-{client}-0" for client in range(CLIENTS)]
        self.process = subprocess.Popen(command, env={**os.environ, **server.env}, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def waits(self):
        """Whether each client waits. They poll from now on. The clients of the test before may still be in the statistics."""
        return len(self.server.waiting(*self.topics)) == CLIENTS

    def publish(self):
        output, _ = self.process.communicate(b"go\n", timeout=120)
        result = json.loads(output)
        assert self.process.returncode == 0 and result["deliveries"] == MESSAGES + 2, {k: v for k, v in result.items() if not k.endswith("_ms")}


@pytest.fixture(scope="module", name="many")
def many_workers():
    with Server(CLIENTS + 10, errors=f"cannot write statistics|{NO_RIGHT}") as server:
        yield server


@pytest.fixture(name="crowd")
def waiting_clients(many, topic):
    crowd = Crowd(many, topic)
    try:
        until(crowd.waits, "all clients waiting", 60)
        yield crowd
    finally:
        crowd.process.kill()
        crowd.process.communicate()


def transactions(server):
    return server.sql("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()")[0][0]


def table_pages(server):
    return sum(value for value, in server.sql("SELECT value FROM pgpoll.counters WHERE metric = 'pages' AND label = 'table'"))


def test_topics_of_their_own(many, crowd):
    """4,500 topics: while nothing is published nobody reads the table, and the database has a few transactions a second."""
    before, begin = table_pages(many), [time.monotonic(), transactions(many)]

    def is_quiet():     # sessions report what they did up to 10 s later
        seconds = time.monotonic() - begin[0]
        if seconds < 1.5:
            return False
        rate, begin[:] = (transactions(many) - begin[1]) / seconds, [time.monotonic(), transactions(many)]
        return rate <= 5
    until(is_quiet, "a quiet second", 40)
    assert table_pages(many) == before
    crowd.publish()


@contextlib.contextmanager
def reports_watched(server):
    """Yields a function that returns how many topics each report to the statistics has listed, the largest first."""
    with contextlib.closing(server.connect()) as connection, connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE public.reported (topics bigint); ALTER FUNCTION pgpoll.write_statistics RENAME TO write_statistics_as_installed;"
                       " CREATE FUNCTION pgpoll.write_statistics(host text, report json) RETURNS boolean LANGUAGE sql SECURITY DEFINER AS"
                       " $$ INSERT INTO public.reported SELECT sum(json_array_length(poll -> 'topics')) FROM json_array_elements($2 -> 'began') poll;"
                       " SELECT pgpoll.write_statistics_as_installed($1, $2) $$")
    try:
        yield lambda: [topics for topics, in server.sql("SELECT topics FROM public.reported WHERE topics > 0 ORDER BY topics DESC")]
    finally:
        with contextlib.closing(server.connect()) as connection, connection, connection.cursor() as cursor:
            cursor.execute("DROP FUNCTION pgpoll.write_statistics; DROP TABLE public.reported;"
                           " ALTER FUNCTION pgpoll.write_statistics_as_installed RENAME TO write_statistics")


def test_statistics_are_written_in_parts(many, crowd):
    """After a reconnect all polls are reported again. Thousands of topics in one statement would hold the manager and the database up."""
    with reports_watched(many) as reports:
        many.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pgpoll.write_statistics%' AND pid <> pg_backend_pid()")
        until(lambda: sum(reports()) >= CLIENTS * TOPICS, "all polls reported again")
        assert reports()[0] <= 2000 + TOPICS
    until(crowd.waits, "all clients waiting")


def test_forged_announcements(many, crowd):
    """Anybody may send them: positions that were never given, topics that have no news, no position at all."""
    stop, forged = threading.Event(), many.connect()
    forged.autocommit = True

    def forge():
        choose = random.Random(1)
        while not stop.is_set():
            position = choose.choice((0, 1, -5, 1 << 62, 99 << 90, many_position()))
            hashes = "".join(f"{choose.getrandbits(32):08x}" for _ in range(choose.randrange(20)))
            with forged.cursor() as cursor:
                cursor.execute("SELECT pg_notify('pgpoll', %s)", (choose.choice((f"{position} {hashes}", f"{position} *", f"{position}", hashes, "x", " ", "")),))
            stop.wait(0.002)

    def many_position():
        with forged.cursor() as cursor:
            cursor.execute("SELECT (extract(epoch FROM clock_timestamp() + '1 s') * 1000)::bigint << 16")
            return cursor.fetchone()[0]

    forger = threading.Thread(target=forge)
    forger.start()
    try:
        crowd.publish()
    finally:
        stop.set()
        forger.join()
        forged.close()


def test_one_transaction_with_thousands_of_topics(many, topic):
    """Its announcement does not fit into one payload. A poll gets what it waits for, in the order of all topics."""
    names = [f"{topic}-{n}" for n in range(1500)]
    polls = [many.wait(*names[n::500][::-1], timeout=60)[0] for n in range(3)]
    until(lambda: len(many.waiting(*names)) == 3, "the polls waiting")
    many.sql("INSERT INTO pgpoll.messages (topic, payload) SELECT %s || '-' || n, to_json(n) FROM generate_series(0, 1499) AS n", topic)
    for n, poll in enumerate(polls):
        answer, got = poll.result(), []
        while answer.messages:
            got += answer.payloads
            answer = many.poll(*names[n::500], since=answer.next_since)
        assert got == list(range(n, 1500, 500))


def lock_holder(server):
    """The process id of the session that leads, by the advisory lock."""
    return [pid for pid, in server.sql("SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = 1885827180 AND objid = 2")]


def test_a_manager_that_follows_another(many, topic, tmp_path):
    """Its clients get what the other manager numbers, in order: messages of any size and number, with other topics in between, after
    a TRUNCATE, when its session ends while it reads, and when it may no longer read the view."""
    until(lambda: lock_holder(many), "a leader")
    with manager(many, "follower", tmp_path / "log") as other:
        until(lambda: many.sql("SELECT 1 FROM pgpoll.listeners WHERE host = 'follower' AND hears"), "the other manager")
        since = poll_as(other.socket, "", topic)[1]["next_since"]

        def deliver(expected, *statements):
            """Publishes in one transaction while a client waits at the manager that follows. A text stands for its length."""
            nonlocal since
            answered, got, gaps = many.threads.submit(poll_as, other.socket, "", topic, since=since, timeout=60), [], {}
            many.until_waiting(topic)
            many.sql("; ".join(statements), *[topic] * "; ".join(statements).count("%s"))
            while len(got) < len(expected) and not gaps:
                _, answer = answered.result(90)
                got += [len(message["payload"]) if isinstance(message["payload"], str) else message["payload"] for message in answer["messages"]]
                since, gaps = answer["next_since"], answer.get("gaps", {})
                answered = many.threads.submit(poll_as, other.socket, "", topic, since=since, timeout=len(got) < len(expected) and 60)
            answered.result(90)
            assert got == expected[:len(got)]
            return list(gaps)

        def end_session():
            """Ends the session of the manager that follows while it reads. Fails if it did something else just then."""
            deadline = time.monotonic() + 1
            with contextlib.closing(many.connect()) as blocking, blocking.cursor() as cursor:
                cursor.execute("LOCK TABLE pgpoll.messages")
                many.sql("SELECT pg_notify('pgpoll', %s || ' ' || encode(int4send(hashtext(%s)), 'hex'))", 2 ** 62, topic)
                while not (reading := many.sql(f"{follows} AND wait_event_type = 'Lock'")) and time.monotonic() < deadline:
                    pass
                return [many.sql("SELECT pg_terminate_backend(%s)", pid) for pid, in reading]

        insert = "INSERT INTO pgpoll.messages (topic, payload) SELECT %s, "
        follows = "SELECT pid FROM pg_stat_activity WHERE usename = 'pgpoll_worker' AND query LIKE '%feed_messages%'"
        until(lambda: not deliver([1], insert + "'1'") and many.sql(follows), "the statement that followers send")
        assert not deliver([2, 70000, 3], insert + "'2'", insert + "to_json(repeat('x', 70000))", insert + "'3'")
        assert not deliver([5], "INSERT INTO pgpoll.messages (topic, payload) VALUES ('elsewhere', '4')", insert + "'5'")
        assert not deliver([*range(1, 301)], insert + "n::text::json FROM generate_series(1, 300) AS n")
        assert not deliver([6], "TRUNCATE pgpoll.messages", insert + "'6'"), "it has all that was truncated"
        until(end_session, "the end of the session")
        until(lambda: not deliver([7], insert + "'7'") and many.sql(follows), "the same statement in the next session")
        many.sql("REVOKE SELECT ON pgpoll.feed_messages FROM pgpoll_poller")
        try:
            until(lambda: not deliver([8], insert + "'8'") and NO_RIGHT in (tmp_path / "log").read_text(), "the loss of the right noticed")
            until(lambda: many.sql("SELECT 1 FROM pgpoll.listeners WHERE host = 'follower' AND hears"), "the other manager again")
            assert not deliver([9], insert + "'9'") and not deliver([10], insert + "'10'")
            assert (tmp_path / "log").read_text().count(NO_RIGHT) == 1, "it does not try again and again"
        finally:
            many.sql("GRANT SELECT ON pgpoll.feed_messages TO pgpoll_poller")


def test_a_manager_whose_leader_is_silent(many, topic, tmp_path):
    """One of two managers looks when a publisher sends NOTIFY. If it does not, the other does, long before its look every 5 s; and
    it leads when the first has gone."""
    def seconds():
        answered = many.threads.submit(poll_as, other.socket, "", topic, timeout=60)
        many.until_waiting(topic)
        os.kill(many.manager, signal.SIGSTOP)
        try:
            began = time.monotonic()
            many.publish(topic, 1)
            assert [message["payload"] for message in answered.result(20)[1]["messages"]] == [1]
            return time.monotonic() - began
        finally:
            os.kill(many.manager, signal.SIGCONT)

    until(lambda: lock_holder(many), "a leader")
    with manager(many, "other", tmp_path / "log") as other:
        until(lambda: many.sql("SELECT 1 FROM pgpoll.listeners WHERE host = 'other' AND hears"), "the other manager")
        leader = lock_holder(many)
        assert soon(seconds, 3)
        assert lock_holder(many) == leader
        many.sql("SELECT pg_terminate_backend(%s)", *leader)
        until(lambda: lock_holder(many) not in ([], leader), "another leader")
