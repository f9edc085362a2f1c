"""A primary is replaced by its standby. The programs do not go back to it, and read old pages from a standby only where that is right."""
import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile

import pytest

from faults import Copy, Proxy, Supervisor
from server import METRICS, STATS, Postgres, Server, new_topic, until


SOAK = bool(os.environ.get("SOAK"))
soak = pytest.mark.skipif(not SOAK, reason="takes long: make soak")


@pytest.fixture(params=["managed", pytest.param("direct", marks=soak)])
def mode(request):
    return request.param


def publish(database, topic, *payloads):
    for payload in payloads:
        database.sql("INSERT INTO pgpoll.messages (topic, payload) VALUES (%s, to_json(%s::text))", topic, payload)


def follow(server, topic, since, count):
    """Polls until there are so many messages. Returns the payloads and the last cursors."""
    payloads = []

    def poll():
        nonlocal since
        answer = server.ask("POST", "/messages/poll", '{"topics": ["%s"], "since": {"%s": "%s"}, "timeout": 5}' % (topic, topic, since[topic]))
        if answer.status == 200:
            assert not answer.gaps
            since = answer.next_since
            payloads.extend(answer.payloads)
        return len(payloads) >= count

    until(poll, f"{count} messages", 60)
    return payloads, since


def told_nothing(server, topic, since):
    """Whether a poll is told that nothing is there or that the database is away, as while the old primary is the only one."""
    answer = server.ask("POST", "/messages/poll", '{"topics": ["%s"], "since": {"%s": "%s"}, "timeout": 1}' % (topic, topic, since[topic]))
    return answer.status == 503 or (answer.status == 200 and not answer.messages and not answer.gaps and answer.next_since == since)


def test_the_old_primary_counts_as_away(mode):
    topic = new_topic()
    server = Server(4 if mode == "managed" else 1)   # each worker without a manager remembers only what it has seen itself
    server.mode = mode
    with server, Copy(Postgres(server), replicate=True) as standby:
        old, new = server.run.resolve() / "pg/.s.PGSQL.5432", standby.directory / ".s.PGSQL.5432"
        with Proxy(old) as proxy, Supervisor(server, PGHOST=str(proxy.directory)) as supervisor:
            def reach(target):
                proxy.target = str(target)
                proxy.cut()

            publish(server, topic, "before")
            payloads, since = follow(server, topic, {topic: "0"}, 1)
            assert payloads == ["before"]
            standby.until_replayed()
            standby.promote()
            reach(new)
            publish(standby, topic, "new 1", "new 2")
            payloads, since = follow(server, topic, since, 2)
            assert payloads == ["new 1", "new 2"]
            if mode == "managed":   # the statistics processes, which have seen only the old one, learn of it
                until(lambda: server.ask("GET", STATS).status == 503, "no statistics of the old one")
                assert 'pgpoll_database_timeline{host="' in (text := server.ask("GET", METRICS).text) and text.split("pgpoll_database_timeline{")[1].split()[1] == "2"

            publish(server, topic, "lost")
            reach(old)
            assert told_nothing(server, topic, since)
            until(lambda: any("it is an old primary, on timeline 1, and timeline 2" in line for line in server.log()), "the log names it", 30)
            assert told_nothing(server, topic, since)
            if mode == "managed":   # a worker without a manager forgets
                workers = server.worker_pids()
                os.kill(supervisor.pids[0], signal.SIGHUP)
                until(lambda: not server.worker_pids() & workers, "other workers", 60)
                assert told_nothing(server, topic, since)
                assert len([line for line in server.log() if f"warning: not using the server at host {proxy.directory}" in line]) == 1
            reach(new)
            publish(standby, topic, "new 3")
            payloads, since = follow(server, topic, since, 1)
            assert payloads == ["new 3"]

            # A backup that is restored, on a newer timeline, is accepted.
            postgres = Postgres(server)
            for _ in range(2):
                postgres.stop("immediate")
                (postgres.data / "standby.signal").touch()
                postgres.start()
                server.sql("SELECT pg_promote()")
            reach(old)
            publish(server, topic, "restored")
            payloads, since = follow(server, topic, since, 2)
            assert payloads == ["lost", "restored"]
            reach(new)   # on timeline 2, and 3 was seen
            assert told_nothing(server, topic, since)


@soak
def test_the_old_primary_comes_back_as_the_first_of_the_hosts():
    topic = new_topic()
    with Server(4) as server, Copy(Postgres(server), replicate=True) as standby:
        server.mode = "managed"
        hosts = f"{server.run.resolve() / 'pg'},{standby.directory}"
        with Supervisor(server, PGHOST=hosts, PGTARGETSESSIONATTRS="read-write") as supervisor:
            publish(server, topic, "before")
            payloads, since = follow(server, topic, {topic: "0"}, 1)
            standby.until_replayed()
            old = Postgres(server)
            old.stop("immediate")
            standby.promote()
            publish(standby, topic, "after")
            payloads, since = follow(server, topic, since, 1)
            assert payloads == ["after"]
            old.start()
            workers = server.worker_pids()
            os.kill(supervisor.pids[0], signal.SIGHUP)
            until(lambda: not server.worker_pids() & workers, "other workers", 60)
            publish(standby, topic, "reloaded")
            payloads, since = follow(server, topic, since, 1)
            assert payloads == ["reloaded"]
            standby.postgres.stop("immediate")   # the new manager tries the other host, and knows what the one before it has seen
            until(lambda: [line for line in server.log() if "it is an old primary" in line], "the log names it")
            standby.postgres.start()
            publish(standby, topic, "restarted")
            payloads, since = follow(server, topic, since, 1)
            assert payloads == ["restarted"]


@soak
def test_a_standby_is_left_when_the_primary_is_back():
    """Without PGTARGETSESSIONATTRS, the standby answers the questions to can_poll() while the primary restarts. That must not keep the manager there."""
    topic = new_topic()
    with Server(4) as server, Copy(Postgres(server), replicate=True) as standby:
        server.mode = "managed"
        server.restrict("topic <> 'refused'", "refused")
        with Supervisor(server, PGHOST=f"{server.run.resolve() / 'pg'},{standby.directory}"):
            publish(server, topic, "before")
            payloads, since = follow(server, topic, {topic: "0"}, 1)
            standby.until_replayed()
            primary = Postgres(server)
            primary.stop("immediate")
            server.close_db()
            until(lambda: standby.sql("SELECT 1 FROM pg_stat_activity WHERE application_name = 'pgpoll'"), "sessions at the standby")
            for _ in range(5):
                server.ask("POST", "/messages/poll", '{"topics": ["%s"], "since": {"%s": "0"}, "timeout": 1}' % (topic, topic))
            primary.start()
            publish(server, topic, "after")
            assert follow(server, topic, since, 1)[0] == ["after"]


def test_old_pages_come_from_a_standby():
    topic, service = new_topic(), "standby"
    with Server(4) as server, Copy(Postgres(server), replicate=True) as standby:
        def calls():
            """How many pages the standby has read. (It writes its statistics a moment later.)"""
            return standby.sql("SELECT coalesce(sum(calls), 0) FROM pg_stat_user_functions WHERE funcname = 'catch_up'")[0][0]

        (server.run / "services").write_text(f"[{service}]\nhost={standby.directory}\n")
        server.mode = "managed"
        publish(server, topic, *range(250))
        standby.sql("ALTER SYSTEM SET track_functions = 'all'")
        standby.sql("SELECT pg_reload_conf()")
        standby.until_replayed()
        with Supervisor(server, PGTARGETSESSIONATTRS="read-write", PGSERVICEFILE=str(server.run / "services"),
                        PGPOLL_CATCH_UP_SERVICE=service) as supervisor:
            until(lambda: server.poll(topic, since={topic: "0"}).has_more and calls() > 0, "a page from the standby")
            standby.sql("SELECT pg_wal_replay_pause()")
            until(lambda: standby.sql("SELECT pg_get_wal_replay_pause_state()") == [("paused",)], "no replay")
            publish(server, topic, *range(250, 255))
            before = calls()
            messages = server.read(topic)
            assert [message["payload"] for message in messages] == [str(n) for n in range(255)]
            until(lambda: calls() >= before + 2, "two full pages from the standby")
            newest = {topic: messages[-1]["message_id"]}
            for since, expected in ((newest, []), ({topic: messages[-3]["message_id"]}, ["253", "254"]), ({topic: "-2"}, ["253", "254"]), (None, [])):
                answer = server.poll(topic, since=since)
                assert answer.payloads == expected and not answer.gaps and answer.next_since == newest, since
            standby.postgres.stop("immediate")
            assert [message["payload"] for message in server.read(topic)] == [str(n) for n in range(255)]
            assert [line for line in server.log() if "cannot read from the server of PGPOLL_CATCH_UP_SERVICE, reading from the primary" in line]
            server.sql("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
            standby.postgres.start()
            standby.until_replayed()
            # A role that may not ask for the cluster polls as ever. It cannot know whether the standby is one of its database.
            os.kill(supervisor.pids[0], signal.SIGHUP)
            until(lambda: [message["payload"] for message in server.read(topic)] == [str(n) for n in range(255)] and
                  any("it is a standby, and the role may not execute pg_control_system()" in line for line in server.log()), "the reason in the log", 60)


def test_a_standby_that_is_promoted_for_a_test_is_not_read_from():
    """Sessions to it are open. What is published there then belongs to another database."""
    topic, service = new_topic(), "standby"
    with Server(4) as server, Copy(Postgres(server), replicate=True) as standby:
        (server.run / "services").write_text(f"[{service}]\nhost={standby.directory}\n")
        server.mode = "managed"
        publish(server, topic, *range(150))
        standby.until_replayed()
        with Supervisor(server, PGSERVICEFILE=str(server.run / "services"), PGPOLL_CATCH_UP_SERVICE=service):
            def sessions():
                return standby.sql("SELECT count(*) FROM pg_stat_activity WHERE usename = 'pgpoll_worker'")[0][0]

            until(lambda: server.read(topic) and sessions() > 0, "a session to the standby")
            standby.promote()
            publish(standby, topic, *(["elsewhere"] * 250))
            standby.sql("SELECT pgpoll.assign_positions()")
            assert [message["payload"] for message in server.read(topic)] == [str(n) for n in range(150)]
            publish(server, topic, "after")
            until(lambda: [message["payload"] for message in server.read(topic)] == [str(n) for n in range(150)] + ["after"], "the last message")
            until(lambda: [line for line in server.log() if "it was promoted, and is not the primary that pgpoll uses" in line], "the reason in the log")
            assert not [line for line in server.log() if "it is an old primary" in line]


@contextlib.contextmanager
def pgbouncer(target):
    """A PgBouncer in transaction mode before the socket in this directory. Yields the directory of its own socket."""
    directory = pathlib.Path(tempfile.mkdtemp(prefix="pgpoll-bouncer-", dir="/tmp"))
    directory.chmod(0o777)
    (directory / "ini").write_text(f"[databases]\npgpoll = host={target} user=pgpoll_worker\n[pgbouncer]\nlisten_addr =\nauth_type = any\n"
                                   f"unix_socket_dir = {directory}\nlisten_port = 5432\npool_mode = transaction\n"
                                   f"server_login_retry = 0\npidfile = {directory}/pid\n")
    user = ["-u", "www-data"] if os.getuid() == 0 else []
    process = subprocess.Popen(["/usr/sbin/pgbouncer", "-q", *user, directory / "ini"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    try:
        until(lambda: (directory / "pid").exists(), "PgBouncer")
        yield directory
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(directory)


@soak
def test_a_pooler_that_goes_back_to_the_old_primary():
    """The sessions to the pooler stay, and what runs in them goes to another server."""
    topic = new_topic()
    read = ("POST", "/messages/poll", '{"topics": ["%s"], "since": {"%s": "0"}, "timeout": 0}' % (topic, topic))
    with Server(4) as server, Copy(Postgres(server), replicate=True) as standby:
        server.mode = "managed"
        old, new = server.run.resolve() / "pg/.s.PGSQL.5432", standby.directory / ".s.PGSQL.5432"
        publish(server, topic, "before")
        standby.until_replayed()
        standby.promote()
        with Proxy(new) as proxy, pgbouncer(proxy.directory) as pooler:
            (server.run / "services").write_text(f"[pooler]\nhost={pooler}\n")
            with Supervisor(server, PGHOST=str(standby.directory), PGSERVICEFILE=str(server.run / "services"), PGPOLL_CATCH_UP_SERVICE="pooler"):
                publish(standby, topic, "after")
                until(lambda: server.poll(topic, since={topic: "0"}).payloads == ["before", "after"], "the messages")
                for _ in range(2):
                    proxy.target = str(old)
                    proxy.cut()
                    assert server.ask(*read).status == 503
                    proxy.target = str(new)
                    proxy.cut()
                    until(lambda: (answer := server.ask(*read)).status == 200 and answer.payloads == ["before", "after"], "the new primary")
                assert [line for line in server.log() if "it is an old primary" in line]
