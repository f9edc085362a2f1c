"""The log has a line for every poll at level debug, and never holds secrets."""
import contextlib
import fcntl
import json
import os
import re
import socket

import pytest

import between
from fastcgi import poll_as
from server import POLL, STALL_S, Server, until


@pytest.fixture(scope="module")
def own():
    with Server(2, PGPOLL_LOG_LEVEL="debug") as server:
        yield server


def line_of(server, request_id):
    def found():
        lines = [line for line in server.log() if f" poll {request_id} " in line]
        assert len(lines) < 2, lines
        return lines and lines[0]
    return until(found, f"a line about {request_id}")


def ask(server, request_id, body, **headers):
    return server.request("POST", POLL, body if isinstance(body, bytes) else json.dumps(body), {"X-Request-Id": request_id, **headers})


def test_a_line_for_every_poll(own, topic):
    own.publish(topic, "sesame")
    ask(own, "first", {"topics": [topic, "other"], "since": {topic: "0"}, "timeout": 0})
    line = line_of(own, "first")
    assert " debug: poll first from 127.0.0.1: ok, 1 messages, waited 0 of " in line and line.endswith(f' ms, 2 topics: "{topic}" "other"'), line
    ask(own, "second", {"topics": [topic], "timeout": 1})
    waited, total = map(int, re.search(r": timeout, 0 messages, waited (\d+) of (\d+) ms", line_of(own, "second")).groups())
    assert 900 < waited <= total < 1500 + 1000 * STALL_S
    ask(own, "third", b"nonsense")
    assert line_of(own, "third").endswith(" debug: poll third from 127.0.0.1: invalid")
    (poll,) = own.wait(topic, timeout=20)
    own.publish(topic, 2)
    poll.result()
    assert until(lambda: re.search(rf' debug: poll (\d+-\d+) from 127.0.0.1: ok, 1 messages, waited .*: "{topic}"$', "\n".join(own.log()), re.M),
                 "a poll without an id gets one")


def test_a_file_that_was_moved_away(own):
    """As logrotate does it: after a reload, a new file has the lines."""
    file = own.run / "log/pgpoll.log"
    owner = file.stat()
    file.rename(file.with_suffix(".1"))
    file.touch()
    os.chown(file, owner.st_uid, owner.st_gid)
    own.reload()
    ask(own, "rotated", {"topics": ["x"], "timeout": 0})
    assert line_of(own, "rotated")


def test_clients_cannot_forge_log_lines(own):
    ask(own, 'a"b c\\d%s;' + "e" * 100, {"topics": ['say "x" \\n \u202e ü'], "timeout": 0})
    line = line_of(own, "a_b_c_d_s_" + "e" * 54)
    assert line.endswith(r': "say \x22x\x22 \x5cn \xe2\x80\xae \xc3\xbc"'), line
    long = ["n%02d-" % n + "x" * 200 for n in range(50)]
    ask(own, "long", {"topics": long, "timeout": 0})
    line = line_of(own, "long")
    assert '50 topics: "n00-' in line and len(line) < 600 and line.endswith('"'), line


def test_no_secrets(own, topic):
    """The log contains no payloads, metadata, cursors, bodies or headers; without level debug, no topics but refused ones."""
    own.sql("INSERT INTO pgpoll.messages (topic, payload, metadata) VALUES (%s, '\"sesame\"', '\"sesame\"')", topic)
    headers = {"Authorization": "Basic sesame", "Cookie": "sesame", "Remote-User": "sesame"}
    ask(own, "one", {"topics": [topic], "since": {topic: "sesame"}, "timeout": 0, "sesame": "sesame"}, **headers)
    ask(own, "two", b'{"topics": "sesame"}', **headers)
    ask(own, "three", b"sesame", **headers)
    own.restrict("false", refused="refused")
    ask(own, "denied", {"topics": [topic], "timeout": 0}, **headers)
    own.unrestrict()
    lines = [line_of(own, name) for name in ("one", "two", "three", "denied")]
    assert " info: poll denied from 127.0.0.1: denied, " in lines[3]
    assert "sesame" not in "\n".join(own.log())


@pytest.mark.skipif(os.environ.get("MODE") == "direct", reason="once is enough")
def test_without_debug_only_a_refused_topic_is_named(server, topic):
    server.restrict("topic NOT LIKE 'refused%%'", refused="refused")
    ask(server, "denied-quietly", {"topics": [topic, "refused"], "timeout": 0})
    line = line_of(server, "denied-quietly")
    server.unrestrict()
    assert line.endswith(' 2 topics, may not poll "refused"') and topic not in "\n".join(server.log()), line


@pytest.mark.skipif(os.environ.get("MODE") == "direct", reason="once is enough")
def test_the_longest_names_are_cut(server):
    user, refused = "long" * 250, "refused" + "\U0001f9f6" * 248
    server.restrict("topic NOT LIKE 'refused%%'", refused="refused")
    assert poll_as(server, user, refused)[0] == 403
    server.unrestrict()
    (line,) = until(lambda: [line for line in server.log() if ' user "longlong' in line], "a line about the user")
    assert re.search(r' user "(long){60,}.{0,3}\.\.\.", may not poll "refused(\\xf0\\x9f\\xa7\\xb6){60,}.{0,12}\.\.\."$', line), line


@contextlib.contextmanager
def unread(kind, directory):
    """A full pipe as log, which nobody reads. Yields PGPOLL_LOG, stderr, and the reading end."""
    if kind == "socket":
        reader, writer = socket.socketpair()
        with reader, writer:
            writer.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    writer.send(b"\n")
            writer.setblocking(True)
            yield "stderr", writer.fileno(), reader.fileno()
        return
    path = directory / "fifo"
    if kind == "named pipe":
        os.mkfifo(path)
        path.chmod(0o666)
        read_end = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        write_end = os.open(path, os.O_WRONLY)
    else:
        read_end, write_end = os.pipe()
    os.write(write_end, b"\n" * fcntl.fcntl(write_end, fcntl.F_GETPIPE_SZ))
    yield (str(path), None, read_end) if kind == "named pipe" else ("stderr", write_end, read_end)
    os.close(read_end)
    os.close(write_end)


def read_now(descriptor):
    os.set_blocking(descriptor, False)
    with contextlib.suppress(BlockingIOError):
        return os.read(descriptor, 1 << 20).decode()
    return ""


@pytest.mark.skipif(os.environ.get("MODE") == "direct", reason="once is enough")
@pytest.mark.parametrize("kind", ["pipe", "another user's pipe", "named pipe", "socket"])
def test_an_unread_log_delays_nothing(server, topic, tmp_path_factory, kind):
    """Lines are lost and counted. The count is logged when the log is read again."""
    user = "www-data" if kind == "another user's pipe" else None
    if user and os.getuid():
        pytest.skip("only root may be another user")
    directory = tmp_path_factory.mktemp("log")
    directory.chmod(0o755)
    with unread(kind, directory) as (log, stderr, read_end), \
            between.manager(server, "unread", log, stderr, user, PGPOLL_LOG_LEVEL="debug") as manager:
        server.publish(topic, 1)
        until(lambda: between.accepts(manager.socket), "its socket")
        for _ in range(10):     # the timeout is for the first, which may come before the manager and its reader are connected
            status, answer = poll_as(manager.socket, "", topic, since={topic: "0"}, timeout=20)
            assert status == 200 and len(answer["messages"]) == 1
        lost = re.compile(r'^pgpoll_log_lines_lost_total\{host="unread"\} ([1-9]\d*)$', re.M)
        until(lambda: (found := lost.search(server.sql("SELECT pgpoll.metrics()")[0][0])) and int(found[1]) >= 10, "lost lines in the metrics")
        said = []

        def told():
            poll_as(manager.socket, "", topic)
            said.append(read_now(read_end))
            return re.search(r" warning: \d+ log lines were lost because nobody read the log", "".join(said))

        until(told, "word of the lost lines")
        until(lambda: poll_as(manager.socket, "", topic) and re.search(r" debug: poll ", read_now(read_end)), "lines again")
