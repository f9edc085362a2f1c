"""podman without a daemon and with a store of its own, for a sandbox: no systemd, no network for containers, this machine's limits."""
import json
import pathlib
import resource
import shlex
import subprocess
import tarfile
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
STORE = "/var/tmp/pgpoll-podman"   # the base image and the layers of the last build are kept
BASE = "localhost/pgpoll-debian"
_, FILES = resource.getrlimit(resource.RLIMIT_NOFILE)
LIMITS = ["--ulimit", f"nofile={FILES}:{FILES}", "--ulimit", "nproc=10000:10000"]   # the caller's own limits, which podman cannot raise


def podman(*words, check=True, **options):
    done = subprocess.run(["podman", "--root", STORE, "--runroot", "/run/pgpoll-podman", "--runtime", "runc", "--cgroup-manager", "cgroupfs",
                           "--events-backend", "none", "--log-level", "fatal", *words], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, **options)
    assert not check or done.returncode == 0, f"podman {shlex.join(map(str, words))}: {done.stdout}{done.stderr}"
    return done


def make_base():
    """Makes a base image from Debian's packages, because no registry of images can be reached."""
    if podman("image", "exists", BASE, check=False).returncode == 0:
        return
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="pgpoll-root.") as directory:
        root, archive = f"{directory}/root", f"{directory}/root.tar"
        subprocess.run([ROOT / "tests/debian/bootstrap", "bookworm", root], check=True)
        with tarfile.open(archive, "w") as tar:
            tar.add(root, ".")
        podman("import", archive, BASE)


def build(command):
    """Builds the image as in docs/install.md, on the base image made from Debian's packages."""
    assert command[:2] == ["docker", "build"]
    make_base()
    podman("build", "--format", "docker", "--network", "host", *LIMITS, "--build-arg", f"BASE={BASE}", *command[2:], cwd=ROOT)


class Container:
    """A running container. Its only network is its own loopback interface."""

    def __init__(self, *words, limits=LIMITS):
        self.id = podman("run", "-d", "--network", "none", *limits, *words).stdout.strip()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        podman("rm", "-f", "-t", "0", self.id)

    def inspect(self, path):
        return podman("inspect", "-f", "{{" + path + "}}", self.id).stdout.strip()

    def running(self):
        return self.inspect(".State.Running") == "true"

    def logs(self):
        done = podman("logs", self.id)
        return done.stdout + done.stderr

    def exec(self, *words, check=True):
        return podman("exec", self.id, *words, check=check)

    def wait(self):
        return int(podman("wait", self.id).stdout)

    def process_ids(self):
        """Returns the process ids outside the container, by name."""
        found, ours = {}, pathlib.Path(f"/proc/{self.inspect('.State.Pid')}/ns/pid").readlink()
        for directory in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                if ours == (directory / "ns/pid").readlink():
                    found.setdefault((directory / "comm").read_text().strip(), []).append(int(directory.name))
            except OSError:
                pass
        return found

    def curl_command(self, path, *options, port=8080):
        """Returns a curl command that runs inside the container's network."""
        return ["nsenter", "-t", self.inspect(".State.Pid"), "-n", "curl", "-sS", "-m", "90", *options, f"http://127.0.0.1:{port}{path}"]

    def curl(self, path, *options, **more):
        return subprocess.Popen(self.curl_command(path, "-w", "\n%{http_code}", *options, **more), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def ask(self, path, *options, **more):
        body, status = self.curl(path, *options, **more).communicate()[0].rsplit("\n", 1)
        return int(status), body

    def poll_later(self, topic, timeout=60):
        return self.curl("/messages/poll", "-d", json.dumps({"topics": [topic], "timeout": timeout}))

    def serves(self):
        assert self.running(), self.logs()
        return self.ask("/messages/poll/stats")[0] == 200
