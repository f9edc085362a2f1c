"""sql/watch_views.sql, where that takes several sessions."""
from sessions import Background, connect, publish, run, wait_until

HELD_UP = """SELECT pid, usename::text, application_name, waits_for, blocked_by, blocked_by_user::text, blocked_by_application,
                    blocked_by_state, waited BETWEEN '0' AND '1 minute' FROM pgpoll.held_up"""


def test_who_is_held_up_and_by_whom(admin):
    watcher, holder, publisher = connect(), connect("READ COMMITTED", application_name="nightly job"), connect(application_name="shop")
    run(watcher, "SET ROLE pgpoll_monitor")
    run(publisher, "SET ROLE pgpoll_publisher")
    assert run(watcher, HELD_UP) == []
    run(holder, "LOCK TABLE pgpoll.messages IN SHARE MODE")
    publishing = Background(publish, publisher, "t", "sesame")
    wait_until(lambda: [row[-1] for row in run(watcher, HELD_UP)] == [True])    # since when is known a moment later
    held_up = [publisher.info.backend_pid, "postgres", "shop", "pgpoll.messages", holder.info.backend_pid, "postgres", "nightly job"]
    assert run(watcher, HELD_UP) == [(*held_up, None, True)]
    assert run(admin, HELD_UP) == [(*held_up, "idle in transaction", True)]
    assert "sesame" not in str(run(admin, "SELECT h::text FROM pgpoll.held_up h"))
    holder.rollback()
    publishing.join()
    assert run(watcher, HELD_UP) == []
