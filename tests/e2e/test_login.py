"""The operator's functions: authenticate() names the user, can_poll() allows topics."""
import json
import os
import pathlib
import re
import time

import pytest

from fastcgi import connect, poll_as, read_all, reply, request
from server import METRICS, MODE, POLL, STALL_S, Server, new_topic, until

managed = pytest.mark.skipif(MODE != "managed", reason="of a manager")
MEMORY_S = 1
REFUSED = '{"detail":"Not authenticated"}'


CAN_POLL = """BEGIN
    PERFORM nextval('public.calls');
    RETURN topic NOT LIKE 'refused%' AND (topic NOT LIKE '%:%' OR topic LIKE remote_user || ':%')
           AND (topic NOT LIKE 'members-%' OR EXISTS (SELECT FROM public.members m WHERE m.name = remote_user));
END"""

AUTHENTICATE = """BEGIN
    PERFORM nextval('public.questions');
    IF $1 = 'Bearer broken' THEN RAISE EXCEPTION 'what is %', $1; ELSIF $1 = 'Bearer stuck' THEN PERFORM pg_sleep(60); END IF;
    IF $1 = 'Bearer guest' THEN RETURN ''; END IF;
    RETURN (SELECT k.name FROM public.keys k WHERE k.hash = sha256(convert_to($1, 'UTF8')));
END"""


@pytest.fixture(scope="module")
def shipped():
    """With the functions as they come."""
    with Server(40, PGPOLL_LOG_LEVEL="debug", PGPOLL_ACCESS_MEMORY_S=str(MEMORY_S), PGPOLL_CORS_ORIGIN="https://app.example.org",
                PGPOLL_MAX_POLLS_PER_CLIENT="1" if MODE == "managed" else "0", PGPOLL_QUERY_TIMEOUT_S="1") as server:
        yield server


@pytest.fixture(scope="module")
def keys(shipped):
    """Everybody needs a key, which is 'NAME-key'."""
    shipped.sql("CREATE SEQUENCE calls; CREATE SEQUENCE questions; CREATE TABLE members (name text); CREATE TABLE keys (hash bytea, name text)")
    for name in "ann", "bob":
        shipped.sql("INSERT INTO keys VALUES (sha256(convert_to(%s, 'UTF8')), %s)", f"Bearer {name}-key", name)
    replace(shipped, "can_poll", CAN_POLL)
    replace(shipped, "authenticate", AUTHENTICATE)
    # A manager may go by what the functions were for a moment.
    until(lambda: poll_as(shipped, "nobody", new_topic("refused"))[0] == 403, "can_poll() heeded", 5 + STALL_S)
    until(lambda: poll_with(shipped, "Bearer refused", new_topic())[0] == 401, "authenticate() heeded", 5 + STALL_S)
    return shipped


def replace(server, name, body):
    """can_poll or authenticate, by a function that runs as its owner."""
    head = {"can_poll": "can_poll(remote_user text, topic text) RETURNS boolean",
            "authenticate": 'authenticate("authorization" text) RETURNS text'}[name]
    server.sql(f"CREATE OR REPLACE FUNCTION pgpoll.{head} LANGUAGE plpgsql SECURITY DEFINER AS $${body}$$")


def asked(server, header, topic, timeout=0, **more):
    """The whole answer to a poll with this Authorization header (None: without one)."""
    if header is not None:
        more["HTTP_AUTHORIZATION"] = header
    with connect(server, seconds=timeout + 30) as client:
        client.sendall(request(json.dumps({"topics": [topic], "timeout": timeout}).encode(), **more))
        return read_all(client)


def poll_with(server, header, topic, **more):
    return reply(asked(server, header, topic, **more))


def outcomes(server):
    return dict(re.findall(r'pgpoll_polls_total\{host="[^"]*",outcome="(\w+)"\} (\d+)', server.request("GET", METRICS).text))


# --- can_poll()

def test_as_shipped_nobody_is_asked(shipped, topic):
    """Calling either would fail: also polls from now, also the first ones after a while without any."""
    functions = "FUNCTION pgpoll.can_poll(text, text), pgpoll.authenticate(text)"
    shipped.sql(f"REVOKE EXECUTE ON {functions} FROM pgpoll_poller")
    for pause in 0, 2.6:
        began = time.monotonic()
        until(lambda: time.monotonic() >= began + pause, "what was known to be out of date")
        shipped.poll(topic)
        shipped.poll(topic, timeout=1)
        assert poll_with(shipped, "Bearer x", topic)[0] == poll_with(shipped, "Bearer " + "x" * 9000, topic)[0] == 200
    shipped.sql(f"GRANT EXECUTE ON {functions} TO pgpoll_poller")


@managed
def test_an_answer_is_remembered(keys):
    """And a right that is taken away is gone in time, also that of a client which polls on and on."""
    topic = new_topic("members")
    keys.sql("INSERT INTO members VALUES ('ann')")
    (before,), = keys.sql("SELECT last_value FROM calls")
    began = time.monotonic()
    for _ in range(50):
        assert poll_as(keys, "ann", topic)[0] == 200 and poll_as(keys, "bob", topic)[0] == 403
    (after,), = keys.sql("SELECT last_value FROM calls")
    assert after - before <= 2 * (1 + 2 * (time.monotonic() - began) / MEMORY_S)
    keys.sql("UPDATE members SET name = 'bob'")
    until(lambda: (poll_as(keys, "ann", topic)[0], poll_as(keys, "bob", topic)[0]) == (403, 200), "new rights", MEMORY_S + STALL_S)
    assert poll_as(keys, "bob", new_topic("refused"))[0] == 403
    until(lambda: re.search(r'pgpoll_access_answers_total\{host="[^"]*",source="memory"\} [1-9]', keys.request("GET", METRICS).text), "the metric")


def test_a_refusal_names_the_topic_to_the_operator(keys):
    fine, secret = new_topic(), new_topic("refused\u00e9")
    status, answer = poll_as(keys, "ann", fine, secret)
    assert status == 403 and secret not in json.dumps(answer)
    shown = secret.replace("\u00e9", "\\xc3\\xa9")
    until(lambda: [line for line in keys.log() if f' user "ann", may not poll "{shown}"' in line and " info: " in line], "the line")


# --- authenticate()

def test_a_key_says_who_polls(keys, topic):
    own = f"ann:{topic}"
    keys.publish(own, 1)
    assert poll_with(keys, "Bearer ann-key", own)[0] == 200
    assert poll_with(keys, "Bearer bob-key", own)[0] == 403
    assert poll_with(keys, "Bearer guest", own)[0] == 403 and poll_with(keys, "Bearer guest", topic)[0] == 200
    # A user whom the web server has authenticated needs no key.
    assert poll_with(keys, None, own, REMOTE_USER="ann")[0] == poll_with(keys, "Bearer bob-key", own, REMOTE_USER="ann")[0] == 200
    assert poll_with(keys, "", own, REMOTE_USER="bob")[0] == 403


@pytest.mark.parametrize("header", [None, "", "Bearer x", "bearer ann-key", "Bearer ann-key ", "Basic YW5uOnNlY3JldA==", "Bearer " + "x" * 8185,
                                    "Bearer " + "x" * 8186, "Bearer " + "x" * 60_000, "Bearer \udcff"], ids=lambda header: repr(header)[:20])
def test_no_key_no_poll(keys, topic, header):
    if header and "\udcff" in header:
        body = request(json.dumps({"topics": [topic], "timeout": 0}).encode(), HTTP_AUTHORIZATION="Bearer ??")
        with connect(keys) as client:
            client.sendall(body.replace(b"??", b"\xff\xfe"))
            answer = read_all(client)
    else:
        answer = asked(keys, header, topic, timeout=20, HTTP_ORIGIN="https://app.example.org")
    assert reply(answer) == (401, REFUSED)
    assert b"WWW-Authenticate: Bearer\r\n" in answer and b"Content-Type: application/json\r\n" in answer
    if header != "Bearer \udcff":
        assert b"Access-Control-Allow-Origin: https://app.example.org\r\n" in answer
        assert b"Access-Control-Expose-Headers: Retry-After, WWW-Authenticate\r\n" in answer


def test_a_browser_may_send_a_key(keys):
    answer = keys.request("OPTIONS", POLL, headers={"Origin": "https://app.example.org", "Access-Control-Request-Headers": "authorization"})
    assert answer.status == 204 and "Authorization" in answer.headers["Access-Control-Allow-Headers"]


@managed
def test_the_user_of_a_key_is_remembered(keys, topic):
    (before,), = keys.sql("SELECT last_value FROM questions")
    began = time.monotonic()
    for _ in range(50):
        assert poll_with(keys, "Bearer ann-key", topic)[0] == 200
    (after,), = keys.sql("SELECT last_value FROM questions")
    assert after - before <= 1 + 2 * (time.monotonic() - began) / MEMORY_S


def test_an_authenticate_that_fails_or_hangs(keys, topic):
    for header, outcome in ("Bearer broken", "authenticate_failed"), ("Bearer stuck", "authenticate_timeout"):
        assert poll_with(keys, header, topic, timeout=10) == (503, '{"detail":"Service Unavailable"}')
        line = until(lambda: [line for line in keys.log() if f": {outcome}, " in line], "its line")[0]
        assert header not in line and "broken" not in line and "stuck" not in line
    assert poll_with(keys, "Bearer ann-key", topic)[0] == 200
    if keys.mode == "managed":
        assert any("pgpoll.authenticate() failed with SQLSTATE P0001" in line for line in keys.log())
    until(lambda: int(outcomes(keys).get("authenticate_failed", "0")) > 0 and int(outcomes(keys)["unauthenticated"]) > 0, "the metrics")


def test_a_keys_owner_is_shown(keys, topic):
    with connect(keys, seconds=60) as client:
        client.sendall(request(json.dumps({"topics": [topic], "timeout": 20}).encode(), HTTP_AUTHORIZATION="Bearer ann-key"))
        until(lambda: keys.sql("SELECT remote_user FROM pgpoll.waiting WHERE topics = ARRAY[%s]", topic) == [("ann",)], "the waiting poll")
        keys.publish(topic, 1)
        assert reply(read_all(client))[0] == 200
    until(lambda: [line for line in keys.log() if 'user "ann"' in line and f'"{topic}"' in line], "the log line")


@managed
def test_a_keys_owner_has_a_quota(keys, topic):
    """Of one poll, wherever he polls from: the older one is answered early."""
    first = keys.threads.submit(poll_with, keys, "Bearer ann-key", topic, timeout=25, REMOTE_ADDR="192.0.2.7")
    until(lambda: keys.sql("SELECT count(*) FROM pgpoll.waiting WHERE topics = ARRAY[%s]", topic) == [(1,)], "the first poll")
    other = keys.threads.submit(poll_with, keys, "Bearer bob-key", topic, timeout=25, REMOTE_ADDR="192.0.2.7")
    second = keys.threads.submit(poll_with, keys, "Bearer ann-key", topic, timeout=25, REMOTE_ADDR="192.0.2.8")
    assert first.result(10 + STALL_S)[0] == 200 and not second.done() and not other.done()
    until(lambda: keys.sql("SELECT count(DISTINCT remote_user) FROM pgpoll.waiting WHERE topics = ARRAY[%s]", topic) == [(2,)], "the other polls")
    keys.publish(topic, 1)
    assert second.result()[0] == other.result()[0] == 200


def test_a_key_that_is_withdrawn(keys, topic):
    header = f"Bearer {topic}"
    keys.sql("INSERT INTO keys VALUES (sha256(convert_to(%s, 'UTF8')), 'carl')", header)
    until(lambda: poll_with(keys, header, topic)[0] == 200, "the new key")
    poll = keys.threads.submit(poll_with, keys, header, topic, timeout=50)
    keys.until_waiting(topic)
    keys.sql("DELETE FROM keys WHERE name = 'carl'")
    until(lambda: poll_with(keys, header, topic)[0] == 401, "the key is gone", MEMORY_S + STALL_S)
    assert not poll.done()      # docs/login.md says that a poll which waits is not checked again, and what ends it
    keys.reload()
    status, body = poll.result(10 + STALL_S)
    assert status == 200 and json.loads(body)["messages"] == []


def shared_memory(pid):
    """What the memory files of a manager hold, without their holes."""
    held = b""
    for path in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        if "memfd:pgpoll" not in os.readlink(path):
            continue
        with path.open("rb") as memory:
            at = 0
            while True:
                try:
                    at = os.lseek(memory.fileno(), at, os.SEEK_DATA)
                except OSError:
                    break
                end = os.lseek(memory.fileno(), at, os.SEEK_HOLE)
                held += os.pread(memory.fileno(), end - at, at)
                at = end
    return held


def test_a_key_leaves_no_trace(keys, topic):
    """In the log, in pg_stat_activity, in PostgreSQL's log, in the memory of all processes."""
    marks = [f"Gehe1m-{n}-{topic}" for n in range(3)]
    keys.sql("INSERT INTO keys VALUES (sha256(convert_to(%s, 'UTF8')), 'ann')", f"Bearer {marks[0]}")
    for mark in marks:
        for timeout in 0, 1:
            assert poll_with(keys, f"Bearer {mark}", topic, timeout=timeout)[0] == (200 if mark == marks[0] else 401)
    assert not [line for line in keys.log() if "Gehe1m" in line]
    assert keys.sql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE %s AND pid <> pg_backend_pid()", "%Gehe1" + "m-%") == [(0,)]
    for path in pathlib.Path(keys.run).rglob("*.log"):
        assert b"Gehe1m" not in path.read_bytes(), path
    if keys.mode == "managed":
        assert topic.encode() in (held := shared_memory(keys.manager)) and b"Gehe1m" not in held
