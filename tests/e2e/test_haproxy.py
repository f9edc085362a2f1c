"""deploy/haproxy in front of two web hosts. tests/soak/test_haproxy.py has what takes longer: lost hosts and frozen managers."""
import os
import re
import signal
import time

import pytest

from hosts import Clients, Host, haproxy
from server import MODE, Postgres, Server, until

pytestmark = pytest.mark.skipif(MODE != "managed", reason="a worker without a manager has no health")
DRAIN_S = 4


@pytest.fixture(scope="module")
def hosts():
    with Server(1) as database, Host(database, "web1", PGPOLL_DRAIN_S=DRAIN_S) as web1, Host(database, "web2") as web2:
        yield web1, web2


@pytest.fixture
def front(hosts, tmp_path):
    """With shorter times between checks, so that a drain of DRAIN_S is enough on a slow machine, too."""
    with haproxy(hosts, tmp_path, lambda text: re.sub(r"inter 1s", "inter 100ms", text)) as front:
        yield front


def test_a_failover_of_the_database(hosts, front, topic):
    """It empties no host, and no client sees it: polls wait."""
    port, states = front
    clients, postgres = Clients(hosts[0].server, port, topic, 4), Postgres(hosts[0].server)
    hosts[0].server.publish(topic, "before")
    clients.until_got("before")
    postgres.stop()
    try:
        until(lambda: all("Polls wait" in host.detail() for host in hosts), "both managers have noticed")
        deadline = time.monotonic() + 1     # ten checks
        while time.monotonic() < deadline:
            assert states() == {"web1": "UP", "web2": "UP"}
    finally:
        postgres.start()
    assert clients.finish() == [] and all(got == ["before", "last"] for got in clients.got)


def test_a_host_that_drains(hosts, front, topic):
    """No client sees it: the host keeps its polls and gets no more, before it ends."""
    port, states = front
    clients = Clients(hosts[0].server, port, topic, 6, timeout=1)
    hosts[0].server.until_waiting(topic, 6)
    os.kill(hosts[0].manager.pid, signal.SIGTERM)
    until(lambda: states()["web1"] == "NOLB", "web1 gets no more polls")
    hosts[0].server.publish(topic, "while it drains")
    clients.until_got("while it drains")
    assert hosts[0].manager.wait(DRAIN_S + 20) == 0
    until(lambda: states()["web1"] == "DOWN", "web1 has ended")
    hosts[0].start_manager()
    until(lambda: states()["web1"] == "UP", "web1 is back")
    assert clients.finish() == [] and all(got == ["while it drains", "last"] for got in clients.got)
