"""What many kept messages cost: an installation for each size, filled at once, beside one with few messages."""
import contextlib
import os
import random
import signal
import statistics
import subprocess
import time

from systems import ROOT, Pgpoll, until
from writers import pgbench, rate_of

# Rows as prune() and polls find them: with positions, over 30 days, the topics in turn; xid is of a transaction long ago. Indexes are made after
# the rows. install.sql makes again what is dropped here, except the primary key.
FILL = """
DROP TRIGGER ring_doorbell ON pgpoll.messages;
DROP TRIGGER replicate_message ON pgpoll.messages;
DROP TRIGGER truncate_messages ON pgpoll.messages;
ALTER DOMAIN pgpoll.topic_name DROP CONSTRAINT topic_length;
ALTER DOMAIN pgpoll.topic_name DROP CONSTRAINT topic_control;
ALTER DOMAIN pgpoll.topic_name DROP CONSTRAINT topic_blank;
ALTER DOMAIN pgpoll.finite_timestamptz DROP CONSTRAINT is_finite;
DROP INDEX pgpoll.messages_xid, pgpoll.feed_message_id, pgpoll.feed_position;
ALTER TABLE pgpoll.feed DROP CONSTRAINT feed_pkey;
INSERT INTO pgpoll.messages (id, topic, payload, xid) OVERRIDING SYSTEM VALUE
    SELECT i, 't' || i * 7919 %% %(topics)s, '%(payload)s', '3' FROM generate_series(1::bigint, %(messages)s) AS i;
SELECT setval('pgpoll.messages_id_seq', %(messages)s);
INSERT INTO pgpoll.feed (topic, position, message_id, bytes)
    SELECT 't' || i * 7919 %% %(topics)s, %(newest)s - (%(messages)s - i) * ((2592000000 << 16) / %(messages)s), i, octet_length('%(payload)s')
    FROM generate_series(1::bigint, %(messages)s) AS i;
ALTER TABLE pgpoll.feed ADD CONSTRAINT feed_pkey PRIMARY KEY (topic, position);
"""
PAYLOAD = '{"padding":"%s"}' % ("0" * 64)
WHILE_FILLING = {"fsync": "off", "autovacuum": "off", "max_wal_size": "8GB", "checkpoint_timeout": "1h", "maintenance_work_mem": "1GB"}
PAGE = "SELECT * FROM pgpoll.catch_up(%s, %s::bigint[], 100, 1000000)"
BACKLOG_S = 300          # in which as many messages as were pruned have positions
FEW = "few messages"     # the name of the installation with which the others are compared


def say(text):
    print(f"kept: {text}", flush=True)


class Kept(Pgpoll):
    """pgpoll with so many messages in so many topics."""

    def __init__(self, directory, messages, topics, shared_buffers):
        super().__init__(directory / f"kept-{messages}-{topics}", 30)
        self.title, self.messages, self.topics = f"{messages:,} in {topics:,} topics", messages, topics
        self.shared_buffers = shared_buffers
        self.dice, self.longest_ms = random.Random(5), []

    def __enter__(self):
        super().__enter__()
        try:
            began = time.monotonic()
            say(f"filling {self.title}")
            self.fill()
            self.note_size()
            if self.shared_buffers:
                self.warm_up()
            say(f"{self.full_bytes / 2**30:.1f} GiB in {time.monotonic() - began:.0f} s")
        except BaseException:
            self.__exit__()
            raise
        return self

    def sql(self, *arguments):
        return self.server.sql(*arguments)

    def psql(self, *arguments):
        """Unlike sql(), ends at Ctrl-C."""
        subprocess.run(["psql", "-Xq", "-v", "ON_ERROR_STOP=1", *arguments], env={**self.env, "PATH": "/usr/bin:/bin"}, check=True,
                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def fill(self):
        self.sql("SELECT pgpoll.assign_positions()")
        ((self.newest,),) = self.sql("SELECT last_value FROM pgpoll.last_position")
        for name, value in WHILE_FILLING.items():
            self.sql(f"ALTER SYSTEM SET {name} = '{value}'")
        self.sql("SELECT pg_reload_conf()")
        self.psql("-c", FILL % {"messages": self.messages, "topics": self.topics, "payload": PAYLOAD, "newest": self.newest})
        self.psql("-f", ROOT / "sql/install.sql")
        self.vacuum()
        self.sql("CHECKPOINT")
        self.sql("ALTER SYSTEM RESET ALL")
        self.sql("SELECT pg_reload_conf()")
        os.sync()

    def warm_up(self):
        """Restarts with shared_buffers of that size, and reads all tables and indexes into them."""
        self.sql(f"ALTER SYSTEM SET shared_buffers = '{self.shared_buffers}'")
        self.server.stop()
        self.server.start()
        self.sql("CREATE EXTENSION pg_prewarm")
        self.sql("SELECT pg_prewarm(c.oid) FROM pg_class c WHERE relnamespace = 'pgpoll'::regnamespace AND relkind IN ('r', 'i')")

    def vacuum(self):
        """While less than 2 % of the pages have dead rows, VACUUM by itself would put off the indexes, and with them the rows' space."""
        self.sql("VACUUM (INDEX_CLEANUP on, ANALYZE) pgpoll.messages")
        self.sql("VACUUM (INDEX_CLEANUP on, ANALYZE) pgpoll.feed")

    def note_size(self):
        ((self.full_bytes, self.last_id),) = self.sql("SELECT pg_total_relation_size('pgpoll.messages') + pg_total_relation_size('pgpoll.feed'),"
                                                      " last_value FROM pgpoll.messages_id_seq")
        self.pruned = 0

    def some(self, count):
        return [f"t{topic}" for topic in self.dice.sample(range(self.topics), count)]

    def median_ms(self, count, statement, *arguments):
        """arguments: functions, called for each run."""
        took = []
        for _ in range(count):
            values = [value() for value in arguments]
            began = time.perf_counter()
            self.sql(statement, *values)
            took.append(1000 * (time.perf_counter() - began))
        return statistics.median(took)

    def catch_up_rate(self, seconds):
        """Messages a second, of which each topic is read from its beginning."""
        got, began = 0, time.monotonic()
        while time.monotonic() < began + seconds:
            topic, after, more = self.some(1), 0, True
            while more and time.monotonic() < began + seconds:
                rows = self.sql(PAGE, topic, [after])
                places = [row[1] for row in rows if row[2] is not None and row[3] is not None]
                got, more, after = got + len(places), len(places) == 100, places[-1] if places else 0
        return got / (time.monotonic() - began)

    def prune(self, most, seconds):
        """Deleted messages a second. Deletes at most a certain number, so that there are some for each round."""
        gone, began = 0, time.monotonic()
        while gone < most and (start := time.monotonic()) < began + seconds:
            ((deleted,),) = self.sql("SELECT pgpoll.prune('1 hour', %s)", min(5000, most - gone))
            assert deleted > 0, f"nothing left to prune: {self.title}"
            self.longest_ms.append(1000 * (time.monotonic() - start))
            gone += deleted
        self.pruned += gone
        return gone / (time.monotonic() - began)

    def prune_while(self, publish):
        """Calls publish() while the procedure of pgpoll-prune.timer runs. Returns its result, and deleted messages a second."""
        oldest = "SELECT id FROM pgpoll.messages ORDER BY id LIMIT 1"   # prune() deletes in this order
        ((first,),), began = self.sql(oldest), time.monotonic()
        with subprocess.Popen(["psql", "-Xqc", "CALL pgpoll.prune_topics('1 hour')"], env={**self.env, "PATH": "/usr/bin:/bin"},
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as pruning:
            try:
                result = publish()
                until(lambda: self.sql(oldest)[0][0] > first, "the first messages pruned")
            finally:
                pruning.send_signal(signal.SIGINT)   # psql cancels the call
        return result, (self.sql(oldest)[0][0] - first) / (time.monotonic() - began)

    def growth(self):
        """Has as many messages come as were pruned. Returns what the tables grow by, as a share of the space which those had: 0 if all is used again."""
        self.vacuum()
        before, pruned = self.full_bytes, self.pruned
        self.sql("INSERT INTO pgpoll.messages (topic, payload) SELECT 't' || i * 7919 %% %s, %s"
                 " FROM pgpoll.messages_id_seq, generate_series(1, %s - (last_value - %s)) AS i", self.topics, PAYLOAD, pruned, self.last_id)
        until(lambda: self.sql("SELECT pgpoll.without_position()") == [(0,)], "positions", BACKLOG_S)
        self.note_size()
        return (self.full_bytes / before - 1) / (pruned / self.messages)


def kept(bench):
    """Starts its installations itself. Reads of the table are measured as the statements that readers send, without HTTP."""
    sizes, title = bench.sizes, "by how many messages are kept, beside an installation with few"
    writers = sizes.writers[len(sizes.writers) // 2]
    times = bench.table("kept", f"Deliveries and statements {title}, p50", "ms")
    polls = bench.table("kept_polls", f"Polls with timeout 0 of 10 clients that have read everything {title}", "answers/s", "more")
    rates = bench.table("kept_rates", f"Catching up and pruning {title}", "messages/s", "more")
    longest = bench.table("kept_longest", "The longest transaction of prune() by how many messages are kept", "ms")
    publishing = bench.table("kept_publishing", f"Publishing, {writers} writers, while prune_topics() deletes, by the rate before", "×", "more")
    disk = bench.table("kept_disk", "What the tables grow by when as many messages come as were pruned, by the space that those had", "×")
    with contextlib.ExitStack() as stack:
        few, *many = (stack.enter_context(Kept(bench.directory, *size, sizes.shared_buffers)) for size in sizes.kept)

        def add(table, what, measure, large=many):
            """Each of the large ones and the small one, one after the other."""
            for one in large:
                table.add(f"{what}, {one.title}", "pgpoll", measure(one))
                table.add(f"{what}, {one.title}", FEW, measure(few))

        def add_ms(what, count, statement, *arguments):
            add(times, what, lambda one: one.median_ms(count, statement, *(lambda a=a: a(one) for a in arguments)))

        def delivered_ms(one):
            result = bench.storm(one, "paced", messages=100 * sizes.seconds)
            return statistics.median(delay for delays in result["delivered_ms"] for delay in delays)

        def answers(one):
            result = bench.storm(one, "ask", seconds=sizes.seconds)
            return result["answers"] / result["seconds"]

        def publishing_rate(one):
            done = subprocess.run(**pgbench(one.server, bench.directory, "pgpoll", writers, sizes.seconds), timeout=sizes.seconds + 60)
            return rate_of(done.stdout)[1]

        for number in range(sizes.rounds):
            say(f"round {number + 1} of {sizes.rounds}")
            count = sizes.kept_statements
            add(times, "delivery to 10 clients, 100 messages/s", delivered_ms)
            add_ms("10 topics without news", count, PAGE, lambda one: one.some(10), lambda one: [one.newest] * 10)
            add_ms("the first page of 20 topics", count, PAGE, lambda one: one.some(20), lambda one: [0] * 20)
            add_ms("from now", count, PAGE, lambda one: one.some(1), lambda one: [None])
            add_ms("the last 10", count, PAGE, lambda one: one.some(1), lambda one: [-10])
            add_ms("assign_positions()", count, "SELECT pgpoll.assign_positions()")
            add_ms("pgpoll.topics", 5, "SELECT * FROM pgpoll.topics LIMIT 20")
            add_ms("pgpoll.retained", 5, "SELECT * FROM pgpoll.retained")
            add_ms("pgpoll.metrics()", 5, "SELECT pgpoll.metrics()")
            add(polls, "10 clients", answers)
            add(rates, "catching up", lambda one: one.catch_up_rate(sizes.seconds), many[:1])
        for number in range(sizes.rounds):
            say(f"prune(), round {number + 1} of {sizes.rounds}")
            add(rates, "prune()", lambda one: one.prune(one.messages // (2 * sizes.rounds + 1), sizes.seconds))
            for one in many:
                longest.add(one.title, "pgpoll", max(one.longest_ms))
                one.longest_ms.clear()
                disk.add(one.title, "pgpoll", one.growth())
        for number in range(sizes.rounds):
            say(f"prune_topics() while others publish, round {number + 1} of {sizes.rounds}")
            for one in many:
                before = publishing_rate(one)
                meanwhile, pruned = one.prune_while(lambda one=one: publishing_rate(one))
                publishing.add(one.title, "pgpoll", meanwhile / before)
                rates.add(f"prune_topics() while {writers} writers publish, {one.title}", "pgpoll", pruned)
