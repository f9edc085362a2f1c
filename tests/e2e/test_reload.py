"""How a manager reloads and ends: waiting polls are served until new processes serve them, and processes that hang are killed."""
import contextlib
import ctypes
import json
import os
import pathlib
import signal
import socket
import subprocess
import time

import pytest

from server import MODE, POLL, ROOT, Server, breaks, children, new_topic, until

pytestmark = pytest.mark.skipif(MODE != "managed", reason="of a manager")
SLOW_START = "cannot start a worker: No child processes"   # a fork server that takes longer than 5 s is replaced

HELD_PROGRAM = """#include <unistd.h>
int main(int argc, char **argv) { (void)argc; while (access("%s", F_OK) != 0) usleep(10000); return execv("%s", argv); }"""


@contextlib.contextmanager
def held_back(server, name="pgpoll-worker"):
    """Keeps the workers of the next program from starting, or that program itself, until the yielded function is called."""
    program, go = server.run / "bin" / name, server.run / "go"
    itself = program.with_name(f"{name}-itself")
    program.rename(itself)
    source = server.home / "held.c"
    source.write_text(HELD_PROGRAM % (go, itself))
    subprocess.run(["cc", "-o", program, source], check=True)
    try:
        yield go.touch
    finally:
        go.touch()
        itself.rename(program)


def state(pid):
    """Returns the state of a process as in proc(5), such as T for stopped; None: it has ended."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return None


def is_gone(pid):
    return state(pid) in (None, "Z")


def stop(pid):
    os.kill(pid, signal.SIGSTOP)
    until(lambda: state(pid) == "T", "stopped")


def end(server):
    """Ends the manager and its processes, but not the database."""
    manager = server.manager
    os.kill(manager, signal.SIGTERM)
    until(lambda: is_gone(manager), "the manager gone", 60)


def listening(server):
    return server.sql("SELECT host, pid FROM pgpoll.listening")


# --- a reload

def test_polls_that_wait_through_a_reload_are_served(topic):
    """However long the new workers take, messages are delivered, new polls of known and unknown topics are answered, and the statistics are
    right."""
    other, late = new_topic(), new_topic()
    with Server(8, errors=SLOW_START) as server, held_back(server) as let_go:
        polls, others = server.wait(topic, polls=4, timeout=60), server.wait(other, polls=2, timeout=60)
        before = server.until_workers()
        server.until_waiting(topic, 4)
        server.begin_reload()
        (newcomer,) = server.wait(late, timeout=60)
        for name in topic, late:
            server.publish(name, name)
        assert [poll.result(8).payloads for poll in polls] == [[topic]] * 4 and newcomer.result(8).payloads == [late]
        assert server.worker_pids() >= before
        server.until_waiting(other, 2)      # a new session writes the statistics; until it does, nobody waits
        server.until_waiting(topic, 0)
        let_go()
        answers = [poll.result(20) for poll in others]
        assert [answer.payloads for answer in answers] == [[]] * 2
        until(lambda: not server.worker_pids() & before and not server.named("pgpoll-old"), "the old processes gone")
        server.publish(other, 1)
        assert [server.poll(other, since=answer.next_since, timeout=20).payloads for answer in answers] == [[1]] * 2
        until(lambda: [pid for _, pid in listening(server)] == [server.manager], "one manager in the statistics")

        (last,) = server.wait(other, timeout=60)
        server.until_waiting(other)
        end(server)
        assert last.result(20).messages == [] and server.sql("SELECT host, pid FROM pgpoll.listeners") == server.sql("SELECT host, pid FROM pgpoll.waiters") == []


def test_a_program_that_cannot_be_executed_changes_nothing(topic):
    with Server(3, errors="cannot reload, the running program continues") as server:
        polls, before = server.wait(topic, polls=3, timeout=60), server.until_workers()
        program = server.run / "bin" / "pgpoll.fcgi"
        program.chmod(0o644)
        os.kill(server.manager, signal.SIGHUP)
        until(lambda: any("cannot reload, the running program continues" in line for line in server.log()), "the log")
        program.chmod(0o755)
        until(lambda: len(server.named("pgpoll.fcgi")) == 1 and not server.named("pgpoll-old"), "one manager")
        server.publish(topic, 1)
        assert [poll.result().payloads for poll in polls] == [[1]] * 3 and server.worker_pids() == before


def test_many_reloads_at_once(topic):
    """Reloads wait for each other, so that there are never more than two old managers with their connections."""
    with Server(3, errors=SLOW_START) as server, held_back(server) as let_go:
        polls, before = server.wait(topic, polls=3, timeout=60), server.until_workers()
        server.begin_reload()
        for _ in range(20):
            os.kill(server.manager, signal.SIGHUP)
            server.poll(topic)  # so that its loop has run once
            assert len(server.named("pgpoll-old")) <= 2
        server.publish(topic, 1)
        let_go()
        for poll in polls:
            answer = poll.result(40)
            for _ in range(3):   # each of up to three reloads may answer a poll early
                if not answer.payloads:
                    answer = server.poll(topic, since=answer.next_since, timeout=20)
            assert answer.payloads == [1]
        until(lambda: not server.worker_pids() & before and not server.named("pgpoll-old"), "the old processes gone", 60)
        server.until_workers()
        (poll,) = server.wait(topic, timeout=20)
        server.publish(topic, 2)
        assert poll.result().payloads == [2]


def test_an_old_manager_that_hangs(topic):
    """It is killed, and its workers end."""
    with Server(3, errors=SLOW_START) as server, held_back(server) as let_go:
        polls, before = server.wait(topic, polls=3, timeout=60), server.until_workers()
        server.begin_reload()
        (old,) = until(lambda: server.named("pgpoll-old"), "the old manager")
        stop(old)
        let_go()
        assert [poll.result(40).messages for poll in polls] == [[]] * 3
        until(lambda: not server.worker_pids() & before and is_gone(old), "the old processes gone")
        assert any(f"process {old} did not end in time: killed" in line for line in server.log())
        server.until_workers()


@contextlib.contextmanager
def cannot_die(pid):
    """Traces a process so that it stops, whatever kills it, before it ends."""
    seize, detach, on_exit = 0x4206, 17, 0x40
    ptrace = ctypes.CDLL(None).ptrace
    ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    assert ptrace(seize, pid, None, on_exit) == 0
    try:
        yield
    finally:
        os.waitpid(pid, 0x40000000)     # __WALL: it has stopped
        assert ptrace(detach, pid, None, None) == 0


@pytest.mark.skipif(os.getuid() != 0, reason="only root can trace another user's process")
def test_a_fork_server_that_does_not_end_delays_only_the_reload(topic):
    with Server(3) as server:
        polls, before = server.wait(topic, polls=2, timeout=60), server.until_workers()
        (forker,) = server.named("pgpoll-forker")
        with cannot_die(forker):
            os.kill(server.manager, signal.SIGHUP)
            until(lambda: state(forker) == "t", "the fork server killed")
            server.publish(topic, 1)
            assert [poll.result(20).payloads for poll in polls] == [[1]] * 2
            assert server.poll(topic, since={topic: "0"}).payloads == [1] and server.worker_pids() == before
        until(lambda: not server.worker_pids() & before and not server.named("pgpoll-old"), "the old processes gone", 60)
        server.until_workers()


def test_a_fork_server_that_the_manager_kills_is_not_logged():
    """It stands still, so it cannot end by itself before that."""
    with Server(1) as server:
        before, (forker,) = server.until_workers(), server.named("pgpoll-forker")
        os.kill(forker, signal.SIGSTOP)
        os.kill(server.manager, signal.SIGHUP)
        until(lambda: not server.worker_pids() & before and not server.named("pgpoll-old"), "the old processes gone", 60)
        server.until_workers()
        assert not [line for line in server.log() if "fork server" in line]


@pytest.mark.parametrize("held", ["pgpoll-worker", "pgpoll.fcgi"], ids=["while workers start", "before the new manager has started"])
def test_a_killed_old_manager_costs_no_message(topic, held):
    with Server(3, errors=SLOW_START) as server, held_back(server, held) as let_go:
        polls, before = server.wait(topic, polls=3, timeout=60), server.until_workers()
        server.begin_reload()
        (old,) = until(lambda: server.named("pgpoll-old"), "the old manager")
        os.kill(old, signal.SIGKILL)
        until(lambda: is_gone(old), "its end")
        server.publish(topic, 1)
        let_go()
        for poll in polls:
            answer, deadline = poll.result(40), time.monotonic() + 20
            while answer.payloads != [1]:   # while too few of the new workers are idle, polls are answered early
                assert answer.payloads == [] and time.monotonic() < deadline
                answer = server.poll(topic, since=answer.next_since, timeout=20)
        until(lambda: not server.worker_pids() & before, "the old workers gone")


# --- processes that were stopped (SIGSTOP) do not end when told to

@pytest.fixture
def impatient():
    """A server that gives its workers 6 s to end."""
    with Server(4, PGPOLL_QUERY_TIMEOUT_S="1", errors="cannot start a worker|a worker died as soon as it was started") as server:
        server.until_workers()
        yield server


def killed(server, pid):
    return any(f"process {pid} did not end in time: killed" in line for line in server.log())


@pytest.mark.parametrize("name", ["pgpoll-worker", "pgpoll-reader", "pgpoll-forker"])
def test_a_stopped_process_does_not_keep_the_manager_from_ending(impatient, topic, name):
    polls = impatient.wait(topic, polls=2, timeout=60)
    victim = min(until(lambda: impatient.named(name), name) - set(impatient.until_waiting(topic, 2)))
    everybody = set(impatient.processes()) - {int((impatient.run / "lighttpd.pid").read_text())}
    ours = {pid for pid in everybody if pid in impatient.named("pgpoll-worker") | impatient.named("pgpoll-reader") | impatient.named("pgpoll-forker")}
    stop(victim)
    end(impatient)
    assert [poll.result(20).messages for poll in polls] == [[]] * 2
    until(lambda: all(is_gone(pid) for pid in ours), "nothing left behind")
    assert killed(impatient, victim) or name == "pgpoll-forker"     # a process without anything to do


def test_a_stopped_worker_does_not_outlive_a_reload(impatient, topic):
    """It does not delay the others. Its client's poll fails."""
    (victim,) = impatient.wait(topic, timeout=60)
    (pid,) = impatient.until_waiting(topic)
    others = impatient.wait(topic, polls=2, timeout=60)
    before = impatient.worker_pids()
    stop(pid)
    os.kill(impatient.manager, signal.SIGHUP)
    assert [poll.result(20).messages for poll in others] == [[]] * 2
    assert breaks(victim)
    until(lambda: not impatient.worker_pids() & before, "the old workers gone", 40)
    assert killed(impatient, pid)
    until(lambda: any(f"old process {pid} was killed by signal 9" in line for line in impatient.log()), "its death noticed")
    end(impatient)


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


@pytest.mark.parametrize("reloads", [True, False], ids=["an old manager ends", "the manager ends"])
def test_a_stopped_worker_keeps_no_last_poll_from_the_table(topic, reloads):
    """It has the only permit to read, and is stopped when the manager, which stands still, is told to end. The other poll has no cursor that it
    could be answered with instead."""
    with Server(3, PGPOLL_CONNECTIONS="1", errors=SLOW_START) as server, contextlib.ExitStack() as held:
        server.publish(topic, 1)
        (poll,) = server.wait(topic, timeout=20)    # from here on the manager need not be asked about the topic
        server.publish(topic, 2)
        assert poll.result().payloads == [2]
        workers, body = server.until_workers(), json.dumps({"topics": [topic], "since": {topic: "0"}, "timeout": 20})
        idle = descriptors(min(workers))
        with contextlib.closing(server.connect()) as holder, holder.cursor() as cursor:
            cursor.execute("LOCK TABLE pgpoll.feed IN ACCESS EXCLUSIVE MODE")
            reads = server.threads.submit(server.ask, "POST", POLL, body)
            until(lambda: server.sql("SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pgpoll.catch_up%' AND wait_event_type = 'Lock'"), "a read")
            (worker,) = [pid for pid in workers if descriptors(pid) > idle]
            waits = server.threads.submit(server.ask, "POST", POLL, body)
            until(lambda: server.connections() == 2, "a worker has the other poll")
            manager = server.manager
            if reloads:
                let_go = held.enter_context(held_back(server))
                server.begin_reload()
                (manager,) = until(lambda: server.named("pgpoll-old"), "the old manager")
            stop(manager)
            stop(worker)
            os.kill(manager, signal.SIGTERM)
            if reloads:
                let_go()
        os.kill(manager, signal.SIGCONT)
        answer = waits.result(30)
        os.kill(worker, signal.SIGCONT)
        assert answer.status == 200 and answer.payloads == [1, 2], answer
        assert any(f"worker {worker} is stopped" in line for line in server.log())
        assert reads.result(30).payloads == [1, 2]


def test_a_stopped_fork_server_holds_up_no_message(impatient, topic):
    """While it hangs, a worker is missing, and the manager continues to work."""
    def delivered_meanwhile():
        (fork_server,) = until(lambda: len(pids := impatient.named("pgpoll-forker")) == 1 and pids, "a fork server")
        (poll,) = impatient.wait(topic, timeout=60)
        victim = min(impatient.until_workers() - set(impatient.until_waiting(topic)))
        stop(fork_server)
        os.kill(victim, signal.SIGKILL)
        until(lambda: any(f"worker {victim} was killed by signal 9" in line for line in impatient.log()), "its death noticed")
        impatient.publish(topic, 1)
        assert poll.result(20).payloads == [1]
        return state(fork_server) == "T"    # otherwise the machine stood still for seconds

    assert any(delivered_meanwhile() for _ in range(3))
    impatient.until_workers(40)


# --- rows in the statistics

def test_a_manager_that_ends_in_order_leaves_no_rows(topic):
    with Server(4) as server:
        polls = server.wait(topic, polls=2, timeout=60)
        server.until_waiting(topic, 2)
        until(lambda: [pid for _, pid in listening(server)] == [server.manager], "its row")
        end(server)
        assert [poll.result().messages for poll in polls] == [[]] * 2
        assert listening(server) == [] and server.sql("SELECT * FROM pgpoll.waiters") == []
        # The polls that it answered when it was told to end are counted, too.
        assert server.sql("SELECT value >= 2 FROM pgpoll.counters WHERE metric = 'polls' AND label = 'released'") == [(True,)]


def test_workers_without_a_manager_that_end_in_order_leave_no_rows(topic):
    server = Server(3)
    server.mode = "direct"
    with server:
        polls, pids = server.wait(topic, polls=2, timeout=60), server.until_workers()
        server.until_waiting(topic, 2)
        until(lambda: len(listening(server)) >= 2, "their rows")
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        assert [poll.result().messages for poll in polls] == [[]] * 2
        until(lambda: all(is_gone(pid) for pid in pids), "the workers gone")
        assert listening(server) == [] and server.sql("SELECT * FROM pgpoll.waiters") == []


def test_a_database_that_hangs_does_not_keep_it_from_ending(topic):
    with Server(4) as server:
        until(lambda: listening(server), "its row")
        with contextlib.closing(server.connect()) as other, other.cursor() as cursor:
            cursor.execute("LOCK TABLE pgpoll.listeners IN ACCESS EXCLUSIVE MODE")
            end(server)


# --- secrets

def test_workers_know_no_password(tmp_path):
    """Workers connect to nothing and are exposed to clients, so they know no password. Neither command lines nor logs contain one."""
    log, secret = tmp_path / "log", "swordfish-4711"
    environment = {**os.environ, "PGHOST": "/nowhere", "PGPASSWORD": secret, "PGSSLPASSWORD": secret, "PGPASSFILE": f"/{secret}", "TOKEN": secret,
                   "PGPOLL_WORKERS": "3", "PGPOLL_LOG": str(log), "LANG": "C.UTF-8", "TZ": "UTC"}

    def environment_of(pid):
        return dict(entry.split("=", 1) for entry in pathlib.Path(f"/proc/{pid}/environ").read_text().split("\0") if "=" in entry)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "poll.sock"))
        listener.listen()
        process = subprocess.Popen([ROOT / "build" / "pgpoll.fcgi"], stdin=listener, stderr=subprocess.DEVNULL, env=environment)
    try:
        workers = until(lambda: len(pids := children(process.pid, "pgpoll-worker")) == 4 and pids, "the workers")
        (reader,), fork_servers = until(lambda: children(process.pid, "pgpoll-reader"), "a reader"), children(process.pid, "pgpoll-forker")
        assert len(fork_servers) == 1 and environment_of(reader)["PGPASSWORD"] == secret
        for pid in workers + fork_servers:
            known = environment_of(pid)
            assert secret not in str(known) and not [name for name in known if name.startswith("PG") and not name.startswith("PGPOLL_")]
            assert {name: known[name] for name in ("PGPOLL_WORKERS", "LANG", "TZ", "PATH")} == {name: environment[name] for name in
                                                                                         ("PGPOLL_WORKERS", "LANG", "TZ", "PATH")}
        for pid in [*workers, *fork_servers, reader, process.pid]:
            assert secret not in pathlib.Path(f"/proc/{pid}/cmdline").read_text()
        until(lambda: "LISTEN connection failed" in log.read_text(), "the log")
        assert secret not in log.read_text()
    finally:
        process.terminate()
        process.wait(20)
