"""A site as operators build it: two PostgreSQL servers, of which one is the standby of the other, two web hosts, and clients and publishers on
another host. Each is a network namespace."""
import concurrent.futures
import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile

import psycopg2

from network import PREFIX, Network, processes
from server import ROOT, name_of, until

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


class Directory:
    """A directory that the users of the programs can enter."""

    def __enter__(self):
        self.path = pathlib.Path(tempfile.mkdtemp(prefix=f"{PREFIX}-{os.getpid()}-", dir="/tmp"))
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
        if cluster:
            subprocess.run(as_postgres("cp", "-a", cluster, self.data), check=True, cwd="/")

    def configure(self):
        self.set(unix_socket_directories=self.directory, listen_addresses="*", wal_retrieve_retry_interval="200ms", wal_receiver_timeout="5s")

    def set(self, **settings):
        with (self.data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())

    def install(self, tree):
        """Installs or upgrades the schema, as pgpoll-setup does."""
        subprocess.run(["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", self.directory, "-U", "postgres", "-d", "pgpoll",
                        "-f", tree / "sql/install.sql"], check=True, stdin=subprocess.DEVNULL)

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

    def is_there(self):
        with contextlib.suppress(psycopg2.OperationalError):
            return self.sql("SELECT true")

    def is_primary(self):
        return self.is_there() and self.sql("SELECT NOT pg_is_in_recovery()") == [(True,)]


class WebHost:
    """A manager with its workers, the statistics, and lighttpd. under: a command that runs the manager, as a list of words."""

    def __init__(self, host, directory, databases, workers=16, under=()):
        self.host, self.directory, self.workers, self.under = host, directory, workers, under
        self.url = f"{host.address}:8080"
        self.environment = {"PATH": os.environ["PATH"], "PGHOST": databases, "PGDATABASE": "pgpoll", "PGUSER": "pgpoll_worker",
                            "PGTARGETSESSIONATTRS": "read-write", "PGPOLL_HOST": host.name, "PGPOLL_LOG": str(directory / "pgpoll.log")}
        directory.mkdir()
        (directory / "pgpoll.log").touch()
        for path in directory, directory / "pgpoll.log":
            shutil.chown(path, "www-data")
        self.install()
        configuration = (ROOT / "deploy/lighttpd/50-pgpoll.conf").read_text()
        (directory / "50-pgpoll.conf").write_text(configuration.replace('"/run/pgpoll"', f'"{directory}"'))
        (directory / "lighttpd.conf").write_text(LIGHTTPD.format(address=host.address, directory=directory))

    def install(self, tree=ROOT):
        for program in PROGRAMS:
            shutil.copy2(tree / "build" / program, self.directory / f"{program}.new")
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

    def reload(self, tree=ROOT):
        """Replaces the programs by those of this tree, and the workers."""
        self.install(tree)
        self.manager.send_signal(signal.SIGHUP)
        self.statistics.send_signal(signal.SIGHUP)

    def log(self):
        return (self.directory / "pgpoll.log").read_text().splitlines()

    def has_reloaded(self):
        """Whether all workers run the programs that were installed last."""
        programs = set()
        for pid in self.worker_pids():
            with contextlib.suppress(OSError):
                programs.add(os.readlink(f"/proc/{pid}/exe"))
        return programs == {str(self.directory / "pgpoll-worker")}

    def worker_pids(self):
        return {pid for pid in processes(self.host.namespace) if name_of(pid) == "pgpoll-worker"}


class Patroni(Database):
    """A PostgreSQL server that Patroni starts, makes the primary or the standby, and stops. cluster: of the first one."""

    def __init__(self, host, directory, etcd, cluster=None):
        super().__init__(host, directory, cluster)
        configuration = (ROOT / "deploy/patroni/patroni.yml").read_text()
        for shown, true in {"name: db1": f"name: {host.name}", "192.0.2.21": host.address, "192.0.2.31": etcd.address,
                            "/var/lib/postgresql/15/main": str(self.data), "/etc/postgresql/15/main": str(self.data),
                            "/usr/lib/postgresql/15/bin": str(POSTGRES)}.items():
            assert shown in configuration
            configuration = configuration.replace(shown, true)
        self.configuration = directory / "patroni.yml"
        self.configuration.write_text(f"{configuration}  parameters:\n    unix_socket_directories: {directory}\n")

    def start(self):
        with (self.directory / "patroni.log").open("a") as log:
            self.host.start(*as_postgres("patroni", self.configuration), stdout=log, stderr=log, cwd="/")

    def may_be_promoted(self):
        """Whether Patroni knows that it is the synchronous standby."""
        return self.host.gets(f"http://{self.host.address}:8008/synchronous")


class Site:
    """synchronous: whether a COMMIT waits for the standby. By the name of a host: cables, what Host takes; under, a command
    that runs PostgreSQL or the manager. balanced: whether HAProxy is in front of the web hosts. patroni: whether Patroni runs the databases.
    Offers what Load needs of a server."""

    def __init__(self, cluster, synchronous=True, cables=None, under=None, balanced=False, patroni=False):
        self.cluster, self.synchronous, self.balanced, self.patroni = cluster, synchronous, balanced, patroni
        self.cables, self.under = cables or {}, under or {}

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            self.directory = stack.enter_context(Directory())
            self.network = stack.enter_context(Network())
            self.clients = self.add("clients")
            try:
                self.build()
            except BaseException:
                self.show_logs()
                raise
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
        self.first, self.second = self.databases = self.start_databases()
        kind = "sync" if self.synchronous else "async"
        until(lambda: self.first.sql("SELECT 1 FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = %s", kind), "a standby", 60)
        names = ",".join(database.host.address for database in self.databases)
        self.web = [WebHost(self.add(name), self.directory / name, names, under=self.under.get(name, ())) for name in ("web1", "web2")]
        for web in self.web:
            web.start()
        self.entrances = self.balance() if self.balanced else {web.host.name: web.url for web in self.web}
        for address in self.entrances.values():
            until(lambda: self.clients.gets(f"http://{address}/messages/poll/health"), "health")

    def start_databases(self):
        if self.patroni:
            self.etcd = self.start_etcd()
            databases = [Patroni(self.add("db1"), self.directory / "db1", self.etcd, self.cluster),
                         Patroni(self.add("db2"), self.directory / "db2", self.etcd)]
            databases[0].start()
            until(databases[0].is_primary, "Patroni's primary", 60)
            databases[1].start()
            until(databases[1].may_be_promoted, "Patroni's standby", 60)
            return databases
        databases = [Database(self.add(name), self.directory / name, self.cluster, self.under.get(name, ())) for name in ("db1", "db2")]
        for database in databases:
            database.configure()
        databases[1].stands_by(databases[0])
        if self.synchronous:
            databases[0].set(synchronous_standby_names="db2")
        for database in databases:
            database.start()
        return databases

    def start_etcd(self):
        host = self.add("etcd")
        (self.directory / "etcd").mkdir()
        url = f"http://{host.address}:2379"
        with (self.directory / "etcd" / "log").open("a") as log:
            host.start("etcd", "--data-dir", self.directory / "etcd" / "data", "--listen-client-urls", url, "--advertise-client-urls", url,
                       "--listen-peer-urls", f"http://{host.address}:2380", stdout=log, stderr=log)
        return host

    def balance(self):
        """Starts HAProxy with the configuration that we ship. Returns its address, by its name."""
        host, path = self.add("haproxy"), self.directory / "haproxy.cfg"
        configuration = (ROOT / "deploy/haproxy/haproxy.cfg").read_text()
        for shown, true in {"maxconn 20000": "maxconn 2000", "bind :80": f"bind {host.address}:8080", "192.0.2.11:80": self.web[0].url,
                            "192.0.2.12:80": self.web[1].url}.items():
            assert shown in configuration
            configuration = configuration.replace(shown, true)
        path.write_text(configuration)
        with (self.directory / "haproxy.log").open("a") as log:
            host.start("haproxy", "-db", "-f", path, stdout=log, stderr=log)
        return {host.name: f"{host.address}:8080"}

    def sql(self, query, *arguments):
        """In the database that is the primary at first."""
        return self.first.sql(query, *arguments)

    def numbering(self):
        """Returns the web host whose manager gives messages their place in the order."""
        held = "locktype = 'advisory' AND objid = 2 AND objsubid = 2"
        ((address,),) = self.sql(f"SELECT host(client_addr) FROM pg_stat_activity JOIN pg_locks USING (pid) WHERE {held}")
        return next(web for web in self.web if web.host.address == address)

    def where(self, *databases):
        """Returns how publishers connect to these databases (by default, to whichever is the primary)."""
        return {"host": ",".join(database.host.address for database in databases or self.databases), "dbname": "pgpoll",
                "user": "fault_writer", **IMPATIENT}
