"""An HTTP/2 client over TLS that can cancel one request of several on a connection, as browsers do and curl cannot."""
import contextlib
import json
import socket
import ssl
import time

import h2.config
import h2.connection
import h2.events


class connect:
    def __init__(self, port):
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        self.socket = context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=90))
        assert self.socket.selected_alpn_protocol() == "h2"
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.http.initiate_connection()
        self.bodies, self.ended, self.status, self.settled = {}, set(), {}, False
        self.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    def flush(self):
        self.socket.sendall(self.http.data_to_send())

    def post(self, path, body):
        stream, data = self.http.get_next_available_stream_id(), json.dumps(body).encode()
        self.http.send_headers(stream, [(":method", "POST"), (":scheme", "https"), (":authority", "localhost"), (":path", path),
                                        ("content-length", str(len(data)))])
        self.http.send_data(stream, data, end_stream=True)
        self.flush()
        self.bodies[stream] = b""
        return stream

    def cancel(self, stream):
        self.http.reset_stream(stream, 8)   # CANCEL
        self.flush()

    def receive(self):
        data = self.socket.recv(65536)
        assert data, "the connection was closed"
        for event in self.http.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived):
                self.status[event.stream_id] = dict(event.headers)[":status"]
            elif isinstance(event, h2.events.DataReceived):
                self.bodies[event.stream_id] += event.data
                self.http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                self.ended.add(event.stream_id)
            elif isinstance(event, h2.events.RemoteSettingsChanged):
                self.settled = True
            else:
                assert not isinstance(event, (h2.events.StreamReset, h2.events.ConnectionTerminated)), event
        self.flush()

    def receive_for(self, seconds):
        """Receives what comes within this time, such as heartbeats."""
        deadline, patience = time.monotonic() + seconds, self.socket.gettimeout()
        while (left := deadline - time.monotonic()) > 0:
            self.socket.settimeout(left)
            with contextlib.suppress(TimeoutError):
                self.receive()
        self.socket.settimeout(patience)

    def most_streams(self):
        """Returns how many open requests the server allows on one connection."""
        while not self.settled:
            self.receive()
        return self.http.remote_settings.max_concurrent_streams

    def answer(self, stream):
        """Returns the body of an answer, whose status must be 200."""
        while stream not in self.ended:
            self.receive()
        assert self.status[stream] == "200", (self.status[stream], self.bodies[stream])
        return self.bodies[stream]
