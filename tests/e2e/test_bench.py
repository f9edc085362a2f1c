"""make bench: every part measures, leaves nothing behind and notices lost and duplicate messages; docs/benchmarks.md shows the kept results."""
import contextlib
import json
import math
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

import pytest

from server import ROOT, Server, until

sys.path.insert(0, str(ROOT / "tests" / "bench"))
import report  # noqa: E402

STORM = ROOT / "build" / "tests" / "bench" / "storm"


@pytest.fixture
def disk():
    """A directory that PostgreSQL and the workers can enter. At the end it must be empty, and no process may run in it."""
    directory = pathlib.Path(tempfile.mkdtemp(prefix="bench", dir="/var/tmp"))
    directory.chmod(0o755)
    yield directory
    left, running = list(directory.iterdir()), Server(0, run=directory).processes()
    shutil.rmtree(directory)
    assert not left and not running


@contextlib.contextmanager
def bench(disk, out, parts):
    """Starts a quick run. If it still runs at the end, interrupts it as Ctrl-C in a terminal does."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    with (out / "output").open("w") as output:
        make = subprocess.Popen(["make", "-s", "-C", ROOT, "bench", "QUICK=1", f"BENCH={parts}", f"OUT={out}", f"BENCH_DIR={disk}",
                                 "SHARED_BUFFERS=64MB"], env=env,
                                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)
    try:
        yield make
    finally:
        if make.poll() is None:
            os.killpg(make.pid, signal.SIGINT)
            make.wait(120)


def test_each_part_measures(disk, tmp_path):
    output = tmp_path / "output"
    with bench(disk, tmp_path, "") as make:
        assert make.wait(400) == 0, output.read_text()
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["deliveries"] > 1000 and result["machine"]["cpus"] == os.cpu_count()
    every, publishing = {"pgpoll", "no database", "Nchan"}, {"pgpoll", "plain INSERT", "INSERT + NOTIFY"}
    expected = {"memory": every, "idle": every, "latency": every | {"bare NOTIFY"}, "fanout": every, "catchup": {"pgpoll", "Nchan"}, "publish": publishing,
                "load": {"pgpoll", "bare NOTIFY"}, "comeback": {"pgpoll"}, "comeback_load": {"pgpoll"}, "polls": every,
                "access": {"pgpoll"}, "access ratio": {"pgpoll"}, "hosts": {"pgpoll"}, "hosts ratio": {"pgpoll"}, "hosts latency": {"pgpoll"},
                **dict.fromkeys(("quiet", "quiet_wal", "quiet_first"), {"pgpoll"}),
                "topics_memory": {"pgpoll"}, **dict.fromkeys(("kept", "kept_polls", "kept_rates"), {"pgpoll", "few messages"}),
                **dict.fromkeys(("kept_longest", "kept_publishing", "kept_disk"), {"pgpoll"}),
                **dict.fromkeys(("topics", "topics_start", "topics_idle"), {"1 topic each", "20 topics each"})}
    assert {name: set(report.systems_of(table)) for name, table in result["tables"].items()} == expected
    for name, table in result["tables"].items():
        for values in (values for row in table["rows"].values() for values in row.values()):
            assert len(values) == 1 and math.isfinite(values[0]) and abs(values[0]) < 1e6, table
            # Few clients take less memory than the machine's own variation, and perhaps no measurable time.
            assert values[0] > 0 or name in ("memory", "idle", "topics_idle", "topics_memory", "quiet", "quiet_wal", "kept_disk"), table
        assert table["title"] in output.read_text() and report.chart(table) in (tmp_path / "report.html").read_text()


def test_ctrl_c_leaves_nothing(disk, tmp_path):
    with bench(disk, tmp_path, "polls") as make:
        until(lambda: make.poll() is not None or list(disk.glob("*/nchan/nginx.pid")), "all systems started", 120)
        assert make.poll() is None
    assert make.returncode != 0 and "Traceback" not in (tmp_path / "output").read_text()


@contextlib.contextmanager
def a_fault(server, topic, spoiling):
    """Runs the benchmark with a trigger that changes message 7 of a topic."""
    server.sql(f"""CREATE FUNCTION public.spoil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                       IF NEW.topic = '{topic}' AND NEW.payload::text LIKE '{{"n":7,%%' THEN
                           {spoiling};
                       END IF;
                       RETURN NEW;
                   END $$""")
    server.sql("CREATE TRIGGER spoil BEFORE INSERT ON pgpoll.messages FOR EACH ROW EXECUTE FUNCTION public.spoil()")
    yield
    server.sql("DROP FUNCTION public.spoil() CASCADE")


@pytest.mark.parametrize("spoiling, lost, repeated", (("RETURN NEW", 0, 0), ("RETURN NULL", 3, 0), ("INSERT INTO pgpoll.messages (topic, payload) "
                         "VALUES (NEW.topic, '{\"n\":6}')", 0, 3)), ids=("nothing", "lost", "doubled"))
def test_lost_and_doubled_messages_are_noticed(server, topic, spoiling, lost, repeated):
    with a_fault(server, topic, spoiling):
        done = subprocess.run([STORM, "drain", "--target=pgpoll", f"--port={server.port}", f"--topic={topic}", "--clients=3", "--messages=20"],
                              env={**os.environ, **server.env}, capture_output=True, text=True, timeout=120)
    result = json.loads(done.stdout)
    assert (result["lost"], result["repeated"], done.returncode) == (lost, repeated, 1 if lost or repeated else 0), done


def test_the_documents_show_the_kept_results():
    (block,) = report.KEPT_TABLE.finditer((ROOT / "docs/benchmarks.md").read_text())
    assert block[0] == block[1] + report.markdown(report.last_kept()) + block[2]
