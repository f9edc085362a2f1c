"""PGPOLL_MAX_POLLS_PER_CLIENT: no client takes everybody's places."""
import json
import os
import re
import signal
import time

import pytest

from fastcgi import connect, poll_as, read_all, request
from server import MODE, Server, new_topic, until

pytestmark = pytest.mark.skipif(MODE != "managed", reason="only a manager can count")
LIMIT = 3


@pytest.fixture(scope="module")
def server():
    with Server(20, PGPOLL_MAX_POLLS_PER_CLIENT=str(LIMIT), PGPOLL_CORS_ORIGIN="https://example.org") as server:
        yield server


class Poll:
    """One over the workers' socket, where a test says who it is."""

    def __init__(self, server, topic, user="", address="192.0.2.1", timeout=30):
        body = json.dumps({"topics": [topic], "timeout": timeout}).encode()
        self.connection = connect(server, seconds=40)
        self.connection.sendall(request(body, REMOTE_USER=user, REMOTE_ADDR=address, HTTP_ORIGIN="https://example.org"))
        self.said = b""

    def begun(self):
        """Waits for the header; its status."""
        while not (status := re.search(rb"Status: (\d+)", self.said)):
            piece = self.connection.recv(4096)
            assert piece
            self.said += piece
        return int(status[1])

    def end(self):
        """Reads on to its end; what was said."""
        self.said += read_all(self.connection)
        self.connection.close()
        return self.said.decode(errors="replace")

    def leave(self):
        self.connection.close()


def polls(server, topic, count, **who):
    made = [Poll(server, topic, **who) for _ in range(count)]
    assert [poll.begun() for poll in made] == [200] * count
    return made


def answered(server, topic, *made):
    server.publish(topic, "news")
    for poll in made:
        assert '"payload":"news"' in poll.end()


def test_one_more_is_refused(server, topic):
    made = polls(server, topic, LIMIT, user="alice")
    refused = Poll(server, topic, user="alice", address="198.51.100.7")
    assert refused.begun() == 429
    head, _, text = refused.end().partition("\r\n\r\n")
    assert '{"detail":"Too many polls at a time"}' in text
    assert "Status: 429 Too Many Requests\r\n" in head and 1 <= int(re.search(r"Retry-After: (\d+)\r\n", head)[1]) <= 5
    assert "Cache-Control: no-store" in head and "Access-Control-Allow-Origin: https://example.org" in head
    assert poll_as(server, "alice", topic)[0] == 200   # does not wait
    others = polls(server, topic, LIMIT, user="bob") + polls(server, topic, LIMIT, address="alice") + polls(server, topic, LIMIT, user="Alice")
    assert [Poll(server, topic, user=user, address=address).begun() for user, address in (("bob", "a"), ("", "alice"), ("Alice", "b"))] == [429] * 3
    answered(server, topic, *made, *others)


def test_over_http_it_is_the_address(server, topic):
    made = server.wait(topic, polls=LIMIT, timeout=30)
    refused = server.poll(topic, timeout=5, status=429)
    assert refused.json == {"detail": "Too many polls at a time"} and int(refused.headers["Retry-After"]) > 0
    server.publish(topic, 1)
    assert [poll.result().payloads for poll in made] == [[1]] * LIMIT


def test_a_place_is_free_as_soon_as_its_poll_is_answered(server, topic):
    """However short it was: a client with all its places in use goes on and on without a refusal."""
    def loop():
        since = None
        for _ in range(40):
            answer = server.poll(topic, since=since, timeout=20)
            since = answer.next_since
        return True

    clients = [server.threads.submit(loop) for _ in range(LIMIT)]
    while not all(client.done() for client in clients):
        server.publish(topic, "x")
        time.sleep(0.005)
    assert all(client.result() for client in clients)


@pytest.mark.parametrize("how", ["left", "killed", "terminated", "timed out"])
def test_a_place_is_free_when_its_poll_has_ended(server, topic, how):
    made = polls(server, topic, LIMIT, user=how, timeout=1 if how == "timed out" else 30)
    if how == "left":
        for poll in made:
            poll.leave()
    elif how == "timed out":
        for poll in made:
            assert '"messages":[]' in poll.end()
    else:
        for pid in server.until_waiting(topic, LIMIT):
            os.kill(pid, signal.SIGKILL if how == "killed" else signal.SIGTERM)
        for poll in made:
            poll.end()
    again = []

    def another():
        poll = Poll(server, topic, user=how)
        again.extend([poll] if poll.begun() == 200 else [])
        return len(again) == LIMIT

    until(another, "the places free")   # a worker notices within moments
    assert Poll(server, topic, user=how).begun() == 429
    answered(server, topic, *again)


def test_never_more_than_the_limit(server):
    """Thirty polls at once, again and again: of those that come at the same moment a few may be refused too many, none too few."""
    for turn in range(5):
        topic = new_topic()
        storm = [Poll(server, topic, user=f"storm {turn}") for _ in range(15)] + [Poll(server, topic, user=f"gale {turn}") for _ in range(5)]
        statuses = [poll.begun() for poll in storm]
        assert set(statuses) <= {200, 429}
        assert statuses[:15].count(200) <= LIMIT and statuses[15:].count(200) <= LIMIT
        answered(server, topic, *[poll for poll, status in zip(storm, statuses) if status == 200])


def test_without_a_manager_it_is_refused():
    server = Server(2, PGPOLL_MAX_POLLS_PER_CLIENT="1")
    server.mode = "direct"
    try:
        code, output = server.make("start")
        assert code != 0 and "PGPOLL_MAX_POLLS_PER_CLIENT" in output
    finally:
        server.remove()
