"""A site of two databases and two web hosts goes through what happens to such sites, under load; then what each client received is compared
with what was committed."""
import contextlib
import time

import psycopg2
import pytest

import network
from history import BUSINESS, Writer
from load import Load
from outcome import judge
from several_hosts import Directory, Site, make_cluster
from server import until

pytestmark = pytest.mark.skipif(bool(why := network.missing()), reason=str(why))

# Promised is less: 1.5 s and 8 s. A busy machine may take longer.
KILLED_S, SILENT_S = 5, 12
# Messages before and after a fault.
BEFORE, AFTER = 200, 200


@pytest.fixture(scope="module")
def cluster():
    with Directory() as directory:
        yield make_cluster(directory, BUSINESS)


class History:
    """What happens to a site. at: when the fault happened."""

    def __init__(self, site, load):
        self.site, self.load, self.at = site, load, None

    def fault(self):
        """Call it right before the fault."""
        self.until_received(BEFORE)
        self.at = time.monotonic()

    def until_received(self, more):
        """Returns when each host has delivered that many more messages."""
        before = [client.count for client in self.stayers]
        until(lambda: self.load.died() or all(client.count > count + more for client, count in zip(self.stayers, before)),
              f"{more} messages", 60)

    def until_flowing(self, seconds=60):
        """Returns when new messages arrive at both web hosts."""
        since = time.monotonic()
        until(lambda: self.load.died() or all(any(poll.began > since and poll.messages for poll in client.polls[-20:]) for client in self.stayers),
              "messages at both hosts", seconds)
        assert not self.load.died(), [thread.exception() for thread in self.load.died()]


@contextlib.contextmanager
def history(cluster, name, loses=False, patience=5, rush=False, **options):
    """Yields a History. Afterwards its attribute outcome says what it cost. loses: whether the database may lose what it had committed."""
    with Site(cluster, **options) as site:
        hosts = [web.url for web in site.web]
        load = Load(site, hosts, writers=3, clients=6, patience=patience, rush=rush, where=site.where())
        # A publisher that finds the new primary at once.
        near = site.where(site.second)
        load.writers.append(Writer("near", lambda: psycopg2.connect(**near), load.topics, load.fork(), load.is_ahead))
        with load:
            this = History(site, load)
            this.stayers = [load.stay(host) for host in hosts]
            this.until_flowing()
            yield this
            this.until_flowing()
            this.until_received(AFTER)
            load.finish()
            survivors = load.read_again() if loses else None
        this.outcome = judge(name, load, {web.host.name: web.url for web in site.web}, this.at, survivors)
        assert not this.outcome.lost, this.outcome.complaints


def is_exact(outcome):
    assert not outcome.complaints, "\n".join(outcome.complaints[:20])
    assert (outcome.doubled, outcome.reordered) == (0, 0)


def is_first_within(outcome, seconds):
    assert all(first is not None and first <= seconds for first in outcome.first.values()), outcome.first


def test_kill_and_promote(cluster):
    with history(cluster, "primary killed, standby promoted") as this:
        this.fault()
        this.site.first.kill()
        this.site.second.promote()
    is_exact(this.outcome)
    is_first_within(this.outcome, KILLED_S)


def test_silent_loss_and_promote(cluster):
    with history(cluster, "primary's host lost in silence, standby promoted") as this:
        this.fault()
        this.site.first.host.cut()
        this.site.second.promote()
    is_exact(this.outcome)
    is_first_within(this.outcome, SILENT_S)
