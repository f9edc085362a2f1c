"""Hosts made of network namespaces: each has an address of its own on a common switch, and can be cut off without a sign, as when a cable
is pulled or the power fails. Needs root. Nothing of it is seen from the machine's own network."""
import contextlib
import ctypes
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)
NAMESPACES = pathlib.Path("/run/netns")
PREFIX = "pgpoll-site"


def enter(path):
    """Moves the calling thread into a network namespace, and with it what it starts from now on."""
    with open(path, "rb") as file:
        if LIBC.setns(file.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {path}")


def ip(*words, namespace=None):
    subprocess.run(["ip", *(["-n", namespace] if namespace else []), *map(str, words)], check=True, stdin=subprocess.DEVNULL)


def missing():
    """Returns why there can be no such network here, or None."""
    if os.getuid() != 0:
        return "network namespaces need root"
    name = f"{PREFIX}-{os.getpid()}-try"
    try:
        ip("netns", "add", name)
        ip("link", "add", "bridge", "type", "bridge", namespace=name)
        subprocess.run(["nsenter", f"--net={NAMESPACES / name}", "iptables", "-A", "INPUT", "-j", "DROP"], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no network namespaces, bridges or iptables here: {error}"
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=False, stderr=subprocess.DEVNULL)
    return None


def end(pids):
    """Kills these processes, and returns when they are gone."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(pathlib.Path(f"/proc/{pid}/exe").exists() for pid in pids):
        time.sleep(0.02)


def processes(namespace):
    """Returns the processes in a namespace, except this one, of which single threads may be there."""
    found = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False).stdout
    return [int(pid) for pid in found.split() if int(pid) != os.getpid()]


def remove_left_over():
    """Removes what earlier runs that were killed have left: namespaces, their processes, and directories in /tmp."""
    def left_over(directory):
        return [path for path in directory.glob(f"{PREFIX}-*-*") if not pathlib.Path(f"/proc/{path.name.split('-')[2]}").exists()]

    for path in left_over(NAMESPACES):
        end(processes(path.name))
        subprocess.run(["ip", "netns", "delete", path.name], check=False)
    for path in left_over(pathlib.Path("/tmp")):
        shutil.rmtree(path)


class Host:
    """delay_ms, loss: of its cable, in each direction (see cable.py)."""

    def __init__(self, network, name, address, delay_ms=0, loss=0):
        self.network, self.name, self.address = network, name, address
        self.namespace = f"{PREFIX}-{os.getpid()}-{name}"
        self.cable, self.started = None, []
        ip("netns", "add", self.namespace)
        self.connect(delay_ms, loss)
        ip("address", "add", f"{address}/24", "dev", "eth0", namespace=self.namespace)
        for device in "lo", "eth0":
            ip("link", "set", device, "up", namespace=self.namespace)

    def connect(self, delay_ms, loss):
        switch, port = self.network.switch, f"to-{self.name}"
        if delay_ms or loss:
            command = [sys.executable, "-B", pathlib.Path(__file__).with_name("cable.py"), self.namespace, "eth0", switch, port]
            self.cable = subprocess.Popen([*command, str(delay_ms), str(loss)], stdout=subprocess.PIPE, text=True)
            assert self.cable.stdout.readline() == "connected\n"
        else:
            ip("link", "add", "eth0", "netns", self.namespace, "type", "veth", "peer", "name", port, "netns", switch)
        ip("link", "set", port, "master", "bridge", "up", namespace=switch)

    @contextlib.contextmanager
    def entered(self):
        """The calling thread, and those that it starts, are on this host."""
        with open("/proc/thread-self/ns/net", "rb") as home:
            enter(NAMESPACES / self.namespace)
            try:
                yield
            finally:
                enter(f"/proc/self/fd/{home.fileno()}")

    def inside(self, *command):
        """Returns the command that runs this command on the host."""
        return ["nsenter", f"--net={NAMESPACES / self.namespace}", *map(str, command)]

    def run(self, *command, **options):
        return subprocess.run(self.inside(*command), **{"check": True, "stdin": subprocess.DEVNULL} | options)

    def gets(self, url):
        """Whether this host gets this URL with a status below 400."""
        return self.run("curl", "-s", "-f", "-o", "/dev/null", "--noproxy", "*", url, check=False).returncode == 0

    def start(self, *command, **options):
        """Starts a process on the host. Its id is that of the command itself."""
        process = subprocess.Popen(self.inside(*command), **{"stdin": subprocess.DEVNULL, "start_new_session": True} | options)
        self.started.append(process)
        return process

    def rule(self, action, *others):
        """others: the hosts to which, and from which, packets are dropped; none: all."""
        for chain, flag, device in ("INPUT", "-s", "-i"), ("OUTPUT", "-d", "-o"):
            for words in [[flag, other.address] for other in others] or [["!", device, "lo"]]:
                self.run("iptables", "-w", action, chain, *words, "-j", "DROP")

    def cut(self, *others):
        """From now on, packets between this host and the others (all others, if none are named) are lost, in both directions."""
        self.rule("-I", *others)

    def mend(self, *others):
        self.rule("-D", *others)

    def remove(self):
        end(processes(self.namespace))
        for process in self.started:
            process.wait()
        subprocess.run(["ip", "netns", "delete", self.namespace], check=False)
        if self.cable:
            self.cable.kill()
            self.cable.wait()
            self.cable.stdout.close()


class Network:
    def __init__(self):
        self.switch = f"{PREFIX}-{os.getpid()}-switch"
        self.hosts = []

    def __enter__(self):
        remove_left_over()
        ip("netns", "add", self.switch)
        ip("link", "add", "bridge", "type", "bridge", namespace=self.switch)
        ip("link", "set", "bridge", "up", namespace=self.switch)
        return self

    def add(self, name, **cable):
        self.hosts.append(Host(self, name, f"10.10.10.{len(self.hosts) + 1}", **cable))
        return self.hosts[-1]

    def __exit__(self, *_):
        for host in self.hosts:
            host.remove()
        subprocess.run(["ip", "netns", "delete", self.switch], check=False)
