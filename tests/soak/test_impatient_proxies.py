"""Both clients behind proxies that cut every poll after 4 s."""
import contextlib
import re

import pytest
from test_examples import PRINT_MESSAGES, Program, python_client
from test_proxies import haproxy, nginx

from server import Server, until
from stalls import stood_still

CLIENTS = {"python": python_client, "node": lambda url, topic: ["node", "--input-type=module", "-e", PRINT_MESSAGES, "--", url, "", topic]}


def impatient(text):
    text, count = re.subn(r"(timeout server |proxy_read_timeout )75s", r"\g<1>4s", text)
    assert count == 1
    return text


@pytest.mark.parametrize("proxy", [haproxy, nginx])
def test_clients_do_not_take_a_cut_poll_for_a_failure(proxy, tmp_path):
    """They poll again at once, without a word. There are no heartbeats, which would prevent the cuts."""
    with Server(40) as server, proxy(server, tmp_path, impatient) as (port, _), contextlib.ExitStack() as stack:
        programs = {name: stack.enter_context(Program(*client(f"http://127.0.0.1:{port}", name))) for name, client in CLIENTS.items()}
        polls = set()

        def count(name):
            polls.update(server.sql("SELECT topics[1], pid, started_at FROM pgpoll.live_waiters"))
            return sum(topic == name for topic, *_ in polls)

        for payload, cuts in ("before", 3), ("after", 6):
            until(lambda: all([count(name) > cuts for name in programs]), f"{cuts} cuts", 60)
            for name, program in programs.items():
                server.publish(name, payload)
                assert program.messages(1) == [(name, payload)]
        for program in programs.values():
            assert not program.errors or stood_still(program.began), program.errors
