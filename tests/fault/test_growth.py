"""The size of the tables under pruning."""
import threading
import time

from load import SMALL
from server import Server

SIZE = "SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c WHERE relnamespace = 'pgpoll'::regnamespace AND relkind IN ('r', 'S')"
# The test runs an hour's load in a minute: 40 messages per second stand for 40 per minute, and autovacuum runs once a second instead of once a
# minute.
MINUTE = 2400
KEEP = 5    # minutes


def test_tables_do_not_grow_without_bound():
    """Publishes and prunes for an hour's load while clients poll. After the first quarter the tables do not grow."""
    with Server(8, **SMALL) as server:
        for name, value in {"autovacuum_naptime": "1s", "autovacuum_vacuum_cost_delay": "0"}.items():
            server.sql(f"ALTER SYSTEM SET {name} = '{value}'")
        server.sql("SELECT pg_reload_conf()")
        over = threading.Event()

        def poll(topic):
            since = None
            while not over.is_set():
                since = server.poll(topic, since=since, timeout=1).next_since

        clients = [server.threads.submit(poll, f"topic {n}") for n in range(6)]
        sizes, times = [], []
        for minute in range(60):
            for _ in range(MINUTE // 100):
                server.sql("INSERT INTO pgpoll.messages (topic, payload) SELECT 'topic ' || n % 20, to_json(repeat('x', 300))"
                           " FROM generate_series(1, 100) n")
            times.append(server.sql("SELECT clock_timestamp()")[0][0])
            if minute >= KEEP:
                while server.sql("SELECT pgpoll.prune(clock_timestamp() - %s)", times[minute - KEEP])[0][0]:
                    pass
            time.sleep(0.3)     # the rest of the simulated minute
            sizes.append(int(server.sql(SIZE)[0][0]) >> 10)
        over.set()
        for client in clients:
            client.result()
        print("KiB after each quarter of an hour:", sizes[14::15])
        assert server.sql("SELECT count(*) FROM pgpoll.messages")[0][0] <= (KEEP + 1) * MINUTE
        assert max(sizes[15:]) <= 1.3 * max(sizes[:15]), sizes
