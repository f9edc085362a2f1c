"""A Debian of a test's own: PostgreSQL, lighttpd and systemd as process 1, in a container without a network. Needs root."""
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/e2e"))
from server import until   # noqa: E402

# Made once, kept, and written to by no machine.
BASE = pathlib.Path("/var/tmp/pgpoll-debian-base")
PACKAGES = "systemd,systemd-sysv,dbus,procps,man-db,curl,postgresql,lighttpd,libfcgi0ldbl,libjson-c5"


def make_base():
    if not BASE.exists():
        making = BASE.with_suffix(".new")
        subprocess.run(["rm", "-rf", making], check=True)
        subprocess.run(["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", making], check=True,
                       stdout=subprocess.DEVNULL)
        making.rename(BASE)


class Machine:
    def __init__(self, log):
        make_base()
        self.log = log
        self.nspawn = self.init = None

    def __enter__(self):
        with self.log.open("w") as log:
            self.nspawn = subprocess.Popen(
                ["systemd-nspawn", "-q", "-D", BASE, "--volatile=overlay", "--machine=pgpoll-test", "--register=no", "--keep-unit",
                 "--private-network", "--rlimit=NOFILE=1024:524288", "--console=pipe", "--kill-signal=SIGRTMIN+3", "-b"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        try:
            self.init = until(self.find_init, "process 1", 20)
            until(lambda: self.run("systemctl is-system-running", check=False).stdout.strip() in ("running", "degraded"), "booted", 60)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.nspawn.terminate()
        try:
            self.nspawn.wait(30)
        except subprocess.TimeoutExpired:
            self.nspawn.terminate()   # a second one does not wait
            self.nspawn.wait(30)

    def find_init(self):
        children = pathlib.Path(f"/proc/{self.nspawn.pid}/task/{self.nspawn.pid}/children").read_text().split()
        return next((int(pid) for pid in children if pathlib.Path(f"/proc/{pid}/comm").read_text() == "systemd\n"), None)

    @property
    def root(self):
        return pathlib.Path(f"/proc/{self.init}/root")

    def command(self, *words):
        return ["nsenter", "-t", str(self.init), "-a", "--", "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", *words]

    def run(self, script, check=True, **options):
        done = subprocess.run(self.command("sh", "-c", "cd /; " + script), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=120, **options)
        assert not check or done.returncode == 0, f"{script}: {done.stdout}"
        return done

    def says(self, script):
        return self.run(script).stdout.strip()

    def later(self, script):
        return subprocess.Popen(self.command("sh", "-c", "cd /; exec " + script), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True)

    def psql(self, query):
        return self.says(f"runuser -u postgres -- psql -XqAt -d mydb -c {quoted(query)}")

    def show(self, unit, name):
        return self.says(f"systemctl show --property {name} --value {unit}")

    def put(self, path):
        """A file of ours, for the machine to read."""
        target = f"/root/{path.name}"
        (self.root / target[1:]).write_bytes(path.read_bytes())
        return target


def quoted(text):
    return "'" + text.replace("'", "'\\''") + "'"
