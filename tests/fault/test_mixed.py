"""Writers and clients run while faults happen one after the other."""
import os

import pytest

from load import under_load

MANAGED = ["kill_worker", "terminate_backends", "restart", "silence", "kill_manager", "crash", "reload", "drain", "reload_lighttpd"]
DIRECT = ["kill_worker", "terminate_backends", "crash", "silence", "reload", "restart", "drain", "restart_lighttpd"]
SOAK = bool(os.environ.get("SOAK"))
ROUNDS = 10 if SOAK else 1    # the first round in this order, the others shuffled


@pytest.mark.parametrize("mode, order", [("managed", MANAGED), ("direct", DIRECT)])
def test_one_after_another(mode, order):
    with under_load(mode) as (load, faults):
        for _ in range(ROUNDS):
            for fault in order:
                getattr(faults, fault)()
                load.until_flowing()
            order = [*dict.fromkeys([*order, "freeze"])]
            load.dice.shuffle(order)


@pytest.mark.parametrize("others", ["managed"] + ["direct"] * SOAK)
def test_two_hosts(others):
    """Clients change between the hosts, and the faults end while publishers do not NOTIFY."""
    with under_load("managed", others=others, rush=True) as (load, faults):
        todo = [faults.kill_manager, faults.terminate_backends, faults.others.kill_worker, faults.crash, faults.others.drain, faults.reload]
        if others == "managed":
            todo.append(faults.others.kill_manager)
        for _ in range(ROUNDS):
            for fault in todo:
                load.until_muted()
                fault()
                load.until_flowing()
            load.dice.shuffle(todo)
