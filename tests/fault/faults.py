"""Faults that happen to a server under load. Each fault returns when it is over; other code checks whether messages flow again."""
import contextlib
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

import psycopg2

from server import Postgres, children, until


def all_children(pid):
    """Not from /proc/PID/task/PID/children, which may lack some while others end."""
    return [int(line) for line in subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True,
                                                 check=False).stdout.split()]


def environment(pid):
    words = pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return dict(word.decode().split("=", 1) for word in words if b"=" in word)


class Supervisor:
    """Replaces a server's pool, and restarts each process that ends, on the same listening socket, as systemd and multiwatch do. settings:
    environment variables in place of those that `make start` gave the programs."""

    def __init__(self, server, **settings):
        self.server, self.file = server, server.run / "poll.pids"
        pids = [int(word) for word in self.file.read_text().split()]
        command = pathlib.Path(f"/proc/{pids[0]}/cmdline").read_bytes().split(b"\0")[:-1]
        self.command, self.environment = command, {**environment(pids[0]), **settings}
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        until(lambda: not any(pathlib.Path(f"/proc/{pid}/exe").exists() for pid in pids), "the pool gone")
        self.socket = self.listen(server.run / "fcgi" / "poll.sock")
        self.stopping, self.processes, self.lock = False, {}, threading.Lock()
        self.ended = set()      # the signals that ended processes
        self.keepers = [threading.Thread(target=self.keep, args=(n,), daemon=True) for n in range(len(pids))]

    def listen(self, path):
        owner = path.parent.stat()
        path.unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(path))
        os.chown(path, owner.st_uid, owner.st_gid)
        path.chmod(0o600)
        listening.listen(4096)
        return listening

    def keep(self, number):
        user = {"user": "www-data", "group": "www-data", "extra_groups": []} if os.getuid() == 0 else {}
        with open(self.server.run / "log" / "pgpoll.log", "a", encoding="utf-8") as log:
            while True:
                with self.lock:
                    if self.stopping:
                        return
                    self.processes[number] = subprocess.Popen(self.command, env=self.environment, stdin=self.socket, stdout=log,
                                                              stderr=log, cwd=self.server.run, **user)
                    self.write_pids()
                if self.processes[number].wait() < 0:
                    self.ended.add(signal.Signals(-self.processes[number].returncode))
                time.sleep(0.05)

    def write_pids(self):
        new = self.file.with_suffix(".new")
        new.write_text("".join(f"{process.pid}\n" for process in self.processes.values()))
        new.rename(self.file)

    @property
    def pids(self):
        return [process.pid for process in self.processes.values()]

    def __enter__(self):
        for keeper in self.keepers:
            keeper.start()
        self.server.until_workers()
        return self

    def __exit__(self, *_):
        with self.lock:
            self.stopping = True
        for process in self.processes.values():
            process.terminate()
        for keeper in self.keepers:
            keeper.join(15)
        for process in self.processes.values():
            process.kill()
        self.socket.close()
        assert self.ended <= {signal.SIGTERM, signal.SIGKILL}, "one crashed"


class Proxy:
    """A proxy between the programs and PostgreSQL that can stop forwarding on its connections without closing them."""

    def __init__(self, target):
        self.target = str(target)       # PostgreSQL's socket
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="pgpoll-proxy-", dir="/tmp"))
        self.directory.chmod(0o755)
        self.listening = socket.socket(socket.AF_UNIX)
        self.links, self.lock = [], threading.Lock()

    def __enter__(self):
        path = self.directory / ".s.PGSQL.5432"
        self.listening.bind(str(path))
        path.chmod(0o777)
        self.listening.listen(100)
        threading.Thread(target=self.accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.listening.shutdown(socket.SHUT_RDWR)
        self.listening.close()
        self.cut()
        shutil.rmtree(self.directory)

    def accept(self):
        while True:
            try:
                near, _ = self.listening.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            try:
                far.connect(self.target)
            except OSError:
                near.close()
                continue
            link = {"ends": (near, far), "silent": False}
            with self.lock:
                self.links.append(link)
            for a, b in (near, far), (far, near):
                threading.Thread(target=self.pump, args=(link, a, b), daemon=True).start()

    def pump(self, link, source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if not link["silent"]:
                    sink.sendall(data)
        if not link["silent"]:
            self.close(link)

    def close(self, link):
        with self.lock:
            if link in self.links:
                self.links.remove(link)
                for end in link["ends"]:
                    with contextlib.suppress(OSError):
                        end.shutdown(socket.SHUT_RDWR)
                    end.close()

    def silence(self):
        """Stops forwarding on all present connections. Returns their number."""
        for link in list(self.links):
            link["silent"] = True
        return len(self.links)

    def cut(self):
        for link in list(self.links):
            self.close(link)


class Clock:
    """A clock that can be stepped, for processes that are started with it (libfaketime)."""

    LIBRARY = next(pathlib.Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)

    def __enter__(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="pgpoll-clock-", dir="/tmp"))
        self.directory.chmod(0o755)
        self.step(0)
        self.environment = {"LD_PRELOAD": str(self.LIBRARY), "FAKETIME_TIMESTAMP_FILE": str(self.directory / "offset"),
                            "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        self.command = ["/usr/bin/env", *(f"{name}={value}" for name, value in self.environment.items())]
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.directory)

    def step(self, hours):
        """Sets the clock this many hours ahead of the true time."""
        new = self.directory / "new"
        new.write_text(f"{hours * 3600:+d}\n")
        new.rename(self.directory / "offset")


class Copy:
    """A copy of a server's present cluster. With replicate it is an asynchronous standby until cut_off()."""

    def __init__(self, postgres, replicate):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="pgpoll-copy-", dir="/tmp"))
        self.directory.chmod(0o755)
        shutil.chown(self.directory, postgres.data.owner())
        self.postgres = Postgres(postgres.server)
        self.postgres.data = self.directory / "data"
        self.postgres.options = f"postgres -c unix_socket_directories={self.directory}"
        bin_directory = pathlib.Path(postgres.pg_ctl).parent
        user = ["runuser", "-u", postgres.data.owner(), "--"] if os.getuid() == 0 else []
        subprocess.run([*user, bin_directory / "pg_basebackup", "-D", self.postgres.data, "-h", postgres.server.env["PGHOST"],
                        "-U", "postgres", "-c", "fast", *(["-R"] if replicate else [])],
                       check=True, stdin=subprocess.DEVNULL, cwd="/")
        if replicate:
            self.postgres.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(subprocess.CalledProcessError):
            self.postgres.stop("immediate")
        shutil.rmtree(self.directory)

    def sql(self, query, *arguments):
        session = psycopg2.connect(host=str(self.directory), user="postgres", dbname="pgpoll")
        session.autocommit = True
        try:
            with session.cursor() as cursor:
                cursor.execute(query, arguments or None)
                return cursor.fetchall() if cursor.description else []
        finally:
            session.close()

    def until_replayed(self):
        """Returns when the copy has replayed everything that is committed now."""
        now = time.monotonic()
        ((there,),) = self.postgres.server.sql("SELECT pg_current_wal_flush_lsn()")
        until(lambda: self.sql("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", there) == [(True,)], "the standby caught up", 60)
        return now

    def cut_off(self):
        self.sql("ALTER SYSTEM SET primary_conninfo = ''")
        self.sql("SELECT pg_reload_conf()")
        until(lambda: self.sql("SELECT count(*) FROM pg_stat_wal_receiver") == [(0,)], "the standby cut off")

    def promote(self):
        self.sql("SELECT pg_promote()")


class Faults:
    """Causes the faults, and records what clients may notice of them, for Check (excuses) and check_failures()."""

    def __init__(self, server, supervisor, proxy, dice, outages):
        self.server, self.supervisor, self.proxy, self.dice, self.outages = server, supervisor, proxy, dice, outages
        self.postgres = Postgres(server)
        self.kills, self.old_kills, self.dead, self.excuses = 0, 0, 0, {}

    @contextlib.contextmanager
    def away(self, what):
        outage = [what, time.monotonic(), float("inf")]
        self.outages.append(outage)
        yield
        outage[2] = time.monotonic()

    def kill_worker(self):
        """Kills any worker. Its poll, if it has one, fails."""
        pids = sorted(self.server.worker_pids())
        self.kills += 1
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.dice.choice(pids), signal.SIGKILL)

    def kill_manager(self):
        """Kills the manager. Its workers answer the waiting polls and end; clients notice nothing else."""
        (pid,) = self.supervisor.pids
        os.kill(pid, signal.SIGKILL)
        until(lambda: self.supervisor.pids != [pid], "another manager")

    def terminate_backends(self):
        self.server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()")

    def restart(self, mode="fast"):
        with self.away("database"):
            self.postgres.restart(mode)

    def crash(self):
        self.restart("immediate")

    def postgres_runs(self):
        try:
            postmaster = (self.postgres.data / "postmaster.pid").read_text().split()[0]
        except FileNotFoundError:
            return False
        return pathlib.Path(f"/proc/{postmaster}/exe").exists()

    def freeze(self, seconds=3):
        """Stops PostgreSQL, as if the machine swapped or its disk hung: every connection stands still."""
        postmaster = int((self.postgres.data / "postmaster.pid").read_text().split()[0])
        with self.away("database"):
            stopped = [postmaster]
            os.kill(postmaster, signal.SIGSTOP)     # stopped first, so that it starts no new process
            for pid in all_children(postmaster):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
                    stopped.append(pid)
            time.sleep(seconds)
            for pid in reversed(stopped):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def silence(self):
        """Makes the programs' connections silent. Until the programs notice that, polls that need the database wait or get 503."""
        self.outages.append(["database", time.monotonic(), time.monotonic() + 6])
        silenced = self.proxy.silence()
        assert silenced > 0
        self.dead += silenced

    def reload(self):
        self.server.until_workers()     # a worker that ends meanwhile would be overlooked
        self.server.reload()

    def kill_old_manager(self):
        """Kills the old manager in the midst of a reload. Its workers answer the waiting polls and end."""
        until(self.reload_and_kill, "an old manager that lives long enough to be killed", 60)
        until(lambda: not self.server.named("pgpoll-old"), "the reload's end", 60)
        self.server.until_workers(60)

    def reload_and_kill(self):
        """Returns whether the old manager was killed before it ended."""
        self.server.until_workers(60)
        manager, deadline = self.server.manager, time.monotonic() + 5
        os.kill(manager, signal.SIGHUP)
        while time.monotonic() < deadline:
            for pid in children(manager, "pgpoll-old"):
                time.sleep(self.dice.choice([0, 0.05]) * self.dice.random())
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    self.old_kills += 1
                    return True
        return False

    def drain(self):
        """Tells the supervisor's processes to end; the supervisor restarts them."""
        before = self.supervisor.pids
        for pid in before:
            with contextlib.suppress(ProcessLookupError):   # it is about to be restarted after another fault
                os.kill(pid, signal.SIGTERM)
        until(lambda: not set(before) & set(self.supervisor.pids), "others in their places", 60)

    def lose_notifications(self):
        """Publishers' NOTIFYs are lost from now on. The heartbeats that managers send themselves still arrive."""
        self.server.sql("""
            CREATE SCHEMA IF NOT EXISTS deaf;
            CREATE OR REPLACE FUNCTION deaf.pg_notify(text, text) RETURNS void LANGUAGE sql AS '';
            GRANT USAGE ON SCHEMA deaf TO PUBLIC""")
        notifying = self.server.sql("SELECT pg_get_functiondef(oid) FROM pg_proc"
                                    " WHERE pronamespace = 'pgpoll'::regnamespace AND prosrc ~ 'pg_notify *\\('")
        assert notifying
        self.excuses["deaf"] = True
        for definition, in notifying:
            self.server.sql(re.sub(r"(?<![.\w])(pg_catalog\.)?pg_notify *\(", "deaf.pg_notify(", definition))

    def tool(self, name, *arguments):
        """Runs one of PostgreSQL's programs."""
        path = pathlib.Path(self.postgres.pg_ctl).with_name(name)
        subprocess.run([path, *arguments], check=True, stdin=subprocess.DEVNULL, env={**os.environ, **self.server.env})

    def dump(self):
        self.tool("pg_dump", "-Fc", "-f", self.server.run / "dump", "pgpoll")

    def restore(self):
        """Replaces the database by the dump, as an operator would who ignores running clients."""
        self.server.close_db()
        with self.away("database"):
            self.tool("dropdb", "--force", "pgpoll")
            self.tool("createdb", "pgpoll")
            self.tool("pg_restore", "--single-transaction", "-d", "pgpoll", self.server.run / "dump")
        # Polls that find a database without the schema fail at once.
        self.dead += sum(": schema," in line for line in self.server.log())

    # --- lighttpd

    @property
    def lighttpd(self):
        return int((self.server.run / "lighttpd.pid").read_text())

    def reload_lighttpd(self):
        """Sends SIGUSR1: lighttpd reads its configuration again. New requests wait until the present polls have ended."""
        os.kill(self.lighttpd, signal.SIGUSR1)

    def restart_lighttpd(self):
        old = self.lighttpd
        command = pathlib.Path(f"/proc/{old}/cmdline").read_bytes().split(b"\0")[:-1]
        settings, cwd = environment(old), os.readlink(f"/proc/{old}/cwd")
        with self.away("web"):
            os.kill(old, signal.SIGTERM)
            until(lambda: not pathlib.Path(f"/proc/{old}/exe").exists(), "lighttpd gone")
            subprocess.run(command, env=settings, cwd=cwd, check=True, stdin=subprocess.DEVNULL)
            until(lambda: self.server.request("GET", "/messages/poll/stats").status, "lighttpd again")
