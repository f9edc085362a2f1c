import os
import shutil
import subprocess
import tempfile

import pytest

from sessions import close_all, connect, run

HERE = os.path.dirname(os.path.abspath(__file__))
INSTALL, UNINSTALL = (os.path.join(HERE, "../../sql", name) for name in ("install.sql", "uninstall.sql"))


@pytest.fixture
def admin():
    """The owner's session, on an empty message table."""
    session = connect()
    for name, in run(session, "SELECT gid FROM pg_prepared_xacts"):     # left by a test that failed
        run(session, f"ROLLBACK PREPARED '{name}'")
    run(session, "TRUNCATE pgpoll.messages, pgpoll.feed, pgpoll.retention, pgpoll.waiters; SELECT pgpoll.unmute_doorbell()")
    yield session
    close_all()


class Cluster:
    """A temporary cluster for one test, for example to restart or crash the server."""

    def __init__(self):
        self.directory = tempfile.mkdtemp(prefix="pgpoll-sql.", dir="/tmp")
        self.environment = {**os.environ, "PGHOST": self.directory, "PGPORT": "5432", "PGUSER": "postgres"}

    def _do(self, function, *settings):
        subprocess.run(["bash", "-c", '. "$0" && "$@"', os.path.join(HERE, "../cluster.sh"), function, self.directory, *settings],
                       check=True, stdin=subprocess.DEVNULL)

    def start(self, *settings):
        self._do("cluster_start", *settings)

    def server_program(self, name, *arguments):
        """Runs a program of the server as the cluster's owner, in the cluster's directory."""
        subprocess.run(["bash", "-c", '. "$0" && PATH=$(cluster_bindir):$PATH && cluster_as_owner "$1" env "PATH=$PATH" "${@:2}"',
                        os.path.join(HERE, "../cluster.sh"), self.directory, name, *arguments],
                       check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=self.environment)

    def has_program(self, name):
        """Not every build of PostgreSQL in tests/postgres has all programs."""
        other = os.environ.get("POSTGRES_BIN")
        return not other or os.path.exists(os.path.join(other, name))

    def copy(self, primary):
        """Makes this cluster a standby of another."""
        subprocess.run(["chown", "--reference", primary.directory, self.directory], check=True)
        self.environment["PGHOST"] = primary.directory
        self.server_program("pg_basebackup", "-D", "data", "--no-sync", "--checkpoint=fast")
        self.environment["PGHOST"] = self.directory
        with open(os.path.join(self.directory, "data/postgresql.conf"), "a", encoding="ascii") as file:
            file.write(f"unix_socket_directories = '{self.directory}'\n"
                       f"primary_conninfo = 'host={primary.directory} port=5432 user=postgres'\n")
        open(os.path.join(self.directory, "data/standby.signal"), "w", encoding="ascii").close()

    def stop(self):
        self.server_program("pg_ctl", "-D", "data", "-m", "fast", "-w", "stop")

    def remove(self):
        self._do("cluster_stop")
        shutil.rmtree(self.directory)

    def connect(self, database, level=None, **options):
        return connect(level, host=self.directory, dbname=database, **options)

    def psql(self, database, *arguments, user="postgres"):
        return subprocess.run(["psql", "-X", "-d", database, "-U", user, *arguments], env=self.environment, text=True,
                              capture_output=True, stdin=subprocess.DEVNULL, check=False)

    def install(self, database, script=INSTALL, arguments=(), **options):
        """Runs a script of sql/, which must print nothing."""
        done = self.psql(database, *arguments, "-f", script, **options)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    def create(self, database, *options):
        subprocess.run(["createdb", *options, database], env=self.environment, check=True)


@pytest.fixture
def cluster():
    made = Cluster()
    try:
        yield made
    finally:
        close_all()
        made.remove()
