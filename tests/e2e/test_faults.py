"""Faults of workers, the manager and the database, and how little clients may notice of them."""
import os
import signal
import threading
import time

import pytest

from server import POLL, STALL_S, STATS, Postgres, Server, breaks, new_topic, until


@pytest.fixture(scope="module")
def server():
    """A server whose database is stopped and started."""
    with Server(8) as server:
        yield server


@pytest.fixture(scope="module")
def mortal():
    """A server whose workers are killed, also new ones. Only a manager replaces them; 24 are enough for all tests here."""
    with Server(24, errors="a worker died as soon as it was started") as server:
        yield server


class Loop:
    """A client that polls in a loop and sends next_since back each time. An answer other than 200 ends it."""

    def __init__(self, server, topic, timeout=30):
        self.got, self.stopped, self.since = [], False, None
        self.done = server.threads.submit(self.run, server, topic, timeout)
        until(lambda: self.since, "a first answer")

    def run(self, server, topic, timeout):
        self.since = server.poll(topic).next_since
        while not self.stopped:
            answer = server.poll(topic, since=self.since, timeout=timeout)
            assert not answer.gaps
            self.got, self.since = self.got + answer.payloads, answer.next_since

    def stop(self, server, topic, count):
        until(lambda: self.done.done() or len(self.got) >= count, f"{count} messages", seconds=15 + STALL_S)
        self.stopped = True
        server.publish(topic, "end")
        self.done.result()
        return self.got


def test_a_killed_worker_costs_its_own_poll_only(mortal, topic):
    other = new_topic("other")
    (victim,), (survivor,) = mortal.wait(topic, timeout=20), mortal.wait(other, timeout=20)
    (pid,) = mortal.until_waiting(topic)
    mortal.until_waiting(other)
    os.kill(pid, signal.SIGKILL)
    assert breaks(victim)
    until(lambda: mortal.stats()["active_waiters"] == 1, "the dead worker's poll out of the stats", seconds=2 + STALL_S)
    mortal.publish(other, 1)
    assert survivor.result().payloads == [1]
    mortal.publish(topic, 2)
    assert mortal.poll(topic, since={topic: "0"}).payloads == [2]


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_postgres_restarted_while_polls_wait(server, topic, mode):
    server.publish(topic, "before")
    polls = server.wait(topic, polls=3, timeout=30)
    again = [server.poll_later(topic, since=server.poll(topic).next_since, timeout=30) for _ in range(3)]
    server.until_waiting(topic, 6)
    Postgres(server).restart(mode)
    server.publish(topic, "after")   # perhaps no client has reconnected yet
    assert [poll.result().payloads for poll in polls + again] == [["after"]] * 6
    (poll,) = server.wait(topic, timeout=20)
    server.publish(topic, "later")
    assert poll.result().payloads == ["later"]


def test_polls_that_wait_again_after_a_restart_are_in_the_stats(server, topic):
    polls = server.wait(topic, polls=3, timeout=30)
    Postgres(server).restart("immediate")
    server.until_waiting(topic, 3)
    server.publish(topic, 1)
    assert [poll.result().payloads for poll in polls] == [[1]] * 3


@pytest.mark.parametrize("fault", ["restart", "crash", "terminate", "reload", "drain"])
def test_clients_that_poll_on_and_on_see_no_error_and_lose_nothing(server, mortal, topic, fault):
    server = mortal if fault == "drain" else server
    postgres, sent, drained = Postgres(server), [], set()
    loops = [Loop(server, topic) for _ in range(4)]

    def publish(count):
        for _ in range(count):
            server.publish(topic, len(sent))
            sent.append(len(sent))

    for _ in range(2):
        publish(3)
        if fault in ("restart", "crash"):
            postgres.restart("fast" if fault == "restart" else "immediate")
        elif fault == "terminate":
            until(lambda: server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'pgpoll_worker'"),
                  "backends terminated")
        elif fault == "reload":
            server.reload()
        else:
            # The statistics may show for a second workers that have ended.
            waiting = until(lambda: len(pids := server.waiting(topic)) == 4 and not drained & set(pids) and pids, "4 polls waiting")
            for pid in waiting[:2]:
                os.kill(pid, signal.SIGTERM)
            drained.update(waiting[:2])
        publish(3)
    for loop in loops:
        assert loop.stop(server, topic, len(sent))[:len(sent)] == sent


def test_every_backend_terminated(server, topic):
    polls = server.wait(topic, polls=4, timeout=20)
    server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()")
    server.publish(topic, 1)
    assert [poll.result().payloads for poll in polls] == [[1]] * 4
    assert server.poll(topic, since={topic: "0"}).payloads == [1]
    assert server.stats()["active_waiters"] >= 0


def test_idle_workers_after_a_restart(server, topic):
    """Each worker has a dead connection and has not noticed it."""
    server.publish(topic, 1)
    polls = [server.poll_later(new_topic(), timeout=1) for _ in range(8)]
    assert [poll.result().messages for poll in polls] == [[]] * 8
    Postgres(server).restart("immediate")
    polls = [server.poll_later(topic, since={topic: "0"}, timeout=20) for _ in range(24)]
    assert all(poll.result().payloads == [1] and poll.result().seconds < 5 + STALL_S for poll in polls)
    until(lambda: all(server.stats()["active_waiters"] == 0 for _ in range(4)), "nobody left in the stats", seconds=2 + STALL_S)


def test_settings_of_an_operator(server, topic):
    """Idle sessions are ended after a while, and defaults that change the SQL dialect are set."""
    settings = {"idle_session_timeout": "400ms", "timezone": "Asia/Tokyo", "datestyle": "German", "client_encoding": "LATIN1",
                "bytea_output": "escape", "default_transaction_isolation": "serializable", "standard_conforming_strings": "off",
                "search_path": "nowhere", "statement_timeout": "3s", "idle_in_transaction_session_timeout": "100ms"}
    for name, value in settings.items():
        server.sql(f"ALTER ROLE pgpoll_worker SET {name} = '{value}'")
    try:
        server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'pgpoll_worker'")
        odd = topic + " 'Ünï😀\\"
        polls = server.wait(odd, polls=4, timeout=20)
        sessions = set(server.backends())
        time.sleep(1)   # twice idle_session_timeout
        assert sessions & set(server.backends())    # pgpoll's sessions are not ended: no LISTEN is interrupted
        server.sql("INSERT INTO pgpoll.messages (topic, payload, created_at) VALUES (%s, '\"é😀\"', '2025-01-15 10:30:00+00')", odd)
        for poll in polls:
            (message,) = poll.result().messages
            assert (message["topic"], message["payload"], message["timestamp"]) == (odd, "é😀", "2025-01-15T10:30:00.000000")
        assert server.poll(odd, since={odd: "0"}).payloads == ["é😀"]
    finally:
        server.sql("ALTER ROLE pgpoll_worker RESET ALL")
        server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'pgpoll_worker'")


def test_a_transaction_timeout_that_an_operator_has_set(server, topic):
    if server.sql("SHOW server_version_num") < [("170000",)]:
        pytest.skip("PostgreSQL 17 has it")
    server.sql("ALTER ROLE pgpoll_worker SET transaction_timeout = '400ms'")
    server.restrict(f"pg_sleep(0.6) IS NOT NULL AND topic <> '{topic}'", topic)
    try:
        server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'pgpoll_worker'")
        assert server.poll(new_topic(), timeout=2).messages == []
    finally:
        server.unrestrict()
        server.sql("ALTER ROLE pgpoll_worker RESET ALL")
        server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'pgpoll_worker'")


def test_postgres_down_for_longer_than_the_poll(server, topic):
    server.publish(topic, "before")
    since = server.poll(topic, since={topic: "0"}).next_since
    (waiting,) = server.wait(topic, since=since, timeout=3)
    (from_now,) = server.wait(new_topic(), timeout=3)
    postgres = Postgres(server)
    postgres.stop()
    try:
        for timeout in 0, 1:
            refused = server.poll(topic, timeout=timeout, status=503)
            assert refused.json == {"detail": "Service Unavailable"} and int(refused.headers["Retry-After"]) > 0
            assert refused.headers["Cache-Control"] == "no-store" and refused.seconds < timeout + 1 + STALL_S
        stats = server.request("GET", STATS)
        assert stats.status == 503 and int(stats.headers["Retry-After"]) > 0
        assert server.request("POST", POLL, b"{}").status == 422   # this answer needs no database
        answer = waiting.result()
        assert not answer.messages and not answer.has_more and answer.next_since == since and answer.seconds < 4 + STALL_S
        assert not from_now.result().messages
    finally:
        postgres.start()
    server.publish(topic, "after")
    assert server.poll(topic, since=answer.next_since, timeout=20).payloads == ["after"]
    until(lambda: server.request("GET", STATS).status == 200, "stats again")


def test_a_poll_begun_while_postgres_is_away_waits_for_it(server, topic):
    server.publish(topic, 1)
    postgres = Postgres(server)
    postgres.stop()
    poll = server.poll_later(topic, since={topic: "0"}, timeout=20)
    time.sleep(0.5)   # nothing to observe: the database is down
    postgres.start()
    assert poll.result().payloads == [1]


def test_a_poll_waits_for_a_standby_to_be_promoted(topic):
    """A standby refuses LISTEN, so polls are not answered from it."""
    with Server(4) as server:
        server.publish(topic, 1)
        postgres = Postgres(server)
        postgres.stop()
        (postgres.data / "standby.signal").touch()
        postgres.start()
        assert server.sql("SELECT pg_is_in_recovery()") == [(True,)]
        poll = server.poll_later(topic, since={topic: "0"}, timeout=30)
        refused = server.poll(topic, since={topic: "0"}, timeout=1, status=503)
        assert int(refused.headers["Retry-After"]) > 0 and refused.seconds > 0.9
        assert not poll.done()
        server.sql("SELECT pg_promote()")
        assert poll.result().payloads == [1] and server.poll(topic, since={topic: "0"}).payloads == [1]


def test_workers_told_to_end_while_postgres_is_away(topic):
    """A poll that has no cursor yet is not answered before it has one. It tries to get one for 3 s."""
    def answers():
        with Server(4, errors="a worker died as soon as it was started") as server:
            server.publish(topic, 1)
            postgres = Postgres(server)
            postgres.stop()
            polls = [server.poll_later(topic, since=since, timeout=20) for since in (None, {topic: "0"})]
            time.sleep(0.5)   # nothing to observe: the database is down
            told = time.monotonic()
            for pid in server.worker_pids():
                os.kill(pid, signal.SIGTERM)
            time.sleep(0.5)
            postgres.start()
            if time.monotonic() - told < 2.5:
                return [poll.result() for poll in polls]
            return None     # the database was away for too long

    from_now, all_kept = until(answers, "a database that is back in time", 120)
    assert not from_now.messages and from_now.next_since and all_kept.payloads == [1]


def test_reload_answers_waiting_polls_and_serves_on(server, topic):
    polls = server.wait(topic, polls=4, timeout=30)
    before = server.until_workers()
    manager = server.manager
    server.reload()
    answers = [poll.result(20) for poll in polls]
    assert all(not answer.messages for answer in answers)
    if server.mode == "direct":   # the processes are the same, with a new program
        assert server.worker_pids() == before
    else:   # the manager's process is the same; the workers are new ones
        until(lambda: not server.worker_pids() & before, "the old workers gone")
        assert server.manager == manager and len(server.until_workers()) == server.worker_count
    server.publish(topic, 1)
    assert [server.poll(topic, since=answer.next_since, timeout=20).payloads for answer in answers] == [[1]] * 4


def test_no_poll_is_refused_during_a_reload(server, topic):
    stop = threading.Event()

    def hammer():
        longest = 0
        while not stop.is_set():
            longest = max(longest, server.poll(topic).seconds)
        return longest

    clients = [server.threads.submit(hammer) for _ in range(4)]
    for _ in range(2):
        server.reload()
    stop.set()
    assert all(0 < client.result() < 2 + STALL_S for client in clients)


def test_sigterm_answers_the_waiting_poll(mortal, topic):
    polls = mortal.wait(topic, polls=3, since={topic: "0"}, timeout=30)
    pids = mortal.until_waiting(topic, 3)
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
    answers = [poll.result(20) for poll in polls]
    assert all(not answer.messages and not answer.gaps for answer in answers)
    until(lambda: not set(pids) & mortal.worker_pids(), "the workers gone")
    if mortal.mode == "managed":
        mortal.until_workers()   # others in their places
    mortal.publish(topic, 1)
    assert [mortal.poll(topic, since=answer.next_since).payloads for answer in answers] == [[1]] * 3


def test_sigterm_to_idle_workers(mortal, topic):
    gone = sorted(mortal.worker_pids())[:4]
    for pid in gone:
        os.kill(pid, signal.SIGTERM)
    until(lambda: not set(gone) & mortal.worker_pids(), "the workers gone")
    if mortal.mode == "managed":
        mortal.until_workers()   # others in their places
    assert mortal.poll(topic).status == 200


def test_rows_hidden_from_the_owner(topic):
    """FORCE ROW LEVEL SECURITY hides rows from an owner that is no superuser. Polls are refused, the log says why and what to do, and nothing is
    lost."""
    with Server(4, errors="row-level security") as own:
        own.sql("CREATE ROLE schema_owner; GRANT CREATE ON SCHEMA pgpoll TO schema_owner")
        own.sql("ALTER SCHEMA pgpoll OWNER TO schema_owner")
        for table, in own.sql("""
                SELECT oid::regclass::text FROM pg_class WHERE relnamespace = 'pgpoll'::regnamespace
                AND (relkind IN ('r', 'v') OR relkind = 'S' AND relname <> 'messages_id_seq')"""):
            own.sql(f"ALTER TABLE {table} OWNER TO schema_owner")
        # In one transaction, because they call each other while the manager looks for messages.
        own.sql("; ".join(f"ALTER ROUTINE {routine} OWNER TO schema_owner" for routine, in own.sql(
            "SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'pgpoll'::regnamespace")))
        own.publish(topic, "seen")
        since = {topic: own.read(topic)[0]["message_id"]}
        own.sql("ALTER TABLE pgpoll.messages ENABLE ROW LEVEL SECURITY; ALTER TABLE pgpoll.messages FORCE ROW LEVEL SECURITY")
        own.publish(topic, "hidden")    # as a superuser, for whom no row is hidden
        assert own.poll(topic, since=since, status=503).headers["Retry-After"]
        until(lambda: any('row-level security policy for table "messages"' in line and "NO FORCE ROW LEVEL SECURITY" in line
                          for line in own.log()), "the cause and the remedy in the log")
        own.sql("ALTER TABLE pgpoll.messages NO FORCE ROW LEVEL SECURITY")
        answer = own.poll(topic, since=since, timeout=20)
        assert answer.payloads == ["hidden"] and not answer.gaps


def test_a_restored_database_is_a_gap(server, topic):
    """The client's cursor is ahead of all positions in the database, also of those that are given meanwhile: the clock was an hour fast before."""
    server.publish(topic, 1)
    assert server.read(topic)
    ((before,),) = server.sql("SELECT last_value FROM pgpoll.last_position")
    server.sql("SELECT setval('pgpoll.last_position', ((extract(epoch FROM clock_timestamp()) + 3600) * 1000)::bigint << 16)")
    server.publish(topic, 2)
    cursor = server.read(topic)[1]["message_id"]
    server.sql("""
        LOCK TABLE pgpoll.feed_lock IN SHARE UPDATE EXCLUSIVE MODE;
        WITH lost AS (DELETE FROM pgpoll.feed WHERE position > %s RETURNING message_id)
            DELETE FROM pgpoll.messages USING lost WHERE id = message_id;
        DELETE FROM pgpoll.batches WHERE position > %s;
        SELECT setval('pgpoll.last_position', %s)""", before, before, before)
    answer = server.poll(topic, since={topic: cursor})
    assert answer.gaps[topic]["reason"] == "ahead" and not answer.messages
    server.publish(topic, 3)
    assert server.poll(topic, since=answer.next_since).payloads == [3]


@pytest.fixture
def read_only(server):
    """Makes the database read-only for all sessions, as hosted services do when the disk is full. read_only(False) makes it writable again."""
    def set_to(on=True):
        server.sql("ALTER SYSTEM SET default_transaction_read_only = " + ("on" if on else "off"))
        server.sql("SELECT pg_reload_conf()")
        until(lambda: server.sql("SHOW default_transaction_read_only") == [("on" if on else "off",)], "the setting in force")

    yield set_to
    set_to(False)


def test_a_read_only_database_still_serves(server, topic, read_only):
    server.publish(topic, "before")
    writer = server.connect()
    writer.set_session(readonly=False, autocommit=True)
    logged = len(server.log())
    (early,) = server.wait(topic, timeout=30)
    server.until_waiting(topic)
    read_only()
    # Kept messages, new messages and the statistics are served as before.
    assert server.poll(topic, since={topic: "0"}).payloads == ["before"]
    assert server.poll(topic, since={topic: "0"}, timeout=20).payloads == ["before"]
    assert not server.poll(new_topic(), timeout=1).messages
    assert server.stats()["topic_subscriber_counts"][topic] == 1 and server.request("GET", POLL + "/metrics").status == 200
    (late,) = server.wait(topic, timeout=30)
    # A message that is published nevertheless is delivered when positions can be given.
    with writer.cursor() as cursor:
        cursor.execute("BEGIN READ WRITE; INSERT INTO pgpoll.messages (topic, payload) VALUES (%s, '\"meanwhile\"'); COMMIT", [topic])
    writer.close()
    assert server.poll(topic, since={topic: "0"}).payloads == ["before"]
    until(lambda: any("warning: the database is read-only" in line for line in server.log()[logged:]), "a line in the log")
    assert not early.done() and not late.done()
    read_only(False)
    assert [poll.result(20).payloads for poll in (early, late)] == [["meanwhile"]] * 2
    until(lambda: any("info: the database is writable again" in line for line in server.log()[logged:]), "a line in the log")
    (again,) = server.wait(topic, timeout=30)
    server.until_waiting(topic)
    server.publish(topic, "after")
    assert again.result().payloads == ["after"]
    odd = [line for line in server.log()[logged:] if "warning" in line and "read-only" not in line]
    assert not odd, odd
