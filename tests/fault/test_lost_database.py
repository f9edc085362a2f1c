"""The database itself loses committed messages. Clients get all that is left, or are told of a gap."""
import contextlib
import time

import pytest

from faults import Copy
from load import under_load


@pytest.fixture(params=["managed", "direct"])
def mode(request):
    return request.param


def move(load, faults, copy, start):
    """The programs and writers continue with the copy."""
    with faults.away("database"):
        faults.postgres.stop("immediate")
        start()
        faults.proxy.target = str(copy.directory / ".s.PGSQL.5432")
        faults.proxy.cut()
        load.where["host"] = str(copy.directory)


def excuse_what_is_lost(load, faults, safe_until):
    """Messages committed before this time must be there."""
    faults.excuses["survivors"] = left = load.read_again()
    lost = [sent for sent in load.sent if sent.text not in left]
    assert lost, "nothing was lost: the test tests nothing"
    assert all(sent.ended > safe_until for sent in lost)


def test_standby_promoted_after_losing_the_last_seconds(mode):
    with under_load(mode) as (load, faults), Copy(faults.postgres, replicate=True) as standby:
        load.until_flowing()
        safe_until = standby.until_replayed()
        standby.cut_off()
        time.sleep(2)
        load.until_flowing()
        move(load, faults, standby, standby.promote)
        load.until_flowing()
        load.finish()
        excuse_what_is_lost(load, faults, safe_until)


def test_backup_restored_under_living_clients(mode):
    with under_load(mode) as (load, faults):
        safe_until = time.monotonic()
        with Copy(faults.postgres, replicate=False) as backup:
            time.sleep(2)
            load.until_flowing()
            move(load, faults, backup, backup.postgres.start)
            load.until_flowing()
            load.finish()
            excuse_what_is_lost(load, faults, safe_until)


def test_dump_restored_under_living_clients(mode):
    with under_load(mode, errors="schema") as (load, faults):
        safe_until = time.monotonic()
        faults.dump()
        time.sleep(2)
        load.until_flowing()
        faults.restore()
        load.until_flowing()
        load.finish()
        excuse_what_is_lost(load, faults, safe_until)


def test_publishers_that_do_not_wait_for_the_disk(mode):
    """With synchronous_commit = off, a crash takes back messages that were committed and delivered."""
    with under_load(mode) as (load, faults):
        load.server.sql("ALTER SYSTEM SET wal_writer_delay = '10s'")
        load.server.sql("ALTER SYSTEM SET wal_writer_flush_after = '1GB'")
        load.server.sql("ALTER ROLE fault_writer SET synchronous_commit = off")
        faults.terminate_backends()
        load.server.sql("SELECT pg_reload_conf()")
        load.until_flowing()
        time.sleep(1)
        safe_until = time.monotonic()
        load.server.sql("CHECKPOINT")
        load.until_flowing()
        with contextlib.closing(load.server.connect()) as session, session.cursor() as cursor:
            cursor.execute("LOCK TABLE pgpoll.feed_lock")   # a batch would flush what was published before it
            time.sleep(0.5)
            faults.crash()
        load.server.sql("ALTER ROLE fault_writer RESET synchronous_commit")
        load.until_flowing()
        load.finish()
        excuse_what_is_lost(load, faults, safe_until)
