"""What more web hosts cost the database: managers of one database on one machine."""
import contextlib
import json
import statistics
import subprocess
import threading
import time

from systems import cpu_s, until

import between  # from tests/e2e, which systems finds
import fastcgi

RATE = 300      # messages a second
TOPIC = "hosts"
INSERT = f"""INSERT INTO pgpoll.messages (topic, payload) VALUES ('{TOPIC}', '{{"padding":"{"0" * 200}"}}');\n"""


class Poller(threading.Thread):
    """A client that polls a topic at a host, again and again, from now on."""

    def __init__(self, place, topic):
        super().__init__(daemon=True)
        self.place, self.topic, self.since, self.got, self.stopping = place, topic, {}, 0, False
        self.delays_ms = []     # from the start of the INSERT
        self.start()

    def poll(self, timeout):
        body = {"topics": [self.topic], "since": self.since, "timeout": timeout, "limit": 1000}
        with fastcgi.connect(self.place, seconds=timeout + 30) as client:
            client.sendall(fastcgi.request(json.dumps(body).encode()))
            status, text = fastcgi.reply(fastcgi.read_all(client))
        assert status == 200, text
        now, answer = time.monotonic(), json.loads(text)
        self.delays_ms += [1000 * (now - message["payload"]["began"]) for message in answer["messages"] if "began" in message["payload"]]
        self.since, self.got = answer["next_since"], self.got + len(answer["messages"])

    def run(self):
        while not self.stopping:
            self.poll(1)


def sessions(server):
    """The server processes that work for pgpoll."""
    return [pid for pid, in server.sql("SELECT pid FROM pg_stat_activity WHERE usename = 'pgpoll_worker'")]


def published(server, directory, seconds):
    """Publishes for so long; returns how many messages."""
    script = directory / "hosts.sql"
    script.write_text(INSERT)
    ((before,),) = server.sql("SELECT last_value FROM pgpoll.messages_id_seq")
    subprocess.run(["pgbench", "-n", "-M", "prepared", "-c", "2", "-R", str(RATE), "-T", str(seconds), "-f", script, "pgpoll"],
                   env={**server.env, "PATH": "/usr/bin:/bin"}, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ((after,),) = server.sql("SELECT last_value FROM pgpoll.messages_id_seq")
    return after - before


@contextlib.contextmanager
def polling(server, directory, topics):
    """A manager for each topic, the first of them the server's own, and a client of each that waits for its topic."""
    with contextlib.ExitStack() as stack:
        places = [server] + [stack.enter_context(between.manager(server, f"host-{n}", directory / f"host-{n}.log")).socket for n in range(1, len(topics))]
        until(lambda: len(server.sql("SELECT host FROM pgpoll.listeners WHERE hears")) == len(topics), "all managers", 60)
        pollers = [Poller(place, topic) for place, topic in zip(places, topics)]
        try:
            until(lambda: server.stats()["active_waiters"] >= len(topics), "all polls", 30)
            published(server, directory, 1)
            yield pollers
        finally:
            for poller in pollers:
                poller.stopping = True
            for poller in pollers:
                poller.join(40)


def cost(server, directory, count, everywhere, seconds):
    """Microseconds of pgpoll's sessions for each message, with so many managers. everywhere: a client at each host waits for every message; else
    only one at the first host does, and the others wait for other topics."""
    with polling(server, directory, [TOPIC] + [TOPIC if everywhere else f"elsewhere-{n}" for n in range(1, count)]) as pollers:
        pids, got = sessions(server), [poller.got for poller in pollers]
        before, messages = cpu_s(pids), published(server, directory, seconds)
        until(lambda: all(poller.got >= had + messages for poller, had in zip(pollers, got) if poller.topic == TOPIC), "all messages", 30)
        after = cpu_s(pids)
    return 1e6 * sum(after[pid] - before[pid] for pid in after) / messages


def delays(server, directory, seconds):
    """The median time in ms from the start of an INSERT to the delivery, at each of two hosts."""
    with polling(server, directory, [TOPIC, TOPIC]) as pollers, contextlib.closing(server.connect()) as session, session.cursor() as cursor:
        session.autocommit = True
        begin, count = time.monotonic(), RATE * seconds
        for n in range(count):
            time.sleep(max(0, begin + n / RATE - time.monotonic()))
            cursor.execute("INSERT INTO pgpoll.messages (topic, payload) VALUES (%s, %s)", (TOPIC, json.dumps({"began": time.monotonic()})))
        until(lambda: all(len(poller.delays_ms) >= count for poller in pollers), "all messages", 30)
    return [statistics.median(poller.delays_ms) for poller in pollers]


def hosts(bench):
    server, sizes = bench.systems[0].server, bench.sizes
    table = bench.table("hosts", f"Processor time of pgpoll's sessions in the database for each message, at {RATE} a second, by number of hosts", "µs")
    ratios = bench.table("hosts ratio", "As a multiple of one host", "×")
    latency = bench.table("hosts latency", f"Delivery at two hosts, from the start of the INSERT, {RATE} messages a second, p50", "ms")
    for _ in range(sizes.rounds):
        one = cost(server, bench.directory, 1, True, sizes.seconds)
        table.add("1 host", "pgpoll", one)
        for count in sizes.hosts:
            for everywhere, where in ((True, "clients wait at each"), (False, "clients wait at one of them"))[:1 if sizes.quick else 2]:
                took = cost(server, bench.directory, count, everywhere, sizes.seconds)
                table.add(f"{count} hosts, {where}", "pgpoll", took)
                ratios.add(f"{count} hosts, {where}", "pgpoll", took / one)
        first, other = delays(server, bench.directory, sizes.seconds)
        latency.add("at the host that numbers the messages", "pgpoll", first)
        latency.add("at the host that follows", "pgpoll", other)
        ratios.add("2 hosts: delivery at the one that follows, by that at the other", "pgpoll", other / first)
