"""The Debian package on a new system, from its installation to its removal. The tests run in order on one machine."""
import json
import re
import shutil
import subprocess

import pytest

from machine import BUILT_IN, ROOT, TREE, Machine, until
from documents import command   # beside machine's server.py

(DEB,) = (TREE / "build/deb").glob("pgpoll_*.deb")
POLL = "curl -s -w '\\n%{http_code}' http://127.0.0.1/messages/poll -d "
SERVICES = "pgpoll.service pgpoll-stats@1.service pgpoll-stats@2.service"


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    with Machine(tmp_path_factory.mktemp("machine") / "log") as machine:
        yield machine


def poll(machine, topic, since=None, timeout=0):
    body = {"topics": [topic], "timeout": timeout, **({"since": {topic: since}} if since else {})}
    answer, status = machine.says(POLL + f"'{json.dumps(body)}'").rsplit("\n", 1)
    return int(status), answer


def publish(machine, topic, payload):
    machine.psql(f"INSERT INTO pgpoll.messages (topic, payload) VALUES ('{topic}', '{json.dumps(payload)}')")


def health(machine):
    answer, status = machine.says("curl -s -w '\\n%{http_code}' http://127.0.0.1/messages/poll/health").rsplit("\n", 1)
    return int(status), answer.startswith("{") and json.loads(answer)["status"]


def journal(machine):
    return machine.says("journalctl --no-pager -q -n 100 -u 'pgpoll*'")


def manager(machine):
    return int(machine.show("pgpoll.service", "MainPID"))


def workers(machine):
    return set(machine.run("pgrep -x pgpoll-worker", check=False).stdout.split())


def settle(machine, workers):
    """Waits until this many workers and the manager's reserve run, and no process from before."""
    expected = workers + max(workers // 20, 1)
    until(lambda: int(machine.run("pgrep -cx pgpoll-worker", check=False).stdout) == expected, f"{expected} processes", 30)


class Clients:
    """Clients that poll in a loop until the message "last", in a process inside the machine's network. patient: answers with 503 are allowed."""
    PROGRAM = """
import http.client, json, sys, threading
def client(n):
    since, got = {"t": sys.argv[1]}, []
    while "last" not in got:
        connection = http.client.HTTPConnection("127.0.0.1", timeout=90)
        connection.request("POST", "/messages/poll", json.dumps({"topics": ["t"], "since": since, "timeout": 5}))
        try:
            response = connection.getresponse()
            body = response.read()
        except Exception as error:
            errors.append(repr(error))
            break
        if response.status == 503 and sys.argv[3] and response.headers["Retry-After"]:
            continue
        if response.status != 200:
            errors.append([response.status, body.decode()])
            break
        answer = json.loads(body)
        got += [m["payload"] for m in answer["messages"]]
        since = answer["next_since"]
        connection.close()
    results.append(got)
errors, results = [], []
threads = [threading.Thread(target=client, args=(n,)) for n in range(int(sys.argv[2]))]
[t.start() for t in threads]
[t.join() for t in threads]
print(json.dumps([errors, results]))
"""

    def __init__(self, machine, count=8, patient=False):
        status, answer = poll(machine, "t")
        assert status == 200, journal(machine)
        self.process = subprocess.Popen(["nsenter", "-t", str(machine.init), "-n", "--", "/usr/bin/python3", "-c", self.PROGRAM,
                                         json.loads(answer)["next_since"]["t"], str(count), "yes" * patient], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        until(lambda: machine.psql("SELECT count(*) FROM pgpoll.live_waiters WHERE topics = '{t}'") == str(count),
              f"{count} polls waiting", 60)

    def expect(self, machine, *payloads):
        publish(machine, "t", "last")
        output, _ = self.process.communicate(timeout=90)
        errors, results = json.loads(output)
        assert errors == [], journal(machine)
        for got in results:
            assert got == [*payloads, "last"]


# --- installation

def test_lintian_reports_nothing():
    changes = [file.relative_to(TREE) for file in (TREE / "build/deb").glob("*.changes")]
    done = subprocess.run([*BUILT_IN, "lintian", "--allow-root", "--fail-on", "error,warning", *changes], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done


def test_installing_starts_nothing(machine):
    machine.run(command("apt-get install ./build").replace("./build/deb/pgpoll_*.deb", f"-qq -y {machine.put(DEB)}"))
    assert machine.says("systemctl list-units --no-legend --all 'pgpoll*'") == ""
    assert machine.says("cmp /etc/default/pgpoll /usr/share/pgpoll/pgpoll.default; dpkg-query -W -f '${Conffiles}' pgpoll") == ""
    assert re.match(r"uid=\d+\(pgpoll\) gid=\d+\(pgpoll\) groups=\d+\(pgpoll\)$", machine.says("id pgpoll"))
    assert "disabled" in machine.run("systemctl is-enabled pgpoll.service pgpoll.socket", check=False).stdout
    pages = machine.says("man -w pgpoll pgpoll.fcgi pgpoll-stats.fcgi pgpoll-setup pgpoll-check").split()
    assert len(pages) == 5
    machine.run(f"lexgrog {' '.join(pages)}")   # apropos and whatis use its output


def test_pgpoll_setup_starts_it(machine):
    machine.run("runuser -u postgres -- createdb mydb")
    said = machine.says(command("pgpoll-setup "))
    assert "wrote PGDATABASE=mydb to /etc/default/pgpoll-setup" in said and "enabled and started pgpoll.service" in said, said
    settle(machine, 500)
    old = workers(machine)
    again = machine.says("pgpoll-setup mydb")
    assert "already" in again and "reloaded" in again and "PGDATABASE" not in again, again
    until(lambda: not old & workers(machine), "workers of before the reload are gone", 60)
    settle(machine, 500)
    for unit in (SERVICES + " pgpoll.socket pgpoll-stats.socket").split():
        until(lambda: machine.show(unit, "ActiveState") == "active", unit)   # its state is "reloading" for a moment
    assert machine.says("systemctl is-enabled pgpoll.service pgpoll.socket pgpoll-stats.socket") == "enabled\n" * 2 + "enabled"
    assert machine.says("systemctl --failed --no-legend") == ""


def test_a_poll_through_lighttpd(machine):
    machine.run(command("cp "))
    machine.run(command("lighty-enable-mod "))
    until(lambda: machine.run("curl -s http://127.0.0.1/", check=False).returncode == 0, "lighttpd")
    waiting = machine.later(POLL + """'{"topics": ["first"], "timeout": 60}'""")
    until(lambda: machine.psql("SELECT count(*) FROM pgpoll.live_waiters") == "1", "a waiting poll", 60)
    stats = json.loads(machine.says("curl -s http://127.0.0.1/messages/poll/stats"))
    assert stats["topic_subscriber_counts"] == {"first": 1}
    machine.psql("CREATE ROLE app LOGIN; GRANT pgpoll_publisher TO app")
    machine.psql("SET ROLE app; INSERT INTO pgpoll.messages (topic, payload) VALUES ('first', '1')")
    answer, status = waiting.communicate(timeout=90)[0].rsplit("\n", 1)
    assert status == "200" and [message["payload"] for message in json.loads(answer)["messages"]] == [1]


def test_processes_and_sockets_have_minimal_rights(machine):
    processes = [line.split() for line in machine.says("ps -eo user=,comm=").splitlines()]
    ours = {name for user, name in processes if user == "pgpoll"}
    assert ours == {"pgpoll.fcgi", "pgpoll-forker", "pgpoll-worker", "pgpoll-reader", "pgpoll-stats.fc"}
    assert not [user for user, name in processes if name in ours and user != "pgpoll"]
    assert machine.says("stat -c '%U %G %a' /run/pgpoll/poll.sock /run/pgpoll/stats.sock") == "www-data www-data 600\nwww-data www-data 600"
    status = machine.says(f"cat /proc/{manager(machine)}/status")
    assert re.search(r"^CapBnd:\s+0+$", status, re.M) and re.search(r"^NoNewPrivs:\s+1$", status, re.M) and re.search(r"^Seccomp:\s+2$", status, re.M)
    denied = machine.run("nsenter -t %d -m -- runuser -u pgpoll -- touch /var/tmp/x /etc/x /run/pgpoll/x" % manager(machine), check=False).stdout
    assert "/etc/x" in denied and "/run/pgpoll/x" in denied, denied


def test_pgpoll_check_finds_nothing_wrong(machine):
    said = machine.says(command("pgpoll-check http").replace("pgpoll-check", "pgpoll-check --seconds 1"))
    assert "WRONG" not in said and "ok     A poll of 1 s took " in said, said
    accepted = re.search(r"ok     lighttpd accepts (\d+) polls at a time, and there are 500 workers", said)
    assert accepted, said
    version = tuple(map(int, re.search(r"/(\d+)\.(\d+)\.(\d+)", machine.says("lighttpd -v")).groups()))
    files = int(machine.says("awk '/^Max open files/ { print $4 }' /proc/$(pgrep -xo lighttpd)/limits"))
    assert int(accepted[1]) == min(16000, files // (10 if version >= (1, 4, 83) else 2))
    assert f"1/10 server.max-fds ({files})" in machine.says("cat /var/log/lighttpd/error.log") or version < (1, 4, 83)


# --- restarts

def test_a_manager_that_is_killed_is_replaced(machine):
    """Its workers have the time to answer waiting polls."""
    clients, before = Clients(machine, 300), manager(machine)
    machine.run(f"kill -KILL {before}")
    until(lambda: manager(machine) not in (0, before), "another manager", 60)
    settle(machine, 500)
    publish(machine, "t", 1)
    clients.expect(machine, 1)


def test_a_manager_that_hangs_is_replaced(machine):
    """Its workers have the time to answer waiting polls. Meanwhile health says so, from the statistics, after 5 s at most. systemd notices after
    8 s at the earliest: the manager tells it twice in WatchdogSec that it is alive."""
    assert limited(machine, "WatchdogSec=16") == 0
    clients, before = Clients(machine, 50, patient=True), manager(machine)
    machine.run(f"kill -STOP {before}")
    until(lambda: health(machine) == (503, "deaf"), "health has noticed", 60)
    until(lambda: manager(machine) not in (0, before), "another manager", 60)
    assert "Watchdog timeout" in machine.says("journalctl --sync; journalctl -u pgpoll.service")
    until(lambda: health(machine) == (200, "ok"), "it serves", 60)
    publish(machine, "t", 1)
    clients.expect(machine, 1)
    assert limited(machine) == 0
    assert machine.show("pgpoll.service", "WatchdogUSec") == "20s"


def test_a_stats_worker_that_is_killed_is_replaced(machine):
    pid = machine.show("pgpoll-stats@1", "MainPID")
    machine.run(f"kill -KILL {pid}")
    assert "active_waiters" in machine.says("curl -s http://127.0.0.1/messages/poll/stats")
    until(lambda: machine.show("pgpoll-stats@1", "MainPID") not in ("0", pid), "another", 60)


def test_new_settings(machine):
    machine.run("sed -i 's/^#PGPOLL_WORKERS=500/PGPOLL_WORKERS=20/; s/^#PGPOLL_MAX_TOPICS=.*/PGPOLL_MAX_TOPICS=1/' /etc/default/pgpoll")
    old = workers(machine)
    machine.run("systemctl restart pgpoll")
    assert len(workers(machine) - old) == 21 and health(machine) == (200, "ok")   # the restart has waited for that
    status = machine.says(POLL + """'{"topics": ["a", "b"], "timeout": 0}'""").rsplit("\n", 1)[1]
    assert status == "422"
    settle(machine, 20)
    for pid in workers(machine):
        assert "NOTIFY_SOCKET" not in machine.says(f"tr '\\0' '\\n' </proc/{pid}/environ")


def test_reload_costs_nothing(machine):
    clients, before, old = Clients(machine), manager(machine), workers(machine)
    publish(machine, "t", 1)
    machine.run(command("systemctl reload"))
    assert len(workers(machine) - old) == 21    # the reload has waited for that
    publish(machine, "t", 2)
    settle(machine, 20)
    machine.run(command("systemctl reload"))
    publish(machine, "t", 3)
    clients.expect(machine, 1, 2, 3)
    assert manager(machine) == before and machine.show("pgpoll-stats@2", "ActiveState") == "active"


def test_restart_costs_nothing(machine):
    clients, before = Clients(machine), manager(machine)
    publish(machine, "t", 1)
    machine.run(command("systemctl restart pgpoll"))
    publish(machine, "t", 2)
    settle(machine, 20)
    machine.run(command("systemctl restart pgpoll"))
    publish(machine, "t", 3)
    clients.expect(machine, 1, 2, 3)
    assert manager(machine) != before
    machine.run("journalctl --sync")
    assert "signal 15" not in journal(machine)   # the log reports no process that was told to end


def fails(machine, script):
    done = machine.run(script, check=False)
    assert done.returncode != 0, done
    return done.stdout


def test_settings_that_are_wrong_fail_loudly(machine):
    """The service goes on trying. Its state has the reason."""
    for wrong, reason in (("PGPOLL_WORKERS=25000", "must be a whole number from 0 to 20000"), ("PGPOLL_LOG=/nowhere/x", "No such file")):
        machine.run(f"cp /etc/default/pgpoll /root/good; echo {wrong} >>/etc/default/pgpoll")
        assert "Job for pgpoll.service failed" in fails(machine, "systemctl restart pgpoll")
        until(lambda: re.search(f'Status: ".*{wrong}: {reason}', machine.run("systemctl status pgpoll", check=False).stdout), "the reason", 30)
        machine.run("cp /root/good /etc/default/pgpoll; systemctl restart pgpoll")
    assert "Polls are served; 21 of 21 workers run" in machine.says("systemctl status pgpoll")


def limited(machine, *lines):
    """Restarts the service with more directives, or without those. Returns the exit status."""
    directory, text = "/run/systemd/system/pgpoll.service.d", "\\n".join(("[Service]", *lines, ""))
    change = f"mkdir -p {directory}; printf '{text}' >{directory}/test.conf" if lines else f"rm -r {directory}"
    return machine.run(f"{change}; systemctl daemon-reload; systemctl restart pgpoll", check=False).returncode


def test_workers_that_cannot_be_started(machine):
    """Without any worker the start fails. If only some can be started, they serve; the state says how many."""
    def state():
        return machine.run("systemctl status pgpoll", check=False).stdout

    assert limited(machine, "LimitNPROC=2", "TimeoutStartSec=3") != 0
    until(lambda: "0 of 21 workers run (cannot start a worker: Resource temporarily unavailable)" in state(), "the reason", 30)
    assert limited(machine, "LimitNPROC=12") == 0
    assert re.search(r"Polls are served; \d of 21 workers run \(cannot start a worker: Resource temporarily unavailable\)", state()), state()
    assert poll(machine, "a")[0] == 200
    assert limited(machine) == 0
    settle(machine, 20)


def test_a_drain_costs_nothing(machine):
    """For PGPOLL_DRAIN_S health is 503, and polls are served."""
    machine.run("cp /etc/default/pgpoll /root/good; echo PGPOLL_DRAIN_S=8 >>/etc/default/pgpoll; systemctl restart pgpoll")
    clients, before = Clients(machine), manager(machine)
    restart = machine.later("systemctl restart pgpoll")
    until(lambda: health(machine) == (503, "draining"), "a drain", 30)
    publish(machine, "t", 1)
    assert poll(machine, "t")[0] == 200 and manager(machine) == before
    restart.communicate(timeout=60)
    assert restart.returncode == 0 and manager(machine) != before and health(machine) == (200, "ok")
    publish(machine, "t", 2)
    clients.expect(machine, 1, 2)
    machine.run("cp /root/good /etc/default/pgpoll; kill -TERM $(systemctl show -P MainPID pgpoll.service); systemctl restart pgpoll")   # the second SIGTERM
    settle(machine, 20)


def test_the_service_restarts_after_any_number_of_failures(machine):
    """systemd's default limit is five starts in ten seconds, after which it would close the socket, too."""
    machine.run("echo PGPOLL_REREAD_S=nonsense >>/etc/default/pgpoll")
    assert "Job for pgpoll.service failed" in fails(machine, "systemctl restart pgpoll")
    until(lambda: int(machine.show("pgpoll.service", "NRestarts")) > 6, "starts that failed", 30)
    assert "PGPOLL_REREAD_S" in journal(machine)
    waiting = machine.later(POLL + """'{"topics": ["a"], "timeout": 0}'""")
    machine.run("sed -i '/^PGPOLL_REREAD_S=nonsense/d' /etc/default/pgpoll")
    assert waiting.communicate(timeout=30)[0].endswith("200")
    for _ in range(8):
        machine.run("systemctl restart pgpoll")
    assert poll(machine, "a")[0] == 200
    settle(machine, 20)
    assert machine.says("systemctl --failed --no-legend") == ""


def test_boot_starts_it(machine):
    """This is checked without booting: both targets want the unit."""
    for unit, target in ("pgpoll.service", "multi-user.target"), ("pgpoll.socket", "sockets.target"), ("pgpoll-stats.socket", "sockets.target"):
        assert target in machine.show(unit, "WantedBy").split()
    machine.run(command("systemctl stop "))
    assert machine.run("pgrep -u pgpoll", check=False).returncode == 1
    machine.run("systemctl start multi-user.target sockets.target")
    assert poll(machine, "a")[0] == 200


def test_pruning(machine):
    machine.run("""sed -i 's/^#PRUNE_KEEP=.*/PRUNE_KEEP="0 seconds"/' /etc/default/pgpoll""")
    machine.psql("INSERT INTO pgpoll.messages (topic, payload) SELECT 'old', '1' FROM generate_series(1, 12000)")
    # The age of a message counts from the time when it got its position.
    until(lambda: machine.psql("SELECT without_position FROM pgpoll.retained") == "0", "all positions given")
    machine.run("sleep 0.01; systemctl start pgpoll-prune.service")
    assert machine.psql("SELECT count(*) FROM pgpoll.messages") == "0", machine.says("journalctl -u pgpoll-prune")
    machine.psql("INSERT INTO pgpoll.messages (topic, payload) SELECT 'old', '1' FROM generate_series(1, 100000)")   # takes 5 s
    machine.run("systemctl start --no-block pgpoll-prune.service")
    until(lambda: machine.psql("SELECT query FROM pg_stat_activity WHERE query ~ '^CALL'"), "it prunes")
    machine.run("systemctl stop pgpoll-prune.service")
    assert machine.show("pgpoll-prune.service", "ActiveState") == "inactive"
    machine.run(command("systemctl enable --now pgpoll-prune"))
    assert "pgpoll-prune.timer" in machine.says("systemctl list-timers")
    machine.run("""sed -i 's/^PRUNE_KEEP=.*/PRUNE_KEEP=nonsense/' /etc/default/pgpoll""")
    assert machine.run("systemctl start pgpoll-prune.service", check=False).returncode != 0
    assert 'invalid input syntax for type interval: "nonsense"' in machine.says("journalctl -u pgpoll-prune")
    machine.run("systemctl reset-failed; sed -i '/^PRUNE_KEEP/d' /etc/default/pgpoll")


# --- upgrades

def repacked(tmp_path, version, schema=None, limit=None, postinst=None):
    """Returns the package with a higher version and one more setting and, if wanted, for the next version of the schema, with another limit of
    descriptors or with another postinst."""
    tree = tmp_path / "tree"
    subprocess.run(["dpkg-deb", "-R", DEB, tree], check=True)
    control = tree / "DEBIAN/control"
    control.write_text(re.sub(r"^Version: .*", f"Version: {version}", control.read_text(), flags=re.M))
    with (tree / "usr/share/pgpoll/pgpoll.default").open("a") as sample:
        sample.write("#PGPOLL_NEW=\n")
    if limit:
        (unit,) = tree.rglob("pgpoll.service")
        unit.write_text(re.sub(r"LimitNOFILE=.*", f"LimitNOFILE={limit}", unit.read_text()))
    if postinst:
        (tree / "DEBIAN/postinst").write_text(postinst)
    if schema:
        sources = TREE / "build/next"
        shutil.rmtree(sources, ignore_errors=True)
        subprocess.run(["cp", "-a", *(TREE / name for name in ("Makefile", "deploy", "examples", "fcgi", "sql", "src")),
                        sources.mkdir() or sources], check=True)
        (sources / "sql/version.sql").write_text(f"\\set schema_version {schema}\n")
        subprocess.run([*BUILT_IN, "make", "-s", "-j2", "-C", sources.relative_to(TREE)], cwd=ROOT, check=True)
        for name in "pgpoll.fcgi", "pgpoll-worker", "pgpoll-reader", "pgpoll-stats.fcgi":
            subprocess.run(["install", sources / "build" / name, tree / "usr/lib/pgpoll" / name], check=True)
        (tree / "usr/share/pgpoll/sql/version.sql").write_text(f"\\set schema_version {schema}\n")
        (tree / "usr/share/pgpoll/sql/upgrades").mkdir(exist_ok=True)
        (tree / f"usr/share/pgpoll/sql/upgrades/{schema}.sql").write_text("ALTER TABLE pgpoll.messages ADD COLUMN colour text;\n")
    deb = tmp_path / f"pgpoll_{version}.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", tree, deb], check=True, stdout=subprocess.DEVNULL)
    return deb


def program_of(machine):
    return machine.says(f"readlink /proc/{manager(machine)}/exe")


def test_upgrading_the_package_costs_nothing(machine, tmp_path):
    clients, before, settings = Clients(machine), manager(machine), machine.says("cat /etc/default/pgpoll")
    publish(machine, "t", 1)
    machine.run(f"dpkg -i {machine.put(repacked(tmp_path, '9.0'))}")
    until(lambda: program_of(machine) == "/usr/lib/pgpoll/pgpoll.fcgi", "the new program")   # the path of the old program ends in "(deleted)"
    publish(machine, "t", 2)
    clients.expect(machine, 1, 2)
    assert manager(machine) == before
    assert machine.says("cat /etc/default/pgpoll") == settings


def test_an_upgrade_of_the_units_costs_nothing(machine, tmp_path):
    """Only a restart puts changed units into force."""
    clients, before = Clients(machine), manager(machine)
    publish(machine, "t", 1)
    machine.run(f"dpkg -i {machine.put(repacked(tmp_path, '9.1', limit=15000))}")
    until(lambda: manager(machine) not in (0, before), "another manager")
    publish(machine, "t", 2)
    clients.expect(machine, 1, 2)
    assert re.search(r"^Max open files +15000 ", machine.says(f"cat /proc/{manager(machine)}/limits"), re.M)
    settle(machine, 20)


def test_upgrading_to_another_schema(machine, tmp_path):
    version = int(machine.psql("SELECT pgpoll.schema_version()"))
    clients = Clients(machine, patient=True)
    said = machine.says(f"dpkg -i {machine.put(repacked(tmp_path, '10.0', version + 1))}")
    assert "run pgpoll-setup" in said, said
    publish(machine, "t", 1)
    assert program_of(machine).endswith("(deleted)") and poll(machine, "t")[0] == 200
    assert f"was upgraded from version {version} to {version + 1}" in machine.says("pgpoll-setup mydb")
    until(lambda: program_of(machine) == "/usr/lib/pgpoll/pgpoll.fcgi", "the new program")
    publish(machine, "t", 2)
    clients.expect(machine, 1, 2)


# --- removal

def left_behind(machine):
    """Returns the files that contain pgpoll in their names, and what else there is of it in the system and in the database."""
    machine.run("journalctl --sync")
    files = machine.says("find / -xdev ! -path '/proc/*' ! -path '/sys/*' ! -path '/root/*' -name '*pgpoll*'; find /run /tmp /dev/shm -name '*pgpoll*'").split()
    units = machine.run("systemctl list-units --all --plain --no-legend 'pgpoll*'; systemctl list-unit-files --no-legend 'pgpoll*'", check=False).stdout.split()
    processes = machine.run("pgrep -l pgpoll", check=False).stdout.split()
    user = machine.run("getent passwd pgpoll; getent group pgpoll", check=False).stdout.split()
    roles = machine.psql("SELECT rolname FROM pg_roles WHERE rolname ~ 'pgpoll' UNION ALL SELECT nspname FROM pg_namespace WHERE nspname ~ 'pgpoll'").split()
    return sorted({*files, *units, *processes, *user, *roles})


def test_removing_it(machine):
    machine.run(command("systemctl disable --now pgpoll.service "))
    machine.run(command("runuser "))
    machine.run(command("lighty-disable-mod "))
    machine.run(command("apt-get purge ").replace("purge", "purge -qq -y"))
    machine.run(command("userdel "))
    assert left_behind(machine) == []
    assert machine.run("curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1/messages/poll -d '{}'").stdout == "404"


def test_purging_a_package_that_could_not_be_configured(machine, tmp_path):
    """Its services run: those of the version before."""
    machine.run(f"apt-get install -qq -y {machine.put(DEB)}")
    machine.run("pgpoll-setup mydb; cp -r /usr/share/pgpoll/sql /srv")
    until(lambda: machine.run("pgrep -xc pgpoll-worker", check=False).stdout.strip() != "0", "workers")
    broken = repacked(tmp_path, "9.9", postinst="#!/bin/sh\nexit 1\n")
    assert machine.run(f"dpkg -i {machine.put(broken)}", check=False).returncode == 1
    assert machine.says("dpkg-query -W -f '${db:Status-Status}' pgpoll") == "half-configured"
    machine.run("dpkg --purge pgpoll")
    machine.run(command("runuser ").replace("/usr/share/pgpoll/sql", "/srv/sql"))
    machine.run(command("userdel "))
    assert left_behind(machine) == []
