"""Topics come and go, and publishers pause: a message must not wait until somebody looks whether a notification was lost."""
import contextlib
import os
import shutil
import subprocess
import threading

import pytest

from load import RESTLESS, Restless, stopped, under_load
from server import Server, new_topic, until

SOAK = bool(os.environ.get("SOAK"))
ROUNDS, LONGEST_S = (20, 3) if SOAK else (3, 0.3)
WAYS = [("managed", None), ("managed", "direct"), ("managed", "managed"), ("direct", None)]     # the modes of one or two hosts
DIRECT = ["kill_worker", "terminate_backends", "crash", "reload", "restart", "drain"]
MANAGED = [*DIRECT, "kill_manager", "kill_old_manager"]


def restless(mode, others, sanitizers=""):
    settings = {**RESTLESS, "SANITIZE": sanitizers} if sanitizers else RESTLESS
    return under_load(mode, others=others, settings=settings, kind=Restless, mutes="managed" in (mode, others))


def managers(faults):
    """Returns the managers' process ids."""
    return [host.server.manager for host in (faults, getattr(faults, "others", None)) if host and host.server.mode == "managed"]


def every_way(first):
    """In each of the modes, without SOAK in the first one only."""
    return pytest.mark.parametrize("mode, others", [first] + [way for way in WAYS if way != first] * SOAK)


@every_way(first=("managed", "direct"))
def test_topics_come_and_go(mode, others):
    with restless(mode, others) as (load, faults):
        load.until_answered()
        load.go_on(ROUNDS, LONGEST_S)
        if mode == "managed":
            kill_while_muted(load, faults)
        if others == "direct":
            stop_while_muted(load, faults)


@every_way(first=("managed", None))
def test_messages_are_deleted_before_anybody_has_them(mode, others):
    with restless(mode, others) as (load, faults):
        faults.excuses.update(pruned=True, unread=True)
        load.until_answered()
        for _ in range(ROUNDS):
            load.bustle(0.5)
            load.delete_unread(managers(faults))


def stop_while_muted(load, faults):
    """A manager stops while publishers are muted. Workers without a manager hear of what is published after the mute."""
    alone = [waiter for waiter in load.waiters if waiter.hosts == load.hosts[1:]]

    def stop():
        with faults.away("worker"), contextlib.ExitStack() as stack:
            load.burst(0.1, then=lambda: stack.enter_context(stopped(managers(faults))))
            load.until_unmuted()
            load.until_woken(load.send(load.topics[0]), alone)

    with load.quiet():
        load.disturb(stop)


def kill_while_muted(load, faults):
    """A manager is killed while publishers are muted, and one of them commits when another manager runs already, which must find its message."""
    def kill():
        load.burst(0.1)
        load.until_woken(load.nap(1.5, then=faults.kill_manager).result(), load.waiters)

    with load.quiet():
        load.disturb(kill)


@pytest.mark.skipif(not SOAK, reason="takes long: make soak")
@pytest.mark.parametrize("mode, others, sanitizers", [(*way, "") for way in WAYS] + [("managed", "direct", "address,undefined")])
def test_topics_come_and_go_between_faults(mode, others, sanitizers):
    with restless(mode, others, sanitizers) as (load, faults):
        hosts = [faults] + ([faults.others] if others else [])
        todo = [lambda fault=getattr(host, name): load.disturb(fault)
                for host in hosts for name in (MANAGED if host.server.mode == "managed" else DIRECT)]
        if others == "direct":
            todo += [lambda: stop_while_muted(load, faults)] * 3
        if mode == "managed":
            todo += [lambda: kill_while_muted(load, faults)] * 3
        load.until_answered()
        load.dice.shuffle(todo)
        for fault in todo:
            if load.dice.random() < 0.5:
                load.burst(0.1)     # the fault happens while publishers are muted
            fault()
            load.go_on(2, LONGEST_S)
        print("old managers killed:", sum(host.old_kills for host in hosts))


@contextlib.contextmanager
def held_at(function, pid, said):
    """gdb stops the process when it calls the function, until the end of the block. Yields whether it has."""
    with said.open("w") as output, subprocess.Popen(["gdb", "-q", "-nx", "-p", str(pid)], stdin=subprocess.PIPE, stdout=output, stderr=output,
                                                    text=True) as gdb:
        try:
            gdb.stdin.write(f"handle SIGUSR2 nostop noprint pass\nbreak {function}\ncontinue\n")
            gdb.stdin.flush()
            until(lambda: "Continuing." in said.read_text(), "gdb attached")
            yield lambda: "Breakpoint 1, " in said.read_text()
        finally:
            gdb.stdin.write("delete\ndetach\nquit\n")
            gdb.stdin.close()


@pytest.mark.skipif(not SOAK or not shutil.which("gdb"), reason="takes long: make soak; needs gdb")
def test_a_topic_gets_another_number_while_a_poll_begins_to_wait():
    """The moment is so short that no load finds it: the topic is removed when the poll has looked it up and does not wait yet, and another client
    takes it up again before the poll looks once more."""
    with Server(8, PGPOLL_MAX_TOPICS="1", PGPOLL_REREAD_S="60") as server:
        held = min(server.until_workers())
        with held_at("wait_sets_enter", held, server.run / "gdb") as is_held:
            while not is_held():
                topic = new_topic()
                server.poll(topic)      # so that the topic has a number when the poll begins
                waits = threading.Event()
                poll = server.poll_later(topic, since={topic: "0"}, timeout=30, began=waits)
                until(lambda: is_held() or waits.is_set(), "a poll that waits, or is about to")
            for _ in range(50):         # more than there are numbers
                server.poll(new_topic("crowd"))
            (other,) = server.wait(topic, since={topic: "0"}, timeout=30)
        assert waits.wait(20)
        server.publish(topic, 1)
        assert other.result(10).payloads == [1]
        assert poll.result(10).payloads == [1]
