"""A short random history: what every client was given, beside what was committed."""
import os
import random
import threading
import time

import pytest

from server import new_topic

WRITERS, CLIENTS, SECONDS = 4, 8, 5.0
ISOLATION = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]
INSERT = "INSERT INTO pgpoll.messages (topic, payload) VALUES (%s, %s)"


def write(server, topics, writer, dice, stop, committed):
    """Transactions of one to four messages, some slow, some rolled back, some in part; records what it committed, in its order."""
    connection, n = server.connect(), 0
    with connection.cursor() as cursor:
        while not stop.is_set():
            cursor.execute("SET TRANSACTION ISOLATION LEVEL " + dice.choice(ISOLATION))
            kept = []
            for _ in range(dice.randint(1, 4)):
                n += 1
                topic, text = dice.choice(topics), f'"{writer}:{n}"'
                undone = dice.random() < 0.1
                if undone:
                    cursor.execute("SAVEPOINT here")
                cursor.execute(INSERT, (topic, text))
                if undone:
                    cursor.execute("ROLLBACK TO here")
                else:
                    kept.append((topic, text.strip('"')))
                time.sleep(dice.choice([0, 0, 0, 0.02, 0.1]) * dice.random())
            if dice.random() < 0.2:
                connection.rollback()
            else:
                connection.commit()
                committed.extend(kept)
    connection.close()


class Client:
    def __init__(self, server, topics, dice):
        self.server, self.dice = server, dice
        self.topics = dice.sample(topics, dice.randint(1, len(topics)))
        self.from_start = dice.random() < 0.5
        self.since = dict.fromkeys(self.topics, "0" if self.from_start else dice.choice(["$", None]))
        self.got, self.gaps, self.ready = [], [], False

    def run(self, stop):
        while not stop.is_set():
            self.poll(timeout=self.dice.randint(0, 2))
        while self.poll(timeout=0):
            pass

    def poll(self, timeout):
        answer = self.server.poll(*self.topics, since=self.since, timeout=timeout, limit=self.dice.choice([1, 2, 5, 20, 100]))
        self.got += [(message["topic"], message["payload"]) for message in answer.messages]
        self.gaps += answer.gaps.items()
        if self.dice.random() < 0.5:
            self.since = answer.next_since
        else:   # another cursor for the same place
            self.since = dict(answer.next_since, **{message["topic"]: message[self.dice.choice(["message_id", "stream_id"])]
                                                    for message in answer.messages})
        if self.dice.random() < 0.3:
            self.dice.shuffle(self.topics)
        self.ready = True
        return answer.messages


def test_history(server):
    seed = int(os.environ.get("SEED", time.time_ns() % 100_000))
    print("SEED =", seed)   # shown when it fails
    dice = random.Random(seed)
    topics = [new_topic("history") for _ in range(5)]
    committed = [[] for _ in range(WRITERS)]
    clients = [Client(server, topics, random.Random(dice.random())) for _ in range(CLIENTS)]
    writing, polling = threading.Event(), threading.Event()
    writers = [server.threads.submit(write, server, topics, n, random.Random(dice.random()), writing, committed[n])
               for n in range(WRITERS)]
    readers = [server.threads.submit(client.run, polling) for client in clients]
    time.sleep(SECONDS)
    writing.set()
    for writer in writers:
        writer.result()
    polling.set()
    for reader in readers:
        reader.result()

    history = server.sql("SELECT f.topic, m.payload #>> '{}' FROM pgpoll.feed f JOIN pgpoll.messages m ON m.id = f.message_id"
                         " WHERE f.topic = ANY (%s) ORDER BY f.position", topics)
    assert sorted(history) == sorted(sum(committed, []))
    for writer, own in enumerate(committed):
        assert [message for message in history if message[1].startswith(f"{writer}:")] == own
    assert len(history) > 100
    for client in clients:
        expected = [message for message in history if message[0] in client.topics]
        check(client.got, expected, client.from_start)
        assert not client.gaps


def check(got, expected, from_start):
    """All of it, once, in order; a client that began from now may have begun late, but has the end."""
    if not from_start:
        expected = expected[expected.index(got[0]):] if got else []
    assert got == expected


@pytest.mark.parametrize("got", [[1, 2, 4], [1, 2, 2, 3, 4], [1, 3, 2, 4], [1, 2, 3], [2, 3, 4], [1, 2, 3, 4, 5]])
def test_the_check_notices(got):
    with pytest.raises(AssertionError):
        check(got, [1, 2, 3, 4], from_start=True)
