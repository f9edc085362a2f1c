"""A site as operators build it: two PostgreSQL servers, of which one is the standby of the other, two web hosts, and clients and publishers on
another host. Each is a network namespace."""
import concurrent.futures
import contextlib
import os
import pathlib
import pwd
import shutil
import signal
import subprocess
import tempfile
import time

import psycopg2

from network import Network, processes
from server import ROOT, until

POSTGRES = max(pathlib.Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
PROGRAMS = ["pgpoll.fcgi", "pgpoll-worker", "pgpoll-reader", "pgpoll-stats.fcgi"]
# What publishers and other programs should set, too: to notice within seconds that a host is gone.
IMPATIENT = {"target_session_attrs": "read-write", "connect_timeout": 2, "tcp_user_timeout": 3000, "keepalives_idle": 1,
             "keepalives_interval": 1, "keepalives_count": 3}
LIGHTTPD = """
server.modules       = ( "mod_access", "mod_fastcgi" )
server.bind          = "{address}"
server.port          = 8080
server.document-root = "{directory}"
server.errorlog      = "{directory}/lighttpd.log"
server.upload-dirs   = ( "{directory}" )
server.username      = "www-data"
server.groupname     = "www-data"
include "50-pgpoll.conf"
"""


def as_postgres(*command):
    return ["runuser", "-u", "postgres", "--", *map(str, command)]


def name_of(pid):
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{pid}/comm").read_text().strip()
    return None


class Directory:
    """A directory that the users of the programs can enter."""

    def __enter__(self):
        self.path = pathlib.Path(tempfile.mkdtemp(prefix="pgpoll-site-", dir="/tmp"))
        self.path.chmod(0o755)
        return self.path

    def __exit__(self, *_):
        shutil.rmtree(self.path)


def make_cluster(directory, setup):
    """Makes a PostgreSQL cluster with pgpoll's schema and the SQL setup, of which databases are copied. Returns its data directory."""
    data = directory / "data"
    shutil.chown(directory, "postgres")
    subprocess.run(as_postgres(POSTGRES / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"),
                   check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd="/")
    with (data / "postgresql.conf").open("a") as settings:
        settings.write(f"unix_socket_directories = '{directory}'\nlisten_addresses = ''\nmax_connections = 100\n")
    with (data / "pg_hba.conf").open("a") as rules:
        rules.write("host all all 10.10.10.0/24 trust\nhost replication all 10.10.10.0/24 trust\n")
    pg_ctl = as_postgres(POSTGRES / "pg_ctl", "-s", "-w", "-D", data, "-l", directory / "log")
    subprocess.run([*pg_ctl, "start"], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd="/")
    psql = ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", directory, "-U", "postgres"]
    environment = {"PATH": os.environ["PATH"], "PGOPTIONS": "-c client_min_messages=warning"}
    try:
        subprocess.run([*psql, "-c", "CREATE DATABASE pgpoll"], check=True, env=environment)
        subprocess.run([*psql, "-d", "pgpoll", "-f", ROOT / "sql/install.sql"], check=True, env=environment)
        roles = "CREATE ROLE pgpoll_worker LOGIN IN ROLE pgpoll_poller;"
        subprocess.run([*psql, "-d", "pgpoll", "-c", roles + setup], check=True, env=environment)
    finally:
        subprocess.run([*pg_ctl, "stop", "-m", "fast"], check=True, stdin=subprocess.DEVNULL, cwd="/")
    return data


class Database:
    """A PostgreSQL server on a host. under: a command that runs it, as a list of words."""

    def __init__(self, host, directory, cluster, under=()):
        self.host, self.directory, self.under = host, directory, under
        directory.mkdir()
        shutil.chown(directory, "postgres")
        self.data = directory / "data"
        subprocess.run(as_postgres("cp", "-a", cluster, self.data), check=True, cwd="/")
        self.set(unix_socket_directories=directory, listen_addresses="*", wal_retrieve_retry_interval="200ms", wal_receiver_timeout="5s")

    def set(self, **settings):
        with (self.data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())

    def stands_by(self, primary):
        """It is a copy of the primary, and is to follow it when it is started."""
        self.set(primary_conninfo=f"host={primary.host.address} user=postgres application_name={self.host.name} connect_timeout=2")
        (self.data / "standby.signal").touch()
        shutil.chown(self.data / "standby.signal", "postgres")

    def pg_ctl(self, *arguments):
        self.host.run(*as_postgres(*self.under, POSTGRES / "pg_ctl", "-s", "-w", "-D", self.data, "-l", self.directory / "log", *arguments),
                      stdout=subprocess.DEVNULL, cwd="/", timeout=60)

    def start(self):
        self.pg_ctl("start")

    def stop(self, mode="fast"):
        self.pg_ctl("stop", "-m", mode)

    def kill(self):
        """Kills the processes. The host is there, and refuses connections."""
        self.stop("immediate")

    @contextlib.contextmanager
    def session(self):
        """Over its Unix socket, which no cut of the network reaches."""
        session = psycopg2.connect(host=str(self.directory), user="postgres", dbname="pgpoll")
        session.autocommit = True
        try:
            yield session
        finally:
            session.close()

    def sql(self, query, *arguments):
        with self.session() as session, session.cursor() as cursor:
            cursor.execute(query, arguments or None)
            return cursor.fetchall() if cursor.description else []

    def promote(self):
        self.sql("SELECT pg_promote()")

    def until_replayed(self, standby):
        """Returns when the standby has replayed everything that is committed here now."""
        now = time.monotonic()
        ((there,),) = self.sql("SELECT pg_current_wal_flush_lsn()")
        until(lambda: standby.sql("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", there) == [(True,)], "the standby caught up", 60)
        return now


class WebHost:
    """A manager with its workers, the statistics, and lighttpd. under: a command that runs the manager, as a list of words."""

    def __init__(self, host, directory, databases, workers=16, under=()):
        self.host, self.directory, self.workers, self.under = host, directory, workers, under
        self.url = f"{host.address}:8080"
        self.environment = {"PATH": os.environ["PATH"], "PGHOST": databases, "PGDATABASE": "pgpoll", "PGUSER": "pgpoll_worker",
                            "PGTARGETSESSIONATTRS": "read-write", "PGPOLL_HOST": host.name,
                            "PGPOLL_LOG": str(directory / "pgpoll.log")}
        directory.mkdir()
        (directory / "pgpoll.log").touch()
        for path in directory, directory / "pgpoll.log":
            shutil.chown(path, "www-data")
        self.install()
        configuration = (ROOT / "deploy/lighttpd/50-pgpoll.conf").read_text()
        (directory / "50-pgpoll.conf").write_text(configuration.replace('"/run/pgpoll"', f'"{directory}"'))
        (directory / "lighttpd.conf").write_text(LIGHTTPD.format(address=host.address, directory=directory))

    def install(self):
        for program in PROGRAMS:
            shutil.copy2(ROOT / "build" / program, self.directory / f"{program}.new")
            (self.directory / f"{program}.new").rename(self.directory / program)

    def start(self):
        self.manager = self.pool("poll", *self.under, self.directory / "pgpoll.fcgi", "--workers", self.workers)
        self.statistics = self.pool("stats", self.directory / "pgpoll-stats.fcgi")
        until(lambda: all((self.directory / f"{name}.sock").exists() for name in ("poll", "stats")), "sockets")
        self.lighttpd = self.start_logged("lighttpd", "-D", "-f", self.directory / "lighttpd.conf")

    def pool(self, name, *command):
        return self.start_logged("spawn-fcgi", "-n", "-s", self.directory / f"{name}.sock", "-M", "0600", "-b", "4096", "-u", "www-data",
                                 "-U", "www-data", "--", *command, env=self.environment)

    def start_logged(self, *command, **options):
        with (self.directory / "pgpoll.log").open("a") as log:
            return self.host.start(*command, stdout=log, stderr=log, **options)

    def reload(self):
        """Replaces the program and the workers, without a poll that fails."""
        self.install()
        self.manager.send_signal(signal.SIGHUP)
        self.statistics.send_signal(signal.SIGHUP)

    def worker_pids(self):
        return {pid for pid in processes(self.host.namespace) if name_of(pid) == "pgpoll-worker"}


class Site:
    """synchronous: whether a COMMIT waits for the standby. By the name of a host: cables, what Host takes; under, a command
    that runs PostgreSQL or the manager. Offers what Load needs of a server."""

    def __init__(self, cluster, synchronous=True, cables=None, under=None):
        self.cluster, self.synchronous = cluster, synchronous
        self.cables, self.under = cables or {}, under or {}

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            self.directory = stack.enter_context(Directory())
            self.network = stack.enter_context(Network())
            self.clients = self.add("clients")
            self.build()
            stack.enter_context(self.clients.entered())
            self.threads = concurrent.futures.ThreadPoolExecutor(200)
            stack.callback(self.threads.shutdown, wait=False, cancel_futures=True)
            self.stack = stack.pop_all()
        return self

    def __exit__(self, kind, *_):
        if kind:
            self.show_logs()
        self.stack.close()

    def show_logs(self):
        for path in [*self.directory.glob("*/*log"), *self.directory.glob("*.log")]:
            print(f"== {path.parent.name}/{path.name}", *path.read_text(errors="replace").splitlines()[-40:], sep="\n")

    def add(self, name):
        return self.network.add(name, **self.cables.get(name, {}))

    def build(self):
        self.databases = self.first, self.second = [
            Database(self.add(name), self.directory / name, self.cluster, self.under.get(name, ())) for name in ("db1", "db2")]
        self.second.stands_by(self.first)
        if self.synchronous:
            self.first.set(synchronous_standby_names="db2")
        for database in self.databases:
            database.start()
        until(lambda: self.first.sql("SELECT 1 FROM pg_stat_replication WHERE state = 'streaming'"), "a standby")
        names = ",".join(database.host.address for database in self.databases)
        self.web = [WebHost(self.add(name), self.directory / name, names, under=self.under.get(name, ()))
                    for name in ("web1", "web2")]
        for web in self.web:
            web.start()

    def sql(self, query, *arguments):
        """In the database that is the primary at first."""
        return self.first.sql(query, *arguments)

    @property
    def entrances(self):
        """Returns the addresses that clients know, by the names of their hosts."""
        return {web.host.name: web.url for web in self.web}

    def where(self, *databases):
        """Returns how publishers connect to these databases (by default, to whichever is the primary)."""
        return {"host": ",".join(database.host.address for database in databases or self.databases), "dbname": "pgpoll",
                "user": "fault_writer", **IMPATIENT}
