"""The client in the API document, copied word for word, and the clients in examples/."""
import contextlib
import http.server
import json
import os
import queue
import runpy
import signal
import subprocess
import sys
import threading
import time

import pytest

import web
from server import POLL, ROOT, STALL_S, Postgres, Server, until
from stalls import stood_still

EXAMPLES = ROOT / "examples"
REFUSED = '{"detail":"Not authenticated"}'

API_DOCUMENT = '''
import requests
import time

BASE_URL = "http://localhost:8080"

def poll_messages(topics):
    """Poll for messages with automatic reconnection."""
    last_ids = {}

    while True:
        try:
            response = requests.post(
                f"{BASE_URL}/messages/poll",
                json={
                    "topics": topics,
                    "since": last_ids if last_ids else None,
                    "timeout": 30
                },
                timeout=35  # Slightly longer than server timeout
            )

            if response.status_code == 200:
                data = response.json()

                # Process messages
                for msg in data["messages"]:
                    print(f"Received: {msg['topic']} - {msg['payload']}")
                    # Track last seen message per topic
                    last_ids[msg["topic"]] = msg["message_id"]

                # Continue immediately if there might be more
                if not data["has_more"]:
                    time.sleep(0.1)  # Brief pause before next poll
            else:
                print(f"Error: {response.status_code}")
                time.sleep(5)  # Wait before retry

        except requests.Timeout:
            # Normal timeout, continue polling
            continue
        except Exception as e:
            print(f"Error: {e}")
            time.sleep(5)

# Start polling
poll_messages(["orders", "notifications"])
'''


@pytest.fixture(scope="module")
def server():
    """A server that tests restart, and whose workers, also new ones, tests kill."""
    with Server(4, errors=r"a worker died as soon as it was started") as server:
        yield server


class Program:
    """A running client, and the lines that it prints."""

    def __init__(self, *command, source=""):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.process.stdin.write(source)
        self.process.stdin.close()
        self.lines, self.errors, self.began = queue.Queue(), [], time.monotonic()
        threading.Thread(target=lambda: [self.lines.put(line.rstrip("\n")) for line in self.process.stdout], daemon=True).start()
        threading.Thread(target=lambda: [self.errors.append(line) for line in self.process.stderr], daemon=True).start()

    def next(self, seconds=30):
        try:
            return self.lines.get(timeout=seconds)
        except queue.Empty:
            raise AssertionError(f"printed nothing; said: {''.join(self.errors)}") from None

    def messages(self, count):
        """Returns the topics and payloads of the next messages from an example."""
        messages = [json.loads(self.next()) for _ in range(count)]
        return [(message["topic"], message["payload"]) for message in messages]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(20)


# Does the same as long_polling_client.py, with the JavaScript module.
PRINT_MESSAGES = f'''
import {{ inFile, longPoll }} from "{EXAMPLES}/long_polling_client.mjs";

const [, url, cursors, ...topics] = process.argv;
try {{
    for await (const message of longPoll(url, topics, {{ storage: cursors ? inFile(cursors) : undefined }}))
        console.log(JSON.stringify(message));
}} catch (error) {{
    console.error(error.message);
    process.exit(1);
}}
'''


def python_client(url, *topics, cursors=None):
    return [sys.executable, "-u", str(EXAMPLES / "long_polling_client.py"), url, *topics, *(["--cursors", cursors] if cursors else [])]


@pytest.fixture(params=["python", "node"])
def client(request):
    """client(url, topics..., cursors=a file) returns the command line of an example."""
    def node(url, *topics, cursors=None):
        return ["node", "--input-type=module", "-e", PRINT_MESSAGES, "--", url, cursors or "", *topics]

    return {"python": python_client, "node": node}[request.param]


def test_the_loop_of_the_api_document(server):
    with Program(sys.executable, "-u", "-", source=API_DOCUMENT.replace("http://localhost:8080", server.url)) as program:
        server.until_waiting("orders")
        server.publish("orders", {"order_id": "12345"})
        assert program.next() == "Received: orders - {'order_id': '12345'}"
        server.publish("orders", 2)          # probably during the client's pause
        assert program.next() == "Received: orders - 2"
        server.until_waiting("notifications")
        server.publish("notifications", "three")
        assert program.next() == "Received: notifications - three"
        server.sql("INSERT INTO pgpoll.messages (topic, payload) SELECT 'orders', to_json(n) FROM generate_series(1, 250) n")
        assert [program.next() for _ in range(250)] == [f"Received: orders - {n}" for n in range(1, 251)]
        server.until_waiting("orders")
        assert program.lines.empty() and (not program.errors or stood_still(program.began))


def test_an_example_misses_nothing(client, server, topic, tmp_path):
    other, cursors = topic + "-other", tmp_path / "cursors.json"

    def is_on_disk(name):
        return cursors.exists() and json.loads(cursors.read_text()).get(name) == server.read(name)[-1]["message_id"]

    with Program(*client(server.url, topic, other, cursors=str(cursors))) as program:
        server.until_waiting(topic)
        server.publish(topic, 1)
        server.publish(other, {"two": 2})
        assert program.messages(2) == [(topic, 1), (other, {"two": 2})]
        server.until_waiting(topic)
        Postgres(server).restart("fast")
        server.publish(topic, 3)
        server.reload()
        server.publish(other, 4)
        assert program.messages(2) == [(topic, 3), (other, 4)]
        assert not program.errors or stood_still(program.began)   # clients see an error of neither

        (pid,) = server.until_waiting(topic)
        os.kill(pid, signal.SIGKILL)
        server.publish(topic, 5)
        assert program.messages(1) == [(topic, 5)]
        server.until_waiting(topic)
        server.stop_lighttpd()
        server.publish(topic, 6)
        until(lambda: len(program.errors) >= 2, "the errors told")
        server.start_lighttpd()
        server.publish(topic, 7)
        assert program.messages(2) == [(topic, 6), (topic, 7)]
        until(lambda: is_on_disk(topic), "the cursors on disk")

    server.publish(topic, "while away")
    with Program(*client(server.url, topic, other, cursors=str(cursors))) as program:
        assert program.messages(1) == [(topic, "while away")]
        until(lambda: is_on_disk(topic), "the cursors on disk")

    cursors.write_text(json.dumps({topic: "of another server", other: server.read(other)[-1]["message_id"]}))
    with Program(*client(server.url, topic, other, cursors=str(cursors))) as program:
        assert program.messages(6) == [(topic, payload) for payload in (1, 3, 5, 6, 7, "while away")]
        until(lambda: any(topic in line and "unknown" in line for line in program.errors), "the gap told")


def test_an_example_misses_nothing_before_its_first_message(client, server, topic):
    """There is no message yet from which the client could take a cursor."""
    server.stop_lighttpd()
    with Program(*client(server.url, topic)) as program:
        until(lambda: program.errors, "an error told")
        server.start_lighttpd()
        server.until_waiting(topic)
        server.stop_lighttpd()
        server.publish(topic, "meanwhile")
        server.start_lighttpd()
        assert program.messages(1) == [(topic, "meanwhile")]


def test_an_example_ends_if_the_server_refuses_its_request(client, server):
    done = subprocess.run(client(server.url, "a\nb"), capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "control characters" in done.stderr and "Traceback" not in done.stderr


class Faults(web.Handler):
    """A server that answers every second request with the next fault, the others without messages, and the last one with a message."""

    def do_POST(self):
        server = self.server
        server.asked.append((time.monotonic(), self.read_json()))
        turn, faulty = divmod(len(server.asked), 2)
        messages = [] if turn < len(server.faults) else [{"topic": "a", "message_id": "msg_1", "payload": 1}]
        good = json.dumps({"messages": messages, "has_more": False, "next_since": {"a": "msg_1"}}).encode()
        status, headers, body = server.faults[turn] if faulty and not messages else (200, {}, good)
        self.answer(status, body, headers)


def test_an_example_before_a_server_that_fails_in_every_way(client, tmp_path):
    """The faults are those of pgpoll and of servers in front of it."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Faults) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        server.asked, server.faults = [], [(503, {"Retry-After": "1"}, b"{}"), (500, {}, b"<html>"), (429, {}, b""),
                                           (200, {}, b"<html>not JSON"), (200, {}, b"[]"), (200, {}, b'{"messages": []}')]
        (tmp_path / "cursors").write_text('{"a": "$"}')   # means from now on, as without a cursor
        with Program(*client(f"http://127.0.0.1:{server.server_port}/", "a", cursors=str(tmp_path / "cursors"))) as program:
            assert program.messages(1) == [("a", 1)]
            until(lambda: len(program.errors) >= len(server.faults), "the errors told")
            assert len(program.errors) == len(server.faults)
        times, requests = zip(*server.asked)
        assert times[1] - times[0] >= 1
        # Without a cursor, its first poll asks for the cursor of now.
        assert [(request["timeout"], request["since"]) for request in requests[:3]] == [(0, {}), (0, {}), (30, {"a": "msg_1"})]
        server.shutdown()


def test_the_python_client_prints_whatever_json_holds(server, topic):
    """Half a surrogate pair is valid JSON, and a terminal may support only ASCII. Neither may stop the client from reading on."""
    client = ["env", "PYTHONIOENCODING=ascii", sys.executable, "-u", EXAMPLES / "long_polling_client.py", server.url, topic]
    with Program(*client) as program:
        server.until_waiting(topic)
        server.sql("INSERT INTO pgpoll.messages (topic, payload) VALUES (%s, %s)", topic, '"half \\ud800, 3 €"')
        server.publish(topic, "next")
        assert program.messages(2) == [(topic, "half \ud800, 3 €"), (topic, "next")]


def test_the_python_client_skips_messages_that_python_cannot_parse(server, topic, tmp_path):
    """The client skips and reports a payload nested beyond Python's recursion limit, keeps the digits of large numbers, and prints JSON."""
    deep, digits, cursors = "[" * 1200 + "]" * 1200, "7" * 5000, tmp_path / "cursors.json"
    cursors.write_text(json.dumps({topic: "0"}))
    nested = None
    with contextlib.suppress(RecursionError):
        nested = json.loads(deep)   # Python 3.13 parses it
    skipped = nested is None
    for payload in "1", deep, "2", digits, "1e400", "[0.5, 12]", deep:
        server.sql("INSERT INTO pgpoll.messages (topic, payload) VALUES (%s, %s)", topic, payload)
    with Program(*python_client(server.url, topic, cursors=str(cursors))) as program:
        messages = program.messages(5 if skipped else 7)
        assert [message for message in messages if message[1] != nested] == [(topic, payload) for payload in (1, 2, digits, "1E+400", [0.5, 12])]
        server.until_waiting(topic)
        server.publish(topic, "next")
        assert program.messages(1) == [(topic, "next")]
        assert sum("nested too deeply" in line for line in program.errors) == (2 if skipped else 0)


def test_a_cursor_file_keeps_the_cursors_of_other_topics(client, server, topic, tmp_path):
    """A run for one topic must not remove the cursor of another topic, which the next run reads."""
    other, cursors = topic + "-other", tmp_path / "cursors.json"
    cursors.write_text(json.dumps({topic: "0", other: "0"}))
    server.publish(topic, 1)
    server.publish(other, 2)
    for name, payload in (topic, 1), (other, 2):
        with Program(*client(server.url, name, cursors=str(cursors))) as program:
            assert program.messages(1) == [(name, payload)]
            until(lambda: json.loads(cursors.read_text()).get(name) == server.read(name)[-1]["message_id"], "the cursor on disk")


def test_an_example_begins_with_the_last_few(client, server, topic, tmp_path):
    """A history of two messages, then what follows, also in the next run."""
    cursors = tmp_path / "cursors.json"
    cursors.write_text(json.dumps({topic: "-2"}))
    server.publish(topic, 1, 2, 3)
    with Program(*client(server.url, topic, cursors=str(cursors))) as program:
        assert program.messages(2) == [(topic, 2), (topic, 3)]
        server.publish(topic, 4)
        assert program.messages(1) == [(topic, 4)]
        until(lambda: json.loads(cursors.read_text())[topic] == server.read(topic)[-1]["message_id"], "the cursor on disk")
    server.publish(topic, 5, 6, 7)
    with Program(*client(server.url, topic, cursors=str(cursors))) as program:
        assert program.messages(3) == [(topic, payload) for payload in (5, 6, 7)]


class Cutting(web.Handler):
    """A proxy that accepts a poll and, after 1.2 s, closes the connection or answers 504."""

    def do_POST(self):
        server = self.server
        request = self.read_json()
        server.asked.append((time.monotonic(), request))
        turn = len(server.asked)
        if request["timeout"] and turn <= 5:
            if turn % 2:
                server.over.wait(1.2)
                self.send_error(504)
                return
            self.answer_head(200, 100)
            self.wfile.flush()
            server.over.wait(1.2)
            self.close_connection = True
            return
        messages = [{"topic": "a", "message_id": "msg_2", "payload": 1}] if request["timeout"] else []
        self.answer(200, json.dumps({"messages": messages, "has_more": False, "next_since": {"a": "msg_1"}}).encode())


def test_a_poll_that_a_proxy_cuts_is_no_failure(client, tmp_path):
    """Nor may it change what "the last five" are."""
    (tmp_path / "cursors").write_text('{"a": "-5"}')
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Cutting) as server:
        server.asked, server.over = [], threading.Event()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with Program(*client(f"http://127.0.0.1:{server.server_port}", "a", cursors=str(tmp_path / "cursors"))) as program:
            assert program.messages(1) == [("a", 1)]
            assert program.errors == []   # no error is reported, so there was no pause
        assert [request["since"] for _, request in server.asked[:6]] == [{"a": "-5"}] + [{"a": "msg_1"}] * 5
        # After each 504 it asks without waiting whether the server is there.
        assert [request["timeout"] for _, request in server.asked[:7]] == [0, 30, 30, 0, 30, 0, 30]
        server.over.set()
        server.shutdown()


class Unreachable(web.Handler):
    """A proxy that answers 504 after 1.2 s, because it does not reach the server, except for the first poll."""

    def do_POST(self):
        self.read_json()
        if not self.server.begun.is_set():
            self.server.begun.set()
            return self.answer(200, b'{"messages": [], "has_more": false, "next_since": {"a": "msg_1"}}')
        self.server.over.wait(1.2)
        return self.send_error(504)


def test_a_server_that_a_proxy_does_not_reach_is_a_failure(client):
    """The client tells, and pauses."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Unreachable) as server:
        server.begun, server.over = threading.Event(), threading.Event()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with Program(*client(f"http://127.0.0.1:{server.server_port}", "a")) as program:
            until(lambda: len(program.errors) >= 2, "the failures told")
            assert all("504" in error and "next attempt" in error for error in program.errors)
        server.over.set()
        server.shutdown()


class SlowLine(web.Handler):
    """A proxy that sends an answer over 13 s, and none for topic "silent"."""

    def do_POST(self):
        request = self.read_json()
        if request["topics"] == ["silent"]:
            return self.server.over.wait()
        self.server.asked.append(request)
        body = json.dumps({"messages": [{"topic": "slow", "message_id": "msg_1", "payload": "€" * 200}], "has_more": False,
                           "next_since": {"slow": "msg_1"}}, ensure_ascii=False).encode()
        self.answer_head(200, len(body))
        for start in range(0, len(body), 20):
            self.wfile.write(body[start:start + 20])
            self.server.over.wait(13 * 20 / len(body))


def test_the_module_on_a_slow_line():
    """The client receives a page that takes longer than a poll's timeout, and gives up a server that sends nothing."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), SlowLine) as server:
        server.asked, server.over = [], threading.Event()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        said = run_node(f'''
            import {{ longPoll }} from "{EXAMPLES}/long_polling_client.mjs";
            const url = process.argv[1], controller = new AbortController();
            const silent = {{ timeout: 1, since: {{ silent: "0" }}, signal: controller.signal, onRetry: (error) => {{
                console.log(JSON.stringify(error.message));
                controller.abort();
            }} }};
            await Promise.all([
                (async () => {{ for await (const message of longPoll(url, ["silent"], silent)); }})(),
                (async () => {{
                    for await (const {{ payload }} of longPoll(url, ["slow"], {{ timeout: 1, since: {{ slow: "0" }} }})) {{
                        console.log(JSON.stringify(payload));
                        break;
                    }}
                }})(),
            ]);
            ''', f"http://127.0.0.1:{server.server_port}")
        assert said == ["nothing from the server for 11 s", "€" * 200] and len(server.asked) == 1
        server.over.set()
        server.shutdown()


def run_node(source, *arguments):
    done = subprocess.run(["node", "--input-type=module", "-e", source, "--", *arguments], capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_module_s_options(server, topic):
    """Leaving the loop, aborting, gaps, a custom parser, and topic names with a meaning in JavaScript."""
    for name in topic, "__proto__", "constructor":
        server.publish(name, 1, 2, 3)
    said = run_node(f'''
        import {{ longPoll }} from "{EXAMPLES}/long_polling_client.mjs";
        const [, url, ...topics] = process.argv;
        const say = (...words) => console.log(JSON.stringify(words));
        const all = Object.fromEntries(topics.map((topic) => [topic, "0"]));
        let saved;
        const storage = {{ load: () => saved ?? all, save: (cursors) => saved = JSON.parse(JSON.stringify(cursors)) }};
        for await (const {{ topic, payload }} of longPoll(url, topics, {{ storage }})) {{
            say(topic, payload);
            if (topic === "__proto__" && payload === 2)
                break;                          // not done with: it comes again
        }}
        const controller = new AbortController();
        let count = 0;
        const options = {{ storage, signal: controller.signal, parse: (text) => JSON.parse(text, (key, value) => key === "payload" ? -value : value) }};
        for await (const {{ topic, payload }} of longPoll(new URL(url), topics, options)) {{
            say(topic, payload);
            if (++count === 5)
                setTimeout(() => controller.abort(), 300);       // when nothing is left, in the middle of a poll
        }}
        const gaps = {{ since: {{ [topics[0]]: "rubbish" }}, onGap: (topic, gap) => say(topic, gap.reason, gap.requested) }};
        for await (const {{ topic, payload }} of longPoll(url, [topics[0]], gaps)) {{
            say(topic, payload);
            break;
        }}
        ''', server.url, topic, "__proto__", "constructor")
    assert said == [[topic, 1], [topic, 2], [topic, 3], ["__proto__", 1], ["__proto__", 2],
                    ["__proto__", -2], ["__proto__", -3], ["constructor", -1], ["constructor", -2], ["constructor", -3],
                    [topic, "unknown", "rubbish"], [topic, 1]]


def test_the_module_without_streams(server, topic):
    """Some platforms give no response.body."""
    server.publish(topic, "€" * 1000)
    assert run_node(f'''
        import {{ longPoll }} from "{EXAMPLES}/long_polling_client.mjs";
        const [, url, topic] = process.argv, {{ fetch }} = globalThis;
        globalThis.fetch = async (...request) => {{
            const response = await fetch(...request);
            return {{ status: response.status, headers: response.headers, text: () => response.text() }};
        }};
        for await (const {{ payload }} of longPoll(url, [topic], {{ since: {{ [topic]: "0" }} }})) {{
            console.log(JSON.stringify(payload));
            break;
        }}
        ''', server.url, topic) == ["€" * 1000]


def test_the_module_s_types(tmp_path):
    (tmp_path / "node.d.ts").write_text('declare module "node:fs/promises";')
    done = subprocess.run(["tsc", "--noEmit", "--target", "es2022", "--module", "nodenext", "--lib", "es2022,dom,dom.iterable",
                           "--strict", "--allowJs", "--checkJs", "--noImplicitAny", "false", "--useUnknownInCatchVariables", "false",
                           ROOT / "tests/e2e/client_types.mts", EXAMPLES / "long_polling_client.mjs", "node.d.ts"],
                          cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout


def test_topics_come_and_go_while_the_module_runs(server, topic):
    """Whatever a poll was doing when it was interrupted: nothing is lost, and nothing comes twice or in another order."""
    other, last = topic + "-other", 300
    with Program("node", "--input-type=module", "-e", f'''
            import {{ longPoll }} from "{EXAMPLES}/long_polling_client.mjs";
            const [, url, topic, other, last] = process.argv;
            const messages = longPoll(url, [], {{ since: {{ [topic]: "0" }} }});      // without topics, it waits for one
            let there = false;
            const toggle = () => (there = !there) ? messages.add(other, "0") : messages.remove(other);
            let pause = 5, toggling;
            const toggleOn = () => {{
                toggle();
                toggling = setTimeout(toggleOn, pause *= 1.1);                       // at last, a poll is faster on every machine
            }};
            toggleOn();
            setTimeout(() => messages.add(topic), 100);
            const got = {{ [topic]: [], [other]: [] }};
            console.log('"begins"');
            for await (const message of messages) {{
                got[message.topic].push(message.payload);
                if (message.payload % 3 === 0 && got[topic].at(-1) !== +last)
                    toggle();                                                        // in the middle of a page, too
                if (message.topic === topic && message.payload === +last) {{
                    clearTimeout(toggling);
                    messages.add(other);
                }}
                if (got[topic].at(-1) === +last && got[other].at(-1) === +last)
                    break;
            }}
            console.log(JSON.stringify([got[topic], got[other]]));
            process.exit();
            ''', "--", server.url, topic, other, str(last)) as program:
        assert program.next() == '"begins"'
        for n in range(1, last + 1):
            server.sql("INSERT INTO pgpoll.messages (topic, payload) VALUES (%s, %s), (%s, %s)", topic, str(n), other, str(n))
        assert json.loads(program.next(60)) == [list(range(1, last + 1))] * 2
        assert not program.errors or stood_still(program.began)


def test_a_loop_without_topics_ends():
    """When it is aborted, though there is nothing to abort."""
    assert run_node(f'''
        import {{ longPoll }} from "{EXAMPLES}/long_polling_client.mjs";
        const controller = new AbortController();
        setTimeout(() => controller.abort(), 50);
        for await (const message of longPoll("http://127.0.0.1:9", [], {{ signal: controller.signal }}));
        console.log('"ended"');
        ''') == ["ended"]


LOGS_IN = f'''
import {{ readFileSync }} from "node:fs";
import {{ longPoll, Refused }} from "{EXAMPLES}/long_polling_client.mjs";

const [, url, topic, file] = process.argv, say = (...words) => console.log(JSON.stringify(words));
let token, asked = 0;
const options = {{
    since: {{ [topic]: "0" }},
    headers: async (refused) => {{
        asked += !refused;
        if (refused || !token)
            token = readFileSync(file, "utf8");
        if (token === "gone")
            throw new Refused(401, "logged out");
        return {{ Authorization: `Bearer ${{token}}` }};
    }},
    onRefused: async (error) => {{
        say("refused", error.message);
        while (token !== "gone" && readFileSync(file, "utf8") === token)
            await new Promise((resolve) => setTimeout(resolve, 20));
        return token !== "gone";
    }},
}};
try {{
    for await (const {{ payload }} of longPoll(url, [topic], options))
        say("message", payload);
}} catch (error) {{
    say("ended", error instanceof Refused, error.message, asked);
}}
'''


@contextlib.contextmanager
def token_wanted(server):
    """A poll needs a token, which makes its client ann. Yields a function that changes the token; it begins as "first"."""
    def status():
        return server.request("POST", POLL, '{"topics": ["x"], "timeout": 0}').status

    def change(token):
        server.sql("UPDATE token SET hash = sha256(convert_to(%s, 'UTF8'))", f"Bearer {token}")

    server.sql("CREATE TABLE token AS SELECT sha256('Bearer first') AS hash")
    server.sql("""CREATE OR REPLACE FUNCTION pgpoll.authenticate("authorization" text) RETURNS text LANGUAGE sql STABLE SECURITY DEFINER
                  AS $$ SELECT 'ann' FROM public.token WHERE hash = sha256(convert_to($1, 'UTF8')) $$""")
    try:
        until(lambda: status() == 401, "refused without a token", 5 + STALL_S)
        yield change
    finally:
        server.authenticate_as_installed()
        server.sql("DROP TABLE token")
        until(lambda: status() == 200, "everybody is anonymous again", 5 + STALL_S)


def test_the_module_asks_for_headers_and_goes_on_after_a_401(server, topic, tmp_path):
    """A token that changes while it polls. The function is called for each poll, and once more after a 401; then the page may let its user log in."""
    known = tmp_path / "token"
    known.write_text("first")

    def says(words):
        return json.loads(program.next()) == words

    with token_wanted(server) as change, Program("node", "--input-type=module", "-e", LOGS_IN, "--", server.url, topic, str(known)) as program:
        server.publish(topic, 1)
        assert says(["message", 1])
        server.until_waiting(topic)
        assert server.sql("SELECT remote_user FROM pgpoll.waiting WHERE topics = ARRAY[%s]", topic) == [("ann",)]
        change("second")
        known.write_text("second")
        server.publish(topic, 2)           # answered still; the poll after it gets 401
        server.publish(topic, 3)
        assert says(["message", 2]) and says(["message", 3])
        server.until_waiting(topic)
        change("third")
        server.publish(topic, 4)
        assert says(["message", 4]) and says(["refused", f"401 {REFUSED}"])
        server.publish(topic, 5)
        known.write_text("third")          # the user logs in
        assert says(["message", 5])
        server.until_waiting(topic)
        change("fourth")
        known.write_text("gone")
        server.publish(topic, 6)
        assert says(["message", 6]) and says(["refused", "401 logged out"])
        *ended, asked = json.loads(program.next())
        assert ended == ["ended", True, "401 logged out"] and asked >= 7     # each message comes with another poll, or more
        assert program.errors == []


def test_the_python_client_renews_its_token(server, topic, tmp_path):
    """Once, when the server answers 401; if that does not help, it gives up."""
    token, passwords = tmp_path / "token", tmp_path / "netrc"
    token.write_text("first\n")
    passwords.write_text("machine 127.0.0.1 login ann password secret\n")   # not for this client
    client = ["env", f"NETRC={passwords}", *python_client(server.url, topic), "--token", str(token)]
    with token_wanted(server) as change, Program(*client) as program:
        server.until_waiting(topic)
        token.write_text("second")
        change("second")
        server.publish(topic, 1)
        assert program.messages(1) == [(topic, 1)]
        server.until_waiting(topic)
        change("third")
        server.publish(topic, 2)
        assert program.messages(1) == [(topic, 2)]
        until(lambda: program.process.poll() is not None, "the end")
        until(lambda: program.errors, "what it says")
        assert program.process.returncode == 1 and program.errors == [f"long_polling_client.py: 401 {REFUSED}\n"]


def test_the_python_client_s_token_function(server, topic):
    """Called for each poll, and again after a 401; the message that had been published by then comes."""
    client = runpy.run_path(str(EXAMPLES / "long_polling_client.py"))["LongPollingClient"]
    with token_wanted(server):
        asked = []

        def token(renew):
            asked.append(renew)
            return "first" if renew else "expired"

        assert client(server.url, [topic], {topic: None}, token).poll()["messages"] == [] and asked.pop(0) is False and asked.pop(0) is True
        pages = client(server.url, [topic], {topic: "0"}, token).pages()
        for n in range(2):
            server.publish(topic, n)
            assert [message["payload"] for message in next(pages)["messages"]] == [n]
        assert asked == [False, True] * 2
