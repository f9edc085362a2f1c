"""The client of the API document, word for word, and examples/long_polling_client.py."""
import json
import queue
import subprocess
import sys
import threading

import pytest

from server import ROOT, Postgres, Server, until

CLIENT = ROOT / "examples" / "long_polling_client.py"

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
    """Restarted below."""
    with Server(4) as server:
        yield server


class Program:
    """A running client and the lines it prints."""

    def __init__(self, *arguments, source=None):
        self.process = subprocess.Popen([sys.executable, "-u", *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True)
        if source:
            self.process.stdin.write(source)
        self.process.stdin.close()
        self.lines, self.errors = queue.Queue(), []
        threading.Thread(target=lambda: [self.lines.put(line.rstrip("\n")) for line in self.process.stdout], daemon=True).start()
        threading.Thread(target=lambda: [self.errors.append(line) for line in self.process.stderr], daemon=True).start()

    def next(self, seconds=10):
        try:
            return self.lines.get(timeout=seconds)
        except queue.Empty:
            raise AssertionError(f"printed nothing; said: {''.join(self.errors)}") from None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(5)


def test_the_loop_of_the_api_document(server):
    with Program("-", source=API_DOCUMENT.replace("http://localhost:8080", server.url)) as program:
        server.until_waiting("orders")
        server.publish("orders", {"order_id": "12345"})
        assert program.next() == "Received: orders - {'order_id': '12345'}"
        server.publish("orders", 2)          # in its brief pause, as likely as not
        assert program.next() == "Received: orders - 2"
        server.until_waiting("notifications")
        server.publish("notifications", "three")
        assert program.next() == "Received: notifications - three"
        server.sql("INSERT INTO pgpoll.messages (topic, payload) SELECT 'orders', to_json(n) FROM generate_series(1, 250) n")
        assert [program.next() for _ in range(250)] == [f"Received: orders - {n}" for n in range(1, 251)]
        server.until_waiting("orders")
        assert program.lines.empty() and not program.errors


def test_the_example_client(server, topic, tmp_path):
    other, cursors = topic + "-other", tmp_path / "cursors.json"
    arguments = [str(CLIENT), server.url, topic, other, "--cursors", str(cursors)]

    def read(program, count):
        messages = [json.loads(program.next(20)) for _ in range(count)]
        return [(message["topic"], message["payload"]) for message in messages]

    with Program(*arguments) as program:
        server.until_waiting(topic)
        server.publish(topic, 1)
        server.publish(other, {"two": 2})
        assert read(program, 2) == [(topic, 1), (other, {"two": 2})]
        server.until_waiting(topic)
        postgres = Postgres(server)
        postgres.restart("fast")
        server.publish(topic, 3)
        assert read(program, 1) == [(topic, 3)]
        server.reload()
        server.publish(other, 4)
        assert read(program, 1) == [(other, 4)]
        until(lambda: json.loads(cursors.read_text())[other] == server.read(other)[-1]["message_id"], "the cursors on disk")
        assert not program.errors

    server.publish(topic, "while away")
    with Program(*arguments) as program:
        assert read(program, 1) == [(topic, "while away")]
        until(lambda: json.loads(cursors.read_text())[topic] == server.read(topic)[-1]["message_id"], "the cursors on disk")

    server.publish(topic, "lost")
    server.prune(topic)
    server.reload()   # a manager may still remember it
    server.publish(topic, "found")
    with Program(*arguments) as program:
        assert read(program, 1) == [(topic, "found")]
        until(lambda: any(topic in line and "expired" in line for line in program.errors), "the gap told")


def test_the_example_client_comes_back_after_errors(server, topic):
    with Program(str(CLIENT), server.url, topic) as program:
        server.until_waiting(topic)
        server.stop()
        until(lambda: program.errors, "an error told")
        server.start()
        server.until_waiting(topic, seconds=30)
        server.publish(topic, "back")
        assert json.loads(program.next())["payload"] == "back"


def test_the_example_client_gives_up_where_waiting_cannot_help(server):
    done = subprocess.run([sys.executable, CLIENT, server.url, "a\nb"], capture_output=True, text=True, timeout=20)
    assert done.returncode != 0 and "control characters" in done.stderr and "Traceback" not in done.stderr
