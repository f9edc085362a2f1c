"""A site of two databases and two web hosts goes through what happens to such sites, under load; then what each client received is compared
with what was committed."""
import contextlib
import pathlib
import re
import signal
import subprocess
import time

import psycopg2
import pytest

import network
from documents import command
from faults import Clock
from history import BUSINESS, Writer
from load import Load
from next_version import NEXT, next_version
from outcome import ROWS, judge
from several_hosts import Directory, Site, make_cluster
from server import ROOT, until

pytestmark = pytest.mark.skipif(bool(why := network.missing()), reason=str(why))

# Promised is less: 1.5 s after a kill, 5 s and 8 s. A busy machine may take longer.
KILLED_S, REREAD_S, SILENT_S = 5, 8, 12
# Messages that each host delivers before and after a fault.
BEFORE, AFTER = 200, 200
CUT_S, ALONE_S = 15, 5
# A balancer takes a host out that does not answer three checks. Patroni's lock on the primary expires, and the standby takes it.
CHECKED_S, PATRONI_S = 12, 40


@pytest.fixture(scope="module")
def cluster():
    with Directory() as directory:
        yield make_cluster(directory, BUSINESS)


class History:
    """What happens to a site. since: when the fault began, by host. done: when it was complete."""

    def __init__(self, site, load, hosts):
        self.site, self.load, self.hosts, self.since, self.done = site, load, hosts, {}, {}
        self.first, self.second, self.web = site.first, site.second, site.web

    def fault(self, *hosts):
        """Call it right before the fault, or its end, from which the time to the first delivery counts. hosts: to which that applies."""
        self.since.update(dict.fromkeys(hosts or self.hosts, time.monotonic()))
        self.done.update(self.since)

    def complete(self):
        """Call it when the old primary delivers nothing more. Only what is published from now on counts."""
        self.done = dict.fromkeys(self.hosts, time.monotonic())

    def until_received(self, more, *hosts, what="messages", seconds=60):
        """Returns when each host (or each of these) has delivered that many more messages that were published meanwhile."""
        since, stayers = time.monotonic(), [self.stayers[name] for name in hosts or self.hosts]
        seen = [len(client.polls) for client in stayers]

        def all_have():
            return self.load.died() or all(
                sum(len(poll.messages) for poll in client.polls[n:] if poll.began > since) >= more for client, n in zip(stayers, seen))

        until(all_have, what, seconds)
        assert not self.load.died(), [thread.exception() for thread in self.load.died()]


def add_writer(load, name, host, where):
    def connect():
        with host.entered():
            return psycopg2.connect(**where)

    load.writers.append(Writer(name, connect, load.topics, load.fork(), load.is_ahead))


@contextlib.contextmanager
def history(cluster, name, loses=False, patience=10, rush=False, island=False, **options):
    """Yields a History. Afterwards its attribute outcome says what it cost. loses: whether the database may lose what it had committed. island:
    whether a publisher on web1's host knows the first database only."""
    with Site(cluster, **options) as site:
        hosts = site.entrances
        load = Load(site, [*hosts.values()], writers=3, clients=6, patience=patience, rush=rush, where=site.where())
        add_writer(load, "near", site.clients, site.where(site.second))    # finds the new primary at once
        if island:
            add_writer(load, "old", site.web[0].host, site.where(site.first))
        if loses:
            load.ahead = 3000   # what is lost reaches nobody, but writers need not wait for it
        this = History(site, load, hosts)
        with load:
            this.stayers = {name: load.stay(host) for name, host in hosts.items()}
            this.until_received(BEFORE)
            this.fault()
            yield this
            this.until_received(AFTER, what="messages again")
            load.finish()
            survivors = load.read_again() if loses else None
        this.outcome = judge(name, load, hosts, this.since, this.done, survivors)


def check(outcome, within, errors=None, asynchronous=False):
    """within: seconds to the first delivery at each host. errors: the part of polls that may fail. asynchronous: the place in the order of messages
    that were published right before the fault may not have reached the standby, which gives them another."""
    assert not outcome.complaints, "\n".join(outcome.complaints[:20])
    assert (outcome.lost, outcome.doubled_early) == (0, 0)
    assert asynchronous or (outcome.doubled, outcome.reordered) == (0, 0)
    is_back(outcome, within)
    assert errors is None or sum(outcome.errors.values()) <= errors * outcome.polls, outcome.errors


def is_back(outcome, within):
    assert all(first is not None and first <= within for first in outcome.first.values()), outcome.first


def test_kill_and_promote(cluster):
    with history(cluster, "db1 (primary) is killed, db2 promoted") as this:
        this.first.kill()
        this.complete()
        this.second.promote()
    check(this.outcome, KILLED_S)


def test_kill_and_promote_asynchronous(cluster):
    with history(cluster, "the same, db2 being an asynchronous standby", synchronous=False, loses=True) as this:
        this.first.kill()
        this.complete()
        this.second.promote()
    check(this.outcome, KILLED_S, asynchronous=True)


def test_silent_loss_and_promote(cluster):
    with history(cluster, "db1's host is lost in silence, db2 promoted") as this:
        this.first.host.cut()
        this.complete()
        this.second.promote()
    check(this.outcome, SILENT_S)


def test_cut_between_web_and_database(cluster):
    with history(cluster, f"web1 is cut off from the databases for {CUT_S} s (web1: from the end)") as this:
        cut = this.web[0].host, (this.first.host, this.second.host)
        cut[0].cut(*cut[1])
        time.sleep(CUT_S)
        this.fault("web1")
        cut[0].mend(*cut[1])
    check(this.outcome, SILENT_S)


def test_cut_between_clients_and_web(cluster):
    with history(cluster, f"web1 is cut off from the clients for {CUT_S} s (web1: from the end)", patience=2) as this:
        this.site.clients.cut(this.web[0].host)
        time.sleep(CUT_S)
        this.fault("web1")
        this.site.clients.mend(this.web[0].host)
    check(this.outcome, SILENT_S)


def test_frozen_manager_while_muted(cluster):
    """The manager had publishers omit the NOTIFY."""
    with history(cluster, f"web1's manager freezes for {CUT_S} s while publishers omit the NOTIFY (web1: from the end)", rush=True) as this:
        this.load.until_muted()
        this.fault()
        this.web[0].manager.send_signal(signal.SIGSTOP)
        this.load.rush_over.set()
        time.sleep(CUT_S)
        this.fault("web1")
        this.web[0].manager.send_signal(signal.SIGCONT)
    check(this.outcome, REREAD_S)


@contextlib.contextmanager
def two_databases(this):
    """Meanwhile the hosts may follow different ones: there may be nothing on one of which the other has told that there is more."""
    began = time.monotonic()
    yield
    this.load.outages.append(("database", began, time.monotonic()))


def split(this):
    with two_databases(this):
        this.first.host.cut(this.second.host, this.web[1].host, this.site.clients)
        this.web[0].host.cut(this.second.host)
        this.second.promote()
        time.sleep(CUT_S)
    this.fault()
    this.first.kill()
    this.complete()
    this.web[0].host.mend(this.second.host)


def test_split_brain(cluster):
    """The old primary stays, with one web host that sees it only, and both are written."""
    with history(cluster, f"db1 and web1 are cut off from the others for {CUT_S} s, db2 promoted, both written (from the end)", loses=True, island=True,
                 synchronous=False) as this:
        split(this)
    is_back(this.outcome, SILENT_S)     # two databases give the same cursors to different messages: pgpoll cannot help that


def test_split_brain_synchronous(cluster):
    """The old primary commits nothing without its standby."""
    with history(cluster, "the same, db2 being a synchronous standby (from the end)", island=True) as this:
        split(this)
    check(this.outcome, SILENT_S)


def test_old_primary_comes_back(cluster):
    """It is first in PGHOST, takes writes, and for a while is the only one there."""
    with history(cluster, f"db1's host is lost, db2 promoted; db1 comes back and is alone for {ALONE_S} s (from the end)", loses=True, synchronous=False) as this:
        this.first.host.cut()
        this.second.promote()
        this.until_received(AFTER)
        this.first.host.mend()
        this.second.stop()
        time.sleep(ALONE_S)
        this.fault()
        this.second.start()
        this.until_received(1)
        this.first.kill()
    check(this.outcome, SILENT_S)


def test_wrong_clocks(cluster):
    with Clock() as ahead, Clock() as behind:
        ahead.step(1)
        behind.step(-1)
        with history(cluster, "clocks: web1 and db1 an hour ahead, web2 and db2 behind; db1 is killed, db2 promoted",
                     under={"db1": ahead.command, "web1": ahead.command, "db2": behind.command, "web2": behind.command}) as this:
            assert this.first.sql("SELECT clock_timestamp() > to_timestamp(%s) + interval '59 min'", time.time()) == [(True,)]
            this.first.kill()
            this.complete()
            this.second.promote()
    check(this.outcome, KILLED_S)


def test_delay_and_loss(cluster):
    slow = {"delay_ms": 25, "loss": 0.01}
    with history(cluster, "web hosts with 50 ms round trip and 1 % loss in each direction", cables={"web1": slow, "web2": slow}) as this:
        this.until_received(AFTER)
    check(this.outcome, KILLED_S, errors=0.1)   # polls that do not wait, and need a connection whose first packet is lost


def test_rolling_upgrade(cluster):
    """Each host gets new programs in turn, twice."""
    with history(cluster, "upgrade of the programs: web1 and web2 are reloaded in turn, twice") as this:
        for web in this.web * 2:
            web.reload()
            until(web.has_reloaded, "the new workers", 30)
            this.until_received(20)
    check(this.outcome, KILLED_S, errors=0)


@pytest.fixture(scope="module")
def next_tree(tmp_path_factory):
    with next_version(tmp_path_factory.mktemp("next")) as tree:
        subprocess.run(["make", "-s", "-j2", "-C", tree, "all"], check=True)
        yield tree


@pytest.mark.parametrize("first", ["schema", "programs"])
def test_upgrade_with_schema(cluster, next_tree, first):
    """Until the other part has its turn, polls wait."""
    with history(cluster, f"upgrade to another schema, the {first} first (from the end)") as this:
        if first == "schema":
            this.first.install(next_tree)
        for web in this.web:
            web.reload(next_tree)
        if first == "programs":
            for web in this.web:
                until(lambda: f"version {NEXT}" in "\n".join(web.log()), "the new programs")
            this.fault()
            this.first.install(next_tree)
        this.fault()
        for web in this.web:
            until(web.has_reloaded, "the new workers", 30)
    check(this.outcome, SILENT_S)


def test_host_lost_behind_haproxy(cluster):
    with history(cluster, "HAProxy in front: the web host that numbers the messages is lost in silence", patience=30, balanced=True) as this:
        this.site.numbering().host.cut()
        time.sleep(CUT_S)
    check(this.outcome, KILLED_S)
    assert this.outcome.latest <= CHECKED_S


def test_silent_loss_and_promote_behind_haproxy(cluster):
    """The health of the hosts does not empty them."""
    with history(cluster, "HAProxy in front: db1's host is lost in silence, db2 promoted", patience=30, balanced=True) as this:
        this.first.host.cut()
        this.complete()
        this.second.promote()
    check(this.outcome, SILENT_S)


def test_patroni(cluster):
    """The primary that it has cut off stops, so there is no split brain."""
    with history(cluster, "Patroni: db1 and web1 are cut off from the others, Patroni promotes db2 (web1: from the end)", island=True,
                 patroni=True) as this:
        others = this.second.host, this.web[1].host, this.site.clients, this.site.etcd
        with two_databases(this):
            this.first.host.cut(*others)
            this.web[0].host.cut(this.second.host)
            until(this.second.is_primary, "Patroni promotes", PATRONI_S)
            this.until_received(AFTER, "web2")
        this.fault("web1")
        this.first.host.mend(*others)
        this.web[0].host.mend(this.second.host)
    check(this.outcome, PATRONI_S + SILENT_S)


def test_the_documents_show_every_history():
    """And say how to get the table."""
    goal = subprocess.run([*command("make site").split(), "-n"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert f"tests/soak/{pathlib.Path(__file__).name}" in (ROOT / "tests/run").read_text() and "tests/run site" in goal
    rows = re.findall(r"^\| ([^|]+) \|", (ROOT / "docs/several-hosts.md").read_text(), re.M)
    assert {outcome.name for outcome in ROWS} <= set(rows)
