"""Many messages have no position yet: polls are answered meanwhile, and each client gets its messages in order."""
import contextlib
import os
import signal

import pytest

from server import new_topic

MESSAGES = 30000


@contextlib.contextmanager
def nobody_looks(server):
    """Workers without a manager look for messages only when they are polled."""
    manager = server.manager
    if manager:
        os.kill(manager, signal.SIGSTOP)
    try:
        yield
    finally:
        if manager:
            os.kill(manager, signal.SIGCONT)


def publish_backlog(server, topic, last):
    """Publishes many messages, and last one message of the topic `last`."""
    server.sql("INSERT INTO pgpoll.messages (topic, payload) SELECT CASE WHEN n < %s THEN %s ELSE %s END, to_json(n)"
               " FROM generate_series(0, %s) AS n", MESSAGES, topic, last, MESSAGES)


def test_a_backlog(server):
    topic, last = new_topic("many"), new_topic("last")
    known = server.poll(topic, last, timeout=0).next_since
    with nobody_looks(server):
        publish_backlog(server, topic, last)
    from_now = server.poll_later(topic, last, timeout=60)
    waiting = server.poll_later(last, since=known, timeout=60)
    got, since = [], known
    while len(got) < MESSAGES:
        answer = server.poll(topic, since=since, limit=1000, timeout=60)
        assert answer.messages and not answer.gaps
        got += answer.payloads
        since = answer.next_since
    assert got == list(range(MESSAGES))
    assert waiting.result().payloads == [MESSAGES]
    server.publish(topic, "later")
    assert from_now.result().payloads == ["later"]
    assert server.poll(topic, since=since, timeout=0).payloads == ["later"]


@pytest.mark.parametrize("known", [False, True])
def test_a_small_backlog_is_complete(server, known):
    """More messages than one batch takes, but few: a poll that does not wait gets the last one all the same."""
    topic, last = new_topic("some"), new_topic("last")
    if known:
        server.poll(topic, last)
    for n in range(5):
        server.sql("INSERT INTO pgpoll.messages (topic, payload) SELECT CASE WHEN n < 3000 THEN %s ELSE %s END, to_json(n)"
                   " FROM generate_series(1, 3000) AS n", topic, last)
        assert server.poll(last, since={last: "0"}).payloads == [3000] * (n + 1)
