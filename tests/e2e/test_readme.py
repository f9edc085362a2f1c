"""What README tells a reader to type, typed: only the port and the directory are this test's."""
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time

import psycopg2
import pytest

from server import MODE, ROOT, Server, until

TEXT = (ROOT / "README.md").read_text()
SQL = re.findall(r"```sql\n(.*?)```", TEXT, re.S)
JSON = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", TEXT, re.S)]
POLL_ORDERS = """curl http://127.0.0.1:8080/messages/poll -d '{"topics": ["orders"], """


@pytest.fixture(scope="module")
def fresh():
    with Server(4) as server:
        yield server


def line(server, start):
    """The one indented line that starts so."""
    (found,) = re.findall(rf"^    ({re.escape(start)}.*)$", TEXT, re.M)
    return found.replace("http://127.0.0.1:8080", server.url).replace(". .run/env", f". {server.run}/env")


def shell(command, **options):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return subprocess.Popen(["sh", "-ec", command], cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, **options)


def run(command, **options):
    process = shell(command)
    output, errors = process.communicate(timeout=60, **options)
    assert process.returncode == 0, errors
    return output


def test_the_first_screen(fresh):
    waiting = shell(line(fresh, POLL_ORDERS + '"timeout'))
    fresh.until_waiting("orders")
    run(line(fresh, ". .run/env && psql"))
    output, _ = waiting.communicate(timeout=30)
    (message,) = json.loads(output)["messages"]
    assert (message["topic"], message["payload"]) == ("orders", {"order_id": 1})


def test_publishing(fresh):
    fresh.sql("CREATE TABLE orders (id integer, status text)")
    fresh.sql("INSERT INTO orders VALUES (1, 'new')")
    by_hand, by_trigger, _ = SQL
    since = fresh.poll("orders").next_since
    fresh.sql(by_hand)
    (message,) = fresh.poll("orders", since=since).messages
    assert message["payload"] == {"order_id": 1, "status": "paid"} and message["metadata"] == {"source": "shop"}
    fresh.sql("CREATE ROLE my_app LOGIN")
    fresh.sql(by_trigger)
    fresh.sql("GRANT INSERT ON orders TO my_app")
    fresh.sql("SET ROLE my_app; INSERT INTO orders VALUES (2, 'new'); RESET ROLE")
    assert fresh.poll("orders", since={"orders": message["message_id"]}).payloads == [{"order_id": 2, "status": "new"}]
    fresh.sql(*re.findall(r"`(GRANT pgpoll_publisher TO my_app)`", TEXT))
    insert = "INSERT INTO pgpoll.messages (topic, payload) VALUES ('orders', CAST('3'::varchar AS json))"
    fresh.sql("SET ROLE my_app; " + insert)
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        fresh.sql(insert + " RETURNING id")

    since = fresh.poll("orders").next_since
    (copy,) = re.findall(r"`(COPY pgpoll\.messages .*?)`", TEXT)
    with fresh.db.cursor() as cursor:
        cursor.copy_expert(copy, io.StringIO("".join(f"orders\t{n}\n" for n in range(50))))
    fresh.sql("RESET ROLE")
    assert fresh.poll("orders", since=since).payloads == list(range(50))
    assert fresh.sql(*re.findall(r"`(SELECT pgpoll\.prune\('7 days'\))`", TEXT)) == [(0,)]


def test_the_answer_looks_like_the_one_shown(fresh):
    shown, _ = JSON
    fresh.publish("shown", 1)
    answer = fresh.poll("shown", since={"shown": "0"}).json
    assert list(answer) == list(shown)
    assert list(answer["messages"][0]) == list(shown["messages"][0])
    (gaps,) = re.findall(r'^    ("gaps": .*)$', TEXT, re.M)
    (shown_gap,) = json.loads("{" + gaps + "}")["gaps"].values()
    assert list(fresh.poll("shown", since={"shown": "not ours"}).json["gaps"]["shown"]) == list(shown_gap)


def test_a_time_is_a_cursor(fresh):
    """As README says of stream_id."""
    fresh.publish("timed", 1)
    before = fresh.poll("timed", since={"timed": "0"}).messages[0]["stream_id"]
    milliseconds = int(before.partition("-")[0])
    assert abs(milliseconds / 1000 - time.time()) < 60
    fresh.publish("timed", 2)
    assert fresh.poll("timed", since={"timed": f"{milliseconds - 1}-0"}).payloads == [1, 2]
    assert fresh.poll("timed", since={"timed": before}).payloads == [2]


def test_who_may_poll_what(fresh):
    def says(user, topic):
        return fresh.sql("SELECT pgpoll.can_poll(%s, %s)", user, topic)[0][0]

    def status():
        return fresh.request("POST", "/messages/poll", '{"topics": ["alice:orders"], "timeout": 0}').status

    assert status() == 200
    _, _, block = SQL
    fresh.sql(block)
    try:
        until(lambda: status() == 403, "refused")
        assert says("alice", "alice:orders") and not says("alice", "alice") and not says("alice", "bob:orders")
        assert not says("", "orders") and not says("", ":orders") and not says("%", "bob:orders") and not says("b_b", "bob:orders")
    finally:
        fresh.sql("CREATE OR REPLACE FUNCTION pgpoll.can_poll(remote_user text, topic text) RETURNS boolean LANGUAGE sql STABLE AS 'SELECT true'")
        until(lambda: status() == 200, "open again")


def test_the_python_client(fresh, tmp_path):
    cursors = tmp_path / "orders.json"
    command = line(fresh, "python3 examples/").replace("python3", sys.executable, 1).replace("orders.json", str(cursors))
    client = shell(f"exec {command}", stdin=subprocess.DEVNULL)
    try:
        until(cursors.exists, "its cursors")
        fresh.publish("orders", "seen")
        assert json.loads(client.stdout.readline())["payload"] == "seen"
    finally:
        client.terminate()
        client.communicate()


def test_the_javascript_client(fresh, tmp_path):
    (source,) = re.findall(r"```js\n(.*?)```", TEXT, re.S)
    (tmp_path / "program.mjs").write_text(source.replace("http://127.0.0.1:8080", fresh.url))
    shutil.copy(ROOT / "examples" / "long_polling_client.mjs", tmp_path)
    client = subprocess.Popen(["node", "program.mjs"], cwd=tmp_path, text=True, stdout=subprocess.PIPE)
    try:
        until((tmp_path / "orders.json").exists, "its cursors")
        fresh.publish("orders", "seen")
        assert client.stdout.readline() == "orders seen\n"
    finally:
        client.terminate()
        client.communicate()


def test_clients_in_a_shell(fresh):
    fresh.publish("orders", *range(20))
    answer = json.loads(run(line(fresh, POLL_ORDERS + '"since')))
    assert len(answer["messages"]) == 10 and answer["has_more"]
    _, shown = JSON
    assert list(json.loads(run(line(fresh, "curl http://127.0.0.1:8080/messages/poll/stats")))) == list(shown)


def test_stats_in_psql(fresh, topic):
    (query,) = re.findall(r"`(SELECT \* FROM pgpoll\.stats)`", TEXT)
    (poll,) = fresh.wait(topic, timeout=20)
    fresh.until_waiting(topic)
    (_, _, counts), = fresh.sql(query)
    assert counts[topic] == 1
    assert fresh.sql("SELECT waiters FROM pgpoll.topic_waiters WHERE topic = %s", topic) == [(1,)]
    fresh.publish(topic, 1)
    assert poll.result().payloads == [1]


def test_operating_metrics(fresh, topic):
    (poll,) = fresh.wait(topic, timeout=20)
    fresh.until_waiting(topic)
    metrics = run(line(fresh, "curl http://127.0.0.1:8080/messages/poll/metrics"))
    for name in re.findall(r"`(pgpoll_\w+)", TEXT[TEXT.index("## Operating"):]):
        assert re.search(rf"^# TYPE {name}", metrics, re.M) or name == "pgpoll_monitor" or name == "pgpoll_listener_up" and MODE == "direct", name
    fresh.publish(topic, 1)
    poll.result()


def test_operating_views(fresh):
    fresh.sql("CREATE ROLE monitor LOGIN IN ROLE pgpoll_monitor")
    queries = re.findall(r"^    (SELECT \* FROM pgpoll\..*;) +--", TEXT, re.M)
    (explanation,) = re.findall(r"`(\\dv\+ .*?)` explains them", TEXT)
    assert len(queries) == 6
    output = run(f". {fresh.run}/env && PGUSER=monitor psql -X -v ON_ERROR_STOP=1 <<'END'\n" + "\n".join([*queries, explanation]) + "\nEND")
    assert len(re.findall(r"^\(\d+ rows?\)$", output, re.M)) == 7, output
    for view in re.findall(r"pgpoll\.(\w+)", " ".join(queries)):
        assert re.search(rf"^ pgpoll \| {view} .*\?", output, re.M), f"{view} does not say which question it answers"


@pytest.mark.parametrize("start", ("pgpoll-check http", "pgpoll-check --topic"))
def test_operating_check(fresh, start):
    """As the README has it, but for whose database and which URL."""
    command = line(fresh, start).replace("pgpoll-check", "deploy/pgpoll-check --seconds 1")
    command = command.replace("http://127.0.0.1", fresh.url).replace("https://www.example.org", fresh.url)
    output = run(f". {fresh.run}/env && PGUSER=pgpoll_worker PGPOLL_PROGRAM={fresh.run}/bin/pgpoll.fcgi {command}")
    assert "WRONG" not in output and "LISTEN delivers" in output and "ok     A poll of 1 s took " in output
