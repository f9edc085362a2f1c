"""Runs the commands of README.md and docs/ as a reader would type them, except for the port and the directory. Also checks their links."""
import contextlib
import http.server
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import psycopg2
import pytest

from documents import COMMANDS, METRICS, PATHS, SHOWN, TEXT, TEXTS, asked_for, blocks, broken_links, command, commands
import web
from server import ROOT, STALL_S, Server, until
from tokens import jwt, read_jwt

# Commands that a test runs in another form.
TYPED_ELSEWHERE = {
    "apt-get install make",                         # .ci/run, on a fresh machine, by deploy/packages
    "deploy/packages build deb && make deb",        # make test-deb
    '"gaps": ',                                     # an answer, not a command
}


@pytest.fixture(scope="module")
def fresh():
    with Server(4) as server:
        yield server


def line(server, start):
    """Returns the command that starts with this text, changed for this server."""
    return command(start).replace("http://127.0.0.1:8080", server.url).replace(". .run/env", f". {server.run}/env")


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
    waiting = shell(line(fresh, """curl http://127.0.0.1:8080/messages/poll -d '{"topics": ["orders"], "timeout"""))
    fresh.until_waiting("orders")
    run(line(fresh, ". .run/env && psql"))
    output, _ = waiting.communicate(timeout=30)
    (message,) = json.loads(output)["messages"]
    assert (message["topic"], message["payload"]) == ("orders", {"order_id": 1})


def test_make_run(tmp_path):
    """It prints the commands that README shows, and Ctrl-C stops all its processes."""
    server = Server(2)
    (tmp_path / "output").touch()
    try:
        with (tmp_path / "output").open("w") as output:
            make = subprocess.Popen(["sh", "-c", f"exec {command('make run')} -s RUN={server.run} PORT={server.port} WORKERS=2"], cwd=ROOT,
                                    stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)
        said = until(lambda: make.poll() is None and "INSERT" in (text := (tmp_path / "output").read_text()) and text, "what to do next", 120)
        for start in "curl http", ". .run/env":
            assert any(line(server, shown) in said for shown in commands(start)), said
        assert f"{server.url}/?topic=orders" in said
        os.killpg(make.pid, signal.SIGINT)
        make.wait(60)
        until(lambda: not server.processes(), "every process gone")
    finally:
        server.remove()


def test_publishing(fresh):
    fresh.sql("CREATE TABLE orders (id integer, status text)")
    fresh.sql("INSERT INTO orders VALUES (1, 'new')")
    (by_hand,), (by_trigger,) = blocks("sql", TEXTS["README.md"]), blocks("sql", TEXTS["docs/publish.md"])
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
    fresh.publish("prices.a", 1, 2, 3)
    until(lambda: len(fresh.read("prices.a")) == 3, "the prices")
    for insert in commands("INSERT INTO pgpoll.retention_rules"):
        fresh.sql(insert)
    fresh.sql(command("CALL pgpoll.prune_topics("))
    assert fresh.poll("prices.a", since={"prices.a": "0"}).payloads[-1] == 3
    assert fresh.sql("SELECT count(*) FROM pgpoll.messages WHERE topic = 'prices.a'") == [(1,)]
    assert fresh.sql("SELECT count(*) FROM pgpoll.messages WHERE topic = 'orders'") > [(50,)]
    fresh.sql(*re.findall(r"`(CALL pgpoll\.prune_topics\('1 hour', 'ticks.%'\))`", TEXT))
    fresh.sql("DELETE FROM pgpoll.retention_rules")


def test_the_table_refuses_large_messages(fresh):
    fresh.sql(command("ALTER TABLE pgpoll.messages ADD CONSTRAINT"))
    try:
        with pytest.raises(psycopg2.errors.CheckViolation):
            fresh.publish("sizes", "x" * 10000000)
        fresh.publish("sizes", "x" * 9999000)
        assert [len(payload) for payload in fresh.poll("sizes", since={"sizes": "0"}, timeout=20).payloads] == [9999000]
    finally:
        fresh.sql("ALTER TABLE pgpoll.messages DROP CONSTRAINT message_size")


def test_the_answer_looks_like_the_one_shown(fresh):
    fresh.publish("shown", 1)
    answer = fresh.poll("shown", since={"shown": "0"}).json
    shown = [json.loads(block) for block in blocks("json") if "next_since" in block]
    assert [list(one) for one in shown] == [list(answer)] * 2
    assert [list(one["messages"][0]) for one in shown] == [list(answer["messages"][0])] * 2
    (shown_gap,) = json.loads("{" + command('"gaps": ') + "}")["gaps"].values()
    assert list(fresh.poll("shown", since={"shown": "not ours"}).json["gaps"]["shown"]) == list(shown_gap)


def test_a_time_is_a_cursor(fresh):
    """docs/poll.md says so about stream_id."""
    fresh.publish("timed", 1)
    before = fresh.poll("timed", since={"timed": "0"}).messages[0]["stream_id"]
    milliseconds = int(before.partition("-")[0])
    assert abs(milliseconds / 1000 - time.time()) < 60
    fresh.publish("timed", 2)
    assert fresh.poll("timed", since={"timed": f"{milliseconds - 1}-0"}).payloads == [1, 2]
    assert fresh.poll("timed", since={"timed": before}).payloads == [2]


def test_access_as_in_the_documents(fresh):
    def says(user, topic):
        return fresh.sql("SELECT pgpoll.can_poll(%s, %s)", user, topic)[0][0]

    def status():
        return fresh.request("POST", "/messages/poll", '{"topics": ["alice:orders"], "timeout": 0}').status

    assert status() == 200
    fresh.sql(next(block for block in blocks("sql", TEXTS["docs/login.md"]) if "can_poll" in block))
    try:
        until(lambda: status() == 403, "refused")
        assert says("alice", "alice:orders") and not says("alice", "alice") and not says("alice", "bob:orders")
        assert not says("", "orders") and not says("", ":orders") and not says("%", "bob:orders") and not says("b_b", "bob:orders")
    finally:
        fresh.sql(*re.findall(r"`(CREATE OR REPLACE FUNCTION pgpoll\.can_poll\(.*)`", TEXTS["docs/login.md"]))
        assert fresh.sql("SELECT pgpoll.is_open_to_all()") == [(True,)]
        until(lambda: status() == 200, "open again")


def test_api_keys(fresh):
    """As docs/login.md has them: a table of hashes, a key, a poll with it."""
    fresh.sql(next(block for block in blocks("sql", TEXTS["docs/login.md"]) if "api_keys" in block))
    poll = line(fresh, "curl http://127.0.0.1:8080/messages/poll -H")
    wrong = poll.replace("$key", "wrong").replace('"topics"', '"timeout": 0, "topics"') + " -s -o /dev/null -w '%{http_code}'"
    try:
        until(lambda: run(wrong) == "401", "refused")
        waiting = shell(f". {fresh.run}/env; {command('key=$(openssl')}; {command('hash=$(printf')}; {command('psql -c')} >&2; {poll}")
        until(lambda: fresh.sql("SELECT remote_user FROM pgpoll.waiting WHERE topics = '{alice:orders}'") == [("alice",)], "alice waits")
        fresh.publish("alice:orders", "for alice")
        output, _ = waiting.communicate(timeout=30)
        assert json.loads(output)["messages"][0]["payload"] == "for alice"
    finally:
        fresh.sql("DROP TABLE api_keys")
        fresh.sql(*re.findall(r"`(CREATE OR REPLACE FUNCTION pgpoll\.authenticate\(.*)`", TEXTS["docs/login.md"]))
        assert fresh.sql("SELECT pgpoll.has_authenticate()") == [(False,)]
    until(lambda: run(wrong) == "200", "everybody is anonymous again")


def test_sessions_of_an_application(fresh):
    """As docs/login.md has them."""
    fresh.sql(next(block for block in blocks("sql", TEXTS["docs/login.md"]) if "sessions" in block))
    try:
        fresh.sql("""INSERT INTO sessions SELECT sha256(convert_to(id, 'UTF8')), name, now() + ends::interval
                     FROM (VALUES ('one', 'ann', '1 hour'), ('two', 'bob', '-1 s')) s (id, name, ends)""")
        said = [fresh.sql("SELECT pgpoll.authenticate(%s)", header)[0][0] for header in ("Bearer one", "Bearer two", "Bearer three", "Bearer ", "one", "")]
        assert said == ["ann", None, None, None, None, None]
    finally:
        fresh.sql("DROP TABLE sessions")
        fresh.authenticate_as_installed()


def test_json_web_tokens(fresh):
    """As docs/login.md checks them; whatever is wrong with one, it is refused without an error."""
    def user(token, scheme="Bearer "):
        return fresh.sql("SELECT pgpoll.authenticate(%s)", scheme + token)[0][0]

    secret, now = "a secret of thirty-two bytes or more", time.time()
    good = {"sub": "ann\u00e9", "aud": "pgpoll", "exp": now + 60, "role": "web_user"}
    definition = next(block for block in blocks("sql", TEXTS["docs/login.md"]) if "jwt_secret" in block)
    (database,), = fresh.sql("SELECT quote_ident(current_database())")
    fresh.sql(definition)
    try:
        token = jwt(good, secret)
        assert user(token) is None   # there is no secret yet
        fresh.sql("INSERT INTO jwt_secret VALUES (%s)", secret)
        for length in range(4):      # of any remainder in base64
            assert user(jwt({**good, "x": "y" * length}, secret)) == "ann\u00e9"
        assert user(jwt({**good, "aud": ["other", "pgpoll"]}, secret)) == "ann\u00e9"
        for wrong in ({"exp": now - 1}, {"exp": None}, {"aud": "other"}, {"aud": None}, {"aud": ["pgpolls"]}, {"sub": None}, {"sub": ""}):
            assert user(jwt({**good, **wrong}, secret)) is None, wrong
        assert user(jwt({name: value for name, value in good.items() if name != "exp"}, secret)) is None
        assert user(jwt(good, secret, {"alg": "none"})) is None and user(jwt(good, secret, {"alg": "HS512"})) is None
        head, claims, signature = token.split(".")
        forged = jwt({**good, "sub": "root"}, "another secret")
        for bad in (jwt(good, secret + "x"), forged, f"{head}.{forged.split('.')[1]}.{signature}", f"{head}.{claims}.", f"{head}.{claims}", "",
                    f"{head}.{claims}.{signature[:-1]}", f"{head}.{claims}.{'A' * 43}", token + "=", f" {token}", f"{token}\n", "a.b.c"):
            assert user(bad) is None, bad
        assert user(token, "bearer ") is None and user(token, "Basic ") is None and user("", "") is None

        # As a setting of the database, where PostgREST's tutorials keep it.
        setting = definition.partition("CREATE OR REPLACE")[2].replace("s.secret", "current_setting('app.settings.jwt_secret')")
        setting = setting.replace(" FROM public.jwt_secret s", "")
        fresh.sql(f"CREATE OR REPLACE{setting}; ALTER DATABASE {database} SET app.settings.jwt_secret TO 'another secret'")
        fresh.close_db()
        assert user(jwt(good, "another secret")) == "ann\u00e9" and user(token) is None
    finally:
        fresh.sql(f"DROP TABLE jwt_secret; DROP EXTENSION pgcrypto; ALTER DATABASE {database} RESET app.settings.jwt_secret")
        fresh.authenticate_as_installed()


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


@pytest.mark.parametrize("language, program, example", (("js", ["node", "program.mjs"], "long_polling_client.mjs"),
                                                       ("python", [sys.executable, "-B", "program.py"], "long_polling_client.py")))
def test_a_program_with_a_client(fresh, tmp_path, language, program, example):
    (source,) = blocks(language, TEXTS["docs/clients.md"])
    (tmp_path / program[-1]).write_text(source.replace("http://127.0.0.1:8080", fresh.url))
    shutil.copy(ROOT / "examples" / example, tmp_path)
    client = subprocess.Popen(program, cwd=tmp_path, text=True, stdout=subprocess.PIPE)
    try:
        until((tmp_path / "orders.json").exists, "its cursors")
        fresh.publish("orders", "seen")
        assert client.stdout.readline() == "orders seen\n"
    finally:
        client.terminate()
        client.communicate()


@pytest.fixture(scope="module")
def packages():
    run(command("make clients"))


def first_payload(program):
    try:
        return json.loads(program.stdout.readline())["payload"]
    finally:
        program.terminate()
        program.communicate()


def test_the_packaged_python_client(fresh, tmp_path, packages):
    """pip finds no network here, so what the client needs is Debian's."""
    subprocess.run(["/usr/bin/python3", "-m", "venv", "--system-site-packages", tmp_path], check=True, timeout=120)
    run(f"PIP_NO_INDEX=1 {tmp_path}/bin/{command('pip install').replace(' install', ' install -q --no-input')}")
    fresh.publish("orders", "seen")
    cursors = tmp_path / "orders.json"
    cursors.write_text('{"orders": "0"}')
    program = [tmp_path / "bin/long-polling-client", fresh.url, "orders", "--cursors", cursors]
    assert first_payload(subprocess.Popen(program, cwd=tmp_path, text=True, stdout=subprocess.PIPE)) is not None
    run(f"{tmp_path}/bin/python3 -c 'from long_polling_client import LongPollingClient'")


@pytest.mark.skipif(not shutil.which("npm"), reason="no npm")
def test_the_packaged_javascript_client(fresh, tmp_path, packages):
    """For Node and for TypeScript."""
    install = command("npm install").replace("build/clients", f"{ROOT}/build/clients")
    run(f"cd {tmp_path} && npm init -y >/dev/null && {install} --offline --silent --no-audit --no-fund >/dev/null")
    (tmp_path / "program.mts").write_text("""
        import { longPoll, type Message } from "pgpoll-client";
        for await (const message of longPoll<number>(process.argv[2], ["orders"], { since: { orders: "0" } })) {
            const number: Message<number> = message;
            console.log(JSON.stringify(number));
        }
        """)
    (tmp_path / "node.d.ts").write_text("declare const process: { argv: string[] };")
    tsc = subprocess.run(["tsc", "--target", "es2022", "--module", "nodenext", "--lib", "es2022,dom", "--strict", "program.mts", "node.d.ts"],
                         cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert tsc.returncode == 0, tsc.stdout
    fresh.publish("orders", "seen")
    assert first_payload(subprocess.Popen(["node", "program.mjs", fresh.url], cwd=tmp_path, text=True, stdout=subprocess.PIPE)) is not None


@contextlib.contextmanager
def api(server, query, meanwhile, secret=None):
    """An HTTP API that answers every request with what the query returns; meanwhile() is called just before and after. The query runs as web_user,
    or, with a secret, as the role in the token that the request has to have, in a read-only transaction, as PostgREST does it for GET."""
    class Api(web.Handler):
        def do_GET(self):
            role = "web_user" if secret is None else read_jwt(self.headers["Authorization"], secret, "pgpoll").get("role")
            if not role:
                return self.answer(401)
            meanwhile()
            server.sql(f"SET ROLE {role}; SET default_transaction_read_only = on")
            (state,), = server.sql(query)
            server.sql("RESET ROLE; RESET default_transaction_read_only")
            meanwhile()
            self.answer(200, json.dumps(state).encode())

    with http.server.HTTPServer(("127.0.0.1", 0), Api) as listening:
        threading.Thread(target=listening.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{listening.server_port}"
        finally:
            listening.shutdown()


@pytest.fixture(scope="module")
def orders(fresh):
    """Yields a function that changes the only order. The tables and functions of docs/load-then-listen.md are there."""
    function, grants = blocks("sql", TEXTS["docs/load-then-listen.md"])
    fresh.sql("DROP TABLE IF EXISTS orders; CREATE TABLE orders (id integer PRIMARY KEY, status text); CREATE ROLE web_user")
    fresh.sql(function)
    fresh.sql(grants)
    fresh.sql("GRANT SELECT ON orders TO web_user")
    for forbidden in "INSERT INTO pgpoll.messages (topic, payload) VALUES ('orders', '1')", "SELECT pgpoll.newest_positions(ARRAY['orders'])":
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            fresh.sql("SET ROLE web_user; " + forbidden)

    def change(status):
        fresh.sql("""WITH o AS (INSERT INTO orders VALUES (1, %s) ON CONFLICT (id) DO UPDATE SET status = excluded.status RETURNING *)
                     INSERT INTO pgpoll.messages (topic, payload) SELECT 'orders', to_json(o) FROM o""", str(status))

    return change


QUERIES = {"cursor-first": "SELECT coalesce(json_agg(o), '[]') FROM orders o", "together": "SELECT orders_page()", "postgrest": "SELECT orders_page()"}


@pytest.mark.parametrize("way", QUERIES)
def test_load_then_listen(fresh, orders, tmp_path, way):
    """The order changes just before and just after the state is read: each change is in the state, or in a message."""
    secret = "a secret of thirty-two bytes or more" if way == "postgrest" else None
    source = dict(zip(QUERIES, blocks("js", TEXTS["docs/load-then-listen.md"]), strict=True))[way]
    fresh.sql("TRUNCATE orders")
    statuses = iter(range(10))
    with api(fresh, QUERIES[way], lambda: orders(next(statuses)), secret) as url, contextlib.ExitStack() as stack:
        orders(next(statuses))
        until(lambda: fresh.sql("SELECT without_position FROM pgpoll.retained") == [(0,)], "its position, without which it comes after the cursor")
        if secret:
            token = jwt({"role": "web_user", "sub": "ann", "aud": "pgpoll", "exp": int(time.time()) + 300}, secret)
            (tmp_path / "login.mjs").write_text(f"export const token = async () => '{token}';")
            stack.enter_context(tokens_wanted(fresh, secret))
        shutil.copy(ROOT / "examples" / "long_polling_client.mjs", tmp_path)
        (tmp_path / "program.mjs").write_text(source.replace("http://127.0.0.1:8080", fresh.url).replace("http://127.0.0.1:3000", url))
        client = subprocess.Popen(["node", "program.mjs"], cwd=tmp_path, text=True, stdout=subprocess.PIPE)
        try:
            assert client.stdout.readline() == "loaded 1\n"
            seen = client.stdout.readline()
            assert seen in ("1 1\n", "1 2\n")      # in the state already, or not
            if seen == "1 1\n":
                assert client.stdout.readline() == "1 2\n"
            if secret:
                until(lambda: fresh.sql("SELECT remote_user FROM pgpoll.waiting WHERE topics = '{orders}'") == [("ann",)], "ann waits")
            orders(next(statuses))
            assert client.stdout.readline() == "1 3\n"
        finally:
            client.terminate()
            client.communicate()


def test_loading_without_a_cursor_fails(tmp_path):
    """Else the page would listen from now on, which is after the state was read."""
    class Away(web.Handler):
        def do_POST(self):
            self.answer(503, b'{"detail":"Service Unavailable"}')

        def do_GET(self):
            self.answer(200, b"[]")

    shutil.copy(ROOT / "examples" / "long_polling_client.mjs", tmp_path)
    source = blocks("js", TEXTS["docs/load-then-listen.md"])[0]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Away) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        (tmp_path / "program.mjs").write_text(re.sub("http://127.0.0.1:(8080|3000)", f"http://127.0.0.1:{listening.server_port}", source))
        done = subprocess.run(["node", "program.mjs"], cwd=tmp_path, text=True, capture_output=True, timeout=60)
        listening.shutdown()
    assert done.returncode == 1 and "pgpoll answers 503" in done.stderr and not done.stdout


@contextlib.contextmanager
def tokens_wanted(server, secret):
    """Only tokens as in docs/login.md may poll."""
    def status():
        return server.request("POST", "/messages/poll", '{"topics": ["x"], "timeout": 0}').status

    server.sql(next(block for block in blocks("sql", TEXTS["docs/login.md"]) if "jwt_secret" in block))
    server.sql("INSERT INTO jwt_secret VALUES (%s)", secret)
    try:
        until(lambda: status() == 401, "refused without a token", 5 + STALL_S)
        yield
    finally:
        server.sql("DROP TABLE jwt_secret; DROP EXTENSION pgcrypto")
        server.authenticate_as_installed()
        until(lambda: status() == 200, "everybody is anonymous again", 5 + STALL_S)


def test_clients_in_a_shell(fresh):
    fresh.publish("orders", *range(20))
    answer = json.loads(run(line(fresh, """curl http://127.0.0.1:8080/messages/poll -d '{"topics": ["orders"], "since""")))
    assert len(answer["messages"]) == 10 and answer["has_more"]
    (shown,) = (json.loads(block) for block in blocks("json") if "active_waiters" in block)
    assert list(json.loads(run(line(fresh, "curl http://127.0.0.1:8080/messages/poll/stats")))) == list(shown)


def test_stats_in_psql(fresh, topic):
    (query,) = re.findall(r"`(SELECT \* FROM pgpoll\.stats)`", TEXT)
    (poll,) = fresh.wait(topic, timeout=20)
    fresh.until_waiting(topic)
    (_, _, counts, _), = fresh.sql(query)
    assert counts[topic] == 1
    assert fresh.sql("SELECT waiters FROM pgpoll.topic_waiters WHERE topic = %s", topic) == [(1,)]
    fresh.publish(topic, 1)
    assert poll.result().payloads == [1]


def test_operating_metrics(fresh, topic):
    (poll,) = fresh.wait(topic, timeout=20)
    fresh.until_waiting(topic)
    metrics = run(line(fresh, "curl http://127.0.0.1:8080/messages/poll/metrics"))
    told = set(re.findall(r"`(pgpoll_\w+)", TEXTS["docs/metrics.md"]))
    there = set(re.findall(r"^# TYPE (\w+)", metrics, re.M))   # the metrics that have a value
    assert there <= told == set(METRICS)
    fresh.publish(topic, 1)
    poll.result()


def test_operating_views(fresh):
    fresh.sql("CREATE ROLE monitor LOGIN IN ROLE pgpoll_monitor")
    queries = commands("SELECT * FROM pgpoll.")
    (explanation,) = re.findall(r"`(\\dv\+ .*?)` explains them", TEXT)
    assert len(queries) == 6
    output = run(f". {fresh.run}/env && PGUSER=monitor psql -X -v ON_ERROR_STOP=1 <<'END'\n" + "\n".join([*queries, explanation]) + "\nEND")
    assert len(re.findall(r"^\(\d+ rows?\)$", output, re.M)) == 7, output
    for view in re.findall(r"pgpoll\.(\w+)", " ".join(queries)):
        assert re.search(rf"^ pgpoll \| {view} .*\?", output, re.M), f"{view} does not say which question it answers"


@pytest.mark.parametrize("shown", (command("pgpoll-check http"), command("pgpoll-check --topic")))
def test_operating_check(fresh, shown):
    """The output is as shown, except for the database and the URL."""
    typed = shown.replace("pgpoll-check", "deploy/pgpoll-check --seconds 1")
    typed = typed.replace("http://127.0.0.1", fresh.url).replace("https://www.example.org", fresh.url)
    output = run(f". {fresh.run}/env && PGUSER=pgpoll_worker PGPOLL_PROGRAM={fresh.run}/bin/pgpoll.fcgi {typed}")
    assert "WRONG" not in output and "LISTEN delivers" in output and "ok     A poll of 1 s took " in output


def test_the_settings_are_those_of_help(fresh):
    told = run(f"{fresh.run}/bin/pgpoll.fcgi --help")
    settings = {name: ["", ""] for name in re.findall(r"^  (PGPOLL_\w+) ", told, re.M)}
    for name, default, least, most in re.findall(r"^  (PGPOLL_\w+) .*\n +\(default (.*?)(?:, from (\d+) to (\d+))?\)", told, re.M):
        settings[name] = [default, f"{least} to {most}" if most else ""]
    settings["PGPOLL_HOST"][0] = "the host name"
    settings["PGPOLL_STATE_DIR"][0] = "the directory of the program's socket"
    rows = re.findall(r"^\| `(PGPOLL_\w+)` \| (.*?) ?\| (.*?) ?\|", TEXTS["docs/settings.md"], re.M)
    assert {name: cells for name, *cells in rows} == settings


def test_every_command_is_run_by_a_test():
    typed = {*TYPED_ELSEWHERE, *asked_for(*ROOT.glob("tests/*/test_*.py"))}
    assert [line for line in COMMANDS if not line.startswith(tuple(typed))] == []
    assert [start for start in typed if not commands(start)] == []


def test_every_shown_line_is_produced_by_a_test():
    produced = {*asked_for(*ROOT.glob("tests/*/test_*.py"), names=("shown", "logged", "is_logged", "health"))}
    assert [line for line in SHOWN if not line.startswith(tuple(produced))] == []


def test_links():
    assert [link for path in {*PATHS, *ROOT.glob("*.md")} for link in broken_links(path)] == []


def test_what_the_documents_name():
    """Files of tests, goals of make, parts of its benchmarks, and settings."""
    text = "\n".join([TEXT, *((ROOT / name).read_text() for name in ("ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"))])
    parts = re.search(r"^PARTS = .*\((.*)\)\}$", (ROOT / "tests/bench/parts.py").read_text(), re.M)[1].split(", ")
    settings = re.findall(r'"(PGPOLL_\w+)"', (ROOT / "src/core/config.c").read_text() + (ROOT / "src/core/config.h").read_text())
    assert set(re.findall(r"\btest_\w+\.py\b", text)) <= {path.name for path in ROOT.glob("tests/*/test_*.py")}
    assert set(re.findall(r"`make\s([a-z-]+)[`\s]", text)) <= set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert {part for named in re.findall(r'BENCH=(\w+|"[\w ]+")', text) for part in named.strip('"').split()} <= set(parts)
    assert set(re.findall(r"\bPGPOLL_\w+\b", text)) <= set(settings)


def test_references_to_documents():
    missing = []
    for directory in "deploy", "examples", "fcgi", "sql", "src", "tests":
        for path in (ROOT / directory).rglob("*"):
            if path.is_file() and path.suffix not in (".pyc", ".png"):
                names = re.findall(r"\bdocs/[\w-]+\.\w+|\b[A-Z]{4,}\.md\b", path.read_text(errors="replace"))
                missing += [f"{path}: {name}" for name in names if not (ROOT / name).exists()]
    assert missing == []
