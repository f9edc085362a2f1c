"""Web servers in front of pgpoll's workers. Each has Debian's configuration and our file from deploy/, installed as its comments say. The tests
replace only the sockets' directory in ours, and paths and ports in Debian's."""
import http.server
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


reserved = []


def free_port():
    """Returns a free TCP port and reserves it for the life of this process, so that the kernel gives it to nobody else. Servers can still listen
    on it, because they set SO_REUSEADDR, as this function does."""
    probe = socket.socket()
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    probe.bind(("127.0.0.1", 0))
    reserved.append(probe)
    return probe.getsockname()[1]


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def uncomment(text, section):
    """Enables the directives that are commented out ("#Word", not "# word") after a comment line that starts with this text, up to an empty line."""
    before, heading, rest = re.split(rf"(^ *# {re.escape(section)}.*\n)", text, maxsplit=1, flags=re.M)
    block, gap, after = rest.partition("\n\n")
    return before + heading + re.sub(r"^( *)#(?=[^ #])", r"\1", block, flags=re.M) + gap + after


class Handler(http.server.BaseHTTPRequestHandler):
    """The base of a test's own HTTP server. It logs nothing."""

    def log_message(self, *_):
        pass

    def read_json(self):
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def answer_head(self, status, length, headers=()):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def answer(self, status, body=b"", headers=()):
        self.answer_head(status, len(body), headers)
        self.wfile.write(body)


class WebServer:
    """A web server under test. edit: a function that edits our file as an operator would. tls: also serve HTTPS with HTTP/2 on tls_port. The
    password file that the files in deploy/ name has users ann and bob, both with password "secret". modules: the web server's, beside those that
    our file always needs."""
    binary = ours = etc = reload_signal = None   # the program, our file in deploy/, its place in /etc, the signal of the service's reload

    def __init__(self, sockets, port=None, edit=lambda text: text, tls=False, modules=()):
        self.home = pathlib.Path(tempfile.mkdtemp(prefix=f"pgpoll-{type(self).__name__.lower()}-", dir="/tmp"))
        self.home.chmod(0o755)
        self.sockets, self.port, self.tls_port = str(sockets), port or free_port(), free_port() if tls else None
        self.conf, self.log, self.process = self.home / "conf", self.home / "log", None
        shutil.copytree(self.etc, self.conf, symlinks=True)
        for name in "log", "run", "www":
            (self.home / name).mkdir()
            if os.getuid() == 0:
                shutil.chown(self.home / name, "www-data", "www-data")
        self.edit, self.more = edit, modules
        self.users = self.home / "htpasswd"
        hashed = subprocess.run(["openssl", "passwd", "-apr1", "secret"], check=True, capture_output=True, text=True).stdout
        self.users.write_text("".join(f"{name}:{hashed}" for name in ("ann", "bob")))
        if tls:
            subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
                            "-subj", "/CN=localhost", "-keyout", self.home / "key.pem", "-out", self.home / "cert.pem"], check=True,
                           stderr=subprocess.DEVNULL)
            (self.home / "both.pem").write_text((self.home / "key.pem").read_text() + (self.home / "cert.pem").read_text())

    def shipped(self, name):
        text = self.edit((ROOT / "deploy" / name).read_text())
        return self.local(text.replace("/run/pgpoll", self.sockets))

    def local(self, text):
        """Replaces the system's paths by those of this server."""
        return (re.sub(r"/etc/\w+/pgpoll\.htpasswd", str(self.users), text).replace(self.etc, str(self.conf))
                .replace(f"/var/log/{pathlib.Path(self.etc).name}", str(self.log)).replace("/var/www/html", str(self.home / "www")))

    def rewrite(self, name, *replacements):
        path = self.conf / name
        text = self.local(path.read_text())
        for pattern, by in replacements:
            text, count = re.subn(pattern, by, text, flags=re.M)
            assert count, (name, pattern)
        path.write_text(text)

    def configure(self):
        raise NotImplementedError

    def command(self):
        raise NotImplementedError

    def environment(self):
        return {}

    def start(self):
        try:
            self.configure()
            with open(self.home / "stderr", "w") as stderr:
                self.process = subprocess.Popen(self.command(), env={**os.environ, **self.environment()}, stdin=subprocess.DEVNULL,
                                                stdout=stderr, stderr=stderr, cwd="/", start_new_session=True)
            deadline = time.monotonic() + 30
            while not all(map(listens, filter(None, (self.port, self.tls_port)))):
                assert self.process.poll() is None and time.monotonic() < deadline, self.errors()
                time.sleep(0.02)
            return self
        except BaseException:
            self.stop()
            raise

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        try:
            if self.process:
                self.process.terminate()
                self.process.wait(20)
        finally:
            shutil.rmtree(self.home, ignore_errors=True)

    def reload(self):
        """Reloads as the service does."""
        self.process.send_signal(self.reload_signal)

    def errors(self):
        return "".join(path.read_text() for path in (self.home / "stderr", self.log / "error.log") if path.exists())


class Lighttpd(WebServer):
    binary, ours, etc, reload_signal = "/usr/sbin/lighttpd", "lighttpd/50-pgpoll.conf", "/etc/lighttpd", signal.SIGUSR1

    def configure(self):
        enabled = self.conf / "conf-enabled"
        shutil.rmtree(enabled)
        enabled.mkdir()
        (self.conf / "conf-available" / "50-pgpoll.conf").write_text(self.shipped(self.ours))
        self.rewrite("lighttpd.conf", (r"^(server.port +=).*", rf'\1 {self.port}\nserver.bind = "127.0.0.1"'),
                     (r"/run/lighttpd\.pid", str(self.home / "run" / "lighttpd.pid")), (r"/var/cache/lighttpd/uploads", str(self.home / "run")),
                     (r"^include_shell.*use-ipv6.*\n", ""))
        modules = ["10-fastcgi", "50-pgpoll", "05-auth"]
        if self.tls_port:
            modules.append("10-ssl")
            self.rewrite("conf-available/10-ssl.conf", (r"0\.0\.0\.0:443", f"127.0.0.1:{self.tls_port}"), (r"^include_shell.*\n", ""),
                         (r'".*/server\.pem"', f'"{self.home / "both.pem"}"'))
        for name in modules:
            (enabled / f"{name}.conf").symlink_to(f"../conf-available/{name}.conf")

    def command(self):
        return [self.binary, "-D", "-f", str(self.conf / "lighttpd.conf")]


class Apache(WebServer):
    binary, ours, etc = "/usr/sbin/apache2", "apache/pgpoll.conf", "/etc/apache2"
    reload_signal, modules = signal.SIGUSR1, ["proxy_fcgi", "buffer"]

    def environment(self):
        return {"APACHE_CONFDIR": str(self.conf), "APACHE_RUN_USER": "www-data", "APACHE_RUN_GROUP": "www-data",
                "APACHE_PID_FILE": str(self.home / "run" / "apache2.pid"), "APACHE_RUN_DIR": str(self.home / "run"),
                "APACHE_LOCK_DIR": str(self.home / "run"), "APACHE_LOG_DIR": str(self.log), "LANG": "C",
                "APACHE_STATE_DIRECTORY": str(self.home / "run" / "state")}

    def enable(self, tool, *names):
        done = subprocess.run([f"/usr/sbin/{tool}", "-q", *names], env={**os.environ, **self.environment()}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def configure(self):
        for link in [*(self.conf / "sites-enabled").iterdir(), *(self.conf / "mods-enabled").glob("fcgid.*"),
                     *(self.conf / "mods-enabled").glob("auth_openidc.*")]:
            link.unlink()
        (self.conf / "ports.conf").write_text("")
        name = pathlib.Path(self.ours).name
        (self.conf / "conf-available" / name).write_text(self.shipped(self.ours))
        self.rewrite("apache2.conf", ("/var/www/", f"{self.home}/www/"))
        self.rewrite("sites-available/000-default.conf",
                     (r"^<VirtualHost \*:80>", f"ServerName localhost\nListen 127.0.0.1:{self.port}\n<VirtualHost *:{self.port}>"))
        self.enable("a2enmod", *self.modules, *self.more)
        self.enable("a2enconf", name.removesuffix(".conf"))
        self.enable("a2ensite", "000-default")
        if self.tls_port:
            self.rewrite("sites-available/default-ssl.conf", (r"_default_:443|\*:443", f"*:{self.tls_port}"),
                         (r"/etc/ssl/certs/ssl-cert-snakeoil\.pem", str(self.home / "cert.pem")),
                         (r"/etc/ssl/private/ssl-cert-snakeoil\.key", str(self.home / "key.pem")))
            (self.conf / "ports.conf").write_text(f"Listen 127.0.0.1:{self.tls_port}\n")
            self.enable("a2enmod", "ssl", "http2")
            self.enable("a2ensite", "default-ssl")

    def command(self):
        return [self.binary, "-d", str(self.conf), "-f", str(self.conf / "apache2.conf"), "-DFOREGROUND"]


class Nginx(WebServer):
    binary, ours, etc = "/usr/sbin/nginx", "nginx/pgpoll.conf", "/etc/nginx"
    reload_signal = signal.SIGHUP

    def configure(self):
        (self.conf / "snippets" / "pgpoll.conf").write_text(self.shipped(self.ours))
        for link in (self.conf / "sites-enabled").iterdir():
            link.unlink()
        for link in (self.conf / "modules-enabled").iterdir():
            if not re.search(rf"-mod-({'|'.join(self.more) or '-'})\.conf", link.name):
                link.unlink()
        shutil.copy(ROOT / "deploy/nginx/pgpoll-token.js", self.conf / "snippets")
        descriptors, connections = re.findall(r"^#(worker_\w+ \d+;)$", self.shipped(self.ours), re.M)
        self.rewrite("nginx.conf", (r"worker_connections .*", connections), (r"^events", descriptors + r"\nevents"),
                     (r"/run/nginx\.pid", f"{self.home}/run/nginx.pid"), (r"^user .*", "user www-data;" if os.getuid() == 0 else ""))
        tls = f"listen 127.0.0.1:{self.tls_port} ssl http2; ssl_certificate {self.home}/cert.pem; ssl_certificate_key {self.home}/key.pem;"
        (self.conf / "sites-enabled" / "default").write_text(
            f"server {{ listen 127.0.0.1:{self.port}; {tls if self.tls_port else ''} root {self.home}/www; include snippets/pgpoll.conf; }}\n")

    def command(self):
        return [self.binary, "-c", str(self.conf / "nginx.conf"), "-g", "daemon off;"]


class Fcgid(Apache):
    """Apache with mod_fcgid. sockets: ignored. programs: their directory. database: variables for them."""
    ours, modules = "apache/pgpoll-fcgid.conf", ["fcgid"]

    def __init__(self, sockets, programs, database, **options):
        super().__init__(sockets, **options)
        self.programs, self.database = programs, database

    def shipped(self, name):
        text, count = re.subn(r"^FcgidInitialEnv (PGDATABASE|PGUSER|PGPOLL_LOG) .*\n", "", super().shipped(name), flags=re.M)
        assert count == 3
        return (text.replace("/usr/local/lib/pgpoll", str(self.programs))
                + "".join(f"FcgidInitialEnv {name} {value}\n" for name, value in self.database.items()))


SERVERS = {"lighttpd": Lighttpd, "apache": Apache, "nginx": Nginx}
