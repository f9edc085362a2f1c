"""Writers and clients go on while one fault after another is done to what is below them."""
import os

import pytest

from load import under_load

MANAGED = ["kill_worker", "terminate_backends", "restart", "silence", "kill_manager", "crash", "reload", "drain", "reload_lighttpd"]
DIRECT = ["kill_worker", "terminate_backends", "crash", "silence", "reload", "restart", "drain", "restart_lighttpd"]
ROUNDS = 10 if os.environ.get("SOAK") else 1    # the first in that order, the others shuffled


@pytest.mark.parametrize("mode, order", [("managed", MANAGED), ("direct", DIRECT)])
def test_one_after_another(mode, order):
    with under_load(mode) as (load, faults):
        for _ in range(ROUNDS):
            for fault in order:
                getattr(faults, fault)()
                load.until_flowing()
            order = [*dict.fromkeys([*order, "freeze"])]
            load.dice.shuffle(order)
