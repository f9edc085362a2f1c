#!/usr/bin/python3
"""Prints every message of some topics, one JSON object per line, until it is stopped.

    long_polling_client.py http://127.0.0.1:8080 orders notifications
    long_polling_client.py http://127.0.0.1:8080 orders --cursors orders.json   # continues where it stopped

Copy this file and replace print() with your own work. A message counts as done when the next poll is sent (with --cursors, when
the file is written). After a crash the client gets the last page again, so your work must tolerate the same message twice.
"""
import argparse
import decimal
import json
import math
import os
import random
import re
import sys
import time

import requests

TIMEOUT_S = 30
FIRST_BACKOFF_S, LAST_BACKOFF_S, LONGEST_RETRY_AFTER_S = 0.5, 30, 3600
CUT_S = 1   # a poll that a proxy ends after this time counts as a timeout, not as a failure


class Refused(Exception):
    """The server refuses the request: repeating it would not help."""


class Cut(Exception):
    """Something between the server and this client ended a poll that was waiting."""


class LongPollingClient:
    def __init__(self, url, topics, since=None, token=None):
        """token(renew) returns the bearer token. It is called before each poll, and again, with True, when the server answered 401."""
        self.url = url.rstrip("/") + "/messages/poll"
        self.topics = topics
        # Topic -> cursor. Without a cursor, or with "$", a topic is read from now on; "0" reads everything that the server still has,
        # and "-50" the last 50 messages of that.
        self.since = {topic: cursor for topic, cursor in (since or {}).items() if topic in topics and cursor not in (None, "$")}
        self.token = token
        self.http = requests.Session()
        self.limit = None   # messages per page; None: the server's default
        # Whether a proxy has answered 504, for a poll that waited or because it does not reach the server: one that does not wait tells.
        self.in_doubt = False

    def poll(self):
        """Waits for messages for at most TIMEOUT_S. Returns the answer. The caller continues from its next_since."""
        # A topic without a cursor is read from now on. The first poll asks, without waiting, for a cursor that means
        # "now", so that no failure of a longer poll can lose what is committed meanwhile. So does one for the last few messages, whose cursor begins with "-".
        timeout = 0 if self.in_doubt or any(self.since.get(topic, "-").startswith("-") for topic in self.topics) else TIMEOUT_S
        request = {"topics": self.topics, "since": self.since, "timeout": timeout}
        if self.limit:
            request["limit"] = self.limit
        began = time.monotonic()
        response, text = self.send(request)
        if response.status_code == 401 and self.token:
            response, text = self.send(request, renew=True)
        cut = response.status_code == 504 or response.status_code == 200 and not text.strip()
        if cut and timeout and time.monotonic() - began >= CUT_S:
            self.in_doubt = response.status_code == 504
            raise Cut
        if 400 <= response.status_code < 500 and response.status_code not in (408, 425, 429):
            raise Refused(f"{response.status_code} {text}")
        if response.status_code != 200:
            raise requests.HTTPError(f"{response.status_code} {response.reason}", response=response)
        answer = self.read(text)
        self.in_doubt = False
        return answer

    def send(self, request, renew=False):
        options = {}
        if self.token:
            # Without auth, requests replaces the header if there is a ~/.netrc with a password for this host.
            options = {"headers": {"Authorization": "Bearer " + self.token(renew)}, "auth": lambda prepared: prepared}
        response = self.http.post(self.url, json=request, timeout=(5, request["timeout"] + 10), stream=True, **options)
        with response:
            try:
                return response, response.content.decode(errors="replace")
            except requests.RequestException:
                return response, ""

    def read(self, text):
        """Parses an answer. If Python cannot parse it, polls for single messages, and skips one that it cannot parse alone."""
        try:
            answer = json.loads(text, parse_int=read_int, parse_float=read_float)
        except RecursionError:
            cursors = read_next_since(text)
            if self.limit != 1:
                self.limit = 1
                return {"messages": [], "next_since": {**cursors, **self.since}}
            print(f"skipped a message that is nested too deeply for Python; now at {cursors}", file=sys.stderr)
            self.limit = None
            return {"messages": [], "next_since": cursors}
        if not isinstance(answer, dict) or not {"messages", "next_since"} <= answer.keys():
            raise ValueError("this is not an answer of pgpoll")
        if self.limit and not answer.get("has_more"):
            self.limit = None
        return answer

    def pages(self):
        """Yields answers without end. Asking for the next answer acknowledges the one before."""
        failures = 0
        while True:
            try:
                answer = self.poll()
            except Cut:
                failures = 0
                continue
            except (requests.RequestException, ValueError) as error:   # ValueError: not JSON
                failures += 1
                pause = backoff(failures, getattr(error, "response", None))
                print(f"{error}; next attempt in {pause:.1f} s", file=sys.stderr)
                time.sleep(pause)
                continue
            failures = 0
            yield answer
            self.since = answer["next_since"]


# Numbers that int and float cannot hold keep their digits: print() writes them as strings.

def read_int(text):
    return int(text) if len(text) <= 4300 else decimal.Decimal(text)   # sys.int_info.default_max_str_digits


def read_float(text):
    number = float(text)
    return number if math.isfinite(number) else decimal.Decimal(text)


def read_next_since(text):
    """Returns the cursors of an answer whose messages cannot be parsed. The cursors stand after the messages."""
    end = len(text)
    while (end := text.rfind('"next_since":', 0, end)) >= 0:
        try:
            return json.loads("{" + text[end:])["next_since"]
        except ValueError:
            pass   # "next_since" is the name of a topic here
    raise ValueError("this is not an answer of pgpoll")


def backoff(failures, response):
    """Returns how many seconds to wait: a random number, whose limit doubles with each failure, plus the server's Retry-After."""
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
    """Replaces the file atomically, so that a power failure leaves the old or the new one. Cursors of other topics stay."""
    cursors = {**load(path), **cursors}
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump(cursors, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".new", path)


def read_token(path):
    with open(path, encoding="ascii") as file:
        return file.read().strip()


def run():
    parser = argparse.ArgumentParser(description="Prints every message of some topics, one JSON object per line.")
    parser.add_argument("url", help="where /messages/poll is, such as http://127.0.0.1:8080")
    parser.add_argument("topics", nargs="+", metavar="topic")
    parser.add_argument("--cursors", metavar="FILE", help="keep the cursors in this file; those of other topics in it stay")
    parser.add_argument("--token", metavar="FILE", help="send the bearer token in this file, which is read before each poll")
    arguments = parser.parse_args()

    client = LongPollingClient(arguments.url, arguments.topics, load(arguments.cursors) if arguments.cursors else None,
                               (lambda renew: read_token(arguments.token)) if arguments.token else None)
    for answer in client.pages():
        for topic, gap in answer.get("gaps", {}).items():
            print(f"{topic}: messages may be missing ({gap['reason']}), asked for {gap['requested']}", file=sys.stderr)
        for message in answer["messages"]:
            print(json.dumps(message, default=str), flush=True)   # ASCII only, which every terminal and file accepts
        if arguments.cursors:
            save(arguments.cursors, answer["next_since"])


def main():
    try:
        run()
    except KeyboardInterrupt:
        pass
    except (Refused, OSError, ValueError) as error:
        sys.exit(f"long_polling_client.py: {error}")


if __name__ == "__main__":
    main()
