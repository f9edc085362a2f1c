"""A Debian system for tests: PostgreSQL, lighttpd and systemd as process 1, in a container without a network. Needs root. SUITE chooses the
release of Debian, by default this machine's. `python3 machine.py` only makes the root file system from which machines start."""
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/e2e"))
from server import until   # noqa: E402

# The release of the machine. For another release than this machine's, the package is built in a copy of the tree in another root directory.
SUITE = os.environ.get("SUITE")
TREE = pathlib.Path(f"/var/tmp/pgpoll-debian-{SUITE}/trees", str(ROOT).replace("/", "_")) if SUITE else ROOT
BUILT_IN = ["tests/debian/root", SUITE] if SUITE else []
SUITE = SUITE or re.search(r"^VERSION_CODENAME=(.*)$", pathlib.Path("/etc/os-release").read_text(), re.M)[1]

# The root file system is made once and kept; no machine writes to it.
BASE = pathlib.Path(f"/var/tmp/pgpoll-machine-{SUITE}")
PACKAGES = ("systemd,systemd-sysv,dbus,procps,man-db,curl,postgresql,lighttpd,libjson-c5,"
            + ("libfcgi0ldbl" if SUITE == "bookworm" else "libfcgi0t64"))
BOOT_S = 180   # long enough for a busy machine


def make_base():
    subprocess.run([ROOT / "tests/debian/bootstrap", SUITE, BASE, f"--include={PACKAGES}"], check=True)


def remove_cgroups():
    """Removes the cgroups that an earlier nspawn left behind: if systemd is not process 1, the next nspawn takes them for its own and fails."""
    mounted = subprocess.run(["findmnt", "-n", "-t", "cgroup2", "-o", "TARGET"], check=False, capture_output=True, text=True).stdout.split()
    if not mounted:     # in a chroot
        return
    (ours,) = re.findall(r"^0::/(.*)$", pathlib.Path("/proc/self/cgroup").read_text(), re.M)
    for name in "payload", "supervisor":
        subprocess.run(["find", pathlib.Path(mounted[0], ours, name), "-depth", "-type", "d", "-exec", "rmdir", "{}", ";"],
                       check=False, stderr=subprocess.DEVNULL)


class Machine:
    def __init__(self, log):
        make_base()
        self.log = log
        self.nspawn = self.init = None

    def __enter__(self):
        remove_cgroups()
        with self.log.open("w") as log:
            self.nspawn = subprocess.Popen(
                ["systemd-nspawn", "-q", "-D", BASE, "--volatile=overlay", "--machine=pgpoll-test", "--register=no", "--keep-unit",
                 "--private-network", "--rlimit=NOFILE=1024:524288", "--console=pipe", "--kill-signal=SIGRTMIN+3", "-b"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        try:
            self.init = until(self.find_init, "process 1", BOOT_S)
            until(lambda: self.run("systemctl is-system-running", check=False).stdout.strip() in ("running", "degraded"), "booted", BOOT_S)
        except BaseException:
            self.__exit__()
            print(self.log.read_text())   # pytest prints it
            raise
        return self

    def __exit__(self, *_):
        self.nspawn.terminate()
        try:
            self.nspawn.wait(30)
        except subprocess.TimeoutExpired:
            self.nspawn.terminate()   # the second SIGTERM ends it at once
            self.nspawn.wait(30)

    def find_init(self):
        assert self.nspawn.poll() is None, "systemd-nspawn has ended"
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
        """Copies a file to the machine."""
        target = f"/root/{path.name}"
        (self.root / target[1:]).write_bytes(path.read_bytes())
        return target


def quoted(text):
    return "'" + text.replace("'", "'\\''") + "'"


if __name__ == "__main__":
    make_base()
