"""pgpoll.cursor(): what a page has read, and what comes after the cursor that it read with it, is all there is."""
import itertools
import threading
import time

import pytest

from sessions import connect, run

ROWS, LOADS, CURSORS = 4, 300, 3


@pytest.fixture
def changes():
    """Sessions that change a table all the time, and say each change in a message; and one that gives the messages positions, beginning with
    a database's first batch."""
    admin, stop = connect(), threading.Event()
    run(admin, "CREATE TABLE state (id integer PRIMARY KEY, n integer)")
    run(admin, "INSERT INTO state SELECT id, 0 FROM generate_series(1, %s) id", ROWS)

    def write(session):
        for number in itertools.count():
            if stop.is_set():
                return
            run(session, """WITH changed AS (UPDATE state SET n = n + 1 WHERE id = %s RETURNING id, n)
                            INSERT INTO pgpoll.messages (topic, payload) SELECT 'state', json_build_array(id, n) FROM changed""", number % ROWS + 1)

    def number(session):
        while not stop.is_set():
            run(session, "SELECT pgpoll.assign_positions()")

    threads = [threading.Thread(target=work, args=(connect(),)) for work in (write, write, number)]
    for thread in threads:
        thread.start()

    def end():
        stop.set()
        for thread in threads:
            thread.join()

    yield end
    end()
    run(admin, "DROP TABLE state")


@pytest.mark.parametrize("level", [None, "REPEATABLE READ"])
def test_nothing_lies_between_the_state_and_the_cursor(changes, level):
    """In one statement; in one transaction that keeps its snapshot, the state first. Goes on until the loads fall among several batches: nothing
    says how many batches there are during the first ones."""
    session, loads, deadline = connect(level), [], time.monotonic() + 60
    while len(loads) < LOADS or len({cursor for cursor, _ in loads}) < CURSORS:
        assert time.monotonic() < deadline, loads[-1]
        if level:
            (state,), = run(session, "SELECT json_object_agg(id, n) FROM state")
            (cursor,), = run(session, "SELECT pgpoll.cursor()")
            session.commit()
        else:
            (cursor, state), = run(session, "SELECT pgpoll.cursor(), (SELECT json_object_agg(id, n) FROM state)")
        loads.append((cursor, state))
    changes()
    admin = connect()
    run(admin, "SELECT pgpoll.assign_positions()")
    messages = [("msg_%016x" % position, *payload) for position, payload in run(admin, """
        SELECT f.position, m.payload FROM pgpoll.feed f JOIN pgpoll.messages m ON m.id = f.message_id WHERE f.topic = 'state' ORDER BY 1""")]
    last = dict(run(admin, "SELECT id, n FROM state"))
    for cursor, state in loads:
        for row, n in state.items():
            after = [value for position, id, value in messages if id == int(row) and (cursor == "0" or position > cursor) and value > n]
            assert after == list(range(n + 1, last[int(row)] + 1)), (cursor, row)
