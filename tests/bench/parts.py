"""What `make bench` measures. Each part runs its systems in turn, round by round, so that what disturbs the machine disturbs all."""
import contextlib
import os
import statistics
import subprocess
import time

from kept import kept
from many_hosts import hosts
from systems import (Notify, Pgpoll, all_systems, clients_held, clients_rereading, cpu_s, kib_of, own_clients, settled_kib, storm, until,
                     until_gone)
from writers import WRITERS, peer_env, pgbench, rate_of


class Sizes:
    """Of a whole run; quick: to see that it works."""

    def __init__(self, quick):
        self.quick = quick
        self.rounds = 1 if quick else 3
        self.fanout = (10, 40) if quick else (10, 100, 300, 1000)
        self.fanout_messages, self.fanout_gap_ms = (1, 50) if quick else (6, 300)
        self.memory = (20,) if quick else (1000, 3000)
        self.own_clients, self.own_topics = (40, 20) if quick else (2000, 50)
        self.idle_s, self.settle_s, self.report_s = (1, 0, 0) if quick else (5, 3, 11)
        self.backlog = 1000 if quick else 10000
        self.writers = (4,) if quick else (1, 8, 32)
        self.others = 40 if quick else 600
        self.rereaders, self.reread_messages = (4, 200) if quick else (24, 2000)   # messages of all topics
        self.many_rereaders = int(os.environ.get("COMEBACK") or 0)
        if self.many_rereaders:
            self.rereaders, self.reread_messages = self.many_rereaders, 200
        self.seconds = 1 if quick else 3
        self.users, self.user_messages, self.until_known = (30, 3, 0) if quick else (500, 16, 6)
        many = int(os.environ.get("KEPT") or (5000 if quick else 1_000_000))
        # Messages and topics. The first has few.
        self.kept = ((2000, 20), (many, 1000)) if quick else ((100_000, 100), (many, 1000), (many, min(many, 1_000_000)))
        self.shared_buffers = os.environ.get("SHARED_BUFFERS")
        self.kept_statements = 20 if quick else 300
        self.hosts = (2,) if quick else (4, *map(int, os.environ.get("HOSTS", "").split()))
        self.quiet_s = 2 if quick else 65
        self.workers = max(self.fanout[-1], self.others, self.rereaders) + 20


class Table:
    """One unit; rows of systems' values, a value a round."""

    def __init__(self, part, title, unit, better):
        self.part, self.title, self.unit, self.better, self.rows = part, title, unit, better, {}

    def add(self, row, system, value):
        self.rows.setdefault(row, {}).setdefault(system, []).append(value)


class Bench:
    def __init__(self, directory, sizes):
        self.directory, self.sizes = directory, sizes
        self.part, self.systems, self.tables, self.deliveries = None, [], {}, 0

    def rounds(self, systems):
        """Round after round, every second one backwards."""
        for number in range(self.sizes.rounds):
            for system in systems if number % 2 == 0 else systems[::-1]:
                yield system

    def table(self, name, title, unit, better="less"):
        return self.tables.setdefault(name, Table(self.part, title, unit, better))

    def storm(self, system, mode, **options):
        result = storm(system, mode, **options)
        self.deliveries += result["deliveries"]
        return result

    @contextlib.contextmanager
    def running(self):
        """The installation that all parts but memory share."""
        with contextlib.ExitStack() as stack:
            self.systems = [stack.enter_context(kind(self.directory, self.sizes.workers)) for kind in all_systems()]
            yield
            self.systems = []


def percentile(values, percent):
    values = sorted(values)
    return values[min(len(values) * percent // 100, len(values) - 1)]


def flat(lists):
    return [value for one in lists for value in one]


def add_deliveries(table, name, result):
    for percent in 50, 90, 99:
        table.add(f"delivered, p{percent}", name, percentile(flat(result["delivered_ms"]), percent))
    table.add("the INSERT or POST itself, p50", name, percentile(result["call_ms"], 50))


def latency(bench):
    table = bench.table("latency", "Delivery to 10 clients of a topic, 100 messages/s, from the start of the INSERT", "ms")
    with Notify(bench.directory, 20, peer_env(bench.systems[0].server)) as notify:
        for system in bench.rounds([*bench.systems, notify]):
            add_deliveries(table, system.name, bench.storm(system, "paced", messages=100 * bench.sizes.seconds))


def fanout(bench):
    table = bench.table("fanout", "Delivery to all clients of a topic, from the start of the INSERT until the last one has it", "ms")
    sizes = bench.sizes
    for clients in sizes.fanout:
        for system in bench.rounds(bench.systems):
            result = bench.storm(system, "fanout", clients=clients, messages=sizes.fanout_messages, gap=sizes.fanout_gap_ms + clients // 5)
            table.add(f"{clients:,} clients", system.name, statistics.median(max(times) for times in result["delivered_ms"]))


def cpu_percent(pids, seconds):
    begin, before = time.monotonic(), cpu_s(pids)
    time.sleep(seconds)
    after, elapsed = cpu_s(pids), time.monotonic() - begin
    return 100 * sum(after[pid] - before[pid] for pid in after) / elapsed


def memory(bench):
    """Starts its systems itself: what they take before a client comes is counted too."""
    table = bench.table("memory", "Memory for each waiting client: how much less the machine has than before the start, PostgreSQL included", "KiB")
    idle = bench.table("idle", "CPU time while clients wait and nothing is published", "% of a core")
    for kind in bench.rounds(all_systems()):
        taken = []
        for clients in bench.sizes.memory:
            before = settled_kib(bench.sizes.settle_s)
            with kind(bench.directory, clients + 20) as system, clients_held(system, clients) as storm_pid:
                taken.append(before - settled_kib(bench.sizes.settle_s) - kib_of(f"/proc/{storm_pid}/smaps_rollup", "Pss"))
                table.add(f"{clients:,} clients", kind.name, taken[-1] / clients)
                pids = set(system.pids()) - {storm_pid}
                if clients == bench.sizes.memory[0]:
                    idle.add(f"{clients:,} clients", kind.name, cpu_percent(pids, bench.sizes.idle_s))
            until_gone(pids)
        if len(taken) > 1:
            few, many = bench.sizes.memory
            table.add("each one more", kind.name, (taken[1] - taken[0]) / (many - few))


def topics(bench):
    """Starts pgpoll itself: until all wait is measured from the first request to a manager that knows no topic."""
    sizes = bench.sizes
    title = f"{sizes.own_clients:,} clients with topics of their own, 100 messages/s, each to one of the topics"
    delivered = bench.table("topics", f"Delivery to {title}, from the start of the INSERT", "ms")
    start = bench.table("topics_start", f"Until all of {title[:title.index(',', 6)]} wait, from the first request", "s")
    idle = bench.table("topics_idle", f"Database transactions while {title[:title.index(',', 6)]} wait and nothing is published", "a second")
    taken = bench.table("topics_memory", "Memory that each topic more takes, PostgreSQL included", "KiB")
    for number in range(sizes.rounds):
        memory_kib = {}
        for each in (1, sizes.own_topics)[:: 1 if number % 2 == 0 else -1]:
            name = f"{each} topic" + "s" * (each > 1) + " each"
            with Pgpoll(bench.directory, sizes.own_clients + 20) as system:
                until(lambda: system.free_workers() > sizes.own_clients, "all workers", 60)
                with own_clients(system, sizes.own_clients, each, 100 * sizes.seconds) as own:
                    start.add("until all wait", name, own.wait_until_held())
                    idle.add("transactions", name, system.transactions(sizes.idle_s, sizes.report_s))
                    memory_kib[each] = system.memory_kib(own.pid)
                    result = own.publish()
                    bench.deliveries += result["deliveries"]
                    for percent in 50, 90:
                        delivered.add(f"p{percent}", name, percentile(flat(result["delivered_ms"]), percent))
                pids = system.pids()
            until_gone(pids)
        taken.add("each topic", "pgpoll", (memory_kib[sizes.own_topics] - memory_kib[1]) / sizes.own_clients / (sizes.own_topics - 1))


def quiet(bench):
    """Starts pgpoll itself, so that nobody polls."""
    sizes = bench.sizes
    title = f"in {sizes.quiet_s} s, while nobody polls and nothing is published"
    queries = bench.table("quiet", f"Queries of pgpoll {title}", "queries")
    wal = bench.table("quiet_wal", f"WAL that is written {title}", "bytes")
    first = bench.table("quiet_first", "The first poll after that, with timeout 0", "ms")
    with Pgpoll(bench.directory, 20, PGPOLL_IDLE_S="1") as system:
        def ask(statement):
            return system.server.sql(statement)[0][0]

        system.server.sql("ALTER SYSTEM SET autovacuum = off")  # which writes WAL by itself
        system.server.sql("SELECT pg_reload_conf()")
        for _ in range(sizes.rounds):
            system.server.poll("quiet", timeout=0)
            until(lambda: ask("SELECT quiet FROM pgpoll.listeners"), "a quiet manager", 30)
            end, asked, seen = time.monotonic() + sizes.quiet_s, set(), "SELECT array_agg(pid || ' ' || query_start) FROM pg_stat_activity WHERE usename = 'pgpoll_worker'"
            before, known = ask("SELECT pg_current_wal_insert_lsn()"), set(ask(seen))
            while time.monotonic() < end:
                time.sleep(0.5)
                asked |= set(ask(seen)) - known
            queries.add("queries", "pgpoll", len(asked))
            wal.add("WAL", "pgpoll", int(ask(f"SELECT pg_current_wal_insert_lsn() - '{before}'")))
            began = time.monotonic()
            assert system.server.poll("quiet", timeout=0).payloads == []
            first.add("first poll", "pgpoll", 1000 * (time.monotonic() - began))


def catchup(bench):
    table = bench.table("catchup", f"Catching up: 10 clients read {bench.sizes.backlog:,} kept messages each", "messages/s", "more")
    for system in bench.rounds([system for system in bench.systems if system.target != "herd"]):   # which keeps nothing
        result = bench.storm(system, "drain", messages=bench.sizes.backlog)
        table.add("10 clients", system.name, result["deliveries"] / result["seconds"])


def publish(bench):
    """All of it in one cluster, which the plain writers share with an idle pgpoll."""
    system, sizes = bench.systems[0], bench.sizes
    server, some = system.server, sizes.writers[len(sizes.writers) // 2]
    rates = bench.table("publish", "Publishing, one message a transaction, by number of writers at once", "transactions/s", "more")
    load = bench.table("load", f"Delivery to 10 clients, 100 messages/s, while {sizes.writers[-1]} writers publish to other topics as fast as they can", "ms")
    peer_env(server)
    published = 0

    def run(name, writers):
        nonlocal published
        done = subprocess.run(**pgbench(server, bench.directory, name, writers, sizes.seconds), timeout=sizes.seconds + 60)
        transactions, rate = rate_of(done.stdout)
        if name == "pgpoll":
            settle(server)
            published += transactions
        return rate

    def meanwhile(peer):
        nonlocal published
        with subprocess.Popen(**pgbench(server, bench.directory, "pgpoll", sizes.writers[-1], sizes.seconds + 1)) as writing:
            try:
                add_deliveries(load, peer.name, bench.storm(peer, "paced", messages=100 * sizes.seconds))
                published += rate_of(writing.communicate()[0])[0]
                settled_s = settle(server)
                if peer is system:
                    load.add("all there is, after the writers stopped", peer.name, settled_s * 1000)
            finally:
                writing.kill()

    for number in range(sizes.rounds):
        for writers in sizes.writers:
            for name in list(WRITERS)[:: 1 if number % 2 == 0 else -1]:
                rates.add(f"{writers} writer" + "s" * (writers > 1), name, run(name, writers))
        with clients_held(system, sizes.others):
            rates.add(f"{some} writers, {sizes.others} clients wait elsewhere", "pgpoll", run("pgpoll", some))
        meanwhile(system)
        with Notify(bench.directory, 20, peer_env(server)) as notify:
            meanwhile(notify)
    ((found,),) = server.sql("SELECT count(*) FROM pgpoll.messages JOIN pgpoll.feed ON message_id = id WHERE messages.topic LIKE 'load-%%'")
    assert found == published, f"{published} messages were published, {found} can be delivered"


def comeback(bench):
    """The readers and those who publish share the machine, so half of it is what can be had. When very many clients come back in the same
    moment, deliveries wait while the web server and one process each take their polls; the peer shows how long that is without reads."""
    system, sizes, topics = bench.systems[0], bench.sizes, 10
    writers = sizes.writers[len(sizes.writers) // 2]
    some = f"{sizes.rereaders:,} clients read {topics} topics each from the start, again and again"
    rates = bench.table("comeback", f"Publishing, {writers} writers, while {some}", "transactions/s", "more")
    load = bench.table("comeback_load", f"Delivery to 10 other clients, 100 messages/s, while {some}", "ms")
    topic = f"again-{time.monotonic_ns()}"
    system.server.sql("INSERT INTO pgpoll.messages (topic, payload) SELECT %s || n %% %s, format('{\"n\":%%s,\"padding\":\"%%s\"}', n, repeat('0', 200))::json"
                      " FROM generate_series(0, %s) n ORDER BY n", f"{topic}-", topics, sizes.reread_messages - 1)

    def rate():
        done = subprocess.run(**pgbench(system.server, bench.directory, "pgpoll", writers, sizes.seconds), timeout=sizes.seconds + 60)
        return rate_of(done.stdout)[1]

    def rereading(of, messages):
        """They begin when the other load has begun, and go on for longer."""
        return clients_rereading(of, topic, sizes.seconds, gap=1000, clients=sizes.rereaders, topics=topics, messages=messages)

    def deliver(of, messages):
        with rereading(of, messages):
            add_deliveries(load, of.name, bench.storm(of, "paced", messages=100 * sizes.seconds))

    with contextlib.ExitStack() as stack:
        if sizes.many_rereaders:
            notify = stack.enter_context(Notify(bench.directory, sizes.rereaders + 20, peer_env(system.server)))
        for _ in range(sizes.rounds):
            settle(system.server)
            rates.add("nobody reads", "pgpoll", rate())
            with rereading(system, sizes.reread_messages):
                rates.add("meanwhile", "pgpoll", rate())
            settle(system.server)
            deliver(system, sizes.reread_messages)
            if sizes.many_rereaders:
                settle(system.server)
                deliver(notify, 0)
                time.sleep(3)   # until the polls that got nothing have ended


def settle(server):
    """Publishes one more message; returns how many seconds it takes to come, which is after all others."""
    topic, begin = f"last-{time.monotonic_ns()}", time.monotonic()
    server.publish(topic, 1)
    assert server.poll(topic, since={topic: "0"}, timeout=60).payloads == [1]
    return time.monotonic() - begin


def polls(bench):
    table = bench.table("polls", "Polls with timeout 0 of 10 clients that have read everything", "answers/s", "more")
    for system in bench.rounds(bench.systems):
        result = bench.storm(system, "ask", seconds=bench.sizes.seconds)
        table.add("10 clients", system.name, result["answers"] / result["seconds"])
        if system.target == "pgpoll":   # which reads topics ahead that somebody waits for
            topic = f"ahead-{time.monotonic_ns()}"
            with clients_held(system, 1, topic=topic):
                result = bench.storm(system, "ask", topic=topic, seconds=bench.sizes.seconds)
            table.add("while another client waits", system.name, result["answers"] / result["seconds"])


AUTHENTICATE = """CREATE OR REPLACE FUNCTION pgpoll.authenticate("authorization" text) RETURNS text LANGUAGE sql STABLE AS
                  $$ SELECT substring($1 FROM '^Bearer ([0-9]+)$') $$"""
CAN_POLL = "CREATE OR REPLACE FUNCTION pgpoll.can_poll(remote_user text, topic text) RETURNS boolean LANGUAGE sql STABLE AS $$ %s $$"


def access(bench):
    """Each client is a user of its own. The first messages, until each user is known, do not count."""
    server, sizes = bench.systems[0].server, bench.sizes
    table = bench.table("access", f"Delivery to {sizes.users} users, a message a second, once each user is known, p99", "ms")
    ratios = bench.table("access ratio", "The same, as a multiple of p99 as installed", "×")
    for _ in range(sizes.rounds):
        found = {}
        try:
            for row, body in {"as installed": None, "can_poll() takes 50 ms": "SELECT true FROM pg_sleep(0.05)"}.items():
                if body:
                    server.sql(AUTHENTICATE)
                    server.sql(CAN_POLL % body)
                    until(lambda: server.request("POST", "/messages/poll", '{"topics": ["x"], "timeout": 0}').status == 401, "the functions heeded", 10)
                result = bench.storm(bench.systems[0], "paced", clients=sizes.users, messages=sizes.user_messages, rate=1)
                found[row] = percentile(flat(result["delivered_ms"][sizes.until_known:]), 99)
                table.add(row, "pgpoll", found[row])
                ratios.add(row, "pgpoll", found[row] / found["as installed"])
        finally:
            server.unrestrict()
            server.authenticate_as_installed()
        until(lambda: server.request("POST", "/messages/poll", '{"topics": ["x"], "timeout": 0}').status == 200, "the functions as installed", 10)


# memory, topics, quiet and kept first: nothing else runs then.
PARTS = {part.__name__: part for part in (memory, topics, quiet, kept, latency, fanout, catchup, publish, comeback, polls, access, hosts)}
