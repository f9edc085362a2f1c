"""Many publishers and readers at once. Afterwards what each of them saw is compared with the whole history."""
import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import threading
import time

import psycopg2

from sessions import LEVELS, Background, Reader, connect, publish, run, wait_until

TOPICS = ["t0", "t1", "t2"]


def history(session):
    return [(position, tuple(payload)) for position, payload in
            run(session, "SELECT f.position, m.payload FROM pgpoll.feed f JOIN pgpoll.messages m ON m.id = f.message_id ORDER BY position")]


def is_gone(session):
    with contextlib.suppress(psycopg2.Error):
        run(session, "SELECT 1")
    return session.closed


class Writer:
    """Publishes [writer, n] with growing n in transactions of every kind, until it is told to stop."""

    def __init__(self, number, session, stop):
        self.number, self.session, self.stop = number, session, stop
        self.random = random.Random(number)
        self.numbers = itertools.count()
        self.inserted = {}          # payload: when the INSERT began
        self.committed = []         # (when the COMMIT began, when it returned, payload)
        self.uncertain = []         # payloads whose COMMIT got no answer
        self.refused = 0

    def __call__(self):
        while not self.stop.is_set():
            pending = []
            try:
                level = self.random.choice(LEVELS)
                run(self.session, "BEGIN ISOLATION LEVEL " + level)
                pending = self.insert(self.random.randint(1, 4), serializable=level == "SERIALIZABLE")
                if self.random.random() < 0.1:
                    run(self.session, "ROLLBACK")
                    continue
                began = time.monotonic()
                run(self.session, "COMMIT")
                returned = time.monotonic()
                self.committed += [(began, returned, payload) for payload in pending]
            except psycopg2.errors.SerializationFailure:
                self.refused += 1
                run(self.session, "ROLLBACK")
            except psycopg2.Error:
                assert is_gone(self.session)
                self.uncertain += pending
                return
            time.sleep(self.random.random() * 0.005)

    def insert(self, count, serializable):
        """A serializable transaction deletes nothing: it might be refused if it reads what others write."""
        pending = []
        for _ in range(count):
            payload = (self.number, next(self.numbers))
            undo = self.random.random() < 0.2
            if undo or self.random.random() < 0.2:
                run(self.session, "SAVEPOINT s")
            self.inserted[payload] = time.monotonic()
            publish(self.session, self.random.choice(TOPICS), payload)
            if self.random.random() < 0.05:
                run(self.session, "SET CONSTRAINTS ALL IMMEDIATE")
            if undo:
                run(self.session, "ROLLBACK TO s")
            elif not serializable and self.random.random() < 0.05:
                run(self.session, "DELETE FROM pgpoll.messages WHERE payload::text = %s", json.dumps(payload))
            else:
                pending.append(payload)
            if self.random.random() < 0.3:
                time.sleep(self.random.random() * 0.02)
        return pending


def start_writers(numbers, stop, make_session=connect):
    writers = [Writer(number, make_session(), stop) for number in numbers]
    return writers, [Background(writer) for writer in writers]


def read_until(stop, reader, number, check_again=False):
    """Reads pages with limits of every size until it is told to stop, then to the end."""
    dice = random.Random(100 + number)
    first = time.monotonic()
    while True:
        last = stop.is_set()
        limits = {"messages": dice.choice([1, 2, 5, 100]), "max_bytes": dice.choice([1, 20, 100, 1 << 20])}
        more = reader.page(**limits)
        if check_again and len(reader.got) > 1 and dice.random() < 0.1:
            read_again(reader, dice, limits)
        if last and not more:
            return first
        time.sleep(dice.random() * 0.005)


def read_again(reader, dice, limits):
    """From an earlier position, a reader gets the same messages again."""
    k = dice.randrange(len(reader.got) - 1)
    again = Reader(reader.session, reader.topics, {topic: reader.got[k][0] for topic in reader.topics})
    again.page(**limits)
    assert again.got and all(a == b for a, b in zip(again.got, reader.got[k + 1:]))


def test_everybody_reads_the_same_history(admin):
    done, stop = threading.Event(), threading.Event()
    writers, writing = start_writers(range(6), done)
    readers = [Reader(connect(), TOPICS, dict.fromkeys(TOPICS, 0)) for _ in range(2)]
    reading = [Background(read_until, stop, reader, n, True) for n, reader in enumerate(readers)]
    late, late_reading, late_since = [], [], []
    for enough in (50, 400):
        wait_until(lambda: len(readers[0].got) > enough)
        late.append(Reader(connect(), reversed(TOPICS)))
        late[-1].page()
        late_since.append((time.monotonic(), dict(late[-1].cursors)))
        late_reading.append(Background(read_until, stop, late[-1], enough, True))
    wait_until(lambda: len(readers[0].got) > 1500, 180)
    done.set()
    for thread in writing:
        thread.join()
    stop.set()
    for thread in reading + late_reading:
        thread.join()

    everything = history(admin)
    committed = [payload for writer in writers for _, _, payload in writer.committed]
    assert sorted(payload for _, payload in everything) == sorted(committed)
    for number, writer in enumerate(writers):
        assert [p for _, p in everything if p[0] == number] == [p for _, _, p in writer.committed], "a publisher's own order"
    inserted = {payload: when for writer in writers for payload, when in writer.inserted.items()}
    returned = {payload: when for writer in writers for _, when, payload in writer.committed}
    earliest_after = float("inf")
    for _, payload in reversed(everything):
        assert inserted[payload] <= earliest_after, "after a message that was committed before the other's INSERT"
        earliest_after = min(earliest_after, returned[payload])
    for reader in readers:
        assert [(position, tuple(payload)) for position, payload in reader.got] == everything
    for reader, (since, start) in zip(late, late_since):
        got = [(position, tuple(payload)) for position, payload in reader.got]
        assert got == everything[-len(got):]
        assert {p for w in writers for began, _, p in w.committed if began > since} <= {p for _, p in got}, "from now"
    assert all(not reader.gaps for reader in readers + late)
    assert sum(writer.refused for writer in writers) == 0, "publishers do not fail each other"


def test_pruning_takes_nothing_silently(admin):
    """Each message is either delivered to a reader or part of a gap that it is told of."""
    run(admin, """CREATE TABLE IF NOT EXISTS audit (position bigint, message_id bigint, topic text);
                  TRUNCATE audit;
                  CREATE OR REPLACE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql
                      AS 'BEGIN INSERT INTO public.audit VALUES (NEW.position, NEW.message_id, NEW.topic); RETURN NULL; END';
                  CREATE OR REPLACE TRIGGER audit AFTER INSERT ON pgpoll.feed FOR EACH ROW EXECUTE FUNCTION audit()""")
    try:
        done, stop = threading.Event(), threading.Event()
        writers, writing = start_writers(range(4), done)
        readers = [Reader(connect(), TOPICS, dict.fromkeys(TOPICS, 0)) for _ in range(3)]
        reading = [Background(read_until, stop, reader, n) for n, reader in enumerate(readers)]
        pruned = 0
        while pruned < 500:
            slowest = min(min(reader.cursors.values()) for reader in readers)
            keep = "greatest(clock_timestamp() - to_timestamp(%s / 1000.0), '0')" if random.random() < 0.9 else "'0'"
            pruned += run(admin, f"SELECT pgpoll.prune({keep}, 20)", *[slowest >> 16] * ("%s" in keep))[0][0]
        done.set()
        for thread in writing:
            thread.join()
        stop.set()
        for thread in reading:
            thread.join()

        everything = run(admin, "SELECT position, topic FROM audit ORDER BY position")
        assert len(everything) == sum(len(writer.committed) for writer in writers)
        for reader in readers:
            got = {position for position, _ in reader.got}
            assert [position for position, _ in reader.got] == sorted(got)
            assert all(kind == "expired" for _, kind, _, _ in reader.gaps)
            for position, topic in everything:
                told = any(gap[0] == topic and gap[2] < position <= gap[3] for gap in reader.gaps)
                assert (position in got) != told, "either delivered or told"
    finally:
        run(admin, "DROP TRIGGER audit ON pgpoll.feed")


def kill_cluster(directory):
    """Sends SIGKILL to all processes at once, as the kernel does when memory runs out."""
    with open(os.path.join(directory, "data/postmaster.pid"), encoding="ascii") as file:
        postmaster = int(file.readline())
    os.kill(postmaster, signal.SIGSTOP)     # so that it starts no new process
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(postmaster)], capture_output=True, text=True, check=True)
    pids = [*map(int, listed.stdout.split()), postmaster]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for pid in pids:
        wait_until(lambda: not os.path.exists(f"/proc/{pid}/exe"))
    for name in ("data/postmaster.pid", ".s.PGSQL.5432.lock"):     # the process may stay a zombie until init reaps it
        os.unlink(os.path.join(directory, name))


def test_what_was_committed_before_comes_before(admin):
    """A message that is inserted after another's COMMIT returned, in any session, has the higher position."""
    stop = threading.Event()
    under_way = [connect("READ COMMITTED") for _ in range(3)]
    sessions = [connect() for _ in range(4)]
    readers = [Reader(connect(), TOPICS, dict.fromkeys(TOPICS, 0)) for _ in range(2)]
    reading = [Background(read_until, stop, reader, n) for n, reader in enumerate(readers)]
    dice = random.Random(3)
    for n in range(600):
        other = dice.choice(under_way)
        publish(other, "t0", ["under way", n])
        if dice.random() < 0.3:
            other.commit()
        publish(dice.choice(sessions), dice.choice(TOPICS), ["hearsay", n])
    for other in under_way:
        other.commit()
    stop.set()
    for thread in reading:
        thread.join()
    for reader in readers:
        assert [n for _, (kind, n) in reader.got if kind == "hearsay"] == list(range(600))
        assert [(position, tuple(payload)) for position, payload in reader.got] == history(admin)


def connect_again(cluster):
    """Connects as soon as the server accepts connections."""
    connected = []

    def is_back():
        with contextlib.suppress(psycopg2.OperationalError):
            connected.append(cluster.connect("crash"))
        return connected
    wait_until(is_back)
    return connected[0]


def test_crash_with_synchronous_commit_off(cluster):
    """Positions that were read are on disk all the same: no such message is lost or gets another position."""
    cluster.start("fsync=off", "wal_writer_delay=10s", "synchronous_commit=off")
    cluster.create("crash")
    cluster.install("crash")
    reader = Reader(cluster.connect("crash"), TOPICS, dict.fromkeys(TOPICS, 0))
    for n in range(20):
        publish(reader.session, TOPICS[n % 3], [0, n])
        assert reader.read() == [[0, n]]
    kill_cluster(cluster.directory)
    cluster.start()
    reader.session = cluster.connect("crash")
    assert reader.read() == []
    assert history(reader.session) == [(position, tuple(payload)) for position, payload in reader.got]


def test_crash(cluster):
    """Six crashes, during publishing or just after a message was read, of all processes or of one, after which the server
    restarts by itself. Nothing is lost or delivered twice, because a position that was seen is on disk."""
    cluster.start("wal_writer_delay=10s")   # so that positions do not reach the disk by chance
    cluster.create("crash")
    cluster.install("crash")
    admin = cluster.connect("crash")
    reader = Reader(admin, TOPICS, dict.fromkeys(TOPICS, 0))
    committed, uncertain = [], []
    for crash in range(6):
        if crash == 3:      # ahead of the clock: only last_position makes the next one higher
            run(admin, "SELECT setval('pgpoll.last_position', ((extract(epoch FROM clock_timestamp()) + 3600) * 1000)::bigint << 16)")
        stop = threading.Event()
        writers, writing = start_writers(range(4 * crash, 4 * crash + 4), stop, lambda: cluster.connect("crash"))
        enough = len(reader.got) + 60
        wait_until(lambda: [reader.page(messages=10), len(reader.got) > enough][1])
        if crash % 2:
            stop.set()
            for thread in writing:
                thread.join()
            reader.read()
            publish(admin, "t0", [-1, crash])
            committed.append((-1, crash))
            assert reader.read() == [[-1, crash]]
        other = cluster.connect("crash")
        if crash < 4:
            kill_cluster(cluster.directory)
        else:
            os.kill(admin.info.backend_pid, signal.SIGKILL)
        for thread in writing:
            thread.join()
        committed += [payload for writer in writers for _, _, payload in writer.committed]
        uncertain += [payload for writer in writers for payload in writer.uncertain]
        wait_until(lambda: is_gone(other))
        if crash < 4:
            cluster.start()
        admin = reader.session = connect_again(cluster)

    publish(admin, "t0", [-1, 0])
    reader.read(messages=7)
    everything = history(admin)
    assert everything[-1][1] == (-1, 0) and reader.gaps == []
    there = [payload for _, payload in everything[:-1]]
    assert len(there) == len(set(there)) and set(committed) <= set(there) <= set(committed + uncertain)

    assert [(position, tuple(payload)) for position, payload in reader.got] == everything
