"""A can_poll() that is slow, or hangs for some."""
import json

import pytest

from fastcgi import ask_as, poll_as
from server import METRICS, MODE, STALL_S, Server, new_topic, until

pytestmark = pytest.mark.skipif(MODE != "managed", reason="of a manager")


def replace(server, body):
    """Returns when the function is in force."""
    server.sql("CREATE OR REPLACE FUNCTION pgpoll.can_poll(remote_user text, topic text) RETURNS boolean LANGUAGE plpgsql STABLE"
               f" AS $$ BEGIN {body} RETURN topic NOT LIKE 'refused%'; END $$")
    until(lambda: poll_as(server, "nobody", new_topic("refused"))[0] == 403, "can_poll() heeded", 10 + STALL_S)


@pytest.mark.parametrize("pause", [0.05, 0.2])
def test_a_slow_can_poll_refuses_nobody(pause):
    """100 clients at once with little patience, with the default settings."""
    topic = new_topic()
    with Server(120, PGPOLL_ACCESS_MEMORY_S="5") as server:
        replace(server, f"PERFORM pg_sleep({pause});")
        for _ in range(2):
            polls = [server.threads.submit(poll_as, server, f"user {n}", topic, timeout=1) for n in range(100)]
            assert [poll.result()[0] for poll in polls] == [200] * 100


def test_some_for_whom_it_hangs_hold_up_nobody_else():
    """More users than there are sessions, again and again. They get an answer of their own."""
    topic, settings = new_topic(), {"ACCESS_CONNECTIONS": "4", "QUERY_TIMEOUT_S": "2", "ACCESS_MEMORY_S": "5"}
    with Server(40, **{f"PGPOLL_{name}": value for name, value in settings.items()}) as server:
        replace(server, "IF remote_user LIKE 'stuck%' THEN PERFORM pg_sleep(60); END IF;")

        def stuck():
            body = json.dumps({"topics": [topic], "timeout": 20}).encode()
            return [server.threads.submit(ask_as, server, f"stuck {n}", body, 60) for n in range(10)]

        assert [poll.result()[0] for poll in stuck()] == [503] * 10
        again = stuck()
        assert [poll_as(server, f"user {n}", topic)[0] for n in range(30)] == [200] * 30
        assert not all(poll.done() for poll in again)
        for poll in again:
            assert poll.result()[0] == 503
        until(lambda: 'outcome="can_poll_timeout"} 20' in server.request("GET", METRICS).text, "the metric")
        lines = server.log()
        assert any("pgpoll.can_poll() did not answer within PGPOLL_QUERY_TIMEOUT_S" in line for line in lines)
        assert any(": can_poll_timeout, " in line and 'user "stuck 1"' in line for line in lines)
        assert not [line for line in lines if "database_away" in line]
