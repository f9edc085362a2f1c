"""Polls that do not wait: every rule of docs/poll.md that a single poll can show."""
import json
import re
import socket
import time

import pytest

from server import POLL, STALL_S, STATS, max_body, new_topic, until


def entry(message, kind, *loc):
    return {"loc": ["body", *loc], "msg": message, "type": kind}


NOT_DICT = "value is not a valid dict", "type_error.dict"
NOT_LIST = "value is not a valid list", "type_error.list"
NOT_STR = "str type expected", "type_error.str"
NOT_INT = "value is not a valid integer", "type_error.integer"
TOO_LONG = "ensure this value has at most 255 characters", "value_error.any_str.max_length"
CONTROL = "control characters are not allowed", "value_error"
BLANK = "ensure this value is not blank", "value_error"
TOO_MANY = "ensure this value has at most 50 items", "value_error.list.max_items"


def not_ge(limit):
    return f"ensure this value is greater than or equal to {limit}", "value_error.number.not_ge"


def not_le(limit):
    return f"ensure this value is less than or equal to {limit}", "value_error.number.not_le"


INVALID = [
    # request body, errors in the answer
    ("[]", [entry(*NOT_DICT)]),
    ('"topics"', [entry(*NOT_DICT)]),
    ("null", [entry(*NOT_DICT)]),
    ("7", [entry(*NOT_DICT)]),
    ({}, [entry("field required", "value_error.missing", "topics")]),
    ({"topics": None}, [entry("none is not an allowed value", "type_error.none.not_allowed", "topics")]),
    ({"topics": "orders"}, [entry(*NOT_LIST, "topics")]),
    ({"topics": {"0": "a"}}, [entry(*NOT_LIST, "topics")]),
    ({"topics": []}, [entry("ensure this value has at least 1 items", "value_error", "topics")]),
    ({"topics": [f"t{i}" for i in range(51)]}, [entry(*TOO_MANY, "topics")]),
    ({"topics": ["t"] * 51}, [entry(*TOO_MANY, "topics")]),
    ({"topics": ["a", 5]}, [entry(*NOT_STR, "topics", 1)]),
    ({"topics": [["a"]]}, [entry(*NOT_STR, "topics", 0)]),
    ({"topics": [None, True, {}]}, [entry(*NOT_STR, "topics", i) for i in range(3)]),
    ({"topics": ["a", "é" * 256]}, [entry(*TOO_LONG, "topics", 1)]),
    ({"topics": ["a\nb", "a\u0000b", "\u007f", "x\u0085"]}, [entry(*CONTROL, "topics", i) for i in range(4)]),
    ({"topics": ["a", "", "\u00a0 \u3000"]}, [entry(*BLANK, "topics", 1), entry(*BLANK, "topics", 2)]),
    ({"topics": ["a"], "since": ["a"]}, [entry(*NOT_DICT, "since")]),
    ({"topics": ["a"], "since": "msg_0000000000000001"}, [entry(*NOT_DICT, "since")]),
    ({"topics": ["a", "b"], "since": {"a": "0", "b": 5}}, [entry(*NOT_STR, "since", "b")]),
    ({"topics": ["a"], "since": {"a": {}}}, [entry(*NOT_STR, "since", "a")]),
    *(({"topics": ["a"], name: value}, [entry(*NOT_INT, name)])
      for name in ("timeout", "limit") for value in (2.5, "30", "", True, False, [], {}, [1])),
    *(({"topics": ["a"], "timeout": value}, [entry(*not_ge(0), "timeout")]) for value in (-1, -1.0, -10**30)),
    *(({"topics": ["a"], "timeout": value}, [entry(*not_le(60), "timeout")]) for value in (61, 61.0, 2**32, 2**64, 10**30)),
    *(({"topics": ["a"], "limit": value}, [entry(*not_ge(1), "limit")]) for value in (0, -1, 0.0)),
    *(({"topics": ["a"], "limit": value}, [entry(*not_le(1000), "limit")]) for value in (1001, 2**63)),
    ({"topics": [1], "since": 2, "timeout": "3", "limit": 0},
     [entry(*NOT_STR, "topics", 0), entry(*NOT_DICT, "since"), entry(*NOT_INT, "timeout"), entry(*not_ge(1), "limit")]),
    ({"limit": 0, "timeout": 61}, [entry("field required", "value_error.missing", "topics"), entry(*not_le(60), "timeout"),
                                   entry(*not_ge(1), "limit")]),
]


@pytest.mark.parametrize("body, detail", INVALID, ids=[json.dumps(body)[:60] for body, _ in INVALID])
def test_validation_errors(server, body, detail):
    answer = server.request("POST", POLL, body if isinstance(body, str) else json.dumps(body))
    assert (answer.status, answer.json) == (422, {"detail": detail})


@pytest.mark.parametrize("body, offset", [
    (b"", 0), (b"  ", None), (b"{", None), (b'{"topics": [x]}', 12), (b"{'topics': ['a']}", 1), (b'{"topics": ["a"],}', None),
    (b'{"topics": ["a"]} x', 18), (b'{"topics": ["a"]}{}', 17), (b'{"topics": ["a"], "timeout": NaN}', None),
    (b'{"topics": ["a"], "timeout": Infinity}', None), (b'{"topics": ["a"], "timeout": 01}', None),
    (b'{"topics": ["a"], "timeout": 1.}', None), (b'{"topics": ["a"], "timeout": +1}', None),
    (b'/* a comment */ {"topics": ["a"]}', 0), (b'{"topics": ["\xff"]}', None), (b'{"topics": ["\xc0\xaf"]}', None),
    (b'{"topics": ["a\nb"]}', None), (b'{"topics": ["\\x"]}', None), (b'{"topics": TRUE}', 11), (b'{topics: ["a"]}', None),
    (b'\xef\xbb\xbf{"topics": ["a",]}', 19), (b'\xef\xbb\xbf', 3), (b'{"topics": ["\\ud83d"]}', 13), ('{"topics": ["a"]}'.encode("utf-16"), None), (b'{"topics": ["a"]}\0', 17),
    (b'{"topics": ["a\0b"]}', None),
    (b"[" * 60_000, None), (b'{"a":' * 10_000, None), (b'{"topics": ' + b"[" * 5_000 + b"]" * 5_000 + b"}", None),
], ids=repr)
def test_malformed_json(server, body, offset):
    answer = server.request("POST", POLL, body)
    assert answer.status == 422, answer
    (detail,) = answer.json["detail"]
    assert detail["type"] == "value_error.jsondecode" and detail["msg"] and set(detail) == {"loc", "msg", "type"}
    place, at = detail["loc"]
    assert place == "body" and isinstance(at, int) and 0 <= at <= len(body)
    assert offset is None or at == offset


@pytest.mark.parametrize("topics", [[""], ["  "], ["", "\u00a0", "\u2003\u3000", "\t\n", "\u0085"]])
def test_only_blank_topics(server, topics):
    answer = server.request("POST", POLL, json.dumps({"topics": topics}))
    assert (answer.status, answer.json) == (400, {"detail": "At least one topic required"})


@pytest.mark.parametrize("fields", [
    {}, {"since": None, "timeout": 0}, {"since": [], "timeout": 0}, {"timeout": None}, {"timeout": 30.0}, {"timeout": 60}, {"timeout": 6e1}, {"limit": None}, {"limit": 1000},
    {"limit": 5.0}, {"client": {"unknown": ["fields"]}, "topicz": 5}], ids=json.dumps)
def test_accepted(server, topic, fields):
    """There is a message, so none of these polls waits."""
    server.publish(topic, 1)
    answer = server.request("POST", POLL, json.dumps({"topics": [topic], "since": {topic: "0"}, **fields}))
    assert answer.status == 200 and answer.payloads == ([] if "since" in fields else [1])


def test_a_byte_order_mark_is_skipped(server, topic):
    assert server.request("POST", POLL, b"\xef\xbb\xbf" + json.dumps({"topics": [topic], "timeout": 0}).encode()).status == 200


@pytest.mark.parametrize("ascii", [True, False], ids=["escaped", "raw"])
def test_topics_of_any_characters(server, topic, ascii):
    """Each name is a topic of its own, however JSON spells it."""
    topics = [f"{topic} {name}" for name in ("\U0001d200", "\U0001d312", "\ufffd", "\U0010ffff", "café", "\u65e5\u672c", '"\\/')]
    for name in topics:
        server.publish(name, name)
    body = json.dumps({"topics": topics, "since": dict.fromkeys(topics, "0"), "timeout": 0}, ensure_ascii=ascii)
    answer = server.request("POST", POLL, body.encode())
    assert answer.status == 200 and [message["topic"] for message in answer.messages] == answer.payloads == topics
    assert list(answer.next_since) == topics


@pytest.mark.parametrize("levels, status", [(32, 200), (33, 422)])
def test_nesting(server, topic, levels, status):
    """As documented. The object is one level."""
    answer = server.request("POST", POLL, '{"topics": ["%s"], "timeout": 0, "unknown": %s}' % (topic, "[" * (levels - 1) + "]" * (levels - 1)))
    assert answer.status == status, answer


def test_a_timeout_of_1e400_is_no_number_of_seconds(server):
    assert server.request("POST", POLL, b'{"topics": ["a"], "timeout": 1e400}').status == 422


@pytest.mark.web
@pytest.mark.parametrize("headers", [{}, {"Content-Type": "text/plain"}, {"Content-Type": "application/json; charset=utf-8"}])
def test_any_content_type_and_query_string(server, topic, headers):
    body = json.dumps({"topics": [topic], "timeout": 0})
    assert server.request("POST", POLL + "?timeout=x&topics=", body, headers).status == 200


def test_entries_of_since_for_other_topics_are_ignored(server, topic):
    server.publish(topic, 1)
    assert server.poll(topic, since={topic: "0", "other": 5, "another": {"x": 1}, "": "rubbish"}).json.keys() == {
        "messages", "has_more", "next_since"}


@pytest.mark.web
def test_size_of_the_body(server, topic):
    body = json.dumps({"topics": [topic], "timeout": 0}).encode()
    assert server.request("POST", POLL, body.ljust(max_body())).status == 200
    for size in max_body() + 1, 500_000:
        answer = server.request("POST", POLL, body.ljust(size))
        assert (answer.status, answer.json) == (413, {"detail": "Request body too large"}), size
    assert server.request("POST", POLL, body.ljust(1_000_000)).status == 413   # the web server's own limit


@pytest.mark.web
def test_the_largest_poll_can_be_sent_again(server, topic):
    """It has 50 topics of 255 characters, each of which JSON may write as two escapes of 6 bytes."""
    topics = [f"{topic}-{i:02}".translate({code: code + 0x1d000 for code in range(128)}).ljust(255, "\U0001f600") for i in range(50)]
    server.publish(topics[0], 1, 2, 3)

    def poll(since, spelled=json.dumps):
        """spelled: a function that writes the cursors as JSON."""
        names = [json.dumps(name) for name in topics]
        entries = ", ".join(f"{name}: {spelled(since[topics[i]])}" for i, name in enumerate(names))
        body = '{"timeout": 0, "limit": 1, "topics": [%s], "since": {%s}}' % (", ".join(names), entries)
        assert 300_000 < len(body) < max_body()
        answer = server.request("POST", POLL, body)
        assert answer.status == 200, answer
        return answer

    answer = poll(dict.fromkeys(topics, "0"))
    assert answer.payloads == [1] and not answer.gaps
    answer = poll(answer.next_since)
    assert answer.payloads == [2] and not answer.gaps
    escaped = poll(answer.next_since, lambda cursor: '"%s"' % "".join(f"\\u{ord(c):04x}" for c in cursor))
    assert escaped.payloads == [3] and not escaped.gaps


@pytest.mark.web
def test_chunked_bodies(server, topic):
    body = json.dumps({"topics": [topic], "timeout": 0}).encode()
    assert server.request("POST", POLL, iter([body[:9], body[9:]]), encode_chunked=True).status == 200
    assert server.request("POST", POLL, iter([body, b" " * max_body()]), encode_chunked=True).status == 413


@pytest.mark.web
@pytest.mark.parametrize("method, path, status, allow", [
    ("GET", POLL, 405, {"POST", "OPTIONS"}), ("PUT", POLL, 405, {"POST", "OPTIONS"}), ("HEAD", POLL, 405, {"POST", "OPTIONS"}),
    ("DELETE", POLL, 405, {"POST", "OPTIONS"}), ("POST", STATS, 405, {"GET", "HEAD", "OPTIONS"}),
    ("PUT", STATS, 405, {"GET", "HEAD", "OPTIONS"}), ("GET", "/messages/polling", 404, None), ("POST", POLL + "/x", 404, None),
    ("GET", STATS + "x", 404, None), ("GET", "/", None, None), ("GET", "/messages/poll/../../../etc/passwd", None, None),
])
def test_methods_and_paths(server, method, path, status, allow):
    answer = server.request(method, path)
    assert answer.status == status if status else answer.status in (200, 400, 403, 404) and "root:" not in answer.text
    if status == 405:
        assert set(re.split(", *", answer.headers["Allow"])) == allow
        assert method == "HEAD" or answer.json == {"detail": "Method Not Allowed"}


@pytest.mark.web
def test_head_of_stats(server):
    answer = server.request("HEAD", STATS)
    assert (answer.status, answer.text) == (200, "") and answer.headers["Content-Type"] == "application/json"


@pytest.mark.web
def test_every_answer_has_the_headers(server, topic):
    try:
        server.restrict("false", refused=topic)
        forbidden = server.poll(topic, status=403)
    finally:
        server.unrestrict()
    answers = [forbidden, server.poll(topic), server.poll(topic, timeout=1), server.request("GET", STATS), server.request("GET", POLL),
               *(server.request("POST", POLL, body) for body in (b"", b"{}", b'{"topics": [""]}', b" " * (max_body() + 1)))]
    assert [answer.status for answer in answers] == [403, 200, 200, 200, 405, 422, 422, 400, 413]
    for answer in answers:
        assert answer.headers["Cache-Control"] == "no-store", answer
        assert answer.headers["X-Content-Type-Options"] == "nosniff", answer
        assert answer.headers["Content-Type"] == "application/json", answer
        assert not [name for name in answer.headers if name.lower().startswith("access-control")], answer
    assert all("Content-Length" in answer.headers for answer in answers if answer is not answers[2])


# --- messages

STORED = ['{"digits": 1234567890123456789012345678901234567890}', '{"a": 1, "a": 2}', "1E400", "-0.000", "[ 1 ,\n\t{ } ]  ",
          r'"\u00e9\uD83D\uDE00\/\u0000"', '"é😀 \u2028"', '"</script>"', "true", "null", '""', "[]", "{}", '[[[{"x": [null]}]]]']


def test_payload_and_metadata_go_out_as_stored(server, topic):
    for text in STORED:
        server.sql("INSERT INTO pgpoll.messages (topic, payload, metadata) VALUES (%s, %s, %s)", topic, text, text)
    answer = server.poll(topic, since={topic: "0"})
    assert len(answer.messages) == len(STORED)
    for text in STORED:
        assert re.search(r'"payload": ?' + re.escape(text) + '[,}]', answer.text), text
        wanted = "{}" if text == "null" else text
        assert re.search(r'"metadata": ?' + re.escape(wanted) + '[,}]', answer.text), text
    for name in "payload", "metadata":
        assert answer.text.count(f'"{name}"') == len(STORED)


@pytest.mark.parametrize("metadata", [None, "null", " null\n"])
def test_no_metadata_is_an_empty_object(server, topic, metadata):
    server.sql("INSERT INTO pgpoll.messages (topic, payload, metadata) VALUES (%s, '1', %s)", topic, metadata)
    assert server.poll(topic, since={topic: "0"}).messages[0]["metadata"] == {}


def test_form_of_a_message(server, topic):
    server.sql("INSERT INTO pgpoll.messages (topic, payload, metadata, created_at)"
               " VALUES (%s, '{\"order_id\": \"12345\"}', '{\"source\": \"api\"}', '2025-01-15 12:30:00+02')", topic)
    before = server.sql("SELECT extract(epoch FROM now()) * 1000")[0][0] - 10_000
    (message,) = server.poll(topic, since={topic: "0"}).messages
    position = server.sql("SELECT position FROM pgpoll.feed WHERE topic = %s", topic)[0][0]
    assert message == {"topic": topic, "message_id": f"msg_{position:016x}", "payload": {"order_id": "12345"},
                       "timestamp": "2025-01-15T10:30:00.000000", "metadata": {"source": "api"},
                       "stream_id": f"{position >> 16}-{position & 65535}"}
    assert before < position >> 16 < before + 20_000


def test_timestamps_keep_their_microseconds(server, topic):
    for text in "2025-01-15 23:59:59.999999+00", "1999-12-31 23:00:00.5-01", "1970-01-01 00:00:00+00", "9999-12-31 23:59:59.000001+00":
        server.sql("INSERT INTO pgpoll.messages (topic, payload, created_at) VALUES (%s, '1', %s)", topic, text)
    assert [message["timestamp"] for message in server.read(topic)] == [
        "2025-01-15T23:59:59.999999", "2000-01-01T00:00:00.500000", "1970-01-01T00:00:00.000000", "9999-12-31T23:59:59.000001"]


def test_a_message_that_an_operator_deleted(server, topic):
    server.publish(topic, 1, 2, 3, 4)
    server.sql("DELETE FROM pgpoll.messages WHERE topic = %s AND payload::text IN ('2', '4')", topic)
    first = server.poll(topic, since={topic: "0"}, limit=1)
    second = server.poll(topic, since=first.next_since, limit=1)
    assert [(first.payloads, first.has_more), (second.payloads, second.has_more)] == [([1], True), ([3], False)]


@pytest.mark.parametrize("name", ["'); DROP SCHEMA pgpoll CASCADE; --", 'quo"te\\back/slash', "{a,b}", "%s%n$1", "Ünï😀\u202e", " a ",
                                  "x" * 255, "😀" * 255, "NULL", "*", "0", "</script>"], ids=ascii)
def test_any_name_is_a_topic(server, name):
    server.publish(name, "hello")
    for other in {name.swapcase(), name.strip(), name[:-1] + "2"} - {name}:
        server.publish(other, "not for us")
    answer = server.poll(name, since={name: "0"})
    assert [(message["topic"], message["payload"]) for message in answer.messages] == [(name, "hello")]
    assert list(answer.next_since) == [name]
    server.prune(name)


def test_fifty_topics(server):
    topics = [new_topic("fifty") for _ in range(50)]
    for topic in topics:
        server.publish(topic, topic)
    answer = server.poll(*topics, since=dict.fromkeys(topics, "0"))
    assert answer.payloads == topics and not answer.has_more


def test_repeated_topics_are_folded(server, topic):
    other = new_topic()
    server.publish(topic, 1)
    server.publish(other, 2)
    assert server.poll(topic, other, topic, topic, other, since={topic: "0", other: "0"}).payloads == [1, 2]
    assert server.poll(*[topic] * 50, since={topic: "0"}).payloads == [1]


def test_commit_order_over_all_topics(server):
    topics = [new_topic("order") for _ in range(5)]
    for i in range(40):
        server.publish(topics[i * 7 % 5], i)
    for limit in 1, 3, 39, 40, 41:
        since, got = dict.fromkeys(topics, "0"), []
        while True:
            answer = server.poll(*topics, since=since, limit=limit)
            got += answer.messages
            for message in answer.messages:   # as the clients in the API document do
                since[message["topic"]] = message["message_id"]
            if not answer.has_more:
                break
        assert [message["payload"] for message in got] == list(range(40))
        ids = [message["message_id"] for message in got]
        assert ids == sorted(set(ids))


@pytest.mark.parametrize("there, limit, got, has_more", [(0, 1, 0, False), (1, 1, 1, False), (2, 1, 1, True), (5, 5, 5, False),
                                                         (6, 5, 5, True), (100, None, 100, False), (101, None, 100, True),
                                                         (1000, 1000, 1000, False), (1001, 1000, 1000, True)])
def test_has_more_is_exact(server, topic, there, limit, got, has_more):
    other = new_topic()
    server.sql("INSERT INTO pgpoll.messages (topic, payload)"
               " SELECT CASE WHEN n %% 2 = 0 THEN %s ELSE %s END, to_json(n) FROM generate_series(1, %s) n", topic, other, there)
    answer = server.poll(topic, other, since={topic: "0", other: "0"}, limit=limit)
    assert (answer.payloads, answer.has_more) == (list(range(1, got + 1)), has_more)
    rest = server.poll(topic, other, since=answer.next_since, limit=limit, timeout=10 if has_more else 0)
    assert (rest.payloads, rest.has_more) == (list(range(got + 1, there + 1)), False) and rest.seconds < 1 + STALL_S


def kib(size):
    """Returns a payload that takes this many KiB in PostgreSQL."""
    return "x" * (size * 1024 - 2)


@pytest.mark.parametrize("sizes, pages", [
    ([256] * 4, [4]), ([256] * 5, [4, 1]), ([300] * 5, [3, 2]), ([1024, 1], [1, 1]), ([1, 3000, 1], [1, 1, 1]), ([3000, 3000], [1, 1]),
    ([1023, 1], [2]), ([3000], [1])], ids=str)
def test_byte_budget(server, topic, sizes, pages):
    server.publish(topic, *map(kib, sizes))
    since, got = {topic: "0"}, []
    for page in range(len(pages)):
        answer = server.poll(topic, since=since)
        assert answer.has_more == (page < len(pages) - 1)
        got.append([len(payload) for payload in answer.payloads])
        since = answer.next_since
    assert [len(page) for page in got] == pages and sum(got, []) == [len(kib(size)) for size in sizes]
    server.prune(topic)


def test_a_poll_that_does_not_wait_leaves_nothing_out(server, topic):
    """Its answer has all messages committed before the request, or has_more is true; also of a topic for which others wait."""
    since = server.poll(topic).next_since
    for _ in range(8):
        (other,) = server.wait(topic, since=since, timeout=20)
        server.publish(topic, 1, 2, 3)
        first = server.poll(topic, since=since, limit=2)
        assert (first.payloads, first.has_more) == ([1, 2], True)
        rest = server.poll(topic, since=first.next_since)
        assert (rest.payloads, rest.has_more) == ([3], False)
        every = server.poll(topic, since=since, limit=3)
        assert (every.payloads, every.has_more) == ([1, 2, 3], False)
        assert other.result().payloads[0] == 1
        since = rest.next_since


def test_while_there_is_more_the_next_poll_does_not_wait(server, topic):
    """Each message is committed separately while a client reads short pages with polls that may wait."""
    count, got, promised = 200, [], 0
    since = server.poll(topic).next_since
    server.publish(topic, *range(10))
    publishing = server.threads.submit(server.publish, topic, *range(10, count))
    more = False
    while len(got) < count:
        answer = server.poll(topic, since=since, limit=2, timeout=30)
        if more:
            promised += 1
            assert answer.messages and "Content-Length" in answer.headers     # missing if the poll has waited
        got, since, more = got + answer.payloads, answer.next_since, answer.has_more
    publishing.result()
    assert got == list(range(count)) and promised and not more


# --- cursors and gaps

ZERO = "msg_0000000000000000"


def stream_id(message_id, ms=0):
    position = int(message_id[4:], 16)
    return f"{(position >> 16) + ms}-{0 if ms else position & 65535}"


@pytest.mark.parametrize("cursor, got", [
    (lambda ids: ids[1], [3, 4, 5]), (lambda ids: stream_id(ids[1]), [3, 4, 5]), (lambda ids: ids[4], []),
    (lambda ids: stream_id(ids[4]), []), (lambda ids: "0", [1, 2, 3, 4, 5]), (lambda ids: ZERO, [1, 2, 3, 4, 5]),
    (lambda ids: "$", []), (lambda ids: None, []), (lambda ids: stream_id(ids[0], ms=-1), [1, 2, 3, 4, 5]),
    (lambda ids: "1600000000000-0", [1, 2, 3, 4, 5]), (lambda ids: "1600000000000-65535", [1, 2, 3, 4, 5]),
    (lambda ids: "-1", [5]), (lambda ids: "-4", [2, 3, 4, 5]), (lambda ids: "-5", [1, 2, 3, 4, 5]),
    (lambda ids: "-1000", [1, 2, 3, 4, 5]), (lambda ids: stream_id(ids[4], ms=1), []), (lambda ids: f"msg_{int(ids[3][4:], 16) - 1:016x}", [4, 5])],
    ids=["message_id", "stream_id", "last", "last stream_id", "0", "zero", "$", "null", "ms before", "old time", "old time-n",
         "last 1", "last 4", "last 5 of 5", "last 1000 of 5", "ms after", "between"])
def test_cursors(server, topic, cursor, got):
    server.publish(topic, 1, 2, 3, 4, 5)
    last = int(stream_id(server.read(topic)[-1]["message_id"]).split("-")[0])
    until(lambda: time.time() * 1000 > last + 2, "the last message's time is past")
    ids = [message["message_id"] for message in server.read(topic)]
    answer = server.poll(topic, since={topic: cursor(ids)})
    assert answer.payloads == got and not answer.gaps
    after = server.poll(topic, since=answer.next_since)
    assert not after.messages and not after.gaps
    server.publish(topic, 6)
    assert server.poll(topic, since=answer.next_since).payloads == [6]


@pytest.mark.parametrize("timeout", [0, 20])
def test_the_last_messages_page_by_page(server, topic, timeout):
    """What is published between the pages follows; other topics have other cursors."""
    other, new = new_topic("other"), new_topic("new")
    server.publish(topic, *range(10))
    server.publish(other, "old", "other")
    old = server.read(other)[0]["message_id"]
    answer = server.poll(topic, other, new, since={topic: "-7", other: old, new: "-3"}, limit=4, timeout=timeout)
    assert answer.payloads == [3, 4, 5, 6] and answer.has_more and not answer.gaps
    server.publish(topic, 10)
    server.publish(new, "new")
    answer = server.poll(topic, other, new, since=answer.next_since, limit=4, timeout=timeout)
    assert answer.payloads == [7, 8, 9, "other"] and not answer.gaps
    got = []
    while len(got) < 2:     # a poll that may wait can be answered with the first alone
        answer = server.poll(topic, other, new, since=answer.next_since, limit=4, timeout=timeout)
        got += answer.payloads
        assert not answer.has_more and not answer.gaps
    assert got == [10, "new"] and not server.poll(topic, other, new, since=answer.next_since).messages


def test_the_last_messages_in_pages_of_1_mib(server, topic):
    large = ["%d" % n * 400_000 for n in range(5)]
    server.publish(topic, "before", *large)
    answer = server.poll(topic, since={topic: "-5"})
    got = answer.payloads
    assert got == large[:2] and answer.has_more
    while answer.has_more:
        answer = server.poll(topic, since=answer.next_since)
        got += answer.payloads
    assert got == large and not answer.gaps


def test_the_last_messages_where_none_is_kept(server, topic):
    """Pruned or never published: from now on, and that position is no gap later."""
    for pruned in False, True:
        if pruned:
            server.publish(topic, 1, 2)
            server.prune(topic)
        answer = server.poll(topic, since={topic: "-5"})
        assert not answer.messages and not answer.gaps and re.fullmatch("msg_[0-9a-f]{16}", answer.next_since[topic])
        server.publish(topic, 3)
        answer = server.poll(topic, since=answer.next_since)
        assert answer.payloads == [3] and not answer.gaps
        server.prune(topic)


def test_next_since_before_the_first_message(server, topic):
    since = server.poll(topic).next_since
    assert re.fullmatch("msg_[0-9a-f]{16}", since[topic])
    server.publish(topic, 1)
    answer = server.poll(topic, since=since)
    assert answer.payloads == [1] and not answer.gaps
    assert answer.next_since == {topic: answer.messages[0]["message_id"]}


def test_next_since_names_every_topic_and_stands_at_the_last_message_read(server):
    busy, quiet, new = new_topic("busy"), new_topic("quiet"), new_topic("new")
    server.publish(quiet, 1)
    server.publish(busy, 2, 3, 4)
    quiet_id = server.read(quiet)[0]["message_id"]
    ids = [message["message_id"] for message in server.read(busy)]
    answer = server.poll(busy, quiet, new, since={busy: "0", quiet: quiet_id}, limit=2)
    assert answer.has_more and answer.next_since[busy] == ids[1]
    rest = server.poll(busy, quiet, new, since=answer.next_since)
    assert rest.payloads == [4] and not rest.gaps and not rest.has_more


def test_an_expired_cursor(server, topic):
    server.publish(topic, 1, 2, 3)
    ids = [message["message_id"] for message in server.read(topic)]
    server.prune(topic)
    for cursor in ids[0], ids[1], stream_id(ids[1]):
        answer = server.poll(topic, since={topic: cursor})
        assert answer.gaps == {topic: {"reason": "expired", "requested": cursor, "oldest": None}} and not answer.messages
        assert not server.poll(topic, since=answer.next_since).gaps
    for cursor in ids[2], "0", "-2", "$", None:   # no message after the cursor was deleted, or all retained messages are read
        answer = server.poll(topic, since={topic: cursor})
        assert not answer.gaps and not answer.messages and not server.poll(topic, since=answer.next_since).gaps
    server.publish(topic, 4, 5)
    oldest = server.read(topic)[0]["message_id"]
    answer = server.poll(topic, since={topic: ids[1]})
    assert answer.gaps == {topic: {"reason": "expired", "requested": ids[1], "oldest": oldest}} and answer.payloads == [4, 5]
    assert not server.poll(topic, since=answer.next_since).gaps
    for cursor in ids[2], "0", "-2", "-3":
        answer = server.poll(topic, since={topic: cursor})
        assert not answer.gaps and answer.payloads == [4, 5]


@pytest.mark.parametrize("cursor", ["", "abc", "msg_xyz789", "msg_0001", "msg_000000000000000A", "MSG_0000000000000001", "msg_00000000000000001",
                                    " msg_0000000000000001", "msg_0000000000000001\n", "-1-0", "-0", "-01", "--1", "-1001", "1600000000000", "1600000000000-", "00",
                                    "1600000000000-65536", "1600000000000-0x", "99999999999999999999-0", "$$", "é" * 300, "'", "\0"], ids=ascii)
def test_an_unknown_cursor_reads_from_the_oldest(server, topic, cursor):
    assert server.poll(topic, since={topic: cursor}).gaps == {topic: {"reason": "unknown", "requested": cursor, "oldest": None}}
    server.publish(topic, 1, 2)
    answer = server.poll(topic, since={topic: cursor})
    oldest = answer.messages[0]["message_id"]
    assert answer.gaps == {topic: {"reason": "unknown", "requested": cursor, "oldest": oldest}} and answer.payloads == [1, 2]
    assert not server.poll(topic, since=answer.next_since).gaps


@pytest.mark.parametrize("cursor", ["msg_7fffffffffffffff", "msg_7000000000000000", "99999999999999-0"])
def test_a_cursor_ahead_of_everything_reads_from_now(server, topic, cursor):
    assert server.poll(topic, since={topic: cursor}).gaps == {topic: {"reason": "ahead", "requested": cursor, "oldest": None}}
    server.publish(topic, 1, 2)
    oldest = server.read(topic)[0]["message_id"]
    answer = server.poll(topic, since={topic: cursor})
    assert answer.gaps == {topic: {"reason": "ahead", "requested": cursor, "oldest": oldest}} and not answer.messages
    server.publish(topic, 3)
    later = server.poll(topic, since=answer.next_since)
    assert later.payloads == [3] and not later.gaps


def test_an_id_beyond_any_position_is_a_gap(server, topic):
    server.publish(topic, 1)
    assert server.poll(topic, since={topic: "msg_ffffffffffffffff"}).gaps[topic]["reason"] in ("ahead", "unknown")


def test_gaps_of_several_topics(server):
    lost, fine, odd = new_topic("lost"), new_topic("fine"), new_topic("odd")
    server.publish(lost, 1, 2)
    lost_id = server.read(lost)[0]["message_id"]
    server.prune(lost)
    for name in lost, fine, odd:
        server.publish(name, name)
    answer = server.poll(lost, fine, odd, since={lost: lost_id, fine: "0", odd: "?"})
    assert {name: gap["reason"] for name, gap in answer.gaps.items()} == {lost: "expired", odd: "unknown"}
    assert answer.payloads == [lost, fine, odd]


# --- authorisation

@pytest.mark.parametrize("refusal", ["topic NOT LIKE 'secret%' AND remote_user = ''", "NULLIF(topic NOT LIKE 'secret%', false)"])
def test_can_poll(server, topic, refusal):
    try:
        server.restrict(refusal, refused="secret")
        for _ in range(3):
            server.poll(topic)
            for topics in ["secret-1"], [topic, "secret-2"], ["secret-1", topic, "secret-1"]:
                answer = server.poll(*topics, status=403)
                assert answer.json == {"detail": "Access denied to one or more requested topics"}
        server.publish("secret-1", 1)
        server.poll("secret-1", since={"secret-1": "0"}, timeout=20, status=403)
    finally:
        server.unrestrict()
    server.poll("secret-1")   # it is allowed at once


# --- the worst inputs

WORST = {
    "the largest request": (json.dumps({"topics": [f"{i:03}" + "😀" * 252 for i in range(50)], "timeout": 0}, ensure_ascii=False), 200),
    "thousands of cursors": (json.dumps({"topics": ["a"], "timeout": 0, "since": {f"{i}": "0" for i in range(4000)}}), 200),
    "one name many times": ('{"topics": ["b"], "topics": ["a"], "timeout": 99, "timeout": 0}', 200),
    "a cursor of 60 kB": (json.dumps({"topics": ["a"], "timeout": 0, "since": {"a": "1" * 60_000}}), 200),
    "a topic of 60 kB": (json.dumps({"topics": ["a" * 60_000]}), 422),
    "30,000 topics": (json.dumps({"topics": [0] * 30_000}, separators=(",", ":")), 422),
    "a number of 60,000 digits": (b'{"topics": ["a"], "timeout": ' + b"9" * 60_000 + b"}", 422),
    "only zero bytes": (bytes(60_000), 422),
    "every byte value": (bytes(range(256)), 422),
    "an escape cut short": (b'{"topics": ["\\u00', 422),
    "brackets": (b"[{" * 30_000, 422),
    "a whole megabyte of brackets": (b"[" * 1_000_000, 413),
}


@pytest.mark.parametrize("body, status", WORST.values(), ids=WORST.keys())
def test_the_worst_bodies_leave_the_workers_alive(server, topic, body, status):
    before = server.until_workers()
    assert server.request("POST", POLL, body.encode() if isinstance(body, str) else body).status == status
    assert server.worker_pids() == before
    server.poll(topic)


@pytest.mark.web
@pytest.mark.parametrize("head, body", [
    ("POST /messages/poll HTTP/1.1\r\nContent-Length: 500", b'{"topics": ["a"], '),       # shorter than its Content-Length, then the client disconnects
    ("POST /messages/poll HTTP/1.1\r\nContent-Length: -1", b"{}"),
    ("POST /messages/poll HTTP/1.1\r\nContent-Length: 18446744073709551615", b"{}"),
    ("POST /messages/poll HTTP/1.1\r\nTransfer-Encoding: chunked", b"zz\r\n{}"),
    ("POST /messages/poll HTTP/1.1\r\nX: " + "x" * 60_000, b""),
    ("POST /messages/poll?" + "%00" * 500 + " HTTP/1.1", b""),
    ("POST /messages/poll HTTP/1.0", b'{"topics": ["a"]}'),
], ids=["cut short", "negative length", "huge length", "bad chunk", "large header", "zero bytes in the query", "no length"])
def test_the_worst_requests_leave_the_workers_alive(server, topic, head, body):
    before = server.until_workers()
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.sendall(head.encode() + b"\r\nHost: x\r\n\r\n" + body)
        client.shutdown(socket.SHUT_WR)
        status = client.recv(4096).split(b" ")[1:2]
    assert status in ([], [b"400"], [b"411"], [b"413"], [b"422"], [b"431"])
    assert server.worker_pids() == before
    server.poll(topic)
