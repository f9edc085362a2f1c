"""The files of deploy/ in use: runit services, commands for machines without a supervisor, PgBouncer, systemd units, manual pages."""
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess

import pytest

import between
import web
from documents import broken_links
from hosts import HEALTH
from server import POLL, ROOT, STATS, Server, new_topic, until

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can start services as somebody else")


class Door(Server):
    """A web server and workers on the database of another Server."""

    def __init__(self, server, directory):
        super().__init__(0, run=server.run)
        self.front = web.SERVERS["lighttpd"](directory, self.port)

    def __enter__(self):
        self.front.start()
        return self

    def __exit__(self, *_):
        self.close_db()
        self.front.stop()

    def status(self, timeout=0):
        return self.request("POST", POLL, json.dumps({"topics": ["a"], "timeout": timeout})).status


@pytest.fixture(scope="module")
def database():
    """A server of which only the PostgreSQL is used."""
    with Server(1) as server:
        yield server


@pytest.fixture
def place(database):
    """A directory that all users can read, with the programs. It replaces /run/pgpoll, /usr/local/lib/pgpoll and /etc/default/pgpoll."""
    place = pathlib.Path(subprocess.check_output(["mktemp", "-d", "/tmp/pgpoll-services.XXXXXX"], text=True).strip())
    place.chmod(0o755)
    (place / "lib").mkdir()
    for program in (database.run / "bin").iterdir():
        shutil.copy(program, place / "lib")
    settings = {**database.env, "PGUSER": "pgpoll_worker", "PGPOLL_LOG": str(place / "log"), "PGPOLL_WORKERS": "5"}
    (place / "settings").write_text("".join(f"{name}={value}\n" for name, value in settings.items() if name != "PGPOLL_URL"))
    (place / "log").touch()
    shutil.chown(place / "log", "www-data")
    yield place
    shutil.rmtree(place)


def moved(text, place):
    for old, new in (("/run/pgpoll", place), ("/usr/local/lib/pgpoll", place / "lib"), ("/etc/default/pgpoll", place / "settings"),
                     ("-u pgpoll -g pgpoll", "-u www-data -g www-data"), ("-o pgpoll -g pgpoll", "-o www-data -g www-data")):
        text = text.replace(old, str(new))
    return text


def of(place, name):
    """Returns the process ids of a program."""
    found = subprocess.run(["pgrep", "-f", f"^{place}/lib/{name}"], capture_output=True, text=True).stdout
    return [int(pid) for pid in found.split()]


def no_trouble(place):
    """A poll that does not wait may come before a manager is connected to the database."""
    for line in (place / "log").read_text().splitlines():
        assert " info: " in line or "database_away" in line, line


# --- supervisors

@contextlib.contextmanager
def runsv(place, name):
    service = place / name
    service.mkdir()
    (service / "run").write_text(moved((ROOT / "deploy/runit" / name / "run").read_text(), place))
    (service / "run").chmod(0o755)
    with open(place / f"{name}.out", "w") as output:
        process = subprocess.Popen(["runsv", service], stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)
    try:
        until(lambda: (service / "supervise/ok").exists(), "runsv")
        yield service
    finally:
        subprocess.run(["sv", "-w", "30", "force-shutdown", service], stdout=subprocess.DEVNULL)
        process.wait(30)
        assert (place / f"{name}.out").read_text() == ""


@needs_root
def test_a_service_of_one_worker(database, tmp_path):
    """PGPOLL_WORKERS=0 in pgpoll.service, which has a watchdog: a worker without a manager cannot feed it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(20)
        with between.manager(database, "one", tmp_path / "log", workers=0, NOTIFY_SOCKET=tmp_path / "notify", WATCHDOG_USEC=20_000_000):
            assert systemd.recv(1000) == b"READY=1\nWATCHDOG_USEC=0"


def test_runit(database, place):
    topic = new_topic()
    with runsv(place, "pgpoll") as poll, runsv(place, "pgpoll-stats"):
        until(lambda: len(of(place, "pgpoll-stats.fcgi")) == 2, "two for the statistics")
        with Door(database, place) as door:
            until(lambda: door.status() == 200, "service")
            assert {os.stat(place / f"{pool}.sock").st_mode & 0o777 for pool in ("poll", "stats")} == {0o600}
            waiting = door.poll_later(topic, timeout=30)
            database.until_waiting(topic)
            manager = of(place, "pgpoll.fcgi")[0]
            subprocess.run(["sv", "hup", poll], check=True, stdout=subprocess.DEVNULL)
            answer = waiting.result(20)                       # the poll is answered early because of the reload
            assert answer.messages == [] and manager in of(place, "pgpoll.fcgi")
            database.publish(topic, 1)
            # A worker of the old manager may still accept, and answer early.
            assert door.poll_on(topic, answer=answer, timeout=10).payloads == [1]
            assert door.request("GET", STATS).status == 200 and door.request("GET", HEALTH).status == 200
            os.kill(manager, signal.SIGKILL)
            until(lambda: (pids := of(place, "pgpoll.fcgi")) and manager not in pids and door.status() == 200, "another manager", 30)
    assert of(place, "pgpoll") == []
    no_trouble(place)


@needs_root
def test_without_a_supervisor(database, place):
    """Runs the commands in pgpoll.fcgi(8)."""
    (script,) = re.findall(r"^\.Bd -literal -offset indent\nexport (.*?)^\.Ed$", (ROOT / "deploy/man/pgpoll.fcgi.8").read_text(), re.M | re.S)
    script = moved("export " + script, place).replace("\\e\n", "\\\n").replace("--workers 500", "--workers 5")
    script = script.replace("PGDATABASE=mydb PGPOLL_LOG=syslog", " ".join((place / "settings").read_text().split()))
    subprocess.run(["sh", "-e"], input=script, text=True, check=True, stdout=subprocess.DEVNULL)

    def watching():
        """spawn-fcgi waits a tenth of a second for its child to fail. The program may not have started by then."""
        found = subprocess.run(["pgrep", "-f", f"^/usr/bin/multiwatch .* {place}/lib"], capture_output=True, text=True).stdout.split()
        return len(found) == 2 and found

    watchers = until(watching, "two watchers")
    try:
        topic = new_topic()
        with Door(database, place) as door:
            until(lambda: door.status() == 200, "service")
            waiting = [door.poll_later(topic, timeout=30) for _ in range(3)]
            database.until_waiting(topic, 3)
            manager = of(place, "pgpoll.fcgi")[0]
            assert b"\0HOME=" not in b"\0" + pathlib.Path(f"/proc/{manager}/environ").read_bytes()   # with TLS, libpq looks for certificates there
            os.kill(manager, signal.SIGKILL)
            answers = [poll.result(20) for poll in waiting]
            assert [answer.messages for answer in answers] == [[]] * 3
            database.publish(topic, 1)
            # The socket was open all the time. (A worker of the old manager answers its last poll at once.)
            assert door.poll_on(topic, answer=answers[0], timeout=30).payloads == [1]
            until(lambda: door.request("GET", HEALTH).status == 200, "healthy again")
            stats = of(place, "pgpoll-stats.fcgi")
            os.kill(stats[0], signal.SIGKILL)
            until(lambda: len(now := of(place, "pgpoll-stats.fcgi")) == 2 and now != stats, "another one for the statistics", 30)
    finally:
        for pid in watchers:
            os.kill(int(pid), signal.SIGTERM)
        until(lambda: of(place, "pgpoll") == [], "all gone", 30)
    no_trouble(place)


# --- PgBouncer

@contextlib.contextmanager
def pgbouncer(place, port, database):
    text = (ROOT / "deploy/pgbouncer/pgbouncer.ini").read_text()
    for old, new in (("mydb = host=127.0.0.1 port=5432", f"pgpoll = host={database.env['PGHOST']} port=5432"), ("6432", str(port)),
                     ("/etc/pgbouncer/", f"{place}/"), ("/var/log/postgresql/", f"{place}/b/"), ("/var/run/postgresql/", f"{place}/b/")):
        assert old in text
        text = text.replace(old, new)
    (place / "pgbouncer.ini").write_text(text)
    (place / "userlist.txt").write_text('"pgpoll_worker" "secret"\n')
    (place / "b").mkdir(exist_ok=True)
    shutil.chown(place / "b", "www-data")
    process = subprocess.Popen(["/usr/sbin/pgbouncer", "-q", "-u", "www-data", place / "pgbouncer.ini"], stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: (place / "b/pgbouncer.pid").exists(), "PgBouncer")
        yield
    finally:
        process.terminate()
        process.wait(30)


@needs_root
def test_catching_up_through_pgbouncer(database, place):
    """Only reads of the table use PgBouncer: without it old messages cannot be read, but new ones are delivered."""
    port, old, new = web.free_port(), new_topic("old"), new_topic("new")
    (place / "services").write_text((ROOT / "deploy/pgbouncer/pg_service.conf").read_text().replace("6432", str(port)))
    (place / "pass").write_text(f"127.0.0.1:{port}:*:pgpoll_worker:secret\n")
    (place / "pass").chmod(0o600)
    shutil.chown(place / "pass", "www-data")
    with (place / "settings").open("a") as settings:
        settings.write(f"PGSERVICEFILE={place}/services\nPGPASSFILE={place}/pass\nPGPOLL_CATCH_UP_SERVICE=pgpoll_catch_up\n")
    database.publish(old, *range(5))
    with runsv(place, "pgpoll"), Door(database, place) as door:
        until(lambda: door.status(timeout=1) == 200, "service")     # a poll that does not wait might read the table, through PgBouncer
        since = door.poll(new, timeout=1).next_since
        waiting = door.poll_later(new, since=since, timeout=30)
        database.until_waiting(new)
        database.publish(new, 1)
        answer = waiting.result(25)
        assert answer.payloads == [1]
        with pgbouncer(place, port, database):
            assert door.poll(old, since={old: "0"}, timeout=0).payloads == list(range(5))
        assert door.request("POST", POLL, '{"topics": ["%s"], "since": {"%s": "0"}, "timeout": 0}' % (old, old)).status == 503
        held = door.poll_later(old, since={old: "0"}, timeout=30)
        with pgbouncer(place, port, database):
            assert held.result(20).payloads == list(range(5))
            polls = [door.poll_later(old, since={old: "0"}, timeout=0, limit=3) for _ in range(60)]
            assert [poll.result(60).payloads for poll in polls] == [[0, 1, 2]] * 60
        database.publish(new, 2)
        assert door.poll(new, since=answer.next_since, timeout=10).payloads == [2]
    no_trouble(place)


# --- files for other programs

def help_of(database, program="pgpoll.fcgi"):
    return subprocess.check_output([database.run / "bin" / program, "--help"], text=True)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Runs `make install` as a package does."""
    root = tmp_path_factory.mktemp("installed")
    subprocess.run(["make", "-s", "-C", ROOT, "install", f"DESTDIR={root}", "PREFIX=/usr"], check=True, stdin=subprocess.DEVNULL)
    return root


def test_installed_files(installed):
    for path in ("usr/lib/pgpoll/pgpoll.fcgi", "usr/lib/pgpoll/pgpoll-worker", "usr/lib/pgpoll/pgpoll-reader", "usr/lib/pgpoll/pgpoll-stats.fcgi",
                 "usr/sbin/pgpoll-setup", "usr/sbin/pgpoll-check"):
        assert os.access(installed / path, os.X_OK), path
    for path in ("usr/share/pgpoll/sql/install.sql", "usr/share/pgpoll/sql/upgrades/2.sql", "usr/share/man/man7/pgpoll.7",
                 "usr/share/man/man8/pgpoll-stats.fcgi.8", "usr/lib/sysusers.d/pgpoll.conf", "etc/default/pgpoll",
                 "usr/share/doc/pgpoll/examples/lighttpd/50-pgpoll.conf", "usr/share/doc/pgpoll/examples/runit/pgpoll/run",
                 "usr/share/doc/pgpoll/examples/pgbouncer/pgbouncer.ini", "usr/share/doc/pgpoll/examples/apache/pgpoll.conf", "usr/share/doc/pgpoll/examples/nginx/pgpoll.conf",
                 "usr/share/doc/pgpoll/examples/prometheus/pgpoll.rules.yml", "usr/share/doc/pgpoll/examples/grafana/pgpoll.json",
                 "usr/share/doc/pgpoll/examples/long_polling_client.py", "usr/share/doc/pgpoll/docs/overview.svg", "usr/share/doc/pgpoll/docs/several-hosts.svg",
                 "usr/share/doc/pgpoll/examples/patroni/patroni.yml", "usr/share/pgpoll/www/index.html", "usr/share/pgpoll/www/long_polling_client.js"):
        assert (installed / path).is_file(), path
    for path in installed.rglob("*"):
        if path.is_file() and path.parent.name not in ("pgpoll", "container") and path.suffix != ".md":   # without the programs
            assert b"/usr/local" not in path.read_bytes(), path
    sources = {path.relative_to(ROOT / "sql") for path in (ROOT / "sql").rglob("*.sql")}
    assert {path.relative_to(installed / "usr/share/pgpoll/sql") for path in (installed / "usr/share/pgpoll").rglob("*.sql")} == sources


def test_links_between_installed_documents(installed):
    doc = installed / "usr/share/doc/pgpoll"
    documents = [doc / "README.md", *(doc / "docs").glob("*.md")]
    assert len(documents) > 5 and [link for path in documents for link in broken_links(path)] == []


def test_installing_again_and_removing_keep_the_settings(tmp_path):
    goal = ["make", "-s", "-C", ROOT, "install", f"DESTDIR={tmp_path}"]
    subprocess.run(goal, check=True, stdin=subprocess.DEVNULL)
    settings = tmp_path / "etc/default/pgpoll"
    settings.write_text("PGDATABASE=mine\n")
    subprocess.run(goal, check=True, stdin=subprocess.DEVNULL)
    assert settings.read_text() == "PGDATABASE=mine\n"
    assert "/usr/local/lib/pgpoll/pgpoll.fcgi" in (tmp_path / "usr/local/lib/systemd/system/pgpoll.service").read_text()
    subprocess.run(["make", "-s", "-C", ROOT, "uninstall", f"DESTDIR={tmp_path}"], check=True, stdin=subprocess.DEVNULL)
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == [settings]


@pytest.mark.parametrize("goal", ["install", "uninstall"])
def test_a_directory_with_a_blank_in_its_name_is_refused(tmp_path, goal):
    mine = tmp_path / "my"
    mine.write_text("mine")
    done = subprocess.run(["make", "-s", "-C", ROOT, goal, f"DESTDIR={tmp_path}/my root"], check=False, stdin=subprocess.DEVNULL,
                          capture_output=True, text=True)
    assert done.returncode != 0 and "must not contain blanks" in done.stderr, done.stderr
    assert list(tmp_path.iterdir()) == [mine] and mine.read_text() == "mine"


def test_sample_settings_are_those_of_help(database, installed):
    told = dict(re.findall(r"^  (PGPOLL_\w+) .*\n +\(default (.*?)[,)]", help_of(database), re.M))
    named = re.findall(r"^  (PGPOLL_[A-Z_]+) ", help_of(database), re.M)
    sample = re.findall(r"^#(PGPOLL_\w+)=(.*)$", (installed / "etc/default/pgpoll").read_text(), re.M)
    assert [name for name, _ in sample] == named
    unit = (installed / "usr/lib/systemd/system/pgpoll.service").read_text()
    assert dict(sample).pop("PGPOLL_WORKERS") == re.search(r"^Environment=PGPOLL_WORKERS=(\d+)$", unit, re.M)[1]
    assert {name: value for name, value in sample if name != "PGPOLL_WORKERS"} == \
           {name: told.get(name, "") for name in named if name != "PGPOLL_WORKERS"}


def test_sample_settings_can_be_read_by_a_shell(installed):
    """Each line without its # sets the variable."""
    lines = (installed / "etc/default/pgpoll").read_text()
    active = re.sub(r"(?m)^#([A-Z_]+=)", r"\1", lines)
    names = re.findall(r"(?m)^([A-Z_]+)=", active)
    done = subprocess.run(["sh", "-euc", f"{active}\nprintf '%s\\n' \"${{PRUNE_KEEP}}\" {' '.join('${' + name + '+set}' for name in names)}"],
                          capture_output=True, text=True)
    assert done.stdout.split("\n")[:2] == ["7 days", "set"] and done.stderr == "", done


def test_manual_pages(database, installed):
    pages = sorted((installed / "usr/share/man").rglob("*.[78]"))
    assert [page.name for page in pages] == ["pgpoll.7", "pgpoll-check.8", "pgpoll-setup.8", "pgpoll-stats.fcgi.8", "pgpoll.fcgi.8"]
    for page in pages:
        lint = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", page], capture_output=True, text=True)
        assert (lint.stdout, lint.stderr) == ("", ""), lint
        groff = subprocess.run(["groff", "-mandoc", "-Tutf8", "-ww", "-z", page], capture_output=True, text=True)
        assert (groff.returncode, groff.stderr) == (0, ""), groff
    text = subprocess.check_output(["mandoc", "-T", "ascii", "-O", "width=1000", installed / "usr/share/man/man8/pgpoll.fcgi.8"], text=True)
    text = re.sub(r".\x08", "", text)   # removes overstriking
    assert re.findall(r"(?m)^     (PGPOLL_[A-Z_]+)$", text) == re.findall(r"(?m)^  (PGPOLL_[A-Z_]+) ", help_of(database))
    usage = {name: (ROOT / "deploy" / name).read_text() for name in ("pgpoll-setup", "pgpoll-check")}
    for name, script in usage.items():
        options = set(re.findall(r"(?m)^ +(?:-h \| )?--([a-z]+)(?: \| --([a-z]+))?\)", script))
        page = (installed / "usr/share/man/man8" / f"{name}.8").read_text()
        assert {option for pair in options for option in pair if option} == set(re.findall(r"Fl -([a-z]+)", page))


def test_units_are_right(installed):
    """systemd-analyze finds no fault. It also looks for the programs, so the units get their real paths. It rates a service without any
    restriction 9.6 (UNSAFE)."""
    units = installed / "units"
    shutil.copytree(installed / "usr/lib/systemd/system", units)
    for unit in units.iterdir():
        unit.write_text(re.sub(r"/usr/(lib|share)/pgpoll", rf"{installed}/usr/\1/pgpoll", unit.read_text()))
    for name in "postgresql.service", "network-online.target":
        (units / name).write_text("[Unit]\nDescription=another's\n" + ("[Service]\nExecStart=/bin/true\n" if "service" in name else ""))
    names = [unit for unit in sorted(units.iterdir()) if "pgpoll" in unit.name]
    checked = [str(unit).replace("@.", "@1.") for unit in names]
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *checked], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done
    for service in checked:
        if service.endswith(".service"):
            scored = subprocess.run(["systemd-analyze", "security", "--offline=yes", "--threshold=15", service], capture_output=True, text=True)
            assert scored.returncode == 0, scored
