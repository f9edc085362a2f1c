"""What takes too long for `make test`: pages that share a poll, and one of them stops without a word."""
import chromium
import pytest
from test_browser import PAGE, Tabs

from server import Server, new_topic, until


@pytest.fixture
def tabs():
    with Server(16) as server:
        (server.run / "www/client.html").write_text(PAGE)
        driver = chromium.start()
        yield Tabs(driver, server)
        driver.quit()


def test_a_leader_that_does_not_answer_is_replaced(tabs):
    """It runs nothing for 40 s, and no event says so: the others must have what is published meanwhile, and it, too, in the end."""
    topic, server = new_topic(), tabs.server
    for _ in range(3):
        tabs.open(topic, share="ann")
    tabs.until_begun()
    server.publish(topic, 1)
    for tab in tabs.all:
        tabs.until_got(tab, [1])
    leader = tabs.leader()
    others = [tab for tab in tabs.all if tab != leader]
    tabs.run(leader, """
        setTimeout(() => {
            const request = new XMLHttpRequest();
            request.open("POST", "/messages/poll", false);
            request.send(JSON.stringify({ topics: ["nobody publishes this"], timeout: 40 }));
            window.woken = true;
        }, 1000)
        """)
    tabs.driver.switch_to.window(others[0])   # a page that is hidden looks less often
    server.until_waiting("nobody publishes this")
    for n in range(2, 6):
        server.publish(topic, n)
    for tab in others:
        tabs.until_got(tab, [1, 2, 3, 4, 5])
    assert server.waiting("nobody publishes this")
    server.publish(topic, 6)
    until(lambda: tabs.run(leader, "return window.woken"), "the former leader", 60)
    for tab in tabs.all:
        tabs.until_got(tab, [1, 2, 3, 4, 5, 6])
    until(lambda: len(server.waiting(topic)) == 1, "one poll for all")
