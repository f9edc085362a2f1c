"""Workers that damage what they share with others: they write garbage into the memory, or shut a socket down."""
import array
import ctypes
import json
import os
import re
import signal
import socket
import struct

import pytest

from server import POLL, Postgres, Server, new_topic, until

DAMAGED = re.compile(r"worker (\d+) has damaged its shared memory")
PAGE = os.sysconf("SC_PAGE_SIZE")
SLOT = 14 * PAGE    # the size of a worker's slot; the slots are at the end of the workers' memory
SERVING = 2         # what a slot begins with while its worker serves a poll


@pytest.fixture(scope="module")
def host():
    with Server(16, errors="has damaged its shared memory|has shut down the queue|a worker died as soon as it was started") as server:
        server.until_workers()
        yield server


def writable(pid):
    """Yields the shared memory that a worker can write: (address, size) of each mapping, and a file through which to write it."""
    with open(f"/proc/{pid}/maps") as maps:
        found = re.findall(r"^([0-9a-f]+)-([0-9a-f]+) rw-s .*pgpoll", maps.read(), re.M)
    assert found
    return [(int(start, 16), int(end, 16) - int(start, 16)) for start, end in found]


def damage(pid, garbage):
    """Writes garbage(size) into all shared memory that a worker can write."""
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
        for address, size in writable(pid):
            memory.seek(address)
            memory.write(garbage(size))


def damage_slot(pid, topic):
    """Writes garbage into the slot of the worker that waits for this topic. The slot begins on the page with its topic's name and is longer than
    that page."""
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
        for address, size in writable(pid):
            memory.seek(address)
            at = memory.read(size).find(topic.encode())
            if at >= 0:
                memory.seek(address + at // PAGE * PAGE)
                memory.write(os.urandom(8 * PAGE))     # the next slot may belong to a worker that must live
                return
    raise AssertionError("no slot with that topic")


def expect_service(server, manager):
    """Asserts that the same manager serves polls of new and known topics, waiting or not."""
    topic = new_topic()

    def serves():
        server.publish(topic, 1)
        answers = [server.poll_later(topic, timeout=5, since={topic: "0"}) for _ in range(4)]
        return all(not answer.exception(20) and answer.result().payloads for answer in answers)

    until(serves, "polls answered")
    server.until_workers()

    # Polls that have just begun may not be woken, and a broken worker may be killed with a poll that it has just accepted; but soon all polls are
    # served.
    def hears():
        start = until(lambda: not (poll := server.poll_later(topic)).exception(20) and poll.result().next_since, "a cursor")
        polls = [server.poll_later(topic, since=start, timeout=20) for _ in range(4)]
        until(lambda: len(server.waiting(topic)) + sum(poll.done() for poll in polls) == 4, "polls waiting")
        server.publish(topic, "heard")
        answers = [not poll.exception(40) and poll.result() for poll in polls]
        return all(answer and answer.payloads == ["heard"] and answer.seconds < 15 for answer in answers)

    until(hears, "messages heard", seconds=60)
    assert server.manager == manager and os.path.exists(f"/proc/{manager}")


def test_a_worker_that_damages_its_own_slot_is_replaced(host, topic):
    other, manager = new_topic(), host.manager
    (poll,), (kept,) = host.wait(topic, timeout=30), host.wait(other, timeout=30)
    (pid,) = host.until_waiting(topic)
    host.until_waiting(other)
    damage_slot(pid, topic)
    until(lambda: host.poll(new_topic()) and pid not in host.worker_pids(), "the broken worker gone")
    assert str(pid) in [match[1] for line in host.log() if (match := DAMAGED.search(line))]
    assert poll.exception(20)   # the web server answers its client with an error
    host.publish(other, "news")
    assert kept.result(20).payloads == ["news"]
    expect_service(host, manager)


@pytest.mark.parametrize("garbage", [os.urandom, bytes, lambda size: b"\xff" * size, lambda size: b"\1\0\0\0" * (size // 4)],
                         ids=["random", "zeros", "ones", "small"])
def test_garbage_in_all_that_a_worker_can_write(host, topic, garbage):
    manager = host.manager
    polls = host.wait(topic, polls=3, timeout=5)
    (pid, *_) = host.until_waiting(topic, 3)
    for _ in range(2):
        damage(pid if os.path.exists(f"/proc/{pid}") else min(host.worker_pids()), garbage)
        expect_service(host, manager)
    for poll in polls:
        poll.exception(20)  # the polls end, with or without an answer


class Slots:
    """The slots of a server's workers, through the memory of one of them."""

    def __init__(self, server, pid):
        self.memory, self.count = open(f"/proc/{pid}/mem", "r+b", buffering=0), server.worker_count
        with open(f"/proc/{pid}/maps") as maps:
            found = {name: (int(start, 16), int(end, 16)) for start, end, name in
                     re.findall(r"^([0-9a-f]+)-([0-9a-f]+) .*pgpoll-(workers|pids)", maps.read(), re.M)}
        self.pids_at, self.askers_at = found["pids"][0], found["workers"][0] + PAGE
        self.slots_at = found["workers"][1] - self.count * SLOT

    def read(self, address, size):
        self.memory.seek(address)
        return self.memory.read(size)

    def write(self, address, data):
        self.memory.seek(address)
        self.memory.write(data)

    def number(self, address):
        return int.from_bytes(self.read(address, 4), "little")

    def pid(self, worker):
        return self.number(self.pids_at + 4 * worker)

    def serving(self):
        return [worker for worker in range(self.count) if self.number(self.slots_at + worker * SLOT) == SERVING]

    def copy(self, worker, other):
        """Writes what is in one slot to another one, too."""
        self.write(self.slots_at + other * SLOT, self.read(self.slots_at + worker * SLOT, SLOT))

    def ask(self):
        """Says that all workers have asked, and waits until the manager has looked at it."""
        self.write(self.askers_at, b"\xff" * 8)
        until(lambda: int.from_bytes(self.read(self.askers_at, 8), "little") % 2 ** self.count == 0, "the manager looks at all slots")


def test_a_question_in_the_slot_of_a_dead_worker():
    with Server(16, errors="cannot start a worker|a worker died as soon as it was started") as server:
        manager, topic = server.manager, new_topic()
        pids, postgres = server.until_workers(), Postgres(server)
        slots = Slots(server, min(pids))
        postgres.stop()
        poll = server.poll_later(topic, since={topic: "0"}, timeout=30)
        (asks,) = until(slots.serving, "a poll whose question nobody answers")
        dead = next(worker for worker in range(slots.count) if worker != asks and slots.pid(worker) != min(pids))
        (forker,) = server.named("pgpoll-forker")
        os.kill(forker, signal.SIGSTOP)
        os.kill(slots.pid(dead), signal.SIGKILL)
        until(lambda: slots.pid(dead) == 0, "the slot empty")
        slots.copy(asks, dead)
        slots.ask()
        os.kill(forker, signal.SIGKILL)
        until(lambda: slots.pid(dead), "another worker in the slot")
        postgres.start()
        server.publish(topic, "news")
        assert poll.result(40).payloads == ["news"]
        expect_service(server, manager)


def queue_of(pid):
    """Returns a copy of the socket through which a worker asks the readers."""
    libc, pidfd = ctypes.CDLL(None, use_errno=True), os.pidfd_open(pid)
    for fd in map(int, os.listdir(f"/proc/{pid}/fd")):
        if os.readlink(f"/proc/{pid}/fd/{fd}").startswith("socket:"):
            copy = socket.socket(fileno=libc.syscall(438, pidfd, fd, 0))    # pidfd_getfd(2)
            if copy.type == socket.SOCK_SEQPACKET:
                os.close(pidfd)
                return copy
            copy.close()
    raise AssertionError("no queue")


def test_a_worker_that_reads_no_page_frees_its_reader(topic):
    with Server(2, PGPOLL_CONNECTIONS="1", PGPOLL_QUERY_TIMEOUT_S="1") as server:
        for _ in range(5):
            server.publish(topic, "x" * 200_000)
        name = topic.encode() + b"\0"
        quoted = b'"' + topic.encode() + b'"\0'
        entry = struct.pack("=qII", 0, len(name), len(quoted))
        head = struct.pack("@IiiIIq", len(entry + name + quoted), 1, 100, 0, 0, 2**62)    # the deadline of the page: never
        ours, readers = socket.socketpair()
        queue_of(min(server.until_workers())).sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [readers.fileno()]))])
        readers.close()
        ours.sendall(head + entry + name + quoted)
        assert ours.recv(1) == b"\0", "the page has begun"     # the rest does not fit into the socket
        body = json.dumps({"topics": [topic], "since": {topic: "0"}, "timeout": 0})
        until(lambda: server.ask("POST", POLL, body).status == 200, "a page for a sound worker")


def test_a_worker_that_shuts_the_readers_queue_down(host):
    """Then no worker can have the table read. A reload gives new ones another queue, and costs waiting polls nothing."""
    manager, topic = host.manager, new_topic()
    (poll,) = host.wait(topic, timeout=30)
    old = host.until_workers()
    with queue_of(min(old)) as queue:
        queue.shutdown(socket.SHUT_RDWR)
    until(lambda: (new := host.worker_pids()) and not {*new} & {*old}, "new workers only", 30)
    host.publish(topic, 1)
    assert poll.result(30).next_since
    expect_service(host, manager)
    assert sum("has shut down the queue" in line for line in host.log()) == 1
