"""Each fault alone, in both modes."""
import time

import pytest

from faults import Clock
from load import new_server, under_load
from server import STALL_S, Postgres, new_topic, until


@pytest.fixture(params=["managed", "direct"])
def mode(request):
    return request.param


@pytest.mark.parametrize("fault", ["kill_worker", "kill_manager", "terminate_backends", "restart", "crash", "silence", "reload", "drain",
                                   "reload_lighttpd", "restart_lighttpd"])
def test_three_times(mode, fault):
    if (fault, mode) == ("kill_manager", "direct"):
        pytest.skip("there is none")
    with under_load(mode) as (load, faults):
        for _ in range(3):
            getattr(faults, fault)()
            load.until_flowing()


def test_postgres_frozen(mode):
    with under_load(mode) as (load, faults):
        faults.freeze(10)


def test_postgres_frozen_with_the_settings_as_they_come(mode):
    with under_load(mode, settings={}) as (load, faults):
        faults.freeze(10)


def test_notifications_lost(mode):
    """A waiting poll gets its message at the next periodic read."""
    with under_load(mode) as (load, faults):
        faults.lose_notifications()
        quiet = new_topic("quiet")
        for _ in range(3):
            (poll,) = load.server.wait(quiet, timeout=30)
            began = time.monotonic()
            load.server.publish(quiet, 1)
            answer = poll.result()
            while not answer.messages:  # answered early, because all workers were busy
                answer = load.server.poll(quiet, since=answer.next_since, timeout=30)
            assert time.monotonic() - began < 3 + STALL_S   # PGPOLL_REREAD_S and some time for the answer


def test_connections_fall_silent_while_polls_wait(mode):
    """A waiting poll notices it and gets its message."""
    with under_load(mode, writers=1, clients=1) as (load, faults):
        quiet = new_topic("quiet")
        polls = load.server.wait(quiet, polls=5, timeout=30)
        faults.silence()
        began = time.monotonic()
        load.server.publish(quiet, 1)
        assert [poll.result().payloads for poll in polls] == [[1]] * 5
        assert time.monotonic() - began < 10


@pytest.mark.parametrize("whose", ["database", "programs", "both"])
def test_clock_steps(mode, whose):
    with Clock() as clock, under_load(mode) as (load, faults):
        if whose != "programs":
            faults.postgres.under = clock.command
            faults.restart()
            load.until_flowing()
        if whose != "database":
            faults.supervisor.environment.update(clock.environment)
            faults.drain()
        load.until_flowing()
        for hours in 1, 0, -1, 0, 24, 0, -24, 0:
            clock.step(hours)
            load.until_flowing()
            if whose != "programs":
                until(lambda: abs(load.server.sql("SELECT extract(epoch FROM clock_timestamp())::float8")[0][0] - time.time()
                                  - hours * 3600) < 60, "the database's clock stepped")
            time.sleep(1)


def test_a_quiet_manager_after_the_clock_was_set_back():
    """The session in which it has reported began later than now."""
    with Clock() as clock, new_server("managed", PGPOLL_IDLE_S="1") as server:
        Postgres(server, under=clock.command).restart()
        session = "SELECT backend_start FROM pg_stat_activity JOIN pgpoll.listeners ON backend_pid = pg_stat_activity.pid"
        until(lambda: server.sql(session), "a session that reports")
        clock.step(-24)
        server.poll(new_topic(), timeout=1)
        until(lambda: server.sql("SELECT quiet FROM pgpoll.listeners WHERE seen_at < now()") == [(True,)], "quiet", 30)
        assert server.sql("SELECT alive FROM pgpoll.listening") == [(True,)]
