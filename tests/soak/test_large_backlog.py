"""Three million messages that were published while no process gave positions."""
import json
import os
import signal
import threading

from server import POLL, Server, new_topic

MESSAGES, TOPICS, ROWS = 3_000_000, 50, 10_000
MANAGER_KIB = 64 * 1024   # half of this is the message ring


def memory_kib(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))


def publish_backlog(server):
    """Publishes without NOTIFY while the manager is stopped, so that notifications do not pile up."""
    os.kill(server.manager, signal.SIGSTOP)
    server.sql("ALTER TABLE pgpoll.messages DISABLE TRIGGER ring_doorbell")
    for _ in range(MESSAGES // ROWS):
        server.sql("INSERT INTO pgpoll.messages (topic, payload) SELECT 'topic' || n %% %s, to_json(n) FROM generate_series(1, %s) AS n",
                   TOPICS, ROWS)
    server.sql("ALTER TABLE pgpoll.messages ENABLE ALWAYS TRIGGER ring_doorbell")
    os.kill(server.manager, signal.SIGCONT)


def test_three_million_messages_wait():
    """The first poll after the start is answered, no poll fails until all messages have positions, and each message is delivered once and in
    order."""
    with Server(24, errors="terminating|shut|starting") as server:
        known = server.poll("topic1", timeout=0).next_since
        publish_backlog(server)
        server.stop()
        server.start()
        answers, over = [], threading.Event()

        def poll_from_now():
            while not over.wait(0.05):
                answers.append(server.request("POST", POLL, json.dumps({"topics": [new_topic()], "timeout": 0})).status)

        poller = threading.Thread(target=poll_from_now)
        poller.start()
        try:
            got, since = [], known
            while len(got) < MESSAGES // TOPICS:
                answer = server.poll("topic1", since=since, limit=1000, timeout=30)
                assert answer.status == 200 and not answer.gaps
                assert answer.messages or not got, "a poll that waited in vain while messages were being numbered"
                got += answer.payloads
                since = answer.next_since
                assert memory_kib(server.manager) < MANAGER_KIB
        finally:
            over.set()
            poller.join()
        assert got == [n for _ in range(MESSAGES // ROWS) for n in range(1, ROWS + 1) if n % TOPICS == 1]
        assert answers and set(answers) == {200}
        assert server.sql("SELECT count(*), count(DISTINCT message_id) FROM pgpoll.feed") == [(MESSAGES, MESSAGES)]
