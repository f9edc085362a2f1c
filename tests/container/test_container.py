"""The container image, built and run as docs/install.md says, beside a PostgreSQL whose Unix socket it sees as /pg. Needs root."""
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

from engine import LIMITS, ROOT, Container, build, podman

sys.path.insert(0, str(ROOT / "tests/e2e"))
from documents import command   # noqa: E402
from server import until   # noqa: E402

ADMIN, WORKERS = "the administrator's", "the workers'"   # passwords
QUICK = "-e", "PGPOLL_WORKERS=40"
pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="needs root")


def line(start):
    """Returns the words of the command in the documents that starts with this text."""
    return shlex.split(command(start))


class Database:
    def __init__(self, directory):
        self.directory = directory

    def cluster(self, command):
        subprocess.run(["bash", "-euc", f". {ROOT}/tests/cluster.sh; {command} {self.directory}"], check=True, stdout=subprocess.DEVNULL)

    def start(self):
        self.cluster("cluster_start")

    def stop(self):
        self.cluster("cluster_stop")

    def sql(self, query, name="mydb"):
        done = subprocess.run(["psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-h", self.directory, "-U", "postgres", "-d", name], input=query,
                              capture_output=True, text=True, env={**os.environ, "PGPASSWORD": ADMIN})
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def publish(self, topic, payload):
        self.sql(f"INSERT INTO pgpoll.messages (topic, payload) VALUES ('{topic}', '{payload}')")

    def until_waiting(self, topic, polls):
        until(lambda: self.sql(f"SELECT count(*) FROM pgpoll.live_waiters WHERE topics = '{{{topic}}}'") == str(polls), f"{polls} polls", 60)


@pytest.fixture(scope="module")
def database():
    """A PostgreSQL that asks for passwords, as one on another host does."""
    directory = subprocess.check_output(["mktemp", "-d", "/tmp/pgpoll-container.XXXXXX"], text=True).strip()
    os.chmod(directory, 0o755)
    database = Database(directory)
    database.start()
    try:
        database.sql(f"ALTER ROLE postgres PASSWORD '{ADMIN.replace(chr(39), chr(39) * 2)}'", "postgres")
        database.sql("CREATE DATABASE mydb", "postgres")
        database.sql("CREATE DATABASE app", "postgres")
        with open(f"{directory}/data/pg_hba.conf", "w") as rules:
            rules.write("local all all scram-sha-256\n")
        database.sql("SELECT pg_reload_conf()", "postgres")
        yield database
    finally:
        database.stop()
        subprocess.run(["rm", "-rf", directory], check=True)


@pytest.fixture(scope="module")
def image():
    build(line("docker build "))


def here(words, database):
    """The `docker run` of the documents, for the database of this test."""
    assert words[:2] == ["docker", "run"]
    words = [word.replace("db.example", "/pg") for word in words[2:] if word not in ("-d", "-p", "8080:8080", "--name=pgpoll")]
    return ["-v", f"{database.directory}:/pg", *words]


@pytest.fixture(scope="module")
def installed(image, database):
    words = [word.replace("PGUSER=admin", "PGUSER=postgres") for word in here(line("docker run --rm "), database)]
    said = podman("run", "--network", "none", *LIMITS, *words, env={**os.environ, "PGPASSWORD": ADMIN}).stdout
    assert "role pgpoll may poll" in said
    database.sql(f"ALTER ROLE pgpoll PASSWORD '{WORKERS.replace(chr(39), chr(39) * 2)}'")


@contextlib.contextmanager
def started(database, *options, limits=LIMITS):
    *words, image = here(line("docker run -d "), database)
    words[words.index("PGPASSWORD")] += f"={WORKERS}"
    with Container(*words, *QUICK, *options, image, limits=limits) as container:
        yield container


@pytest.fixture(scope="module")
def container(installed, database):
    with started(database, "-e", "PGPOLL_LOG_LEVEL=debug", "-e", "PGPOLL_MAX_TOPICS=100") as container:
        until(container.serves, "an answer", 60)
        yield container


def test_what_is_published_is_delivered(container, database):
    waiting = container.poll_later("orders")
    database.until_waiting("orders", 1)
    status, stats = container.ask("/messages/poll/stats")
    assert status == 200 and json.loads(stats)["topic_subscriber_counts"] == {"orders": 1}
    database.publish("orders", '{"order_id": 1}')
    answer, status = waiting.communicate()[0].rsplit("\n", 1)
    assert status == "200" and [message["payload"] for message in json.loads(answer)["messages"]] == [{"order_id": 1}]
    until(lambda: "/messages/poll" in container.logs() or "orders" in container.logs(), "a line of the log")


def test_pgpoll_check_finds_no_problems(container):
    done = container.exec(*line("docker exec ")[3:-1], "--seconds", "1", line("docker exec ")[-1])
    assert "WRONG" not in done.stdout and "ok     A poll of 1 s took " in done.stdout, done.stdout
    assert re.search(r"ok     lighttpd accepts \d{4,} polls at a time, and there are 40 workers", done.stdout), done.stdout
    assert podman("healthcheck", "run", container.id, check=False).returncode == 0


def test_statistics_are_not_for_everybody(container):
    """Clients on other hosts must use another port for them; 127.0.0.2 is another host for lighttpd."""
    elsewhere = "--interface", "127.0.0.2"
    for path, word in ("/messages/poll/stats", "active_waiters"), ("/messages/poll/metrics", "pgpoll_polls_waiting"):
        assert container.ask(path, *elsewhere)[0] == 403
        status, body = container.ask(path, *elsewhere, port=8081)
        assert status == 200 and word in body
    assert container.ask("/messages/poll", "-d", '{"topics": ["a"], "timeout": 0}', *elsewhere)[0] == 200


def test_long_requests_pass_as_the_setting_says(container):
    body = json.dumps({"topics": ["a"], "timeout": 0}).ljust(700_000)
    assert container.ask("/messages/poll", "-d", body[:100_000])[0] == 200
    command = container.curl_command("/messages/poll", "-o", "/dev/null", "-w", "%{http_code}", "--data-binary", "@-")
    assert subprocess.check_output(command, input=body, text=True) == "200"


def test_no_process_is_root_and_the_file_system_is_read_only(container):
    processes = [pid for pids in container.process_ids().values() for pid in pids]
    assert len(processes) > 40
    for pid in processes:
        with open(f"/proc/{pid}/status") as file:
            status = file.read()
        assert re.search(r"^Uid:\s+10001\s+10001\s+10001\s+10001$", status, re.M) and re.search(r"^CapEff:\s+0+$", status, re.M), status
    for path in "/x", "/etc/pgpoll/x", "/usr/local/lib/pgpoll/x", "/run/x":
        assert container.exec("touch", path, check=False).returncode != 0, path
    listing = container.exec("stat", "-c", "%a", "/tmp/pgpoll", "/tmp/pgpoll/poll.sock", "/tmp/pgpoll/stats.sock").stdout.split()
    assert listing == ["700", "600", "600"]


def statuses(polls):
    answers = [poll.communicate()[0].rsplit("\n", 1) for poll in polls]
    assert all(status == "200" and "next_since" in json.loads(body) for body, status in answers), answers


@pytest.mark.parametrize("name", ("SIGTERM", "SIGINT"))
def test_sigterm_answers_waiting_polls(installed, database, name):
    with started(database) as container:
        until(container.serves, "an answer", 60)
        polls = [container.poll_later(name) for _ in range(20)]
        database.until_waiting(name, 20)
        podman("kill", "-s", name, container.id)
        statuses(polls)
        assert container.wait() == 0
        assert not re.search("error|warning", container.logs(), re.I), container.logs()


def test_a_drain_comes_first(installed, database):
    """For PGPOLL_DRAIN_S health is 503, and polls are served."""
    with started(database, "-e", "PGPOLL_DRAIN_S=4") as container:
        until(container.serves, "an answer", 60)
        podman("kill", "-s", "SIGTERM", container.id)
        until(lambda: container.ask("/messages/poll/health")[0] == 503, "a drain")
        poll = container.poll_later("drain")
        database.until_waiting("drain", 1)
        database.publish("drain", 1)
        assert '"payload":1' in poll.communicate()[0]
        polls = [container.poll_later("drain") for _ in range(5)]
        statuses(polls)
        assert container.wait() == 0
        assert not re.search("error|warning", container.logs(), re.I), container.logs()


def test_a_client_that_does_not_read_does_not_keep_the_container(installed, database):
    """The answer is larger than the kernel's socket buffers."""
    with started(database) as container:
        until(container.serves, "an answer", 60)
        database.sql("INSERT INTO pgpoll.messages (topic, payload) SELECT 'large', to_json(repeat('x', 30000000))")
        command = container.curl_command("/messages/poll", "-N", "-d", '{"topics": ["large"], "since": {"large": "0"}, "timeout": 0}')
        with subprocess.Popen(command, stdout=subprocess.PIPE) as client:
            assert client.stdout.read(1000)
            began = time.monotonic()
            podman("stop", "-t", "60", container.id)
            assert container.wait() == 0 and time.monotonic() - began < 30
            client.kill()


@pytest.mark.parametrize("part", ("pgpoll.fcgi", "multiwatch", "lighttpd"))
def test_the_container_ends_if_one_process_dies(installed, database, part):
    """The engine then starts it again. Waiting polls are answered, unless lighttpd has died."""
    with started(database) as container:
        until(container.serves, "an answer", 60)
        polls = [container.poll_later(part) for _ in range(5)]
        database.until_waiting(part, 5)
        (pid,) = container.process_ids()[part]
        os.kill(pid, signal.SIGKILL)
        if part == "lighttpd":
            for poll in polls:
                poll.wait()
        else:
            statuses(polls)
        assert container.wait() == 1


@pytest.mark.parametrize("settings, words", (
    ({"PGPOLL_WORKER": "3"}, "PGPOLL_WORKER is not a setting; did you mean PGPOLL_WORKERS?"),
    ({"PGPOLL_MAX_TOPICS": "many"}, "PGPOLL_MAX_TOPICS=many: must be a whole number"),
    ({"PGPOLL_WORKERS": "lots"}, "PGPOLL_WORKERS=lots: must be a whole number"),
    ({"PGPOLL_WORKERS": "16000"}, "run more containers"),
    ({"PGPOLL_SERVICE_HOST": "10.0.0.1"}, "PGPOLL_SERVICE_HOST is not a setting")), ids=str)
def test_a_wrong_setting_stops_the_start(installed, database, settings, words):
    with started(database, *(word for name, value in settings.items() for word in ("-e", f"{name}={value}"))) as container:
        assert container.wait() == 1
        assert words in container.logs(), container.logs()


def test_too_few_descriptors_stop_the_start(installed, database):
    few = ["--ulimit", "nofile=1024:1024", *LIMITS[2:]]
    with started(database, "-e", "PGPOLL_WORKERS=500", limits=few) as container:
        assert container.wait() == 1 and "needs 2500 file descriptors, and the limit is 1024" in container.logs(), container.logs()


def test_it_waits_for_the_database(installed, database):
    """The database comes later, and goes away once. The container runs on, and is healthy while the database is there, or has been a moment ago."""
    database.stop()
    try:
        with started(database, "-e", "PGPOLL_HEALTH_AWAY_S=1") as container:
            until(lambda: container.ask("/messages/poll/stats")[0] == 503, "an error", 60)
            until(lambda: podman("healthcheck", "run", container.id, check=False).returncode != 0, "unhealthy", 60)
            database.start()
            until(container.serves, "an answer", 60)
            until(lambda: podman("healthcheck", "run", container.id, check=False).returncode == 0, "healthy", 60)
            waiting = container.poll_later("later")
            database.until_waiting("later", 1)
            database.publish("later", 1)
            assert '"payload":1' in waiting.communicate()[0]
    finally:
        database.stop()
        database.start()


# --- compose and Kubernetes

def composed(**passwords):
    """Returns the services of compose.yaml after docker-compose has validated them and filled in the environment."""
    done = subprocess.run(["docker-compose", "-f", ROOT / "deploy/container/compose.yaml", "config"], capture_output=True, text=True,
                          env={"PATH": os.environ["PATH"], **passwords})
    return done, yaml.safe_load(done.stdout) if done.returncode == 0 else None


def test_compose_needs_passwords():
    done, _ = composed()
    assert done.returncode != 0 and "POSTGRES_PASSWORD" in done.stderr, done


def options_of(service, database):
    environment = {**service["environment"], "PGHOST": "/pg"}
    return ["-v", f"{database.directory}:/pg", *["--read-only"] * service["read_only"], *(f"--tmpfs={path}" for path in service["tmpfs"]),
            *(f"--cap-drop={name}" for name in service.get("cap_drop", [])),
            *(f"--security-opt={name.replace(':true', '')}" for name in service.get("security_opt", [])),
            *(word for name, value in environment.items() for word in ("-e", f"{name}={value}")), service["image"]]


def test_the_composed_services(image, database):
    """Runs the services of our image, not the stock PostgreSQL. The set-up can be repeated, as at each `up`."""
    done, project = composed(POSTGRES_PASSWORD=ADMIN, PGPOLL_PASSWORD="it's $1")
    assert done.returncode == 0, done
    services = project["services"]
    assert services["pgpoll"]["depends_on"] == {"setup": {"condition": "service_completed_successfully"}}
    assert services["setup"]["depends_on"] == {"database": {"condition": "service_healthy"}}
    assert services["pgpoll"]["ulimits"]["nofile"] >= (services["pgpoll"]["environment"]["PGPOLL_WORKERS"] + 500) * 2.5
    unescaped = json.loads(json.dumps(services).replace("$$", "$"))
    for _ in range(2):
        podman("run", "--rm", "--network", "none", *LIMITS, *options_of(unescaped["setup"], database), *unescaped["setup"]["command"])
    with Container(*options_of(unescaped["pgpoll"], database)) as container:
        until(container.serves, "an answer", 60)
        assert container.ask("/messages/poll", "-d", '{"topics": ["a"], "timeout": 0}')[0] == 200


@pytest.mark.skipif(not shutil.which("npm"), reason="the types of Kubernetes' API come from npm's registry")
def test_the_kubernetes_manifest(tmp_path):
    """Validates the manifest against the types of Kubernetes' API: unknown names, missing names and wrong types are errors. It is not run in a
    cluster."""
    objects = list(yaml.safe_load_all((ROOT / "deploy/container/kubernetes.yaml").read_text()))
    deployment, service = objects
    pod = deployment["spec"]["template"]
    assert deployment["spec"]["selector"]["matchLabels"] == pod["metadata"]["labels"] == service["spec"]["selector"]
    (one,) = pod["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in one["ports"]}
    assert ports == {"http": 8080, "stats": 8081} and service["spec"]["ports"][0]["targetPort"] == "http"
    assert one["readinessProbe"]["httpGet"] == {"path": "/messages/poll/health", "port": "http"} and one["livenessProbe"]["tcpSocket"]["port"] == "http"
    subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", tmp_path, "kubernetes-models@5.1.0"], check=True)

    def faults(objects):
        lines = [f'import type {{ I{thing["kind"]} }} from "kubernetes-models/{thing["apiVersion"]}";' for thing in objects]
        lines += [f'export const {thing["kind"]}: I{thing["kind"]} = {json.dumps(thing)};' for thing in objects]
        (tmp_path / "manifest.mts").write_text("\n".join(lines))
        return subprocess.run(["tsc", "--noEmit", "--strict", "--skipLibCheck", "--module", "node16", "--moduleResolution", "node16",
                               "manifest.mts"], cwd=tmp_path, capture_output=True, text=True).stdout

    assert faults(objects) == ""
    one["readinesProbe"] = one.pop("readinessProbe")
    assert "readinesProbe" in faults(objects)
