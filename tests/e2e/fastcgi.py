"""The web server's side of FastCGI (FastCGI specification 1.0), for tests that break the protocol."""
import json
import re
import socket
import struct

from stalls import again_after_a_stall

BEGIN, ABORT, END, PARAMS, STDIN, STDOUT, STDERR, DATA, GET_VALUES = range(1, 10)
RESPONDER, KEEP_CONNECTION = 1, 1


def record(kind, content=b"", request=1, version=1, padding=0):
    return struct.pack(">BBHHBx", version, kind, request, len(content), padding) + content + bytes(padding)


def stream(kind, content, **options):
    """Records for a stream of any length, with the empty record that ends it."""
    pieces = [content[at:at + 65535] for at in range(0, len(content), 65535)]
    return b"".join(record(kind, piece, **options) for piece in [*pieces, b""])


def length(size):
    return bytes([size]) if size < 128 else struct.pack(">I", size | 1 << 31)


def parameter(name, value):
    name, value = name.encode(), value.encode()
    return length(len(name)) + length(len(value)) + name + value


def begin(role=RESPONDER, flags=0, **options):
    return record(BEGIN, struct.pack(">HB5x", role, flags), **options)


def parameters(**more):
    given = {"REQUEST_METHOD": "POST", "REQUEST_URI": "/messages/poll", "REMOTE_ADDR": "192.0.2.1", **more}
    return b"".join(parameter(name, value) for name, value in given.items())


def request(body, flags=0, **more):
    return begin(flags=flags) + stream(PARAMS, parameters(**more)) + stream(STDIN, body)


def connect(place, pool="poll", seconds=30):
    """Connects to place, which is a server or the path of a socket."""
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(seconds)
    client.connect(str(place.run / "fcgi" / f"{pool}.sock" if hasattr(place, "run") else place))
    return client


def read_all(client):
    """Reads until the other side closes the connection or resets it. Fails if nothing arrives for too long."""
    got = b""
    try:
        while piece := client.recv(65536):
            got += piece
    except ConnectionError:
        pass
    return got


def reply(said):
    """Returns the status and the text of an answer; None if there is no answer, or if it is incomplete."""
    content, at = b"", 0
    while at + 8 <= len(said):
        kind, size, padding = said[at + 1], *struct.unpack(">HB", said[at + 4:at + 7])
        if kind == STDOUT:
            content += said[at + 8:at + 8 + size]
        at += 8 + size + padding
    head, _, text = content.partition(b"\r\n\r\n")
    return (int(re.match(rb"Status: (\d+)", head)[1]), text.decode()) if text else None


def poll_as(server, user, *topics, timeout=0, **fields):
    """Polls as a user whom the web server has authenticated. Returns the status and the JSON."""
    body = json.dumps({"topics": topics, "timeout": timeout, **fields}).encode()
    status, text = ask_as(server, user, body, seconds=timeout + 30)
    return status, json.loads(text)


def ask_as(server, user, body, seconds=30):
    """Sends any bytes as the body. Returns the status and the text of the answer."""
    def ask():
        with connect(server, seconds=seconds) as client:
            client.sendall(request(body, REMOTE_USER=user))
            return reply(read_all(client))

    return again_after_a_stall(ask, lambda answer: answer and answer[0] == 503)
