"""Proxies between pgpoll and its PostgreSQL, such as PgBouncer in transaction mode and one that loses notifications, and a server that is silent."""
import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import threading

from server import until


@contextlib.contextmanager
def directory():
    """A directory with a short path that all users can read."""
    made = pathlib.Path(tempfile.mkdtemp(prefix="pgpoll-between-", dir="/tmp"))
    made.chmod(0o777)
    try:
        yield made
    finally:
        shutil.rmtree(made)


def accepts(path):
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


@contextlib.contextmanager
def pgbouncer(server):
    """Yields the directory of a PgBouncer's socket, to be used as PGHOST."""
    database = server.env
    with directory() as home:
        (home / "pgbouncer.ini").write_text(f"""
            [databases]
            {database["PGDATABASE"]} = host={database["PGHOST"]} port={database["PGPORT"]}
            [pgbouncer]
            listen_addr =
            listen_port = 5432
            unix_socket_dir = {home}
            auth_type = trust
            auth_file = {home}/users
            pool_mode = transaction
            """.replace("            ", ""))
        (home / "users").write_text('"pgpoll_worker" ""\n')
        owner = ["-u", pathlib.Path(database["PGHOST"]).owner()] if os.getuid() == 0 else []
        program = shutil.which("pgbouncer", path=os.environ["PATH"] + ":/usr/sbin")
        with open(home / "log", "w") as log:
            process = subprocess.Popen([program, *owner, home / "pgbouncer.ini"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            until(lambda: accepts(home / ".s.PGSQL.5432"), "PgBouncer")
            yield home
        finally:
            process.terminate()
            process.wait(20)


PREPARED = b"\0pgpoll_new_messages "    # in a Bind message, after an empty name of a portal


class Silent:
    """A server that lets no TCP connect, as a host without power: its backlog is full. answer() makes room."""

    def __enter__(self):
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.socket.listen(0)
        self.port = self.socket.getsockname()[1]
        self.filler = socket.create_connection(self.socket.getsockname())
        return self

    def __exit__(self, *_):
        self.filler.close()
        self.socket.close()

    def answer(self):
        self.socket.accept()[0].close()

    def is_asked(self):
        """Whether a client has connected since answer()."""
        self.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            return bool(self.socket.accept())
        return False


class Wire:
    """A proxy to a server's PostgreSQL, on a socket in a directory of its own. While deaf is set, it drops notifications. If version is set, it
    pretends that the server has that version. While forgets is set, the server does not know the statement that a manager has prepared, as if a
    pooler gave it another session. uses_prepared: the manager has run it. heartbeats: how many of the manager's own notifications have passed."""

    def __init__(self, server, home):
        self.deaf = self.forgets = self.uses_prepared = False
        self.version = None
        self.heartbeats = 0
        self.target = str(pathlib.Path(server.env["PGHOST"]) / ".s.PGSQL.5432")
        self.listening = socket.socket(socket.AF_UNIX)
        self.listening.bind(str(home / ".s.PGSQL.5432"))
        (home / ".s.PGSQL.5432").chmod(0o777)
        self.listening.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listening.accept()
                database = socket.socket(socket.AF_UNIX)
                database.connect(self.target)
                threading.Thread(target=self._carry, args=(client, database), daemon=True).start()
                threading.Thread(target=self._carry_back, args=(database, client), daemon=True).start()

    def _carry(self, source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.uses_prepared |= PREPARED in data
                target.sendall(data.replace(PREPARED, b"\0pgpoll_old_messages ") if self.forgets else data)
            target.shutdown(socket.SHUT_WR)

    def _carry_back(self, source, target):
        """Copies message by message: a type, a length that includes itself, and the rest."""
        with contextlib.suppress(OSError), source.makefile("rb") as messages:
            while head := messages.read(5):
                message = head + messages.read(int.from_bytes(head[1:], "big") - 4)
                if self.version and message[5:].startswith(b"server_version\0"):
                    text = b"server_version\0" + self.version.encode() + b"\0"
                    message = b"S" + (len(text) + 4).to_bytes(4, "big") + text
                self.heartbeats += head[:1] == b"A" and message[9:].startswith(b"pgpoll_")
                if not (self.deaf and head[:1] == b"A"):
                    target.sendall(message)
            target.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def wire(server):
    """Yields the proxy and its PGHOST."""
    with directory() as home:
        made = Wire(server, home)
        try:
            yield made, home
        finally:
            made.listening.close()


@contextlib.contextmanager
def manager(server, host, log, stderr=subprocess.DEVNULL, user=None, under=(), workers=2, **settings):
    """Starts another manager for a server's database, or with workers=0 a worker without a manager. Yields its process, with the socket's path as
    .socket. under: a command that runs it, as a list of words."""
    environment = {"PATH": os.environ["PATH"], **server.env, "PGUSER": "pgpoll_worker", "PGPOLL_HOST": host, "PGPOLL_LOG": str(log),
                   **{name: str(value) for name, value in settings.items()}}
    with directory() as home:
        as_user = ["-u", user] if user else []
        process = subprocess.Popen([*under, "spawn-fcgi", "-n", "-s", home / "socket", *as_user, "--", server.run / "bin/pgpoll.fcgi",
                                    *(["--workers", str(workers)] if workers else [])],
                                   env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr)
        process.socket = home / "socket"
        try:
            yield process
        finally:
            process.terminate()
            process.wait(30)
