"""Access control: can_poll() holds for every spelling, cursor and forged notification, and logs hold no secrets."""
import json
import os
import stat
import subprocess
import threading
import unicodedata

import pytest

from fastcgi import ask_as, connect, poll_as, read_all, reply, request
from server import POLL, STALL_S, Server, new_topic, until


@pytest.fixture(scope="module")
def server():
    """A server that logs everything."""
    with Server(40, PGPOLL_LOG_LEVEL="debug") as server:
        yield server


@pytest.fixture
def secret(server):
    """A topic with a message that only alice may poll."""
    name = new_topic("Sécret")
    server.publish(name, "hidden")
    server.restrict(f"remote_user = 'alice' OR topic <> '{name}'", refused=name)
    yield name
    server.unrestrict()


def raw(server, body, user="mallory"):
    return ask_as(server, user, body)


# --- other spellings of a topic

def spellings(name):
    return {name.upper(), name.lower(), name.swapcase(), unicodedata.normalize("NFD", name), unicodedata.normalize("NFKD", name),
            name + " ", " " + name, name + "\u00a0", name + "\u200b", "\ufeff" + name, name.replace("e", "\u0435"), name + "%", name[:-1] + "_",
            name.replace("-", "\u2010"), f'"{name}"', name + "\u0301", name + ";", name + "'", f"{{{name}}}", f"{name},x", name[:-1]} - {name}


def test_another_spelling_is_another_topic(server, secret):
    """It is allowed, and has no messages."""
    for name in spellings(secret):
        status, answer = poll_as(server, "mallory", name, since={name: "0", secret: "0"})
        assert status == 200 and answer["messages"] == [] and list(answer["next_since"]) == [name] and not answer.get("gaps"), name
    status, answer = poll_as(server, "alice", secret, since={secret: "0"})
    assert status == 200 and [message["payload"] for message in answer["messages"]] == ["hidden"]


def escaped(name):
    return "".join(f"\\u{unit:04x}" for unit in memoryview(name.encode("utf-16-le")).cast("H"))


def test_the_same_topic_is_refused_however_it_is_written(server, secret):
    open_topic = new_topic()
    plain, twice = json.dumps(secret, ensure_ascii=False), escaped(secret)
    for topics in (plain, json.dumps(secret), f'"{twice}"', f'"{twice.upper().replace("U", "u")}"', f"{plain},{plain}", f'"{open_topic}",{plain}',
                   f'{plain},"{open_topic}"', ",".join(f'"{open_topic}{n}"' for n in range(49)) + f",{plain}", f'"","{twice}"'[3:]):
        for since in "null", "{}", f'{{{plain}:"0"}}', f'{{{plain}:"$"}}', f'{{"{twice}":"rubbish"}}':
            body = f'{{"topics":[{topics}],"since":{since},"timeout":20}}'
            assert raw(server, body.encode()) == (403, '{"detail":"Access denied to one or more requested topics"}'), body
    # The last of two equal members counts, for can_poll() as for the messages.
    assert raw(server, f'{{"topics":["{open_topic}"],"topics":[{plain}],"timeout":0}}'.encode())[0] == 403
    status, text = raw(server, f'{{"topics":[{plain}],"topics":["{open_topic}"],"since":{{{plain}:"0"}},"timeout":0}}'.encode())
    assert status == 200 and "hidden" not in text and secret not in text


@pytest.mark.parametrize("name", ["\\u0000", "x\\u0000", "\\ud800", "\\udfff", "\\ud800\\ud800", "\\ud800x", "\\u001f", "\\u007f", "\\u0080"])
def test_invalid_text_is_no_topic(server, secret, name):
    """Alone it is refused. Appended to the name of the secret topic, it does not become that topic."""
    for body in f'["{name}"]', f'["{secret}{name}"]', f'["a","{secret}{name}{secret}"]':
        status, text = raw(server, f'{{"topics":{body},"timeout":0}}'.encode())
        assert status == 422 and "hidden" not in text, body


# --- can_poll

def test_the_ring_does_not_bypass_can_poll(server, secret):
    """The ring has the messages, because alice waits for the topic."""
    since = poll_as(server, "alice", secret)[1]["next_since"]
    waiting = [server.threads.submit(poll_as, server, "alice", secret, since=since, timeout=30) for _ in range(3)]
    server.until_waiting(secret, 3)
    server.publish(secret, "hidden too")
    for poll in waiting:
        status, answer = poll.result()
        assert status == 200 and [message["payload"] for message in answer["messages"]] == ["hidden too"]
    for user in "mallory", "", "Alice", "alice ", "alicee":
        for timeout in 0, 20:
            assert poll_as(server, user, secret, since=since, timeout=timeout)[0] == 403
            assert poll_as(server, user, new_topic(), secret, since=since, timeout=timeout)[0] == 403


def test_null_an_error_and_a_missing_can_poll_deny(server, topic):
    """NULL denies; an error denies that poll only; a missing function denies."""
    bad, strange = new_topic("bad"), new_topic("strange")
    server.restrict(f"CASE topic WHEN '{strange}' THEN NULL WHEN '{bad}' THEN 1 / length(remote_user) > 9 ELSE topic <> 'no' END", refused="no")
    try:
        server.publish(bad, "hidden")
        assert poll_as(server, "", strange)[0] == 403
        status, answer = poll_as(server, "", bad, since={bad: "0"}, timeout=1)
        assert status == 503 and answer == {"detail": "Service Unavailable"}
        assert poll_as(server, "", topic)[0] == 200 and poll_as(server, "x" * 2000, topic)[0] in (200, 403)
        server.sql("ALTER FUNCTION pgpoll.can_poll(text, text) RENAME TO can_poll_no_more")
        until(lambda: poll_as(server, "", topic)[0] == 503, "nobody may poll", 5 + STALL_S)
        assert all(poll_as(server, "", topic)[0] == 503 for _ in range(3))
    finally:
        if server.sql("SELECT to_regprocedure('pgpoll.can_poll(text, text)') IS NULL") == [(True,)]:
            server.sql("ALTER FUNCTION pgpoll.can_poll_no_more(text, text) RENAME TO can_poll")
        server.unrestrict()
    until(lambda: poll_as(server, "", topic)[0] == 200, "everybody may", 5 + STALL_S)


def test_each_user_gets_only_allowed_topics(server):
    """Twelve users have a topic each and poll one after the other and all at once; a thirteenth user tries all topics."""
    prefix = new_topic("own")
    users = [f"user{n:02}" for n in range(12)]
    server.restrict(f"topic = '{prefix}-' || remote_user", refused=prefix)
    got, stop, refusals = {user: [] for user in users}, threading.Event(), []

    def client(user):
        topic, since = f"{prefix}-{user}", begin[user]
        while not stop.is_set():
            status, answer = poll_as(server, user, topic, since=since, timeout=5)
            assert status == 200 and list(answer["next_since"]) == [topic]
            assert all(message["topic"] == topic for message in answer["messages"])
            got[user] += [message["payload"] for message in answer["messages"]]
            since = answer["next_since"]

    def mallory():
        while not stop.is_set():
            for user in users:
                status, answer = poll_as(server, "mallory", f"{prefix}-{user}", since=begin[user], timeout=5)
                assert status == 403
                refusals.append(answer)

    try:
        begin = {user: poll_as(server, user, f"{prefix}-{user}")[1]["next_since"] for user in users}
        threads = [server.threads.submit(client, user) for user in users] + [server.threads.submit(mallory)]
        for n in range(60):
            server.sql("INSERT INTO pgpoll.messages (topic, payload) SELECT %s || '-' || u, to_json(u || ' ' || %s) FROM unnest(%s) u",
                       prefix, str(n), users if n % 3 == 0 else [users[n % 12]])
        sent = {user: [f"{user} {n}" for n in range(60) if n % 3 == 0 or users[n % 12] == user] for user in users}
        until(lambda: any(thread.done() for thread in threads) or got == sent, "everything delivered", 60)
        stop.set()
        server.sql("INSERT INTO pgpoll.messages (topic, payload) SELECT %s || '-' || u, 'null' FROM unnest(%s) u", prefix, users)
        for thread in threads:
            thread.result(30)
        assert {user: payloads[:len(sent[user])] for user, payloads in got.items()} == sent and refusals
    finally:
        stop.set()
        server.unrestrict()


# --- notifications

def test_forged_notifications(server, topic):
    """Every role that can connect can send notifications. Forged ones end no wait, move no cursor and hide no message."""
    other = new_topic()
    server.publish(topic, "old")
    since = server.poll(topic, since={topic: "0"}).next_since
    polls = server.wait(topic, polls=3, since=since, timeout=30) + server.wait(topic, other, timeout=30)
    server.until_waiting(topic, 4)
    server.sql("CREATE ROLE forger")
    ours = server.sql("SELECT pgpoll.channel(%s)", topic)[0][0]
    forger = server.connect()
    forger.autocommit = True
    try:
        with forger.cursor() as cursor:
            cursor.execute("SET ROLE forger")
            for payload in "", "0", "-1", "1", str(2**62), str(2**63 - 1), "9" * 30, "x" * 7900, '{"payload": "forged"}', "'; DROP TABLE x", "é\n\t", "NaN":
                for channel in ours, "pgpoll_", "pgpoll_x", "pgpoll_" + "f" * 56, "other":
                    cursor.execute("SELECT pg_notify(%s, %s)", (channel, payload))
            for flood in range(10):
                cursor.execute("SELECT pg_notify(%s, n::text) FROM generate_series(1, 1000) n", (ours,))
                server.publish(other + "-unheard", flood)
        assert not any(poll.done() for poll in polls)
        server.publish(topic, "real")
        for poll in polls:
            answer = poll.result()
            assert answer.payloads == ["real"] and not answer.gaps
        answer = server.poll(topic, since=since, timeout=5)
        assert answer.payloads == ["real"] and not server.poll(topic, since=answer.next_since).messages
        assert server.sql("SELECT pg_notification_queue_usage() < 0.01") == [(True,)]
    finally:
        forger.close()
        server.sql("DROP ROLE forger")


# --- what logs and process lists show

def test_logs_hold_no_secrets(server):
    """At level debug, for every outcome of a poll."""
    mark, user = "Gehe1m", "ann"
    topic = new_topic()     # the log contains its name, and the user's
    server.sql("INSERT INTO pgpoll.messages (topic, payload, metadata) VALUES (%s, %s, %s)", topic, json.dumps(mark), json.dumps({"x": mark}))
    assert poll_as(server, user, topic, since={topic: "0"})[0] == 200
    assert poll_as(server, user, topic, since={topic: mark}, timeout=1)[0] == 200
    for body in f'{{"topics":["{mark}",5]}}', f'{{"topics":["{mark}"', f'{{"topics":["{mark}\\u0000"]}}', mark, mark * 10_000:
        assert raw(server, body.encode(), user=user)[0] in (413, 422)
    assert server.request("POST", f"{POLL}?secret={mark}", f'{{"topics":["{topic}"],"timeout":0}}', {"Authorization": f"Basic {mark}",
                          "Cookie": mark, "X-Other": mark, "User-Agent": mark, "Referer": mark}).status == 200
    server.restrict(f"topic <> '{topic}'", refused=topic)
    assert poll_as(server, user, topic)[0] == 403
    server.unrestrict()
    lines = server.log()
    assert any(" debug: poll " in line for line in lines) and any("denied" in line for line in lines)
    assert not [line for line in lines if mark in line]


def test_passwords_appear_nowhere(server, tmp_path):
    """Passwords appear neither in the log of a failed connection nor in the process list."""
    mark, log, socket = "Pa55wort", tmp_path / "log", server.home / "own.sock"
    manager = ["--workers", "2"] if server.mode == "managed" else []
    environment = {**server.env, "PATH": os.environ["PATH"], "PGUSER": "nobody_here", "PGPASSWORD": mark, "PGPOLL_LOG": str(log),
                   "PGPOLL_LOG_LEVEL": "debug", "PGPOLL_QUERY_TIMEOUT_S": "1"}
    program = subprocess.Popen(["spawn-fcgi", "-n", "-s", socket, "--", server.run / "bin" / "pgpoll.fcgi", *manager], env=environment,
                               stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def connected():
        """The socket's path exists a moment before a process listens."""
        try:
            return connect(socket)
        except (FileNotFoundError, ConnectionRefusedError):
            return None

    try:
        with until(connected, "its socket") as client:
            client.sendall(request(b'{"topics":["a"],"timeout":1}'))
            answer = read_all(client)
        assert reply(answer) == (503, '{"detail":"Service Unavailable"}') and mark.encode() not in answer
        text = until(lambda: "warning" in (text := log.read_text()) and text, "a word of it in the log")
        assert mark not in text
        listed = subprocess.run(["ps", "-eo", "args"], check=True, capture_output=True, text=True).stdout
        assert "pgpoll.fcgi" in listed and mark not in listed
    finally:
        program.terminate()
        program.wait(30)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_only_the_web_server_may_open_the_sockets(server):
    """Every process that can open a socket could claim to be any user."""
    worker = next(iter(server.worker_pids()))
    for name in "poll.sock", "stats.sock":
        path = server.run / "fcgi" / name
        info = path.stat()
        assert stat.S_IMODE(info.st_mode) == 0o600 and info.st_uid == os.stat(f"/proc/{worker}").st_uid != 0
        tried = subprocess.run(["runuser", "-u", "nobody", "--", "/usr/bin/python3", "-c",
                                f"import socket; socket.socket(socket.AF_UNIX).connect({str(path)!r})"], capture_output=True, text=True, cwd="/")
        assert "PermissionError" in tried.stderr, tried
    assert subprocess.run(["runuser", "-u", "nobody", "--", "psql", "-XAtc", "SELECT 1"], env={**server.env, "PATH": os.environ["PATH"]},
                          capture_output=True, cwd="/").returncode != 0
