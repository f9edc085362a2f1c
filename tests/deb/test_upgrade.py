"""The upgrade of the Debian package from version 0.1.0 to this one without a question, and its removal in the middle of an upgrade. The tests run
in order on one machine."""
import json
import os
import subprocess

import pytest

from machine import ROOT, SUITE, Machine, until
from documents import command   # beside machine's server.py
from test_package import DEB, Clients, manager, poll, program_of, publish, repacked, settle

RELEASED = "addf9c3"   # version 0.1.0
SETTINGS = "/etc/default/pgpoll"

pytestmark = pytest.mark.skipif(SUITE != "bookworm", reason="0.1.0 was for Debian 12")


@pytest.fixture(scope="module")
def released():
    """The package of version 0.1.0. It is kept, because its sources do not change."""
    tree = ROOT / "build" / RELEASED
    if not list(tree.glob("build/deb/*.deb")):
        subprocess.run(["rm", "-rf", tree], check=True)
        tree.mkdir(parents=True)
        sources = subprocess.run(["git", "-C", ROOT, "archive", RELEASED], stdout=subprocess.PIPE)
        if sources.returncode:
            pytest.skip(f"commit {RELEASED} is not in this clone")
        subprocess.run(["tar", "-x", "-C", tree], input=sources.stdout, check=True)
        clean = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
        subprocess.run(["make", "-s", "deb"], cwd=tree, env=clean, check=True, stdout=subprocess.DEVNULL)
    (deb,) = tree.glob("build/deb/pgpoll_*.deb")
    return deb


@pytest.fixture(scope="module")
def machine(released, tmp_path_factory):
    with Machine(tmp_path_factory.mktemp("machine") / "log") as machine:
        yield machine


def too_many_topics(machine):
    body = json.dumps({"topics": ["a", "b", "c", "d"], "timeout": 0})
    return machine.says(f"curl -s -o /dev/null -w '%{{http_code}}' http://127.0.0.1/messages/poll -d '{body}'") == "422"


def test_the_old_version_is_set_up(machine, released):
    machine.run(f"apt-get install -qq -y {machine.put(released)}; runuser -u postgres -- createdb mydb; pgpoll-setup mydb")
    machine.run(f"sed -i 's/^#PGPOLL_WORKERS=500/PGPOLL_WORKERS=20/; s/^#PGPOLL_MAX_TOPICS=.*/PGPOLL_MAX_TOPICS=3/' {SETTINGS}")
    machine.run(f"systemctl restart pgpoll; {command('cp ')}; {command('lighty-enable-mod ')}")
    until(lambda: machine.run("curl -s http://127.0.0.1/", check=False).returncode == 0, "lighttpd")
    settle(machine, 20)
    assert poll(machine, "t")[0] == 200 and too_many_topics(machine)


def test_the_upgrade_asks_nothing_and_keeps_the_settings(machine):
    settings = machine.says(f"cat {SETTINGS}")
    assert "PGDATABASE=mydb" in settings
    machine.run(f"rm -f /root/{DEB.name}")   # the old package has the same file name
    clients = Clients(machine, patient=True)
    publish(machine, "t", 1)
    said = machine.says(f"dpkg -i {machine.put(DEB)}")
    assert "run pgpoll-setup" in said, said
    assert machine.says("dpkg-query -W -f '${db:Status-Abbrev}' pgpoll") == "ii"
    assert program_of(machine).endswith("(deleted)") and poll(machine, "t")[0] == 200
    publish(machine, "t", 2)
    said = machine.says("pgpoll-setup mydb")
    assert "was upgraded from version" in said and "restarted pgpoll.service" in said, said
    assert program_of(machine) == "/usr/lib/pgpoll/pgpoll.fcgi"
    publish(machine, "t", 3)
    clients.expect(machine, 1, 2, 3)
    settle(machine, 20)
    assert too_many_topics(machine) and machine.says(f"cat {SETTINGS}") == settings
    assert machine.run("test -e /etc/default/pgpoll-setup", check=False).returncode == 1
    for unit in "pgpoll.service", "pgpoll-stats@1.service", "pgpoll.socket":
        assert machine.show(unit, "NeedDaemonReload") == "no" and machine.show(unit, "ActiveState") == "active"
    assert "/etc/default/pgpoll-setup" in machine.show("pgpoll.service", "EnvironmentFiles")
    assert "WRONG" not in machine.says("pgpoll-check --seconds 1 http://127.0.0.1")


def test_purging_a_package_that_was_only_unpacked(machine, tmp_path):
    """dpkg does not run its prerm, and the services run."""
    assert manager(machine)
    machine.run(f"dpkg --unpack {machine.put(repacked(tmp_path, '9.0'))}")
    assert machine.says("dpkg-query -W -f '${db:Status-Status}' pgpoll") == "unpacked" and manager(machine)
    machine.run("apt-get purge -qq -y pgpoll")
    assert machine.run("pgrep -u pgpoll", check=False).stdout == ""
    assert machine.run("ls /etc/default/pgpoll* /usr/lib/pgpoll /usr/share/pgpoll /run/pgpoll/*.sock 2>/dev/null", check=False).stdout == ""
    assert machine.run("find /etc/systemd -name '*pgpoll*'").stdout == ""
    assert machine.says("systemctl list-units --no-legend 'pgpoll*'") == ""
