"""Which rows the programs' statements read, whatever the statistics say: the plans that ran (auto_explain), not times."""
import json

import pytest

from sessions import FOLLOW, FOLLOWER_SETTINGS, assign, connect, publish, run

MANY = 20000
PAGE = "SELECT pgpoll.catch_up('{{t0,t1,quiet,new}}', '{{{},{},0,NULL}}', 10, 100000)"
LAST = "SELECT pgpoll.catch_up('{t0,quiet,t1}', '{-10,-20,-5}', 10, 100000)"
ONCE = [    # run for each delivery or poll, or each second
    "SELECT pgpoll.assign_positions()",
    "SELECT pgpoll.new_messages(1000, 1000000)",
    "SELECT pgpoll.prune('1 day')",
    "SELECT pgpoll.prune_part('t%', '1 day', 10, 100, NULL)",
    "SELECT pgpoll.schema_version()",
    "SELECT pgpoll.refused_topic('', '{t0,t1}')",
    "SELECT pgpoll.has_authenticate()",
    "SELECT pgpoll.is_open_to_all()",
    "SELECT pgpoll.listen('{t0,t1}')",
    "SELECT pgpoll.newest_positions('{t0,t1}')",
    "SELECT pgpoll.mute_doorbell(1)",
    "SELECT pgpoll.unmute_doorbell()",
    """SELECT pgpoll.write_statistics('host', '{"pid": 1, "workers": 1, "free_workers": 1, "hears": true, "ended": [1], "began":
        [{"pid": 2, "topics": ["t0"], "client": "c", "waited_ms": 1, "left_ms": 1000}], "counts": [{"metric": "polls", "label": "ok", "n": 1}]}')""",
    "SELECT pgpoll.sweep_waiters()",
    "SELECT pgpoll.metrics()",
    "SELECT pgpoll.without_position()",
    "SELECT pgpoll.cursor()",
    "SELECT * FROM pgpoll.stats",
]


class Plans:
    """Two sessions, the second one that of a manager, and the plans that their statements ran with."""

    def __init__(self):
        self.session, self.found = connect(), []
        self.manager = connect()
        for session in self.session, self.manager:
            self.watch(session)
        run(self.manager, FOLLOWER_SETTINGS + f"; PREPARE follow (bigint) AS {FOLLOW}")

    def watch(self, session):
        session.notices = self
        run(session, """LOAD 'auto_explain'; SET auto_explain.log_nested_statements = on; SET auto_explain.log_analyze = on;
                             SET auto_explain.log_timing = off; SET auto_explain.log_format = json; SET auto_explain.log_level = notice;
                             SET auto_explain.log_triggers = off; SET auto_explain.log_min_duration = 0""")

    def append(self, notice):
        if "plan:" in notice:
            self.found.append(json.loads(notice[notice.index("{"):]))

    def of(self, statement):
        self.found.clear()
        run(self.manager if statement.startswith("EXECUTE") else self.session, statement)
        assert self.found, statement
        return list(self.found)


def nodes(plan):
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


def scans(plans):
    """(node type, table or index, rows read) of each scan of the large tables."""
    for plan in plans:
        for node in nodes(plan["Plan"]):
            removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
            if node.get("Relation Name") in ("messages", "feed") and "Scan" in node["Node Type"]:
                yield node["Node Type"], node.get("Index Name", node["Relation Name"]), (node["Actual Rows"] + removed) * node["Actual Loops"]


def check(plans, statement, most):
    """No scan reads a whole table or index, or more rows than it needs."""
    ran = plans.of(statement)
    for kind, name, rows in scans(ran):
        assert kind in ("Index Scan", "Index Only Scan", "Tid Scan"), (statement, kind, name)
        assert rows <= most, (statement, kind, name, rows)
    for plan in ran:
        large = [node for node in nodes(plan["Plan"]) if node["Node Type"] in ("Hash Join", "Merge Join")
                 and any(n.get("Relation Name") in ("messages", "feed") for n in nodes(node))]
        assert not large, (statement, large)


def check_all(plans, admin):
    """Runs each statement with one new message."""
    last = [run(admin, "SELECT coalesce(max(position), 0) FROM pgpoll.feed WHERE topic = %s", topic)[0][0] for topic in ("t0", "t1")]
    for statement in [*ONCE, PAGE.format(0, 0), PAGE.format(*last), LAST]:
        publish(admin, "t0", "new")
        check(plans, statement, 50)
    for n in range(3):
        (newest,), = run(admin, "SELECT coalesce(max(position), 0) FROM pgpoll.feed")
        publish(admin, "t1", *range(5))
        check(plans, ONCE[n % 2], 50)
        check(plans, f"EXECUTE follow ({newest})", 50)
    check(plans, "EXECUTE follow (0)", 150)


def fill(admin, count):
    run(admin, "INSERT INTO pgpoll.messages (topic, payload) SELECT 't' || n %% 3, to_json(n) FROM generate_series(1, %s) AS n", count)
    assign(admin)


TABLES = "pgpoll.messages, pgpoll.feed, pgpoll.batches, pgpoll.retention"


@pytest.fixture(name="quiet")
def without_autovacuum(admin):
    """The owner's session; only the test changes the statistics."""
    each = [f"ALTER TABLE {table} {{}}" for table in TABLES.split(", ")]
    run(admin, "; ".join(each).format(*["SET (autovacuum_enabled = off)"] * 4))
    yield admin
    run(admin, "; ".join(each).format(*["RESET (autovacuum_enabled)"] * 4))
    run(admin, "TRUNCATE pgpoll.messages, pgpoll.feed, pgpoll.retention; ANALYZE " + TABLES)


def test_a_scan_of_a_whole_table_is_noticed(admin):
    fill(admin, 100)
    with pytest.raises(AssertionError):
        check(Plans(), "SELECT count(*) FROM pgpoll.feed", 1000)
    with pytest.raises(AssertionError):
        check(Plans(), "SET enable_seqscan = off; SELECT id FROM pgpoll.messages ORDER BY id", 50)


@pytest.mark.parametrize("known", [0, 1, 200, None], ids=["analyzed-empty", "of-one", "of-few", "never-analyzed"])
def test_statistics_of_fewer_messages_than_there_are(quiet, known):
    """In a session with cached plans, and in a new one."""
    if known is None:
        run(quiet, "UPDATE pg_class SET reltuples = -1, relpages = 0 WHERE relname IN ('messages', 'feed'); DELETE FROM pg_statistic"
                   " WHERE starelid IN ('pgpoll.messages'::regclass, 'pgpoll.feed'::regclass)")
    else:
        fill(quiet, known)
        run(quiet, "VACUUM ANALYZE " + TABLES)
    old = Plans()
    check_all(old, quiet)
    fill(quiet, MANY)
    check_all(old, quiet)
    check_all(Plans(), quiet)


def test_statistics_of_more_messages_than_there_are(quiet):
    fill(quiet, MANY)
    run(quiet, "VACUUM ANALYZE " + TABLES)
    check_all(Plans(), quiet)
    run(quiet, "DELETE FROM pgpoll.messages WHERE id % 100 <> 0; DELETE FROM pgpoll.feed WHERE message_id % 100 <> 0")
    check_all(Plans(), quiet)
    run(quiet, "TRUNCATE pgpoll.messages")
    plans = Plans()
    check_all(plans, quiet)
    fill(quiet, MANY)
    check_all(plans, quiet)


@pytest.mark.parametrize("lie", ["DELETE FROM pgpoll.messages", "VACUUM ANALYZE " + TABLES], ids=["stale", "right"])
def test_a_backlog_and_its_pruning(quiet, lie):
    """A batch and a prune read as many rows as they take."""
    fill(quiet, 100)
    run(quiet, lie)
    fill(quiet, MANY)
    run(quiet, "INSERT INTO pgpoll.messages (topic, payload) SELECT 'b', to_json(n) FROM generate_series(1, 3000) AS n")
    plans = Plans()
    for _ in range(3):
        check(plans, "SELECT pgpoll.new_messages(200, 1)", 1200)
    assign(quiet)
    for _ in range(3):
        run(quiet, "SELECT pg_sleep(0.002)")
        check(plans, "SELECT pgpoll.prune('0', 200)", 450)
    check_all(plans, quiet)


def visited(session, statement, first=1):
    """Buffers that a statement reads after the first runs. One look in a hundred stores a batch, which reads more, so this takes the least of three."""
    plans = [run(session, "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + statement)[0][0][0]["Plan"] for _ in range(first + 3)]
    return min(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] for plan in plans[first:])


@pytest.mark.parametrize("look", ["SELECT pgpoll.new_messages(1000, 1)", "SELECT pgpoll.assign_positions()"])
@pytest.mark.parametrize("ends", ["rolled back", "open"])
def test_many_messages_that_are_not_committed(quiet, ends, look):
    """They are read by one look, not by each."""
    fill(quiet, 10)
    before = visited(quiet, look)
    bulk = connect("READ COMMITTED")
    run(bulk, "INSERT INTO pgpoll.messages (topic, payload) SELECT 'bulk', '1' FROM generate_series(1, 150000)")
    if ends == "rolled back":
        bulk.rollback()
    after = visited(quiet, look, first=2)
    publish(quiet, "t0", "new")
    assigned = assign(quiet)
    bulk.rollback()     # before a failure, which would wait for it
    assert after < before + 50 and assigned == 1


def test_an_old_snapshot_keeps_what_was_pruned(quiet):
    """Neither a prune nor a poll reads it again."""
    fill(quiet, MANY)
    old = connect("REPEATABLE READ")
    run(old, "SELECT 1")
    poll = "SELECT * FROM pgpoll.catch_up('{t0,t1,t2}', '{0,NULL,5}', 10, 1000000)"
    before = visited(quiet, poll)
    run(quiet, "SELECT pg_sleep(0.002)")
    pages = []
    for _ in range(MANY // 1000):
        plan = run(quiet, "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT pgpoll.prune('0', 1000)")[0][0][0]["Plan"]
        pages.append(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
    assert run(quiet, "SELECT count(*) FROM pgpoll.feed") == [(0,)]
    assert max(pages[5:]) < 2 * min(pages[1:5]), pages
    assert visited(quiet, poll) <= before + 30
    publish(quiet, "t0", "left")
    assign(quiet)
    assert visited(quiet, poll) <= before + 30
