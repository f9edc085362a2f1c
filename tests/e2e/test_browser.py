"""The JavaScript client in Chromium: several pages that share a poll, hidden pages, logins, and pages of another origin."""
import base64
import contextlib
import json
import time
import urllib.parse

import pytest
from test_examples import token_wanted
from test_web import fronted

import tokens
import web
from server import Server, new_topic, until
from stalls import stood_still

# A page that keeps what comes, counts its answers, and says whether it holds the lock of those that share a poll.
PAGE = """<!DOCTYPE html>
<meta charset="utf-8">
<title>client</title>
<script type="module">
import { inSessionStorage, longPoll } from "/long_polling_client.js";

const asked = new URLSearchParams(location.search), options = JSON.parse(asked.get("options") ?? "{}"), url = asked.get("url") ?? location.origin;
window.opened = 0;
window.got = JSON.parse(sessionStorage.getItem("got") ?? "[]");
window.errors = [];
window.leads = () => navigator.locks.request(`of ${Math.random()}`, async ({ name }) => {
    const { held } = await navigator.locks.query(), own = held.find((lock) => lock.name === name);
    return held.some((lock) => lock.name.startsWith("pgpoll ") && lock.clientId === own.clientId);
});
window.refusals = 0;
if (options.tokens)
    options.headers = async (refused) => {
        window.refusals += Boolean(refused);
        return { Authorization: `Bearer ${options.tokens[Math.min(window.refusals, options.tokens.length - 1)]}` };
    };
const storage = inSessionStorage("cursors"), onRetry = (error) => errors.push(error.message);
window.messages = longPoll(url, asked.getAll("topic"), { storage, onRetry, onOpen: () => ++opened, ...options });
try {
    for await (const message of messages) {
        got.push(message.payload);
        sessionStorage.setItem("got", JSON.stringify(got));
    }
} catch (error) {
    errors.push(error.message);
}
</script>
"""


@pytest.fixture(scope="module")
def server():
    with Server(24, port=(port := web.free_port()), PGPOLL_CORS_ORIGIN=f"http://127.0.0.1:{port}", PGPOLL_HEARTBEAT_S="1") as server:
        (server.run / "www/client.html").write_text(PAGE)
        yield server


class Tabs:
    """Windows of one browser, each with PAGE for some topics."""

    def __init__(self, driver, server):
        self.driver, self.server = driver, server
        self.first, self.all = driver.current_window_handle, []
        self.began = time.monotonic()

    def address(self, topics, url=None, **options):
        fields = [*(("topic", topic) for topic in topics), ("options", json.dumps(options)), *([("url", url)] if url else [])]
        return f"{self.server.url}/client.html?{urllib.parse.urlencode(fields)}"

    def open(self, *topics, **options):
        self.driver.switch_to.new_window("tab")
        self.driver.get(self.address(topics, **options))
        self.all.append(self.driver.current_window_handle)
        return self.all[-1]

    def run(self, tab, script, *arguments):
        self.driver.switch_to.window(tab)
        return self.driver.execute_script(script, *arguments)

    def got(self, tab):
        return self.run(tab, "return window.got")

    def until_got(self, tab, wanted):
        until(lambda: self.got(tab) == wanted, f"{wanted} in a tab", 30)

    def until_begun(self):
        """Each tab has had an answer, so that it gets all that is published from now on. That one of them waits says nothing of the others."""
        for tab in self.all:
            until(lambda: self.run(tab, "return window.opened") > 0, "a first answer")

    def errors(self, tab):
        """What the client complained about. That it was refused while the machine stood still is no fault."""
        return [error for error in self.run(tab, "return window.errors") if not (error.startswith("503") and stood_still(self.began))]

    def leader(self):
        """The tab that has the lock."""
        def look():
            return [tab for tab in self.all if self.run(tab, "return window.leads()")]

        return until(look, "a leader")[0]

    def close(self, tab):
        self.driver.switch_to.window(tab)
        self.driver.close()
        self.all.remove(tab)
        self.driver.switch_to.window(self.first)


@pytest.fixture
def tabs(driver, server):
    tabs = Tabs(driver, server)
    yield tabs
    for tab in list(tabs.all):
        tabs.close(tab)
    driver.switch_to.window(tabs.first)
    driver.get_log("browser")


def test_nine_tabs_share_a_poll(server, tabs, topic):
    """Over HTTP/1.1 a browser has six connections to a host: without this, the seventh tab does not load while six wait."""
    other = new_topic("other")
    for number in range(9):
        tabs.open(topic, *([other] if number % 2 else []), share="ann")
    tabs.until_begun()
    until(lambda: len(server.waiting(topic, other)) == 1, "one poll for all")
    leader = tabs.leader()

    wanted = {tab: [] for tab in tabs.all}

    def publish(*payloads):
        for payload in payloads:
            server.publish(topic, payload)
            server.publish(other, -payload)
        for tab, number in zip(everybody, range(9)):
            wanted[tab] += [n for payload in payloads for n in ([payload, -payload] if number % 2 else [payload])]

    everybody = list(tabs.all)
    publish(1, 2, 3)
    for tab in tabs.all:
        tabs.until_got(tab, wanted[tab])
    publish(4)                 # while the leader goes
    tabs.close(leader)
    publish(5)
    for tab in tabs.all:
        tabs.until_got(tab, wanted[tab])

    leader = tabs.leader()     # frozen: it must give way, and go on later
    tabs.driver.switch_to.window(leader)
    tabs.driver.execute_cdp_cmd("Page.setWebLifecycleState", {"state": "frozen"})
    others = [tab for tab in tabs.all if tab != leader]
    publish(6)
    for tab in others:
        tabs.until_got(tab, wanted[tab])
    tabs.driver.switch_to.window(leader)
    tabs.driver.execute_cdp_cmd("Page.setWebLifecycleState", {"state": "active"})
    tabs.until_got(leader, wanted[leader])

    leader = tabs.leader()     # left, into the back/forward cache
    tabs.driver.switch_to.window(leader)
    tabs.driver.get(f"{server.url}/openapi.json")
    publish(7)
    for tab in tabs.all:
        if tab != leader:
            tabs.until_got(tab, wanted[tab])
    tabs.driver.switch_to.window(leader)
    tabs.driver.back()
    tabs.until_got(leader, wanted[leader])
    until(lambda: len(server.waiting(topic, other)) == 1, "one poll for all")
    assert [tabs.errors(tab) for tab in tabs.all] == [[]] * len(tabs.all)


def test_tabs_that_share_a_poll_add_and_remove_topics(server, tabs, topic):
    other = new_topic("other")
    first, second = tabs.open(topic, share="ann"), tabs.open(topic, share="ann")
    tabs.until_begun()
    server.publish(other, 1)
    tabs.run(second, "messages.add(arguments[0], '0')", other)
    tabs.until_got(second, [1])
    until(lambda: len(server.waiting(topic)) == 1 == len(server.waiting(other)), "one poll for both topics")
    server.publish(topic, 2)
    server.publish(other, 3)
    tabs.until_got(second, [1, 2, 3])
    tabs.run(second, "messages.remove(arguments[0])", other)
    server.publish(other, 4)
    server.publish(topic, 5)
    tabs.until_got(second, [1, 2, 3, 5])
    tabs.until_got(first, [2, 5])
    tabs.run(second, "messages.add(arguments[0])", other)
    tabs.until_got(second, [1, 2, 3, 5, 4])


def test_tabs_that_share_a_poll_begin_with_a_history(server, tabs, topic):
    server.publish(topic, 1, 2, 3)
    for _ in range(2):
        tabs.open(topic, share="ann", since={topic: "-2"})
    for tab in tabs.all:
        tabs.until_got(tab, [2, 3])
    until(lambda: len(server.waiting(topic)) == 1, "one poll for both")
    server.publish(topic, 4)
    for tab in tabs.all:
        tabs.until_got(tab, [2, 3, 4])


def test_a_tab_whose_topics_are_refused_does_not_stop_the_others(server, tabs, topic):
    """Those that share a poll have more topics together than a poll may have. And one of them has none that is a topic."""
    many = [[f"{topic} {tab} {n}" for n in range(30)] for tab in range(2)]
    first, second = tabs.open(*many[0], share="ann"), tabs.open(*many[1], share="ann")
    tabs.until_begun()
    wrong = tabs.open("x" * 256, share="ann")
    until(lambda: any(error.startswith("422 ") for error in tabs.run(wrong, "return window.errors ?? []")), "the refusal")
    for n in range(1, 4):
        server.publish(many[0][n], n)
        server.publish(many[1][n], -n)
    tabs.until_got(first, [1, 2, 3])
    tabs.until_got(second, [-1, -2, -3])
    until(lambda: len(server.waiting(*many[0], *many[1])) == 2, "a poll for each")


def test_a_tab_whose_shared_poll_fails_pauses(server, tabs, topic):
    """A client that has too many polls may still ask with a timeout of 0, so only the polls that wait fail."""
    tab = tabs.open(share="ann")
    tabs.run(tab, """
        const { fetch } = window;
        window.waits = [];
        window.isFull = true;
        window.fetch = (url, options) => JSON.parse(options.body).timeout > 0 && waits.push(Date.now()) && isFull
            ? Promise.resolve(new Response("{}", { status: 429, headers: { "Retry-After": "1" } })) : fetch(url, options);
        messages.add(arguments[0]);
        """, topic)
    attempts = until(lambda: len(waits := tabs.run(tab, "return waits")) >= 3 and waits, "three attempts")
    assert all(after - before >= 1000 for before, after in zip(attempts, attempts[1:]))
    tabs.run(tab, "isFull = false")
    server.until_waiting(topic)
    server.publish(topic, 1)
    tabs.until_got(tab, [1])
    assert {error.strip() for error in tabs.run(tab, "return errors")} == {"429"}


def test_a_hidden_page_can_pause(server, tabs, topic):
    pausing = tabs.open(topic, pauseWhenHidden=True)
    server.until_waiting(topic)
    tabs.driver.switch_to.new_window("tab")
    tabs.all.append(tabs.driver.current_window_handle)
    server.until_waiting(topic, 0)
    server.publish(topic, 1)
    tabs.until_got(pausing, [1])      # which makes it visible
    server.until_waiting(topic)


@pytest.fixture(scope="module")
def change(server):
    """From here on, pgpoll.authenticate() accepts only the token "first". Yields a function that changes the token."""
    with token_wanted(server) as change:
        yield change


@pytest.fixture
def wanted(change):
    """The same for one test, whatever it changes, and however it ends."""
    yield change
    change("first")


def test_tabs_that_share_a_poll_renew_their_token(server, wanted, tabs, topic):
    for _ in range(2):
        tabs.open(topic, share="ann", tokens=["first", "second"])
    tabs.until_begun()
    until(lambda: len(server.waiting(topic)) == 1, "one poll for both")
    wanted("second")
    for n in 1, 2:      # the second poll is refused at first
        server.publish(topic, n)
    for tab in tabs.all:
        tabs.until_got(tab, [1, 2])
        assert tabs.errors(tab) == []
    assert sum(tabs.run(tab, "return window.refusals") for tab in tabs.all) >= 1


@contextlib.contextmanager
def fronts(server, **options):
    """The server behind each of these web servers."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(fronted(server, web.SERVERS[name], **more)) for name, more in options.items()]


def until_all_got(server, tabs, topic):
    """All tabs wait as ann, and get a message, and nothing went wrong."""
    server.until_waiting(topic, len(tabs.all))
    assert server.sql("SELECT DISTINCT remote_user FROM pgpoll.waiting WHERE topics = ARRAY[%s]", topic) == [("ann",)]
    server.publish(topic, 1)
    for tab in tabs.all:
        tabs.until_got(tab, [1])
        assert tabs.errors(tab) == []


def test_a_page_of_another_origin_logs_in(server, wanted, tabs, topic):
    """With a password, which a browser asks about first, or with a cookie."""
    passwords = {"edit": lambda text: web.uncomment(text, "Authentication")}
    cookies = {"edit": lambda text: web.uncomment(text, "Or pass a cookie")}
    login = {"Authorization": "Basic " + base64.b64encode(b"ann:secret").decode()}
    with fronts(server, **dict.fromkeys(web.SERVERS, passwords)) as doors, \
            fronts(server, nginx=cookies, apache={**cookies, "modules": ["headers"]}) as knowing:
        for door in doors:
            tabs.open(topic, url=door.url, headers=login)
        tabs.run(tabs.all[0], "document.cookie = 'session=first'")
        for door in knowing:
            tab = tabs.open(topic, url=door.url, credentials="include")
        until_all_got(server, tabs, topic)
        tabs.run(tab, "document.cookie = 'session=; max-age=0'")


def test_a_page_of_another_origin_renews_its_token(server, wanted, tabs, topic):
    """What it sends first is refused, by pgpoll.authenticate() behind each web server, or by one that checks tokens itself: the page sees the 401."""
    def also_cors(text):    # pgpoll's 401 must not have the headers twice
        return web.uncomment(text, "CORS headers for").replace(r"^https://(www|app)\.example\.org$", f"^{server.url}$")

    apache = {"edit": also_cors, "modules": ["headers"]}
    with tokens.provider() as known, fronts(server, lighttpd={}, apache=apache, nginx={}) as doors, \
            fronts(server, **{name: tokens.OpenID(known, server.url).fronting(name) for name in tokens.OpenID.modules}) as checking:
        for door in doors:
            tabs.open(topic, url=door.url, tokens=["expired", "first"])
        for door in checking:
            tabs.open(topic, url=door.url, tokens=[known.token(exp=time.time() - 60), known.token("ann")])
        until_all_got(server, tabs, topic)
        assert [tabs.run(tab, "return window.refusals") for tab in tabs.all] == [1] * len(tabs.all)
