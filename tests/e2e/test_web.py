"""Each web server with its file from deploy/: statistics are protected, users reach can_poll(), slow clients occupy no worker, HTTP/2, reloads,
restarts of the workers."""
import base64
import contextlib
import copy
import gzip
import http.client
import http.server
import json
import re
import socket
import statistics
import subprocess
import threading
import time

import pytest

import h2_client
import tokens
import web
from hosts import HEALTH
from server import LEAVING_S, METRICS, POLL, STALL_S, STATS, WEB, Server, new_topic, soon, until
from stalls import again_after_a_stall

pytestmark = pytest.mark.web
LOCAL, ELSEWHERE = "127.0.0.1", "127.0.0.2"   # client addresses; the files allow only the first one


@contextlib.contextmanager
def fronted(server, kind=None, **options):
    """The server behind a web server of the kind under test with this configuration."""
    with (kind or web.SERVERS[WEB])(server.run / "fcgi", **options) as front:
        door = copy.copy(server)
        door.front, door.port, door.tls_port, door.url = front, front.port, front.tls_port, f"http://127.0.0.1:{front.port}"
        yield door


def raw(server, request, source=LOCAL):
    """Sends these bytes. Returns the status and the body."""
    def ask():
        with socket.create_connection(("127.0.0.1", server.port), 20, (source, 0)) as client:
            client.sendall(request.replace("\n", "\r\n").encode())
            response = http.client.HTTPResponse(client)
            response.begin()
            return response.status, response.read().decode()

    return again_after_a_stall(ask, lambda answer: answer[0] == 503)


def get(server, path, source, method="GET", headers=""):
    return raw(server, f"{method} {path} HTTP/1.1\nHost: x\nConnection: close\nContent-Length: 0\n{headers}\n", source)


# --- access to the resources

def test_stats_and_metrics_are_closed_to_others(server):
    for path in STATS, METRICS:
        for method in "GET", "OPTIONS", "POST":
            assert get(server, path, ELSEWHERE, method)[0] == 403
        for disguise in (path + "?x", path.replace("/poll", "//poll"), path.replace("poll", "%70oll"), "/x/.." + path, path + "/.",
                         path + "#"):
            status, text = get(server, disguise, ELSEWHERE)
            assert status in (400, 403, 404) and "active_waiters" not in text, disguise
    assert get(server, STATS, LOCAL)[0] == 200 and get(server, METRICS, LOCAL)[0] in (200, 404)


def test_balancers_may_ask_for_health(server):
    status, text = get(server, HEALTH, ELSEWHERE)
    assert (status, json.loads(text)["status"]) == (200, "ok")
    assert get(server, HEALTH + "/x", ELSEWHERE)[0] == 404


@pytest.mark.parametrize("disguise", [POLL + "?x=" + STATS, POLL + "#" + STATS, POLL + "?#" + STATS, POLL + ";" + STATS, POLL + "%3f" + STATS,
                                      POLL + "%23" + STATS, "/x#" + STATS])
@pytest.mark.parametrize("method", ["GET", "OPTIONS", "HEAD"])
def test_nothing_else_shows_the_stats(server, method, disguise):
    status, text = get(server, disguise, ELSEWHERE, method) if method != "HEAD" else (server.request("HEAD", disguise).status, "")
    assert "active_waiters" not in text and (method == "OPTIONS" or status != 200), text


def test_everybody_may_poll(server, topic):
    body = json.dumps({"topics": [topic], "timeout": 0})
    status, text = raw(server, f"POST {POLL} HTTP/1.1\nHost: x\nConnection: close\nContent-Length: {len(body)}\n\n{body}", ELSEWHERE)
    assert status == 200 and json.loads(text)["messages"] == []
    assert get(server, POLL, ELSEWHERE, "OPTIONS")[0] == 204


@pytest.mark.parametrize("path", [STATS, METRICS])
def test_pgpoll_answers_and_no_file_of_the_web_server(server, path):
    assert server.request("GET", path).headers["X-Content-Type-Options"] == "nosniff"


FRONT_CONTROLLER = "RewriteEngine On\nRewriteCond %{REQUEST_FILENAME} !-f\nRewriteRule . /index.html [L]\n"
NOBODY = "http://127.0.0.1:9/"


@pytest.mark.skipif(WEB != "apache", reason="the others look for pgpoll's paths first")
@pytest.mark.parametrize("where, rules, htaccess", [
    ("server", "<Directory /var/www/html>\nAllowOverride All\n</Directory>\n", FRONT_CONTROLLER),
    ("server", f"ProxyPass / {NOBODY}\n", ""),
    ("host", f"ProxyPass / {NOBODY}\n", ""),
    ("host", f"RewriteEngine On\nRewriteRule ^/(.*)$ {NOBODY}$1 [P,L]\n", ""),
    ("host", f'<Location "/">\nProxyPass {NOBODY}\n</Location>\n', "")], ids=("htaccess", "proxy", "host-proxy", "host-rewrite", "host-location"))
def test_a_site_with_rules_for_all_paths(server, topic, where, rules, htaccess):
    for is_enabled in False, True:
        with fronted(server, host_with(rules * (where == "host"), is_enabled), modules=("rewrite", "proxy_http"),
                     edit=lambda text: (web.uncomment(text, "Rules of a site") if is_enabled else text) + rules * (where == "server")) as door:
            (door.front.home / "www" / "index.html").write_text("the site's")
            (door.front.home / "www" / ".htaccess").write_text(htaccess)
            answer = door.request("POST", POLL, json.dumps({"topics": [topic], "timeout": 0}))
            assert ("next_since" in answer.text) == is_enabled, answer
            assert [door.ask("GET", path).headers["X-Content-Type-Options"] for path in (STATS, HEALTH)] == ["nosniff" if is_enabled else None] * 2
            assert ("the site's" in door.ask("GET", "/elsewhere").text) == bool(htaccess)


def host_with(rules, is_told):
    """Apache whose virtual host has these rules and, if they are in a Location, what our file tells to write after them."""
    (lines,) = re.findall(r"^    # Rules of a site.*\n(?:    # .*\n)*((?: +#\S.*\n)+)", (web.ROOT / "deploy/apache/pgpoll.conf").read_text(), re.M)
    told = '<Location "/messages/poll">\n' + lines.replace("#", "") + "</Location>\n" if is_told and "<Location" in rules else ""

    class Site(web.Apache):
        def configure(self):
            super().configure()
            self.rewrite("sites-available/000-default.conf", ("(?=</VirtualHost>)", (rules + told).replace("\\", r"\\")))
    return Site


@pytest.mark.skipif(WEB != "apache", reason="a handler is Apache's")
def test_a_site_with_a_handler_for_all_paths(server, topic):
    with fronted(server, host_with(f'<Location "/">\nSetHandler "proxy:{NOBODY}"\n</Location>\n', False), modules=("proxy_http",)) as door:
        assert "next_since" in door.request("POST", POLL, json.dumps({"topics": [topic], "timeout": 0})).text
        assert [door.request("GET", path).status for path in (STATS, METRICS, HEALTH)] == [200] * 3
        assert door.ask("GET", "/elsewhere").status == 503


def test_an_operator_lets_a_network_in(server):
    with fronted(server, edit=lambda text: re.sub(r"#(?=.*10\.0\.0\.0/8)", "", text).replace("10.0.0.0/8", "127.0.0.0/30")) as door:
        assert [get(door, path, ELSEWHERE)[0] != 403 for path in (STATS, METRICS)] == [True, True]
        assert [get(door, path, "127.0.0.9")[0] for path in (STATS, METRICS)] == [403, 403]


# --- files

def test_the_console_and_the_description(server):
    """Each file has the type that browsers require."""
    html, js = "text/html", "(text|application)/(x-)?javascript"
    types = {"/console/": html, "/console/index.html": html, "/console/console.css": "text/css", "/console/console.js": js,
             "/console/long_polling_client.js": js, "/console/icon.svg": re.escape("image/svg+xml"), "/openapi.json": "application/json"}
    with fronted(server, edit=lambda text: web.uncomment(text, "The console").replace("/usr/local/share/pgpoll/www", str(server.run / "www"))) as door:
        for path, wanted in types.items():
            answer = door.request("GET", path)
            assert answer.status == 200 and re.match(wanted, answer.headers["Content-Type"]), (path, answer, answer.headers["Content-Type"])
        page = door.request("GET", "/console/").text + door.request("GET", "/console/console.js").text
        assert {f"/console/{name}" for name in re.findall(r'(?:href|src|from)[ =]"(?:\./)?(\w+\.\w+)"', page)} < set(types)
        assert door.poll(new_topic()).messages == [] and get(door, STATS, ELSEWHERE)[0] == 403
    assert server.request("GET", "/console/").status == 404


# --- users

def basic(user):
    return {"Authorization": "Basic " + base64.b64encode(user.encode()).decode()}


def test_users_reach_can_poll(server, topic):
    """A client's own claim does not count: without authentication there are no users."""
    name = "ann:" + topic
    body = json.dumps({"topics": [name], "since": {name: "0"}, "timeout": 0})
    claims = {"Remote-User": "ann", "Remote_User": "ann", "X-Remote-User": "ann"}
    with fronted(server, edit=lambda text: web.uncomment(text, "Authentication")) as door:
        try:
            server.restrict("topic LIKE remote_user || ':%'", refused=topic)
            server.publish(name, 1)

            def status(method="POST", **headers):
                return door.request(method, POLL, body if method == "POST" else None, headers).status

            assert [status(), status(**basic("ann:wrong")), status(**basic("joe:secret")), status(**claims)] == [401] * 4
            answer = door.request("POST", POLL, body, basic("ann:secret"))
            assert answer.status == 200 and answer.payloads == [1]
            assert status(**basic("bob:secret"), **claims) == 403
            assert status("OPTIONS") == 204   # browsers send it without a login
            assert server.request("POST", POLL, body, {**claims, **basic("ann:secret")}).status == 403
        finally:
            server.unrestrict()


def test_tokens_reach_authenticate(server, topic):
    """Through the file as shipped."""
    name = "ann:" + topic
    body = json.dumps({"topics": [name], "since": {name: "0"}, "timeout": 0})
    with fronted(server) as door:
        def poll(token=None):
            return door.request("POST", POLL, body, {"Authorization": token} if token else {})

        try:
            server.publish(name, 1)
            server.sql("""CREATE OR REPLACE FUNCTION pgpoll.authenticate("authorization" text) RETURNS text LANGUAGE sql STABLE AS
                          $$ SELECT CASE $1 WHEN 'Bearer of ann' THEN 'ann' WHEN 'Bearer of bob' THEN 'bob' END $$""")
            server.sql("""CREATE OR REPLACE FUNCTION pgpoll.can_poll(remote_user text, topic text) RETURNS boolean LANGUAGE sql STABLE AS
                          $$ SELECT topic LIKE remote_user || ':%' $$""")
            until(lambda: (poll().status, poll("Bearer of bob").status) == (401, 403), "both heeded", 5 + STALL_S)
            assert poll("Bearer of joe").status == 401
            answer = poll("Bearer of ann")
            assert answer.status == 200 and answer.payloads == [1]
            refused = poll("Bearer")
            assert refused.json == {"detail": "Not authenticated"} and refused.headers["WWW-Authenticate"] == "Bearer"
            assert door.request("OPTIONS", POLL, headers={"Origin": "https://example.org"}).status == 204
        finally:
            server.unrestrict()
            server.authenticate_as_installed()
        until(lambda: poll().status == 200, "as installed again", 5 + STALL_S)


@pytest.mark.skipif(WEB == "lighttpd", reason="it passes a header on as it is")
def test_a_session_cookie_reaches_authenticate(server, topic):
    body = json.dumps({"topics": [topic], "timeout": 0})
    with fronted(server, edit=lambda text: web.uncomment(text, "Or pass a cookie"), modules=["headers"] if WEB == "apache" else []) as door:
        def status(**headers):
            return door.request("POST", POLL, body, headers).status

        try:
            server.sql("""CREATE OR REPLACE FUNCTION pgpoll.authenticate("authorization" text) RETURNS text LANGUAGE sql STABLE AS
                          $$ SELECT CASE $1 WHEN 'Bearer 1' THEN 'ann' END $$""")
            until(lambda: status() == 401, "authenticate() heeded", 5 + STALL_S)
            assert [status(Cookie=cookie) for cookie in ("session=1", "a=b; session=1; c=d")] == [200] * 2
            assert [status(Cookie=cookie) for cookie in ("session=2", "nosession=1", "session=", "")] == [401] * 4
            assert [status(Authorization="Bearer 1"), status(Authorization="Bearer 1", Cookie="session=2")] == [200, 401]
        finally:
            server.authenticate_as_installed()
        until(lambda: status() == 200, "as installed again", 5 + STALL_S)


@pytest.mark.skipif(WEB == "lighttpd", reason="no module checks such tokens")
def test_tokens_of_an_openid_connect_provider(server, topic):
    """The user is the token's. Whatever is wrong with a token, the answer is 401, which a page of a listed origin sees; its preflight has none."""
    name = "ann\u00e9:" + topic
    page, body = {"Origin": "https://app.example.org"}, json.dumps({"topics": [name], "since": {name: "0"}, "timeout": 0})
    with tokens.provider() as known, fronted(server, **tokens.OpenID(known, page["Origin"]).fronting(WEB)) as door:
        def poll(token, scheme="Bearer", **headers):
            return door.request("POST", POLL, body, {**page, **({"Authorization": f"{scheme} {token}"} if token is not None else {}), **headers})

        good, now = known.token("ann\u00e9"), time.time()
        head, claims, signature = good.split(".")
        other = known.token("root").split(".")
        public = known.openssl("rsa", "-in", known.key, "-pubout").decode()
        bad = {"none": None, "empty": "", "rubbish": "a.b.c", "expired": known.token(exp=now - 60),
               "for others": known.token(aud=["account"]), "of another issuer": known.token(iss="https://other.example.org"),
               "of another key": known.token(head={"kid": "two"}), "without a name": known.token(sub=None), "without end": known.token(exp=None),
               "unsigned": ".".join((*tokens.unsigned({"sub": "ann"}, {"alg": "none"}).split("."), "")), "forged": f"{head}.{other[1]}.{signature}",
               "cut": f"{head}.{claims}.{signature[:-4]}", "signed with what is public":
                   tokens.jwt({"sub": "ann", "iss": tokens.ISSUER, "aud": "pgpoll", "exp": now + 60}, public, {"alg": "HS256", "kid": "one"})}
        if WEB == "nginx":      # mod_auth_openidc does not look at nbf
            bad["not yet good"] = known.token(nbf=now + 600)
        try:
            server.restrict("topic LIKE remote_user || ':%'", refused=topic)
            server.publish(name, 1)
            assert poll(good).payloads == [1]
            assert poll(known.token("bob")).status == 403
            for what, token in bad.items():
                refused = poll(token)
                assert (refused.status, refused.headers.get_all("Access-Control-Allow-Origin")) == (401, [page["Origin"]]), what
                assert refused.headers["Access-Control-Allow-Credentials"] == "true"
            assert poll(good, scheme="Basic").status == 401
            assert "Access-Control-Allow-Origin" not in poll("", Origin="https://app.example.org.evil.example").headers
            assert "Access-Control-Allow-Origin" not in poll(good).headers     # pgpoll's own answers have PGPOLL_CORS_ORIGIN's, which is not set
            preflight = {**page, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
            assert door.request("OPTIONS", POLL, headers=preflight).status == 204
            if WEB == "nginx":      # the keys are read for each poll
                known.keys.write_text('{"keys": []}')
                assert poll(good).status == 401
                known.keys.unlink()
                assert poll(good).status == 500
        finally:
            server.unrestrict()


@contextlib.contextmanager
def application():
    """Starts an application that recognizes its users by a cookie. Yields its port."""
    class Application(web.Handler):
        def do_GET(self):
            user = {"session=1": "ann", "session=2": "bob"}.get(self.headers["Cookie"])
            self.answer(200 if user else 401, headers={"X-User": user} if user else {})

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Application) as listening:
        threading.Thread(target=listening.serve_forever).start()
        try:
            yield listening.server_port
        finally:
            listening.shutdown()


@pytest.mark.skipif(WEB != "nginx", reason="nginx's")
def test_users_of_an_application_reach_can_poll(server, topic):
    name = "ann:" + topic
    body = json.dumps({"topics": [name], "since": {name: "0"}, "timeout": 0})

    def logins(text):
        for section in "Or use the login of your application", "CORS headers for", "A 401 that pages":
            text = web.uncomment(text, section)
        settings = " ".join(" ".join(part.split()) for part in re.findall(r"\(`(.*?;.*?)`\)", text.replace("\n    #", ""), re.S))
        return text + f"location = /pgpoll-user {{ {settings} proxy_pass http://127.0.0.1:{port}; }}\n"

    with application() as port, fronted(server, edit=logins) as door:
        try:
            server.restrict("topic LIKE remote_user || ':%'", refused=topic)
            server.publish(name, 1)
            answer = door.request("POST", POLL, body, {"Cookie": "session=1"})
            assert answer.status == 200 and answer.payloads == [1]
            assert door.request("POST", POLL, body, {"Cookie": "session=2"}).status == 403
            page = {"Origin": "https://www.example.org"}
            refused = door.request("POST", POLL, body, {"X-User": "ann", **basic("ann:secret"), **page})
            assert (refused.status, refused.headers["Access-Control-Allow-Origin"]) == (401, page["Origin"])
            assert door.request("OPTIONS", POLL, headers=page).status == 204
            assert get(door, "/pgpoll-user", LOCAL)[0] == 404
        finally:
            server.unrestrict()


# --- slow clients

def slow_clients(port):
    """Returns pairs for connections that never complete their request: what to send first, and what to send a byte at a time."""
    head = f"POST {POLL} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    chunked = head + "Transfer-Encoding: chunked\r\n\r\n"
    for first, then in [
            (head + "Content-Length: 500\r\n\r\n", ""), (head + "Content-Length: 500\r\n\r\n", " "), (head, ""), (head, "x"), ("P", ""),
            (chunked, ""), (chunked + "ff\r\n", " "), (head.replace(POLL, STATS) + "Content-Length: 500\r\n\r\n", " "),
            (head + "Content-Length: 60000\r\n\r\n" + " " * 50_000, "")]:
        client = socket.create_connection(("127.0.0.1", port))
        client.sendall(first.encode())
        yield client, then.encode()


def test_slow_clients_cost_no_worker(server):
    clients = [pair for _ in range(8) for pair in slow_clients(server.port)]   # more clients than workers
    try:
        times = []
        for _ in range(9):
            for client, byte in clients:
                with contextlib.suppress(OSError):
                    client.sendall(byte)
            times += server.poll(new_topic()).seconds, server.request("GET", STATS).seconds
            time.sleep(0.2)
        assert statistics.median(times) < 1 and max(times) < 1 + STALL_S
    finally:
        for client, _ in clients:
            client.close()


def test_clients_that_do_not_read_their_answer_cost_no_worker(small, topic):
    """Behind Apache they do, because it passes an answer on as fast as the client reads it."""
    small.publish(topic, "x" * 5_000_000)
    body = json.dumps({"topics": [topic], "since": {topic: "0"}, "timeout": 0})
    clients = []
    try:
        for _ in range(small.worker_count):
            client = socket.socket()
            clients.append(client)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", small.port))
            client.sendall(f"POST {POLL} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        for client in clients:
            assert client.recv(12) == b"HTTP/1.1 200"
        if WEB == "apache":
            poll = small.poll_later(new_topic())
            time.sleep(1)
            assert not poll.done()
            for client in clients:
                client.close()
            poll.result(20)
        else:
            assert statistics.median(small.poll(new_topic()).seconds for _ in range(5)) < 2
    finally:
        for client in clients:
            client.close()
        small.prune(topic)


# --- HTTP/2, compression

@pytest.fixture(scope="module")
def secure(server):
    with fronted(server, tls=True) as door:
        yield door


@pytest.mark.parametrize("protocol", ["--http1.1", "--http2"])
def test_tls(secure, topic, protocol):
    curl = subprocess.Popen(["curl", "-sSk", protocol, "-w", "\n%{http_version} %{http_code}", f"https://127.0.0.1:{secure.tls_port}{POLL}",
                             "-d", json.dumps({"topics": [topic], "timeout": 20})], stdout=subprocess.PIPE, text=True)
    secure.until_waiting(topic)
    secure.publish(topic, 1)
    body, _, told = curl.communicate(timeout=20)[0].rpartition("\n")
    assert told == {"--http1.1": "1.1 200", "--http2": "2 200"}[protocol]
    assert [message["payload"] for message in json.loads(body)["messages"]] == [1]


def test_polls_share_an_http_2_connection(secure, topic):
    with h2_client.connect(secure.tls_port) as client:
        at_a_time = {"lighttpd": 8, "apache": 6, "nginx": 20}[WEB]   # 20 is chosen for the test, the others are limits
        assert client.most_streams() == {"lighttpd": 8, "apache": 100, "nginx": 128}[WEB]
        streams = [client.post(POLL, {"topics": [topic], "timeout": 20}) for _ in range(at_a_time)]
        secure.until_waiting(topic, at_a_time)
        if WEB == "apache":   # the others announce more streams than they serve, or serve more than they announce
            one_more = client.post(POLL, {"topics": [topic], "timeout": 0})
            client.receive_for(0.5)
            assert one_more not in client.ended
        secure.publish(topic, 1)
        for answer in [client.answer(stream) for stream in streams]:
            assert [message["payload"] for message in json.loads(answer)["messages"]] == [1]


def test_an_http_2_client_that_leaves_frees_its_workers(secure, topic):
    """A browser's abort() resets the stream and keeps the connection; a closed browser ends the connection."""
    with h2_client.connect(secure.tls_port) as one, h2_client.connect(secure.tls_port) as other:
        streams = [[client.post(POLL, {"topics": [topic], "timeout": 60}) for _ in range(3)] for client in (one, other)]
        secure.until_waiting(topic, 6)
        for stream in streams[0]:
            one.cancel(stream)
        other.close()
        secure.until_waiting(topic, 0, seconds=LEAVING_S)
        assert json.loads(one.answer(one.post(POLL, {"topics": [topic], "timeout": 0})))["messages"] == []


@pytest.mark.skipif(WEB == "lighttpd", reason="lighttpd compresses nothing that it passes on as it comes")
def test_compression(server, topic):
    server.publish(topic, "x" * 10_000)
    with fronted(server, edit=lambda text: web.uncomment(text, "Compression")) as door:
        def poll(timeout, since="0"):
            body = json.dumps({"topics": [topic], "since": {topic: since}, "timeout": timeout})
            connection = http.client.HTTPConnection("127.0.0.1", door.port, timeout=30)
            connection.request("POST", POLL, body, {"Accept-Encoding": "gzip"})
            response = connection.getresponse()
            body = response.read()
            connection.close()
            squeezed = response.headers["Content-Encoding"] == "gzip"
            return squeezed, json.loads(gzip.decompress(body) if squeezed else body)["messages"]

        squeezed, messages = poll(0)
        assert squeezed and [message["payload"] for message in messages] == ["x" * 10_000]
        waiting = server.threads.submit(poll, 20, "$")
        server.until_waiting(topic)
        server.publish(topic, 2)
        assert [message["payload"] for message in waiting.result(10)[1]] == [2]


# --- starts, stops, reloads

def test_a_reload_costs_no_poll(server, topic):
    with fronted(server) as door:
        polls = door.wait(topic, polls=8, timeout=20)
        door.front.reload()
        if WEB == "lighttpd":
            server.reload()   # as the comments in its file say
        else:
            time.sleep(0.5)   # nothing shows when it takes effect
            assert not any(poll.done() for poll in polls)
        assert until(lambda: answered(door), "answers again").seconds < 1 + STALL_S
        door.publish(topic, 1)
        for poll in polls:
            assert door.poll(topic, since=poll.result(19).next_since if not poll.result().messages else {topic: "0"}).payloads == [1]


def answered(server):
    try:
        return server.poll(new_topic())
    except OSError:
        return None


def test_workers_that_come_back_are_found(server, topic):
    """lighttpd checks once a second."""
    body, socket_file = json.dumps({"topics": [topic], "timeout": 0}), server.run / "fcgi" / "poll.sock"
    away = socket_file.with_name("away.sock")
    with fronted(server) as door:
        assert door.request("POST", POLL, body).status == 200
        socket_file.rename(away)
        try:
            for _ in range(5):
                assert door.request("POST", POLL, body).status in (502, 503)
        finally:
            away.rename(socket_file)
        until(lambda: door.request("POST", POLL, body).status == 200, "answers again", STALL_S + (3 if WEB == "lighttpd" else 0))


# --- Apache's mod_fcgid, which starts the workers itself

def under_fcgid(server, **options):
    """Apache with mod_fcgid, whose workers use the server's database."""
    database = {name: value for name, value in server.env.items() if name.startswith("PG") and name != "PGPOLL_URL"}
    return {"kind": web.Fcgid, "programs": server.run / "bin",
            "database": {**database, "PGUSER": "pgpoll_worker", "PGPOLL_LOG": str(server.run / "log" / "pgpoll.log")}, **options}


@pytest.mark.skipif(WEB != "apache", reason="a module of Apache")
def test_mod_fcgid():
    topic = new_topic()
    with Server(4, PGPOLL_CONNECTIONS="40") as server, fronted(server, **under_fcgid(
            server, edit=lambda text: web.uncomment(text, "Authentication").replace("HEARTBEAT_S 10", "HEARTBEAT_S 1"))) as door:
        def poll(**fields):
            return door.request("POST", POLL, json.dumps({"topics": [topic], "timeout": 20, **fields}), basic("ann:secret"))

        assert [door.request(method, POLL).status for method in ("POST", "GET", "OPTIONS")] == [401, 401, 204]
        server.restrict("remote_user = 'ann'", refused=topic)
        assert poll(timeout=0).messages == []
        polls = [server.threads.submit(poll) for _ in range(5)]
        server.until_waiting(topic, 5)
        server.publish(topic, 1)
        assert [answer.result(10).payloads for answer in polls] == [[1]] * 5

        body = json.dumps({"topics": [topic], "timeout": 60})
        with socket.create_connection(("127.0.0.1", door.port)) as client:
            client.sendall(f"POST {POLL} HTTP/1.1\r\nHost: x\r\nAuthorization: {basic('ann:secret')['Authorization']}\r\n"
                           f"Content-Length: {len(body)}\r\n\r\n{body}".encode())
            server.until_waiting(topic, 1)
        server.until_waiting(topic, 0, seconds=3 + STALL_S)   # two heartbeats

        assert get(door, STATS, ELSEWHERE)[0] == 403
        until(lambda: door.stats()["active_waiters"] == 0, "nobody in the stats")
        assert door.request("GET", METRICS).headers["X-Content-Type-Options"] == "nosniff"
        clients = list(slow_clients(door.port))
        assert soon(lambda: poll(timeout=0).seconds, 1)
        for client, _ in clients:
            client.close()
