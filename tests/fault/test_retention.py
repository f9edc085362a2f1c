"""Old messages are pruned while new ones are published and polled for."""
import os
import time

import pytest

from history import position
from load import under_load

SECONDS = 60 if os.environ.get("SOAK") else 8


@pytest.mark.parametrize("mode", ["managed", "direct"])
def test_gaps_are_reported_exactly_if_messages_were_deleted(mode):
    """The referee keeps up, and so knows all messages. The other clients pause, and pruning overtakes some of them."""
    with under_load(mode, dawdle=3) as (load, faults):
        faults.excuses["pruned"] = True
        pruned, ends = 0, time.monotonic() + SECONDS
        while time.monotonic() < ends or not gaps(load):
            assert time.monotonic() < ends + 20, f"pruned {pruned}, and no gaps"
            newest = max((position(message_id) for poll in load.referee.polls[-50:] for _, message_id, _ in poll.messages), default=0)
            # A second less, because time passes until prune() reads the clock.
            ((count,),) = load.server.sql(
                "SELECT pgpoll.prune(greatest(clock_timestamp() - to_timestamp(%s / 1000.0) + '1 second', '0'), 50)", newest >> 16)
            pruned += count
            time.sleep(0.05)
        load.finish()
        assert pruned > 100


def gaps(load):
    return [gap for client in list(load.clients) for poll in list(client.polls) for gap in (poll.gaps or {}).values()]
