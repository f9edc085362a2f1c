"""Workers that write garbage into all of the shared memory that they have mapped writable."""
import os
import re

import pytest

from server import Server, new_topic, until

DAMAGED = re.compile(r"worker (\d+) has damaged its shared memory")
PAGE = os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="module")
def host():
    with Server(16, errors="has damaged its shared memory|a worker died as soon as it was started") as server:
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
                memory.write(os.urandom(8 * PAGE))     # a slot has 14 pages; the next slot may belong to a worker that must live
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
