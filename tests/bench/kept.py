"""What many kept messages cost: databases of one cluster, filled at once, in which nothing else runs."""
import contextlib
import random
import statistics
import subprocess
import time

from systems import ROOT

# As prune() and polls find them: with positions, over 30 days, the topics in turn.
FILL = """
SET session_replication_role = replica;
DROP INDEX pgpoll.feed_message_id, pgpoll.feed_position;
INSERT INTO pgpoll.messages (topic, payload, xid)
    SELECT 't' || i * 7919 %% {topics}, '{{"padding": "0000000000000000000000000000000000000000000000000000000000000000"}}', NULL
    FROM generate_series(1::bigint, {messages}) AS i;
INSERT INTO pgpoll.feed (topic, position, message_id, bytes)
    SELECT m.topic, ((extract(epoch FROM now()) * 1000)::bigint - ({messages} - m.id) * (2592000000 / {messages})) << 16, m.id, 80
    FROM pgpoll.messages m;
CREATE INDEX feed_message_id ON pgpoll.feed (message_id);
CREATE INDEX feed_position ON pgpoll.feed (position);
SELECT setval('pgpoll.last_position', (SELECT max(position) FROM pgpoll.feed));
"""
PAGE = "SELECT * FROM pgpoll.catch_up(%s, %s::bigint[], 100, 1000000)"
MOST_S = 20     # that a backlog or a prune may take


class Kept:
    """A database with so many messages in so many topics."""

    def __init__(self, server, messages, topics):
        self.name = f"{messages:,} in {topics:,} topics"
        self.server, self.topics, self.database = server, topics, f"kept_{messages}_{topics}"
        server.sql(f"CREATE DATABASE {self.database}")
        env = {**server.env, "PGDATABASE": self.database, "PATH": "/usr/bin:/bin"}
        subprocess.run(["psql", "-Xq", "-f", ROOT / "sql/install.sql"], env=env, check=True, stdin=subprocess.DEVNULL)
        self.session = self.connect()
        self.run(FILL.replace("%%", "%").format(messages=messages, topics=topics))
        self.session.autocommit = True
        self.run("VACUUM (ANALYZE) pgpoll.messages")
        self.run("VACUUM (ANALYZE) pgpoll.feed")
        self.until_numbered()
        ((self.newest,),) = self.run("SELECT last_value FROM pgpoll.last_position")
        self.dice = random.Random(5)

    def connect(self):
        return self.server.connect(dbname=self.database)

    def close(self):
        self.session.close()
        self.server.sql(f"DROP DATABASE {self.database} WITH (FORCE)")

    def run(self, statement, *arguments):
        with self.session.cursor() as cursor:
            cursor.execute(statement, arguments or None)
            if not self.session.autocommit:
                self.session.commit()
                return []
            return cursor.fetchall() if cursor.description else []

    def until_numbered(self):
        end = time.monotonic() + 10 * MOST_S
        while self.run("SELECT more FROM pgpoll.assign_positions()") == [(True,)]:
            assert time.monotonic() < end, "no end of a backlog"

    def some(self, count):
        return [f"t{self.dice.randrange(self.topics)}" for _ in range(count)]

    def median_ms(self, count, statement, *arguments):
        """arguments: functions, called for each run."""
        took = []
        for _ in range(count):
            values = [value() for value in arguments]
            began = time.perf_counter()
            self.run(statement, *values)
            took.append(1000 * (time.perf_counter() - began))
        return statistics.median(took)

    def catch_up_rate(self, seconds):
        """Messages a second, of which each topic is read from its beginning."""
        got, began = 0, time.monotonic()
        while time.monotonic() < began + seconds:
            topic, after, more = self.some(1), 0, True
            while more and time.monotonic() < began + seconds:
                rows = self.run(PAGE, topic, [after])
                places = [row[1] for row in rows if row[2] is not None and row[3] is not None]
                got, more, after = got + len(places), len(places) == 100, places[-1] if places else 0
        return got / (time.monotonic() - began)

    def prune_rate(self, seconds):
        """Deleted messages a second. A third is old enough."""
        gone, began = 0, time.monotonic()
        while time.monotonic() < began + seconds:
            ((deleted,),) = self.run("SELECT pgpoll.prune('20 days')")
            gone += deleted
            if not deleted:
                break
        return gone / (time.monotonic() - began)


FEW = "few messages"     # the name of the database with which the others are compared


def kept(bench):
    """All of it without HTTP: what differs is the database's part."""
    sizes, server = bench.sizes, bench.systems[0].server
    times = bench.table("kept", "Statements by how many messages are kept, p50, beside a database with few", "ms")
    rates = bench.table("kept_rates", "Catching up and pruning by how many messages are kept, beside a database with few", "messages/s", "more")
    with contextlib.ExitStack() as stack:
        few, *many = (stack.enter_context(contextlib.closing(Kept(server, *size))) for size in sizes.kept)

        def add(table, what, measure, large=many):
            """Each of the large ones and the small one, one after the other."""
            for one in large:
                table.add(f"{what}, {one.name}", "pgpoll", measure(one))
                table.add(f"{what}, {one.name}", FEW, measure(few))

        def add_ms(what, count, statement, *arguments):
            add(times, what, lambda one: one.median_ms(count, statement, *(lambda a=a: a(one) for a in arguments)))

        for _ in range(sizes.rounds):
            count = sizes.kept_statements
            add_ms("10 topics without news", count, PAGE, lambda one: one.some(10), lambda one: [one.newest] * 10)
            add_ms("the first page of 20 topics", count, PAGE, lambda one: one.some(20), lambda one: [0] * 20)
            add_ms("from now", count, PAGE, lambda one: one.some(1), lambda one: [None])
            add_ms("the last 10", count, PAGE, lambda one: one.some(1), lambda one: [-10])
            add_ms("assign_positions()", count, "SELECT pgpoll.assign_positions()")
            add_ms("pgpoll.topics", 5, "SELECT * FROM pgpoll.topics LIMIT 20")
            add_ms("pgpoll.retained", 5, "SELECT * FROM pgpoll.retained")
            add_ms("pgpoll.metrics()", 5, "SELECT pgpoll.metrics()")
            add(rates, "catching up", lambda one: one.catch_up_rate(sizes.seconds), many[:1])
        for one in many:
            rates.add(f"prune(), {one.name}", "pgpoll", one.prune_rate(sizes.seconds))
