"""deploy/haproxy as it is shipped, in front of two web hosts of which one fails."""
import os
import signal
import time

import pytest

from hosts import Clients, Host, haproxy
from server import STALL_S, Postgres, Server, new_topic, until

CLIENTS = 20
NOTICED_S = 10 + STALL_S    # three checks of 2 s, with 1 s in between; or 5 s until a manager counts as deaf, and three checks


@pytest.fixture(scope="module")
def hosts():
    with Server(1) as database, Host(database, "web1", 2 * CLIENTS, PGPOLL_DRAIN_S=10) as web1, Host(database, "web2", 2 * CLIENTS) as web2:
        yield web1, web2


@pytest.fixture(scope="module")
def front(hosts, tmp_path_factory):
    with haproxy(hosts, tmp_path_factory.mktemp("haproxy")) as front:
        yield front


def count_at(host, topic):
    """Returns how many polls wait at a host."""
    return host.server.sql("SELECT count(*) FROM pgpoll.waiting WHERE host = %s AND %s = ANY (topics)", host.name, topic)[0][0]


def fails(pid, hosts, front):
    """Stops a process of web1 until HAProxy has noticed. Polls at web1 end with an error; everybody gets the message by then."""
    (port, states), server, topic = front, hosts[0].server, new_topic()
    until(lambda: set(states().values()) == {"UP"}, "both hosts")
    clients = Clients(server, port, topic, CLIENTS, timeout=30)
    server.until_waiting(topic, CLIENTS)
    assert 0 < count_at(hosts[0], topic) < CLIENTS
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    try:
        server.publish(topic, "while it fails")
        clients.until_got("while it fails", NOTICED_S)
        print(f"everybody has it after {time.monotonic() - began:.1f} s")
        until(lambda: states() == {"web1": "DOWN", "web2": "UP"}, "web1 is out")
        server.publish(topic, "after that")
        clients.until_got("after that", STALL_S)
    finally:
        os.kill(pid, signal.SIGCONT)
    errors = clients.finish()
    # Each client loses one connection at most: HAProxy cuts it when it takes web1 out.
    assert len(errors) <= CLIENTS and all("IncompleteRead" in str(error) or "RemoteDisconnected" in str(error) for error in errors), errors
    assert all(got == ["while it fails", "after that", "last"] for got in clients.got), clients.got


def test_a_manager_that_is_frozen(hosts, front):
    fails(hosts[0].manager.pid, hosts, front)


def test_a_web_server_that_is_frozen(hosts, front):
    """As a host is that has lost its power, it answers nothing. Connections to it are opened, however."""
    fails(hosts[0].front.process.pid, hosts, front)


def test_a_host_that_is_restarted(hosts, front, topic=new_topic()):
    port, states = front
    until(lambda: set(states().values()) == {"UP"}, "both hosts")
    clients = Clients(hosts[0].server, port, topic, CLIENTS, timeout=5)
    os.kill(hosts[0].manager.pid, signal.SIGTERM)
    until(lambda: states()["web1"] == "NOLB", "web1 gets no more polls")
    assert hosts[0].manager.wait(30) == 0
    hosts[0].start_manager()
    until(lambda: states()["web1"] == "UP" and count_at(hosts[0], topic) > 0, "web1 gets polls again")
    assert clients.finish() == [] and all(got == ["last"] for got in clients.got)


def test_a_database_that_is_away_for_15_s(hosts, front, topic=new_topic()):
    port, states = front
    clients, postgres = Clients(hosts[0].server, port, topic, CLIENTS, timeout=30), Postgres(hosts[0].server)
    hosts[0].server.until_waiting(topic, CLIENTS)
    postgres.stop()
    try:
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            assert states() == {"web1": "UP", "web2": "UP"}
            time.sleep(0.1)
    finally:
        postgres.start()
    assert clients.finish() == [] and all(got == ["last"] for got in clients.got)
