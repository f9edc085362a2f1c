#!/usr/bin/python3
"""Prints every message of some topics, one JSON object a line, for ever.

    long_polling_client.py http://localhost:8080 orders notifications
    long_polling_client.py http://localhost:8080 orders --cursors orders.json   # goes on where it stopped

Copy it and put your own work in the place of print(). A message counts as done when the next poll is sent (and, with
--cursors, when the file is written): after a crash the last page comes again, so do the same message twice without harm.
"""
import argparse
import json
import os
import random
import re
import sys
import time

import requests

TIMEOUT_S = 30
FIRST_BACKOFF_S, LAST_BACKOFF_S, LONGEST_RETRY_AFTER_S = 0.5, 30, 3600


class Refused(Exception):
    """The server says that this request is wrong: asking again would not help."""


class LongPollingClient:
    def __init__(self, url, topics, since=None):
        self.url = url.rstrip("/") + "/messages/poll"
        self.topics = topics
        # Topic -> cursor. A topic without one, or with "$", is read from now on; "0" would read everything that the server still has.
        self.since = {topic: cursor for topic, cursor in (since or {}).items() if topic in topics and cursor != "$"}
        self.http = requests.Session()

    def poll(self):
        """Waits for messages, at most TIMEOUT_S; returns the answer, whose next_since is not taken over yet."""
        # A topic without a cursor is read from now on. When that is, it first asks at once, so that no failure of a longer
        # poll can lose what is committed meanwhile.
        timeout = TIMEOUT_S if all(topic in self.since for topic in self.topics) else 0
        response = self.http.post(
            self.url,
            json={"topics": self.topics, "since": self.since, "timeout": timeout},
            timeout=(5, timeout + 10),
        )
        if 400 <= response.status_code < 500 and response.status_code not in (408, 425, 429):
            raise Refused(f"{response.status_code} {response.text}")
        if response.status_code != 200:
            raise requests.HTTPError(f"{response.status_code} {response.reason}", response=response)
        answer = response.json()
        if not isinstance(answer, dict) or not {"messages", "next_since"} <= answer.keys():
            raise ValueError("not an answer of pgpoll")
        return answer

    def pages(self):
        """Yields answers for ever. When the caller asks for the next one, the last one is done with."""
        failures = 0
        while True:
            try:
                answer = self.poll()
            except (requests.RequestException, ValueError) as error:   # ValueError: not JSON
                failures += 1
                pause = backoff(failures, getattr(error, "response", None))
                print(f"{error}; next attempt in {pause:.1f} s", file=sys.stderr)
                time.sleep(pause)
                continue
            failures = 0
            yield answer
            self.since = answer["next_since"]


def backoff(failures, response):
    """Seconds: up to twice as long with every failure, never the same for all clients, never less than the server asked for."""
    longest = min(LAST_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** min(failures - 1, 10))
    asked = response.headers.get("Retry-After", "") if response is not None else ""
    return (min(int(asked), LONGEST_RETRY_AFTER_S) if re.fullmatch("[0-9]+", asked) else 0) + random.uniform(0, longest)


def load(path):
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return {}


def save(path, cursors):
    """All or nothing, also when the power goes."""
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump(cursors, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".new", path)


def main():
    parser = argparse.ArgumentParser(description="Prints every message of some topics, one JSON object a line.")
    parser.add_argument("url", help="where /messages/poll is, such as http://localhost:8080")
    parser.add_argument("topics", nargs="+", metavar="topic")
    parser.add_argument("--cursors", metavar="FILE", help="keep the place in this file")
    arguments = parser.parse_args()

    client = LongPollingClient(arguments.url, arguments.topics, load(arguments.cursors) if arguments.cursors else None)
    for answer in client.pages():
        for topic, gap in answer.get("gaps", {}).items():
            print(f"{topic}: messages may be missing ({gap['reason']}), asked for {gap['requested']}", file=sys.stderr)
        for message in answer["messages"]:
            print(json.dumps(message), flush=True)   # ASCII: any terminal and any file takes it, whatever JSON holds
        if arguments.cursors:
            save(arguments.cursors, answer["next_since"])


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
    except (Refused, OSError, ValueError) as error:
        sys.exit(f"long_polling_client.py: {error}")
