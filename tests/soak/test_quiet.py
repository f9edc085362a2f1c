"""A manager that nobody polls, for longer than a manager may be silent."""
import pytest

from server import MODE, STALL_S, Server, new_topic, until

SILENT_S = 75   # 15 s of silence tell that a manager is dead, unless it is quiet; once a minute it looks whether LISTEN works


@pytest.mark.skipif(MODE != "managed", reason="of a manager")
def test_a_quiet_manager_is_not_taken_for_dead():
    topic = new_topic()
    with Server(8, PGPOLL_IDLE_S="1") as server:
        server.poll(topic)
        until(lambda: server.sql("SELECT quiet FROM pgpoll.listeners") == [(True,)], "quiet", 10 + STALL_S)
        until(lambda: server.sql("SELECT last_seen > make_interval(secs => %s) FROM pgpoll.listening", SILENT_S) == [(True,)], "silence", SILENT_S + STALL_S)
        assert server.sql("SELECT alive, hears, free_workers FROM pgpoll.listening") == [(True, True, 9)]
        assert server.sql("SELECT message FROM pgpoll.listeners, pgpoll.problems(host, 8, 20) WHERE message ~ 'manager'") == []
        (poll,) = server.wait(topic, timeout=30)
        server.until_waiting(topic)
        server.publish(topic, 1)
        assert poll.result().payloads == [1]
