"""Polls that wait: what they wait for, how long, and what wakes them."""
import http.client
import json
import os
import pathlib
import re
import socket
import struct
import subprocess
import tempfile
import threading
import time

import psycopg2
import pytest

from server import LEAVING_S, MODE, POLL, STALL_S, STATS, WEB, Answer, Server, new_topic, soon, until
from stalls import again_after_a_stall


@pytest.mark.parametrize("timeout", [0, 1, 2])
def test_nothing_new(server, topic, timeout):
    def answered():
        answer = server.poll(topic, timeout=timeout)
        assert (answer.messages, answer.has_more, answer.gaps) == ([], False, {}) and answer.seconds > timeout - 0.01
        return answer.seconds

    assert soon(answered, timeout + 1)


@pytest.mark.web
def test_a_message_ends_the_wait(server, topic):
    server.publish(topic, "before")

    def delivered():
        (poll,) = server.wait(topic, timeout=20)
        server.publish(new_topic(), "elsewhere")
        server.sql("SELECT pg_notify(pgpoll.channel(%s), 'forged')", topic)
        server.publish(topic, "for us")
        committed = time.monotonic()
        answer = poll.result()
        took = time.monotonic() - committed
        assert answer.payloads == ["for us"] and not answer.has_more
        assert answer.next_since == {topic: answer.messages[0]["message_id"]}
        return took

    assert soon(delivered, 0.5)


def test_the_default_timeout(server, topic):
    poll = server.threads.submit(server.request, "POST", POLL, json.dumps({"topics": [topic]}))
    server.until_waiting(topic)
    waits, client = server.sql("SELECT extract(epoch FROM deadline - started_at)::float, client FROM pgpoll.live_waiters"
                               " WHERE topics = ARRAY[%s]", topic)[0]
    assert 29 < waits < 31 and client == "127.0.0.1"
    server.publish(topic, 1)
    assert poll.result().payloads == [1]


@pytest.mark.parametrize("cursor", ["0", "-2", "$", "msg_0000000000000000", "1600000000000-0"])
def test_every_cursor_waits_if_there_is_no_message(server, topic, cursor):
    (poll,) = server.wait(topic, since={topic: cursor}, timeout=20)
    server.publish(topic, 1)
    answer = poll.result()
    assert answer.payloads == [1] and not answer.gaps


def lose(server, reason, topic):
    """Returns a cursor that causes a gap with this reason, in a topic without later messages."""
    if reason == "unknown":
        return "rubbish"
    if reason == "ahead":
        return "msg_7fffffffffffffff"
    server.publish(topic, 1, 2)
    first = server.read(topic)[0]["message_id"]
    server.prune(topic)
    return first


@pytest.mark.parametrize("reason", ["unknown", "ahead", "expired"])
def test_a_gap_is_answered_at_once(server, topic, reason):
    cursor = lose(server, reason, topic)
    answer = server.poll(topic, since={topic: cursor}, timeout=30)
    assert answer.gaps == {topic: {"reason": reason, "requested": cursor, "oldest": None}} and not answer.messages
    assert answer.seconds < 30 / 2 and answer.headers["Content-Length"]     # an answer with a Content-Length did not wait
    # The gap is reported once: the cursor in the answer is valid.
    (poll,) = server.wait(topic, since=answer.next_since, timeout=30)
    server.publish(topic, 3)
    assert poll.result().payloads == [3] and not poll.result().gaps


def test_a_gap_of_one_of_two_topics_is_answered_at_once(server, topic):
    quiet = new_topic()
    since = server.poll(quiet).next_since
    answer = server.poll(quiet, topic, since={**since, topic: lose(server, "expired", topic)}, timeout=30)
    assert list(answer.gaps) == [topic] and answer.seconds < 30 / 2 and answer.next_since[quiet] == since[quiet]


@pytest.mark.parametrize("how", ["prune", "TRUNCATE"])
def test_a_gap_that_opens_during_a_wait_is_answered_at_once(server, topic, how):
    """The messages are deleted before they can be read, because the waiting workers are stopped meanwhile."""
    (poll,) = server.wait(topic, timeout=60)
    server.until_waiting(topic)
    with server.nobody_delivers():
        server.publish(topic, "nobody has it")
        if how == "prune":
            server.sql("SELECT pgpoll.assign_positions()")
            server.prune(topic)
        else:
            server.sql("TRUNCATE pgpoll.messages")
    answer = poll.result(60)
    assert answer.gaps[topic]["reason"] == "expired" and not answer.messages and answer.seconds < 30
    assert not server.poll(topic, since=answer.next_since).gaps


def test_twenty_polls_and_one_insert(server, topic):
    def delivered():
        polls = server.wait(topic, polls=20, timeout=20)
        server.publish(topic, {"n": 1})
        committed = time.monotonic()
        answers = [poll.result() for poll in polls]
        took = time.monotonic() - committed
        assert [answer.payloads for answer in answers] == [[{"n": 1}]] * 20
        assert len({answer.messages[0]["message_id"] for answer in answers}) == 1
        return took

    assert soon(delivered, 1)


def test_any_of_fifty_topics(server):
    topics = [new_topic("fifty") for _ in range(50)]
    for topic in topics[0], topics[49]:
        (poll,) = server.wait(*topics, timeout=20)
        server.publish(topic, topic)
        assert poll.result().payloads == [topic]


@pytest.mark.parametrize("name", ["'); SELECT 1; --", 'quo"te\\', "Ünï😀", "😀" * 255, "x" * 255], ids=ascii)
def test_a_wait_for_any_name(server, name):
    (poll,) = server.wait(name, timeout=20)
    server.publish(name, 1)
    assert [(message["topic"], message["payload"]) for message in poll.result().messages] == [(name, 1)]
    server.prune(name)


@pytest.mark.web
def test_a_message_larger_than_a_page_ends_the_wait_alone(server, topic):
    (poll,) = server.wait(topic, timeout=20)
    large = "x" * 5_000_000
    server.sql("INSERT INTO pgpoll.messages (topic, payload) VALUES (%s, to_json(%s::text)), (%s, '2')", topic, large, topic)
    answer = poll.result()
    assert answer.payloads == [large] and answer.has_more
    assert server.poll(topic, since=answer.next_since, timeout=20).payloads == [2]
    server.prune(topic)


def test_one_transaction_arrives_whole(server, topic):
    other = new_topic()
    (poll,) = server.wait(topic, other, timeout=20)
    server.sql("INSERT INTO pgpoll.messages (topic, payload)"
               " SELECT CASE WHEN n %% 3 = 0 THEN %s ELSE %s END, to_json(n) FROM generate_series(1, 50) n", topic, other)
    assert poll.result().payloads == list(range(1, 51))


def test_the_answer_to_a_wait_respects_the_limit(server, topic):
    (poll,) = server.wait(topic, timeout=20, limit=10)
    server.sql("INSERT INTO pgpoll.messages (topic, payload) SELECT %s, to_json(n) FROM generate_series(1, 25) n", topic)
    got, answer = [], poll.result()
    got.append(answer.payloads)
    while answer.has_more:
        answer = server.poll(topic, since=answer.next_since, timeout=20, limit=10)
        got.append(answer.payloads)
    assert [len(page) for page in got] == [10, 10, 5] and sum(got, []) == list(range(1, 26))


# --- the meaning of "now"

def test_a_slow_transaction_begun_before_the_poll_is_delivered(server, topic):
    slow = server.connect()
    slow.cursor().execute("INSERT INTO pgpoll.messages (topic, payload) VALUES (%s, '\"slow\"')", (topic,))
    (poll,) = server.wait(topic, timeout=20)
    server.publish(new_topic(), "overtakes")
    assert topic and not poll.done()
    slow.commit()
    assert poll.result().payloads == ["slow"]
    slow.close()


def test_a_slow_transaction_may_outlive_several_polls(server, topic):
    slow = server.connect()
    slow.cursor().execute("INSERT INTO pgpoll.messages (topic, payload) VALUES (%s, '\"slow\"')", (topic,))
    since = server.poll(topic).next_since
    server.publish(topic, "quick")   # it is not delayed, and overtakes the slow one
    quick = server.poll(topic, since=since)
    assert quick.payloads == ["quick"]
    (poll,) = server.wait(topic, since=quick.next_since, timeout=20)
    slow.commit()
    slow.close()
    late = poll.result()
    assert late.payloads == ["slow"] and late.messages[0]["message_id"] > quick.messages[0]["message_id"]


def test_between_two_polls_nothing_is_lost(server, topic):
    first = server.poll(topic, timeout=1)
    server.publish(topic, 1)
    assert server.poll(topic, since=first.next_since, timeout=20).payloads == [1]


def test_between_two_polls_of_a_client_that_tracks_message_ids(server, topic):
    """The loop in the API document sends back the id of each topic's last message."""
    other, last_ids, got = new_topic(), {}, []
    for n in range(6):
        (poll,) = server.wait(topic, other, since=last_ids or None, timeout=20)
        server.publish(topic, n)
        for message in poll.result().messages:
            last_ids[message["topic"]] = message["message_id"]
            got.append(message["payload"])
        server.publish(topic, f"between {n}")
        for message in server.poll(topic, other, since=last_ids, timeout=20).messages:
            last_ids[message["topic"]] = message["message_id"]
            got.append(message["payload"])
    assert got == [payload for n in range(6) for payload in (n, f"between {n}")]


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_rolled_back_is_never_delivered(server, topic, isolation):
    (poll,) = server.wait(topic, timeout=20)
    publisher = server.connect()
    insert = "INSERT INTO pgpoll.messages (topic, payload) VALUES (%s, %s)"
    with publisher.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL " + isolation)
        cursor.execute(insert, (topic, '"never"'))
        publisher.rollback()
        cursor.execute("SET TRANSACTION ISOLATION LEVEL " + isolation)
        cursor.execute(insert, (topic, "1"))
        cursor.execute("SAVEPOINT here")
        cursor.execute(insert, (topic, '"nor this"'))
        cursor.execute("ROLLBACK TO here")
        cursor.execute(insert, (topic, "2"))
        publisher.commit()
    publisher.close()
    assert poll.result().payloads == [1, 2]
    assert [message["payload"] for message in server.read(topic)] == [1, 2]


def test_an_open_transaction_delays_only_its_own_messages(server, topic):
    holder = server.connect()
    holder.cursor().execute("INSERT INTO pgpoll.messages (topic, payload) VALUES (%s, '\"held\"')", (topic,))
    (poll,) = server.wait(topic, timeout=20)
    started = time.monotonic()
    server.publish(topic, "free")
    assert poll.result().payloads == ["free"] and time.monotonic() - started < 1 + STALL_S
    holder.rollback()
    holder.close()


@pytest.mark.skipif(MODE == "managed", reason="a manager reads for all, from time to time")
def test_a_lost_notification_is_found_at_the_timeout(server, topic):
    (poll,) = server.wait(topic, timeout=5)
    server.publish_unheard(topic)
    assert poll.result().payloads == ["unheard"]


def test_a_lost_notification_only_delays(topic):
    """The periodic re-read finds a feed row for which no notification was sent."""
    with Server(4, PGPOLL_REREAD_S="1") as server:
        polls = server.wait(topic, polls=2, timeout=20) + server.wait(topic, since={topic: "0"}, timeout=20)
        server.publish_unheard(topic)
        for answer in [poll.result() for poll in polls]:
            assert answer.payloads == ["unheard"] and answer.seconds < 10
        (poll,) = server.wait(topic, since=answer.next_since, timeout=20)
        server.publish_unheard(topic)
        server.publish(topic, "heard")
        answer = poll.result()
        got = answer.payloads
        if len(got) < 2:   # the two messages are in two transactions
            got += server.poll(topic, since=answer.next_since, timeout=20).payloads
        assert got == ["unheard", "heard"]


def test_truncate_of_undelivered_messages(small):
    """The processes that deliver are stopped meanwhile. One of the topics had a message before, the other one had none."""
    used, new = new_topic(), new_topic()
    small.publish(used, "old")
    since = {**small.poll(new).next_since, **small.poll(used, since={used: "0"}).next_since}
    polls = [small.wait(topic, since=since, timeout=30)[0] for topic in (used, new)]
    small.until_waiting(used)
    small.until_waiting(new)
    with small.nobody_delivers():
        small.publish(used, "lost")
        small.publish(new, "lost")
        small.sql("TRUNCATE pgpoll.messages")
    for topic, poll in zip((used, new), polls):
        assert poll.result().seconds < 30
        answers = poll.result(), small.poll(topic, since=since), small.poll(topic, since=since, timeout=1)
        for answer in answers:
            assert answer.gaps == {topic: {"reason": "expired", "requested": since[topic], "oldest": None}} and not answer.messages
        for answer in answers:
            assert not small.poll(topic, since=answer.next_since).gaps
        small.publish(topic, "next")
        assert small.poll(topic, since=answer.next_since, timeout=10).payloads == ["next"]


def test_openssl_without_md5(topic):
    """OpenSSL does so in FIPS mode."""
    with tempfile.TemporaryDirectory(prefix="pgpoll-e2e-", dir="/tmp") as directory:
        os.chmod(directory, 0o755)
        library = f"{directory}/no_md5.so"
        subprocess.run(["cc", "-D_GNU_SOURCE", "-shared", "-fPIC", "-o", library, pathlib.Path(__file__).with_name("no_md5.c"), "-ldl"], check=True)
        with Server(4, LD_PRELOAD=library) as server:
            with pytest.raises(psycopg2.Error, match="could not compute MD5 hash"):
                server.sql("SELECT md5('a')")
            (poll,) = server.wait(topic, timeout=20)
            server.publish(topic, "for us")
            assert poll.result().payloads == ["for us"] and poll.result().seconds < 20
            (poll,) = server.wait(topic, since=poll.result().next_since, timeout=20)
            until(lambda: server.sql("SELECT pgpoll.prune('0')") == [(1,)], "pruned")
            server.publish(topic, "again")
            assert poll.result().payloads == ["again"] and poll.result().seconds < 20


# --- while it waits

def test_no_transaction_is_open_while_polls_wait(server, topic):
    polls = server.wait(topic, polls=3, timeout=20)
    server.until_waiting(topic, 3)   # the sessions of the workers, or that of the manager
    idle = ("SELECT a.state, a.xact_start IS NULL FROM pg_stat_activity a JOIN pgpoll.live_waiters w ON w.backend_pid = a.pid"
            " WHERE w.topics = ARRAY[%s]")
    until(lambda: server.sql(idle, topic) == [("idle", True)] * 3, "three idle sessions")
    busy = "SELECT pid FROM pg_stat_activity WHERE usename = 'pgpoll_worker' AND (state <> 'idle' OR xact_start IS NOT NULL)"
    until(lambda: not server.sql(busy), "all of its sessions idle")
    server.publish(topic, 1)
    assert all(poll.result().payloads == [1] for poll in polls)


@pytest.mark.web
def test_an_immediate_answer_has_a_length_and_a_waiting_one_keeps_the_connection(server, topic):
    """All polls use one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    since = None

    def poll():
        connection.request("POST", POLL, json.dumps({"topics": [topic], "timeout": timeout, "since": since}))
        return Answer(connection.getresponse(), 0)

    for timeout in 3, 0, 3, 0:
        answer = again_after_a_stall(poll, lambda answer: answer.status == 503)
        assert answer.status == 200 and ("Content-Length" in answer.headers) == (timeout == 0)
        since = answer.next_since
    connection.close()


def test_stats(server, topic):
    other = new_topic("other")
    polls = server.wait(other, polls=2, timeout=20) + server.wait(topic, other, timeout=20) + server.wait(topic, topic, timeout=20)

    def shows(*numbers):
        stats = server.stats()
        counts = stats["topic_subscriber_counts"]
        return (stats["active_waiters"], stats["subscribed_topics"], counts.get(topic, 0), counts.get(other, 0)) == numbers

    truth = STALL_S + (1.0 if server.mode == "direct" else 1.5)   # a manager writes the statistics once a second
    until(lambda: shows(4, 2, 2, 3), "both topics in the stats", seconds=truth)
    server.publish(other, 1)
    [poll.result() for poll in polls[:3]]
    until(lambda: shows(1, 1, 1, 0), "one poll left in the stats", seconds=truth)
    server.publish(topic, 1)
    polls[3].result()
    until(lambda: shows(0, 0, 0, 0), "nobody left in the stats", seconds=truth)


@pytest.mark.web
def test_http_1_0(server, topic):
    """HTTP/1.0 has no chunks: the end of the connection ends the answer."""
    body = json.dumps({"topics": [topic], "timeout": 20})
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(f"POST {POLL} HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        server.until_waiting(topic)
        server.publish(topic, 1)
        head, _, body = client.makefile("rb").read().partition(b"\r\n\r\n")
    assert head.split()[1] == b"200" and json.loads(body)["messages"][0]["payload"] == 1


# --- more polls than workers

def test_more_polls_than_workers_queue_up(small, topic):
    polls = [small.poll_later(topic, timeout=1) for _ in range(6)]
    assert [poll.result().messages for poll in polls] == [[]] * 6


@pytest.mark.web
def test_others_are_answered_while_every_worker_waits(small):
    """Under a manager, one of two waiting polls is answered early so that a third can wait; both, if the machine is slow to run the first."""
    assert any(answers_early(small, new_topic()) == (small.mode == "managed") for _ in range(5))


def answers_early(small, topic):
    """Returns how many of the polls were answered early."""
    polls = small.wait(topic, polls=2, timeout=20)
    small.until_waiting(topic, 2)
    assert small.stats()["active_waiters"] == 2
    third = small.poll_later(topic, since={topic: "0"}, timeout=20)

    def asked(method, path, *statuses):
        answer = small.request(method, path)
        assert answer.status in statuses and (path == POLL or answer.json["active_waiters"] <= small.worker_count)
        return answer.seconds

    assert soon(lambda: asked("GET", STATS, 200), 0.5)
    assert soon(lambda: asked("OPTIONS", POLL, 200, 204), 0.5)
    if small.mode == "managed":
        until(lambda: any(poll.done() for poll in polls), "room made for the third")
        until(lambda: len(small.waiting(topic)) == sum(not poll.done() for poll in [*polls, third]), "the others waiting")
    small.publish(topic, 1)
    answers = [poll.result() for poll in [*polls, third]]
    early = [answer for answer in answers if not answer.messages]
    assert all(not answer.gaps and answer.seconds > 0.049 for answer in early)   # no poll is answered early before it has waited for 50 ms
    assert all(small.poll_on(topic, answer=answer, timeout=20).payloads == [1] for answer in answers)
    return len(early)


@pytest.mark.parametrize("leave", [pytest.param("FIN", marks=pytest.mark.web), "RST"])
def test_a_client_that_vanishes_frees_its_worker(small, topic, leave):
    body = json.dumps({"topics": [topic], "timeout": 60})
    request = f"POST {POLL} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    for _ in range(2):   # twice: the worker must be usable again
        clients = [socket.create_connection(("127.0.0.1", small.port)) for _ in range(2)]
        for client in clients:
            client.sendall(request)
        small.until_waiting(topic, 2)
        for client in clients:
            if leave == "RST":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        small.until_waiting(topic, 0, seconds=LEAVING_S)
        assert soon(lambda: small.poll(new_topic()).seconds, 0.5)


def test_a_vanished_client_neither_takes_nor_delays_anything(server, topic):
    body = json.dumps({"topics": [topic], "timeout": 60})
    stayed = server.poll_later(topic, timeout=20)
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(f"POST {POLL} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        server.until_waiting(topic, 2)
    server.publish(topic, 1)   # while one of the two clients disconnects
    assert stayed.result().payloads == [1]
    until(lambda: topic not in server.stats()["topic_subscriber_counts"], "both workers free", seconds=LEAVING_S)


def test_a_queued_client_that_vanishes_costs_nothing(small, topic):
    polls = small.wait(topic, polls=2, timeout=20)
    body = json.dumps({"topics": [topic], "timeout": 60})
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", small.port)) as client:
            client.sendall(f"POST {POLL} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
            time.sleep(0.05)   # nothing to observe: the poll waits in the listen backlog, or a worker has just become free
    small.publish(topic, 1)
    answers = [small.poll_on(topic, answer=poll.result(), timeout=20) for poll in polls]
    assert [answer.payloads for answer in answers] == [[1]] * 2
    until(lambda: small.stats()["active_waiters"] == 0, "every worker free", seconds=LEAVING_S)


def test_many_clients_come_and_go(server, topic):
    """Forty clients take turns on twenty-four workers, and each continues from its own cursor. All get all messages."""
    def client(results):
        since, got = {topic: "0"}, []
        while len(got) < 10:
            answer = server.poll(topic, since=since, timeout=20)
            got, since = got + answer.payloads, answer.next_since
        results.append(got)

    results = []
    clients = [threading.Thread(target=client, args=[results]) for _ in range(40)]
    for thread in clients:
        thread.start()
    for n in range(10):
        server.publish(topic, n)
        time.sleep(0.02)
    for thread in clients:
        thread.join(90)
    assert results == [list(range(10))] * 40


@pytest.mark.web
@pytest.mark.skipif(WEB == "nginx", reason="for nginx, who stops sending has left")
def test_a_client_that_only_stops_sending_is_answered(server, topic):
    """Also the first poll of a topic: its answer has a valid cursor."""
    body = json.dumps({"topics": [topic], "timeout": 1}).encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
                           % (POLL.encode(), len(body), body))
        connection.shutdown(socket.SHUT_WR)
        text = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
    found = re.search(r'"next_since":\{"[^"]+":"(msg_[0-7][0-9a-f]{15})"\}', text)
    assert " 200 " in text and found, text
    server.publish(topic, 1)
    assert server.poll(topic, since={topic: found.group(1)}).payloads == [1]
