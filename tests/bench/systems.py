"""What is measured: pgpoll as `make start` runs it, the herd, and Nchan. Each starts in a directory of its own on a free port, and
is stopped by process id."""
import contextlib
import http.client
import json
import os
import pathlib
import re
import resource
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "e2e"))
from server import Server, until  # noqa: E402
from web import free_port  # noqa: E402

PROGRAMS = ROOT / "build" / "tests" / "bench"
os.environ["PATH"] += ":/usr/sbin:/sbin"
NCHAN_MODULE = pathlib.Path("/usr/lib/nginx/modules/ngx_nchan_module.so")


class Pgpoll:
    name = "pgpoll"
    target = "pgpoll"

    def __init__(self, directory, workers, **settings):
        self.server = Server(workers, run=directory / "pgpoll", PGPOLL_ACCESS_MEMORY_S="5", **settings)
        self.port = self.server.port

    @property
    def env(self):
        return self.server.env

    def __enter__(self):
        self.server.__enter__()
        return self

    def __exit__(self, *exception):
        self.server.__exit__(*exception)

    def waiting(self):
        return self.server.stats()["active_waiters"]

    def pids(self):
        return list(self.server.processes())

    def memory_kib(self, client_pid):
        """Of all processes, the database's included."""
        total = 0
        for pid in set(self.pids()) - {client_pid}:
            with contextlib.suppress(OSError):
                total += kib_of(f"/proc/{pid}/smaps_rollup", "Pss")
        return total

    def free_workers(self):
        return self.server.sql("SELECT coalesce(sum(free_workers), 0) FROM pgpoll.listeners")[0][0]

    def transactions(self, seconds, patience_s):
        """How many the database does a second, by itself. An idle session reports what it did up to 10 s later."""
        def done():
            return self.server.sql("SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()")[0][0]
        time.sleep(patience_s)
        begin, before = time.monotonic(), done()
        time.sleep(seconds)
        return (done() - before - 1) / (time.monotonic() - begin)


class Peer:
    """Processes of our own, the last of which serves HTTP. env: where its database is."""

    env = {}

    def __init__(self, directory, workers):
        self.run, self.workers, self.port, self.processes = directory / self.target, workers, free_port(), []
        self.run.mkdir(exist_ok=True)

    def __enter__(self):
        try:
            self.start()
            until(self.answers, f"{self.name} answering", 20)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()

    def spawn(self, *command, **environment):
        with (self.run / "output").open("a") as output:
            self.processes.append(subprocess.Popen(command, env={**os.environ, **environment}, stdin=subprocess.DEVNULL,
                                                   stdout=output, stderr=output))

    def answers(self):
        dead = [process for process in self.processes if process.poll() is not None]
        assert not dead, f"{self.name} did not start; see {self.run}/output: {(self.run / 'output').read_text()[-500:]}"
        with contextlib.suppress(OSError, ValueError):
            return self.is_ready()

    def is_ready(self):
        """Whether the processes behind the web server answer, too. May raise what answers() suppresses."""
        return self.waiting() == 0

    def get(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def pids(self):
        found = [process.pid for process in self.processes]
        for pid in found:
            with contextlib.suppress(OSError):
                found += map(int, pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return found


class Herd(Peer):
    """Behind the lighttpd of `make start`, with the configuration that pgpoll ships."""
    name = "no database"
    target = program = "herd"

    def start(self):
        shutil.rmtree(self.run)
        for path in ("fcgi", "log", "uploads", "www", "bin"):
            (self.run / path).mkdir(parents=True)
        identity = user = ()
        if os.getuid() == 0:
            identity, user = ("-u", "www-data", "-U", "www-data"), ('server.username = "www-data"', 'server.groupname = "www-data"')
            for path in ("fcgi", "log", "uploads"):
                shutil.chown(self.run / path, "www-data", "www-data")
        shutil.copy(PROGRAMS / self.program, self.run / "bin")
        self.spawn("spawn-fcgi", "-n", "-s", f"{self.run}/fcgi/poll.sock", "-M", "0600", "-b", "4096", *identity,
                   "--", f"{self.run}/bin/{self.program}", str(self.workers + 20), **self.env)

        shipped = ROOT / "deploy" / "lighttpd"
        sockets = f'var.pgpoll_sockets = "{self.run}/fcgi"'
        (self.run / "50-pgpoll.conf").write_text(
            re.sub("(?m)^var.pgpoll_sockets = .*", sockets, (shipped / "50-pgpoll.conf").read_text()))
        (self.run / "lighttpd.conf").write_text("\n".join([
            (shipped / "local.conf").read_text(), *user,
            '$HTTP["url"] =~ "^/herd/" {',
            '    fastcgi.server = ( "" => (( "socket" => var.pgpoll_sockets + "/poll.sock", "check-local" => "disable" )) )', "}", ""]))
        self.spawn("lighttpd", "-D", "-f", f"{self.run}/lighttpd.conf", PGPOLL_RUN=str(self.run), PORT=str(self.port))

    def waiting(self):
        return int(self.get("/herd/waiting"))


class Notify(Herd):
    """The herd told by NOTIFY: what a database adds at the least."""
    name = "bare NOTIFY"
    target, program = "notify", "herd-notify"

    def __init__(self, directory, workers, env):
        super().__init__(directory, workers)
        self.env = env

    def is_ready(self):
        listening = "SELECT count(*) FROM pg_stat_activity WHERE query = 'LISTEN herd' AND state = 'idle'"
        found = subprocess.run(["psql", "-XqAtc", listening], env={**self.env, "PATH": "/usr/bin:/bin"}, check=True, stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, text=True).stdout
        return int(found) == 1 and super().is_ready()


class Nchan(Peer):
    name = "Nchan"
    target = "nchan"

    def start(self):
        text = (ROOT / "tests" / "bench" / "nchan.conf").read_text()
        (self.run / "nginx.conf").write_text(text.replace("@RUN@", str(self.run)).replace("@PORT@", str(self.port)))
        self.spawn("nginx", "-c", f"{self.run}/nginx.conf", "-e", f"{self.run}/error.log")

    def waiting(self):
        return int(re.search(r"subscribers: (\d+)", self.get("/status"))[1])


def all_systems():
    return [Pgpoll, Herd, *([Nchan] if NCHAN_MODULE.exists() else [])]


# --- clients

def storm(system, mode, **options):
    """Runs the load generator; returns what it prints. Every message must have reached every client once, in order."""
    done = subprocess.run(storm_command(system, mode, options), env={**os.environ, **system.env}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=120)
    result = json.loads(done.stdout) if done.stdout else {}
    assert done.returncode == 0, f"storm {mode} on {system.name}: " + str({k: v for k, v in result.items() if not k.endswith("_ms")})
    return result


def storm_command(system, mode, options):
    options = {"target": system.target, "port": system.port, "topic": f"bench-{time.monotonic_ns()}", **options}
    return [PROGRAMS / "storm", mode, *(f"--{name}={value}" for name, value in options.items())]


@contextlib.contextmanager
def clients_held(system, count, **options):
    """As many clients waiting; gives the load generator's process id."""
    with subprocess.Popen(storm_command(system, "hold", {"clients": count, **options}), env={**os.environ, **system.env}, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as clients:
        try:
            assert clients.stdout.readline() == b"holding\n", f"{count} clients could not wait at {system.name}"
            until(lambda: system.waiting() == count, f"{count} clients waiting at {system.name}", 30)
            yield clients.pid
            assert clients.poll() is None, f"clients waiting at {system.name} were sent away"
        finally:
            clients.stdin.close()
            clients.stdout.close()
            clients.terminate()


class OwnClients:
    """As many clients, each with so many topics that no other client polls."""

    def __init__(self, system, count, process):
        self.system, self.count, self.process, self.pid, self.begin = system, count, process, process.pid, time.monotonic()

    def wait_until_held(self):
        until(lambda: self.system.waiting() == self.count, f"{self.count} clients waiting at {self.system.name}", 60)
        return time.monotonic() - self.begin

    def publish(self):
        """Has the messages published; returns what the load generator prints."""
        output, _ = self.process.communicate(b"go\n", timeout=120)
        result = json.loads(output) if output else {}
        assert self.process.returncode == 0, f"storm own: " + str({k: v for k, v in result.items() if not k.endswith("_ms")})
        return result


@contextlib.contextmanager
def own_clients(system, count, topics, messages):
    command = storm_command(system, "own", {"clients": count, "topics": topics, "messages": messages})
    with subprocess.Popen(command, env={**os.environ, **system.env}, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield OwnClients(system, count, process)
        finally:
            process.kill()


@contextlib.contextmanager
def clients_rereading(system, topic, seconds, **options):
    """Clients that read topics from the start again and again, for so long, and until each has got every message in order once."""
    command = storm_command(system, "reread", {"topic": topic, "seconds": seconds, **options})
    with subprocess.Popen(command, env={**os.environ, **system.env}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as clients:
        try:
            yield
            result = json.loads(clients.communicate(timeout=120)[0] or "{}")
            assert clients.returncode == 0, f"clients that read again and again at {system.name} got an error, or not all messages: {result}"
        finally:
            clients.kill()


# --- the machine

def available_kib():
    return kib_of("/proc/meminfo", "MemAvailable")


def settled_kib(patience_s):
    """Available memory, once nothing much is being given back."""
    before, deadline = 0, time.monotonic() + patience_s
    while abs((now := available_kib()) - before) > 1024 and time.monotonic() < deadline:
        before = now
        time.sleep(0.3)
    return now


def kib_of(path, field):
    return int(re.search(rf"(?m)^{field}: +(\d+) kB", pathlib.Path(path).read_text())[1])


def cpu_s(pids):
    """Of each process's one thread, so far; without those that have ended."""
    used = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            used[pid] = int(pathlib.Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
    return used


def is_running(pid):
    with contextlib.suppress(OSError):
        return bool(pathlib.Path(f"/proc/{pid}/cmdline").read_bytes())   # a zombie has none


def until_gone(pids):
    until(lambda: not any(map(is_running, pids)), "processes gone", 30)


def raise_limits():
    for limit in resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC:
        hard = resource.getrlimit(limit)[1]
        resource.setrlimit(limit, (hard, hard))


def why_not(clients):
    """What this machine lacks for so many clients; None: nothing."""
    files, processes = (resource.getrlimit(limit)[1] for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC))
    needed = 5 * clients // 2 + 200
    if files != resource.RLIM_INFINITY and files < needed:
        return f"needs `ulimit -n {needed}`, is {files}"
    if os.getuid() and processes != resource.RLIM_INFINITY and processes < needed:
        return f"needs `ulimit -u {needed}`, is {processes}"
    if available_kib() < clients * 512:
        return f"needs {clients // 2} MiB of memory"
    return None
