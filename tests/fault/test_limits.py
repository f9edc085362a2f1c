"""The disk, the descriptors or the memory are exhausted, and then available again."""
import contextlib
import pathlib
import resource
import subprocess
import tempfile
import time

import psycopg2
import pytest

from load import under_load
from server import until


@pytest.fixture(params=["managed", "direct"])
def mode(request):
    return request.param


@pytest.fixture
def small_disk():
    """A directory on a small file system of its own."""
    directory = pathlib.Path(tempfile.mkdtemp(prefix="pgpoll-disk-", dir="/tmp"))
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m,mode=755", "tmpfs", directory], check=False, capture_output=True)
    if done.returncode:
        directory.rmdir()
        pytest.skip("only root may mount a small disk")
    yield directory
    subprocess.run(["umount", directory], check=True)
    directory.rmdir()


@pytest.mark.parametrize("what", ["data", "log"])
def test_disk_full(mode, small_disk, what):
    """PostgreSQL refuses publishers, or stops if it cannot write its WAL. No committed message is lost."""
    with under_load(mode, run=small_disk / "run") as (load, faults):
        ballast = small_disk / "ballast"
        with faults.away("database"):
            with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
                while file.write(bytes(1 << 16)):
                    pass
            if what == "data":
                failed = sum(writer.outcomes["undone"] for writer in load.writers)
                until(lambda: sum(writer.outcomes["undone"] for writer in load.writers) > failed + 50, "publishers failed", 60)
            else:
                until(lambda: not went_on_to_another_log_file(load.server), "PostgreSQL down", 60)
            time.sleep(2)
            ballast.unlink()
            load.server.close_db()
            until(lambda: faults.postgres_runs() or faults.postgres.start() is None, "PostgreSQL up again")


def went_on_to_another_log_file(server):
    """Switches to the next WAL file, of which PostgreSQL keeps some in reserve. Returns whether that worked."""
    try:
        server.sql("SELECT pg_switch_wal() FROM txid_current()")
        return True
    except psycopg2.Error:
        return False


def first_free_descriptor(server):
    """Returns the first free descriptor of an idle worker. Its next descriptor is for a database connection."""
    least = 1000
    for _ in range(20):
        for pid in server.worker_pids():
            with contextlib.suppress(FileNotFoundError):
                used = {int(entry.name) for entry in pathlib.Path(f"/proc/{pid}/fd").iterdir()}
                least = min(least, *set(range(1000)) - used)
    return least


def memory(pid):
    return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()


def set_limit(pid, kind, value):
    """Sets the soft limit as the process's own user, which needs no privilege."""
    done = subprocess.run(["runuser", "-u", pathlib.Path(f"/proc/{pid}").owner(), "--", "prlimit", f"--pid={pid}", f"--{kind}={value}:"],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@contextlib.contextmanager
def limited(server, kind, value, otherwise):
    """Limits this resource of all present workers to value(pid)."""
    pids = server.worker_pids()
    for pid in pids:
        with contextlib.suppress(FileNotFoundError):
            set_limit(pid, kind, value(pid))
    yield
    for pid in pids & server.worker_pids():
        with contextlib.suppress(FileNotFoundError):
            set_limit(pid, kind, otherwise)


@pytest.mark.parametrize("for_what", ["request", "database connection"])
def test_no_descriptor(mode, for_what):
    """Requests wait until there is a free descriptor. A poll that needs the database and cannot connect gets 503."""
    with under_load(mode, errors="cannot accept a request|cannot watch for requests|as soon as it was started") as (load, faults):
        limit = first_free_descriptor(load.server) + (for_what != "request")
        with faults.away("database"), limited(load.server, "nofile", lambda _: limit, 1024):
            faults.terminate_backends()     # so that workers must connect
            time.sleep(3)
        load.until_flowing()
        if for_what == "request" or mode == "direct":
            said = "cannot accept a request" if for_what == "request" else "Too many open files"
            assert any(said in line for line in load.server.log()), "the test tests nothing"


def test_memory_runs_out(mode):
    """A worker without memory answers with an error or ends. It does not crash or send a wrong answer."""
    with under_load(mode, errors="memory|Cannot allocate|as soon as it was started", settings={}) as (load, faults):     # large pages
        with faults.away("worker"), limited(load.server, "as", memory, "unlimited"):
            time.sleep(3)
        load.until_flowing()
        log = load.server.log()
        assert any("memory" in line for line in log), "the test tests nothing"
        assert not [line for line in log if "killed by signal" in line]
        faults.kills += sum("exited with status" in line for line in log)
