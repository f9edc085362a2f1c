"""Writers and clients go on while one fault after another is done to what is below them."""
import pytest

from faults import Faults, Proxy, Supervisor
from load import Load
from server import Server

ERRORS = "worker died as soon as"
MANAGED = ["kill_worker", "terminate_backends", "restart", "silence", "kill_manager", "crash", "reload", "drain", "reload_lighttpd"]
DIRECT = ["kill_worker", "terminate_backends", "crash", "silence", "reload", "restart", "drain", "restart_lighttpd"]


@pytest.mark.parametrize("mode, workers, faults", [("managed", 10, MANAGED), ("direct", 16, DIRECT)])
def test_one_after_another(mode, workers, faults):
    server = Server(workers, errors=ERRORS, PGPOLL_WINDOW_BYTES="65536", PGPOLL_PAGE_BYTES="8192", PGPOLL_QUERY_TIMEOUT_S="2",
                    PGPOLL_REREAD_S="3")
    server.mode = mode
    with server, Proxy(f"{server.env['PGHOST']}/.s.PGSQL.5432") as proxy, \
            Supervisor(server, PGHOST=str(proxy.directory)) as supervisor, Load(server) as load:
        trouble = Faults(server, supervisor, proxy, load.fork())
        load.until_flowing()
        for fault in faults:
            getattr(trouble, fault)()
            load.until_flowing()
        load.finish()
    load.check(trouble.outages, trouble.kills)
