"""Who publishes as fast as it can: pgbench, into pgpoll's table or a plain one."""
import re
import subprocess

PAYLOAD = '{"n":1,"padding":"%s"}' % ("0" * 200)

# Writers of one message a transaction. The plain table is what one would have without pgpoll: no topic rules, no index but the key.
PEER_SCHEMA = """CREATE TABLE messages (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, topic text NOT NULL, payload json NOT NULL,
                                        metadata json, created_at timestamptz NOT NULL DEFAULT now())"""
INSERT = f"INSERT INTO %s (topic, payload) VALUES ('load-' || :topic, '{PAYLOAD}')"
WRITERS = {
    "pgpoll": ("pgpoll", INSERT % "pgpoll.messages"),
    "plain INSERT": ("peer", INSERT % "messages"),
    "INSERT + NOTIFY": ("peer", f"WITH m AS ({INSERT % 'messages'} RETURNING id) SELECT pg_notify('messages', id::text) FROM m"),
}


def peer_env(server):
    """Where the database of the peers is, in pgpoll's cluster; makes it if it is not there yet."""
    env = {**server.env, "PGDATABASE": "peer"}
    if ("peer",) not in server.sql("SELECT datname FROM pg_database"):
        server.sql("CREATE DATABASE peer")
        subprocess.run(["psql", "-XqAtc", PEER_SCHEMA], env={**env, "PATH": "/usr/bin:/bin"}, check=True, stdin=subprocess.DEVNULL)
    return env


def pgbench(server, directory, name, writers, seconds):
    """The arguments of pgbench, for subprocess."""
    database, statement = WRITERS[name]
    script = directory / f"{database}-{len(statement)}.sql"
    script.write_text(f"\\set topic random(1, 100)\n{statement};\n")
    return {"args": ["pgbench", "-n", "-M", "prepared", "-c", str(writers), "-j", str(min(writers, 2)), "-T", str(seconds), "-f", script, database],
            "env": {**server.env, "PATH": "/usr/bin:/bin"}, "stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE,
            "stderr": subprocess.STDOUT, "text": True}


def rate_of(output):
    """Transactions, and how many a second."""
    found = re.search(r"actually processed: (\d+)(?s:.*)tps = ([0-9.]+)", output)
    assert found and "failed transactions: 0 " in output, output
    return int(found[1]), float(found[2])
