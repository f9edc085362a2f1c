"""PGPOLL_MAX_POLLS_PER_CLIENT: no client can occupy all workers."""
import http.client
import json
import os
import re
import signal
import time

import pytest

from fastcgi import connect, poll_as, read_all, request
from server import MODE, POLL, Server, new_topic, until

pytestmark = pytest.mark.skipif(MODE != "managed", reason="only a manager can count")
LIMIT = 3


@pytest.fixture(scope="module")
def server():
    # more workers than any test has polls: else the manager answers some early so that a few workers stay free
    with Server(40, PGPOLL_MAX_POLLS_PER_CLIENT=str(LIMIT), PGPOLL_CORS_ORIGIN="https://example.org") as server:
        yield server


class Poll:
    """A poll sent to the workers' socket, so that the test can choose its user and address."""

    def __init__(self, server, topic, user="", address="192.0.2.1", timeout=30, since=None):
        body = json.dumps({"topics": [topic], "timeout": timeout, "since": since}).encode()
        self.connection = connect(server, seconds=40)
        self.connection.sendall(request(body, REMOTE_USER=user, REMOTE_ADDR=address, HTTP_ORIGIN="https://example.org"))
        self.said = b""

    def begun(self):
        """Waits for the head. Returns the status."""
        while not (status := re.search(rb"Status: (\d+)", self.said)):
            piece = self.connection.recv(4096)
            assert piece
            self.said += piece
        return int(status[1])

    def end(self):
        """Reads to the end. Returns the answer."""
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


def test_the_newest_poll_takes_the_slot_of_the_oldest(server, topic):
    cursor = server.poll(topic).next_since[topic]
    oldest = Poll(server, topic, user="alice", since={topic: cursor})
    assert oldest.begun() == 200
    made = polls(server, topic, LIMIT - 1, user="alice")
    others = polls(server, topic, LIMIT, user="bob") + polls(server, topic, LIMIT, address="alice") + polls(server, topic, LIMIT, user="Alice")
    newest = Poll(server, topic, user="alice", address="198.51.100.7")
    early = json.loads(re.search(r"\{.*\}", oldest.end())[0])
    assert (early["messages"], early["has_more"], early["next_since"]) == ([], False, {topic: cursor}) and "gaps" not in early
    assert newest.begun() == 200
    assert poll_as(server, "alice", topic)[0] == 200   # it does not wait, so it needs no slot
    answered(server, topic, newest, *made, *others)


def test_over_http_the_address_identifies_the_client(server, topic):
    made = server.wait(topic, polls=LIMIT, timeout=30)
    (newest,) = server.wait(topic, timeout=30)
    early = until(lambda: [poll for poll in made if poll.done()], "a poll answered early")
    assert len(early) == 1 and not early[0].result().messages
    server.publish(topic, 1)
    assert [poll.result().payloads for poll in [*made, newest] if poll not in early] == [[1]] * LIMIT


def test_more_than_can_be_answered_early_are_refused(server, topic):
    """The client's older polls are asked to answer early, and none does, because their workers are stopped."""
    made, stopped = [], set()
    try:
        for held in (LIMIT, 2 * LIMIT):
            made += polls(server, topic, LIMIT, user="mallory")
            stopped |= set(server.until_waiting(topic, held))
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
        made += polls(server, topic, 2, user="mallory")     # SCOREBOARD_HANDOVERS
        refused = Poll(server, topic, user="mallory")
        assert refused.begun() == 429
        head, _, text = refused.end().partition("\r\n\r\n")
        assert '{"detail":"Too many polls at a time"}' in text
        assert "Status: 429 Too Many Requests\r\n" in head and 1 <= int(re.search(r"Retry-After: (\d+)\r\n", head)[1]) <= 5
        assert "Cache-Control: no-store" in head and "Access-Control-Allow-Origin: https://example.org" in head
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    server.until_waiting(topic, LIMIT)
    server.publish(topic, "news")
    said = [poll.end() for poll in made]
    assert ['"payload":"news"' in text for text in said].count(True) == LIMIT
    assert ['"messages":[]' in text for text in said] == [True] * LIMIT + ['"payload":"news"' not in text for text in said[LIMIT:]]


def test_a_slot_is_free_as_soon_as_its_poll_is_answered(server, topic):
    """A client that uses its whole quota can poll in a loop without a refusal, however short its polls are."""
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
def test_a_slot_is_free_when_its_poll_has_ended(server, topic, how):
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
    answered(server, topic, *polls(server, topic, LIMIT, user=how))


def test_after_a_storm_the_limit_holds(server):
    """The client sends thirty polls at once, several times. The newest wait, the others are answered early or refused."""
    for turn in range(3):
        topic = new_topic()
        storm = [Poll(server, topic, user=f"storm {turn}") for _ in range(30)]
        assert {poll.begun() for poll in storm} <= {200, 429}
        ends = [server.threads.submit(poll.end) for poll in storm]
        until(lambda: sum(not end.done() for end in ends) == LIMIT, "the others answered")
        server.until_waiting(topic, LIMIT)
        server.publish(topic, "news")
        said = [end.result() for end in ends]
        assert sum('"payload":"news"' in text for text in said) == LIMIT
        assert sum('"messages":[]' in text or "Status: 429" in text for text in said) == 30 - LIMIT


@pytest.fixture(scope="module")
def single():
    with Server(8, PGPOLL_MAX_POLLS_PER_CLIENT="1") as server:
        yield server


@pytest.mark.web
def test_reloading_a_page_is_not_refused(single, topic):
    """The disconnect of the previous page's poll may not be noticed yet: with Apache that takes one or two heartbeats."""
    since = single.poll(topic).next_since
    body = json.dumps({"topics": [topic], "since": since, "timeout": 30})
    for _ in range(12):
        page = http.client.HTTPConnection("127.0.0.1", single.port, timeout=60)
        page.request("POST", POLL, body)
        assert page.getresponse().status == 200     # it waits
        page.close()
    (poll,) = single.wait(topic, since=since, timeout=30)
    single.publish(topic, 1)
    assert poll.result().payloads == [1]


def test_two_pages_that_share_one_slot_do_not_spin(single, topic):
    """Each polls again as soon as it is answered, and then the other one is answered early."""
    def page():
        answers = [single.poll(topic)]
        for _ in range(4):
            answers.append(single.poll(topic, since=answers[-1].next_since, timeout=3))
        return answers[1:]

    pages = [single.threads.submit(page) for _ in range(2)]
    answers = [answer for page in pages for answer in page.result()]
    assert all(answer.seconds > 0.45 and not answer.messages for answer in answers)
    assert sum(answer.seconds < 3 for answer in answers) >= 4


def test_without_a_manager_the_setting_is_refused():
    server = Server(2, PGPOLL_MAX_POLLS_PER_CLIENT="1")
    server.mode = "direct"
    try:
        code, output = server.make("start")
        assert code != 0 and "PGPOLL_MAX_POLLS_PER_CLIENT" in output
    finally:
        server.remove()
