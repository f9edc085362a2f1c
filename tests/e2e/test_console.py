"""The console, deploy/console, in Chromium."""
import json
import os
import re
import signal
import subprocess
import time
import urllib.parse

import pytest
from selenium.webdriver import ActionChains, Keys

from test_examples import token_wanted
from test_web import fronted

import web
from documents import TEXTS, blocks
from server import Postgres, Server, new_topic, until
from stalls import stood_still


@pytest.fixture(scope="module")
def server():
    """A server that tests restart."""
    with Server(8, errors=r"a worker died as soon as it was started") as server:
        yield server


class Page:
    def __init__(self, server, driver):
        self.server, self.driver, self.began, self.allowed = server, driver, time.monotonic(), []

    def open(self, *topics, **cursors):
        """Opens the page. cursors: those that the tab has stored before."""
        self.driver.get(self.server.url)
        self.run("sessionStorage.clear()")
        if cursors:
            self.run("sessionStorage.setItem('pgpoll.cursors', arguments[0])", json.dumps(cursors))
        self.driver.get(f"{self.server.url}/?{urllib.parse.urlencode([('topic', topic) for topic in topics])}")
        if topics:
            self.until_state("Waiting for messages")

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def one(self, selector):
        (found,) = self.all(selector)
        return found

    def texts(self, selector):
        return self.run("return [...document.querySelectorAll(arguments[0])].map((found) => found.textContent)", selector)

    def text(self, selector):
        (text,) = self.texts(selector)
        return text

    @property
    def payloads(self):
        """Returns the payloads in the rows, the oldest first."""
        return self.texts("#messages li:not([hidden]) .payload")[::-1]

    @property
    def focused(self):
        return self.run("return document.activeElement.id || document.activeElement.ariaLabel || document.activeElement.textContent")

    def until_payloads(self, *wanted, seconds=30):
        wanted = [json.dumps(payload, separators=(",", ":")) for payload in wanted]
        until(lambda: self.payloads == wanted, f"the payloads {wanted}", seconds)

    def until_state(self, text, seconds=30):
        until(lambda: re.fullmatch(text, self.text("#state-text")), f"{text} in the page's head", seconds)

    def screen(self, width, height, mobile=False):
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile})

    def phone(self):
        self.screen(390, 844, mobile=True)

    def desktop(self):
        self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    def out_of_reach(self):
        """Returns the visible controls that are too small to touch, or beside the screen."""
        return self.run("""return [...document.querySelectorAll("button, input, select, summary")].filter((part) => part.offsetParent)
            .map((part) => [part.id || part.textContent, part.getBoundingClientRect()])
            .filter(([, { left, right, height, width }]) => height < 24 || width < 24 || left < 0 || right > innerWidth)""")

    def type(self, *keys):
        ActionChains(self.driver).send_keys(*keys).perform()

    def media(self, **features):
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {
            "features": [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]})

    def errors(self):
        """Returns the browser's errors since the last call."""
        found = [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE" and not self.is_allowed(entry)]
        refusals = [error for error in found if "status of 503" in error]
        return [error for error in found if error not in refusals] if refusals and stood_still(self.began) else found

    def is_allowed(self, entry):
        return any(re.search(pattern, entry["message"]) and entry["timestamp"] <= until_ms for pattern, until_ms in self.allowed)

    def allow(self, pattern):
        """Expects errors that match, and no others so far. The browser may report one later, but knows when it was."""
        self.allowed.append((pattern, time.time() * 1000 + 1))
        assert not self.errors()


@pytest.fixture
def page(server, driver):
    """A browser tab, which the tests use one after the other."""
    page = Page(server, driver)
    page.errors()
    yield page
    driver.get("about:blank")
    assert not page.errors()


def test_a_message_appears(page, server, topic):
    page.open(topic)
    assert "Nothing yet" in page.text("#empty")
    server.until_waiting(topic)
    until(lambda: [topic, "1"] in [page.texts(f"#stats tbody tr:nth-child({n}) :is(.name, td)") for n in range(1, 9)], "itself in the stats")
    server.publish(topic, {"order_id": 1})
    page.until_payloads({"order_id": 1})
    assert page.text("#messages .topic") == topic and page.text("#count") == "1 received"
    assert re.fullmatch(r"delay (\d+ ms|\d\.\d s)", page.text("#messages .delay"))
    until(lambda: page.text("#live") == f"1 new message in {topic}", "the message said aloud")
    server.sql("INSERT INTO pgpoll.messages (topic, payload, created_at) VALUES (%s, '2', now() - interval '3 hours')", topic)
    page.until_payloads({"order_id": 1}, 2)
    assert page.texts("#messages .delay")[0] == "delay 3 h"


def test_a_page_that_the_user_left_stops_polling(page, server, driver, topic):
    """The browser keeps the page in its cache, and with it the poll, a worker and one of its six connections to the host."""
    page.open(topic)
    server.until_waiting(topic)
    page.run("""
        window.isKept = true;
        for (const type of ["freeze", "resume"])     // Firefox and Safari have only pagehide and pageshow
            document.addEventListener(type, (event) => event.stopImmediatePropagation(), true);
        """)
    driver.get(f"{server.url}/openapi.json")
    until(lambda: topic not in server.stats()["topic_subscriber_counts"], "the poll gone")
    server.publish(topic, "meanwhile")
    driver.back()
    assert page.run("return window.isKept"), "not from the cache"
    page.until_payloads("meanwhile")
    server.until_waiting(topic)
    page.allow("favicon")   # browsers request it for a file without an icon


def test_an_error_after_those_that_were_allowed_counts(page):
    page.open()
    for _ in range(2):
        assert page.run("return fetch('/none').then(({ status }) => status)") == 404
        page.allow("status of 404")
    page.run("return fetch('/none')")
    assert "status of 404" in until(page.errors, "the third error")[0]


def test_by_keyboard_alone(page, server, topic):
    """The test types and removes topics, moves through the list and opens a message, without a mouse."""
    server.publish(topic, "first")
    page.open()
    assert page.text("#state-text") == "No topic yet"
    page.type(Keys.TAB)
    assert "Skip" in page.focused
    page.type(Keys.TAB, " ", Keys.ENTER)
    assert page.focused == "topic" and page.text("#topic-error") == "Type a topic's name."
    page.type(Keys.BACKSPACE, topic, Keys.TAB, Keys.ARROW_DOWN, Keys.TAB, Keys.ENTER)   # reads from the oldest message
    page.until_payloads("first")
    assert page.driver.current_url.endswith(f"/?topic={topic}") and page.focused == "topic"
    server.publish(topic, "second", "third")
    page.until_payloads("first", "second", "third")
    page.type(topic, Keys.ENTER)
    assert page.text("#topic-error") == "You watch this topic already."
    page.type(*[Keys.TAB] * 6)   # passes start, watch, filter, pause and clear, to the list
    assert "first" in page.focused
    page.type(Keys.HOME)
    assert "third" in page.focused
    page.type(Keys.ARROW_DOWN, Keys.ENTER)
    until(lambda: page.texts("#messages details[open] pre") == ['"second"'], "the second opened")
    page.type(Keys.END, Keys.ARROW_DOWN)
    assert "first" in page.focused
    page.one("#topics button").send_keys(Keys.ENTER)
    page.until_state("No topic yet")
    assert page.focused == "topic" and page.driver.current_url.endswith("/") and not page.all("#topics li")


def test_reload_misses_nothing(page, server, topic):
    other = new_topic("other")
    page.open(topic, other)
    for name in topic, other:   # first before, then after the first message
        page.driver.get("about:blank")
        server.publish(name, "while away")
        page.driver.get(f"{server.url}/?topic={topic}&topic={other}")
        page.until_payloads("while away")
    page.driver.refresh()
    server.publish(topic, "once")
    page.until_payloads("once")


def test_restarts(page, server, topic):
    page.open(topic)
    server.stop_lighttpd()
    page.until_state(r"Reconnecting( in \d+ s)?")
    assert page.text("#live") == "Connection lost"
    server.publish(topic, 1)
    page.run("document.getElementById('retry').focus()")
    assert page.focused == "retry" and page.run("return document.getElementById('state').title")
    server.start_lighttpd()
    page.until_payloads(1)
    page.until_state("Waiting for messages")
    assert page.focused == "pause" and not page.run("return document.getElementById('state').title")   # neither the button nor its reason is shown
    Postgres(server).restart()
    server.publish(topic, 2)
    page.until_payloads(1, 2)
    server.reload()
    server.publish(topic, 3)
    page.until_payloads(1, 2, 3)
    (pid,) = server.until_waiting(topic)
    os.kill(pid, signal.SIGKILL)
    server.publish(topic, 4)
    page.until_payloads(1, 2, 3, 4)
    page.until_state("Waiting for messages")
    page.allow("ERR_|status of 503")   # network errors, and errors of the statistics while the database was away


def test_gaps_and_refusals_are_shown(page, server, topic):
    server.publish(topic, 1)
    page.open(topic, **{topic: "of another server"})
    page.until_payloads(1)
    assert page.text("#messages .gap").startswith(f"Gap in {topic}, messages may be missing: the server does not know")
    try:
        server.restrict("false", refused=topic)

        def refused():
            page.driver.refresh()
            page.until_state("Waiting for messages|Refused: .*")
            return page.text("#state-text") == "Refused: Access denied to one or more requested topics"

        until(refused, "the refusal", seconds=30)   # a manager may use what it knew for some seconds
        assert page.text("#empty").startswith("Nothing comes")
    finally:
        server.unrestrict()
    page.one("#retry").click()
    page.until_state("Waiting for messages")
    page.allow("status of 403")     # also one of a page that was loaded before the last


def test_it_offers_the_topics_that_exist(page, server, topic):
    server.publish(topic, "kept")
    page.open()
    until(lambda: topic in page.run("return [...document.querySelectorAll('#known option')].map(({ value }) => value)"), "the topic offered")
    assert [topic, "0"] in [page.run("return [...arguments[0].cells].map((cell) => cell.textContent)", row) for row in page.all("#stats tbody tr")]
    page.run("[...document.querySelectorAll('#stats button')].find((button) => button.textContent === arguments[0]).click()", topic)
    page.until_state("Waiting for messages")
    until(lambda: topic not in page.run("return [...document.querySelectorAll('#known option')].map(({ value }) => value)"), "no more offered")


def test_it_begins_with_the_last_fifty(page, server, topic):
    server.publish(topic, *range(60))
    page.open()
    page.one("#start option[value='-50']").click()
    page.one("#topic").send_keys(topic, Keys.ENTER)
    page.until_payloads(*range(10, 60))
    server.publish(topic, "next")
    page.until_payloads(*range(10, 60), "next")


def test_it_says_why_nothing_comes(page, server, topic):
    """The database is away: for a poll that waits, and for one that is refused."""
    page.open(topic)
    server.until_waiting(topic)
    postgres = Postgres(server)
    postgres.stop()
    try:
        page.until_state("The database is away")
        assert page.text("#empty").startswith("Nothing comes while the server does not reach its database")
        page.run("sessionStorage.clear()")   # a poll without a cursor does not wait
        page.driver.refresh()
        page.until_state(r"Reconnecting( in \d+ s)?")
        until(lambda: "does not reach its database" in page.text("#why") and "does not reach its database" in page.text("#empty"), "why", 30)
    finally:
        postgres.start()
    page.until_state("Waiting for messages")
    assert page.text("#why") == ""
    server.publish(topic, 1)
    page.until_payloads(1)
    page.allow("status of 503")


def test_what_is_read_does_not_move(page, server, topic):
    """A message that is open, and a list that is scrolled."""
    def top():
        return page.run("return arguments[0].getBoundingClientRect().top", read)

    page.open(topic)
    server.publish(topic, *range(40))
    page.until_payloads(*range(40))
    read = page.one("#messages li:first-child summary")
    read.click()
    until(lambda: page.texts("#messages details[open] pre") == ["39"], "the message open")
    for payload in "while it is open", "another":
        before = top()
        server.publish(topic, payload)
        until(lambda: f"Show {payload == 'another' and '2 new messages' or '1 new message'}" in page.texts("#held"), "what came meanwhile")
        assert top() == before
    page.one("#held").click()
    page.until_payloads(*range(40), "while it is open", "another")
    assert page.run("return document.getElementById('scroller').scrollTop") == 0 and not page.one("#held").is_displayed()

    read.click()
    page.one("#filter").click()
    page.run("document.getElementById('scroller').scrollTop = 300")
    before = top()
    server.publish(topic, "while it is scrolled")
    until(lambda: page.one("#held").is_displayed(), "it is held back")
    assert top() == before
    page.run("document.getElementById('scroller').scrollTop = 0")    # back where new messages are
    page.until_payloads(*range(40), "while it is open", "another", "while it is scrolled")


def test_the_refused_topic_is_marked(page, server, topic):
    wrong = new_topic("wrong")
    try:
        server.restrict(f"topic <> '{wrong}'", refused=wrong)
        page.open(topic)
        page.driver.get(f"{server.url}/?topic={topic}&topic={wrong}")
        page.until_state("Refused: .*")
        until(lambda: page.texts("#topics .refused .name") == [wrong], "the mark")
        page.one("#topics .refused button").click()
        page.until_state("Waiting for messages")
        server.publish(topic, 1)
        page.until_payloads(1)
        page.allow("status of 403")
    finally:
        server.unrestrict()


def test_it_asks_for_a_token(page, server, topic):
    """When pgpoll.authenticate() refuses it, and again when the token is good no more."""
    with token_wanted(server) as change:
        page.driver.get(f"{server.url}/?topic={topic}")
        page.until_state("The server asks who you are")
        assert page.focused == "token"
        page.phone()
        assert page.out_of_reach() == [] and page.run("return document.documentElement.scrollWidth") == 390
        page.desktop()
        page.type("wrong", Keys.ENTER)
        page.until_state(r"Refused: this token .*")
        page.type("first", Keys.ENTER)
        page.until_state("Waiting for messages")
        assert not page.one("#login").is_displayed()
        server.until_waiting(topic)
        assert server.sql("SELECT remote_user FROM pgpoll.waiting WHERE topics = ARRAY[%s]", topic) == [("ann",)]
        change("second")
        server.publish(topic, 1)
        page.until_state(r"Refused: this token .*")
        server.publish(topic, 2)
        page.type("second", Keys.ENTER)
        page.until_payloads(1, 2)
        page.driver.get("about:blank")
        page.allow("status of 401")


@pytest.mark.parametrize("name", web.SERVERS)
def test_behind_a_web_server(page, server, topic, name):
    """Served by it, as its file in deploy/ says. Behind nginx the statistics are closed to this browser."""
    def edit(text):
        text = web.uncomment(text, "The console").replace("/usr/local/share/pgpoll/www", str(server.run / "www"))
        return text.replace("allow 127.0.0.1;", "") if name == "nginx" else text

    with fronted(server, web.SERVERS[name], edit=edit) as door:
        page.driver.get(f"{door.url}/console/?topic={topic}")
        page.until_state("Waiting for messages")
        server.until_waiting(topic)
        server.publish(topic, 1)
        page.until_payloads(1)
        offered = new_topic("offered")
        server.publish(offered, 1)
        if name == "nginx":
            until(lambda: page.text("#stats-summary") == "The statistics are closed to this address.", "the reason")
            page.allow("status of 403")
        else:
            until(lambda: offered in page.run("return [...document.querySelectorAll('#known option')].map(({ value }) => value)"), "the topic offered")
        page.driver.get("about:blank")
        server.publish(topic, 2)    # Apache does not tell a worker that its client has left, and waits for it when it stops
        if name == "nginx":
            page.allow("status of 403")


def test_pause_filter_clear(page, server, topic):
    page.open(topic)
    server.publish(topic, "apple", "pear", {"fruit": "Apple"})
    page.until_payloads("apple", "pear", {"fruit": "Apple"})
    page.one("#filter").send_keys("APPLE")
    page.until_payloads("apple", {"fruit": "Apple"})
    assert page.text("#count") == "3 received, 2 shown"
    server.publish(topic, "plum", "apple pie")
    page.until_payloads("apple", {"fruit": "Apple"}, "apple pie")
    page.one("#filter").send_keys(Keys.CONTROL, "a", Keys.NULL, "fig")
    until(lambda: page.text("#empty") == "No message matches the filter." and not page.payloads, "nothing left")
    page.one("#filter").send_keys(Keys.CONTROL, "a", Keys.NULL, Keys.BACKSPACE)
    page.until_payloads("apple", "pear", {"fruit": "Apple"}, "plum", "apple pie")

    page.one("#pause").click()
    page.until_state("Paused")
    until(lambda: not server.waiting(topic), "no poll")
    server.publish(topic, "meanwhile")
    page.one("#clear").click()
    assert page.payloads == [] and "stays at the server" in page.text("#empty")
    page.one("#pause").click()
    page.until_payloads("meanwhile")


HOSTILE = ["<img src=x onerror=\"document.title='taken'\">", "<script>document.title='taken'</script>", "\u202egnp.exe\u2066", "__proto__",
           "constructor", "it's \"$(touch taken)\" `touch taken` \\ $HOME; touch taken", "Say hello!", "x" * 255, "👩‍💻" * 51]


def test_hostile_topics_and_payloads_are_text(page, server, topic, tmp_path):
    for name in HOSTILE:
        server.publish(name, {name: name})
    deep, large = "[" * 4000 + "]" * 4000, "y" * 2**20
    page.open(*HOSTILE, topic, **dict.fromkeys(HOSTILE, "0"))
    until(lambda: len(page.payloads) == len(HOSTILE), "all of them")
    for text in deep, "[12345678901234567890, 1e400, 1.0]", json.dumps(large):
        count = len(page.payloads)
        server.sql("INSERT INTO pgpoll.messages (topic, payload) VALUES (%s, %s)", topic, text)
        until(lambda: len(page.payloads) > count, "it")
    shown = page.payloads
    assert [json.loads(payload) for payload in shown[:6]] == [{name: name} for name in HOSTILE[:6]]
    assert "\u202e" not in page.text("body") and "\\u202egnp.exe" in page.text("#topics li:nth-child(3) .name")
    assert shown[-3].startswith("[[[[") and shown[-2] == "[12345678901234567890,1e400,1.0]" and len(shown[-1]) == 400
    page.one("#messages li:first-child summary").click()
    until(lambda: [len(text) for text in page.texts("#messages pre")] == [20_000], "the start of the large one")
    page.one("#messages li:first-child .whole button:last-child").click()
    assert page.text("#messages pre") == json.dumps(large)
    assert page.run("return [document.title, document.images.length, document.scripts.length,"
                    " document.documentElement.scrollWidth > innerWidth]") == ["pgpoll console", 1, 1, False]

    # The commands to copy work in a shell for every topic.
    for name in HOSTILE:
        page.open(name)
        publish, wait, read = page.texts("#commands pre")
        assert json.loads(shell(server, read, tmp_path))["messages"][0]["topic"] == name
        assert "INSERT 0 1" in shell(server, publish, tmp_path)
        page.until_payloads({"order_id": 1})
        assert wait.split(", ")[0] in read and wait.endswith(', "timeout": 60}\'')
    assert not list(tmp_path.iterdir())


def shell(server, line, directory):
    # an interactive bash, whose history expansion reads "!"
    done = subprocess.run(["bash", "--norc", "-e"], input=f"set -o history -o histexpand\n. {server.run}/env\n{line}\n", cwd=directory,
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_thousands_of_messages(page, server, topic):
    page.open(topic)
    server.sql("INSERT INTO pgpoll.messages (topic, payload) SELECT %s, to_json(n) FROM generate_series(1, 1500) n", topic)
    until(lambda: page.text("#count") == "1,500 received, 1,000 shown", "all of them", seconds=90)
    assert page.payloads == [str(n) for n in range(501, 1501)]
    assert page.run("return document.querySelectorAll('#messages summary[tabindex=\"0\"]').length") == 1


def test_light_dark_narrow_and_without_motion(page, server, topic):
    page.open(topic)
    server.publish(topic, 1)
    page.until_payloads(1)
    colors = []
    for scheme in "light", "dark":
        page.media(prefers_color_scheme=scheme)
        colors.append(page.run("return [document.body, document.querySelector('.scroller')].map((part) => getComputedStyle(part).color"
                               " + getComputedStyle(document.body).backgroundColor).join()"))
    assert colors[0] != colors[1]
    animation = "return getComputedStyle(document.querySelector('#messages li')).animationName"
    page.media(prefers_reduced_motion="no-preference")
    assert page.run(animation) == "arrive"
    page.media(prefers_reduced_motion="reduce")
    assert page.run(animation) == "none"
    page.media()
    for width in 320, 700, 1280:
        page.screen(width, 700)
        assert page.run("return document.documentElement.scrollWidth <= innerWidth"), width
    page.desktop()


def test_on_a_phone(page, server, topic):
    """390 px: everything can be reached and touched, and the payload has the width."""
    page.open(topic)
    server.publish(topic, {"order_id": 1, "text": "x" * 1000})
    until(lambda: page.payloads, "the message")
    page.phone()
    try:
        assert page.run("return [innerWidth, document.documentElement.scrollWidth]") == [390, 390]
        payload = page.run("return document.querySelector('#messages .payload').getBoundingClientRect().toJSON()")
        assert payload["width"] > 330 and payload["bottom"] < 844
        assert page.out_of_reach() == []
        page.one("#messages summary").click()
        until(lambda: page.texts("#messages details[open] pre"), "the whole payload")
        assert page.run("return document.querySelector('#messages pre').getBoundingClientRect().width") > 320
        assert page.run("return document.documentElement.scrollWidth") == 390
    finally:
        page.desktop()


def test_fifty_topics_leave_room_for_messages(page, server, topic):
    page.open(*(f"{n} {'x' * 60}" for n in range(49)), topic)
    server.publish(topic, 1)
    page.until_payloads(1)
    for width in 320, 1280:
        page.screen(width, 640)
        row = page.run("return document.querySelector('#messages li').getBoundingClientRect().bottom")
        visible = page.run("const part = document.querySelector('.scroller').getBoundingClientRect(); return Math.min(part.bottom, innerHeight)")
        assert row <= visible, width
        page.run("document.querySelector('#topics li:last-child button').focus()")
        assert page.run("return document.querySelector('#topics').scrollTop") > 0
    page.desktop()


def test_accessibility(page, server, topic, npm):
    axe = (npm("axe-core@4.14.1") / "axe.min.js").read_text()
    page.open(topic, "orders", **{topic: "of another server"})
    server.publish(topic, {"a": [1, 2, 3]}, list(range(100)))
    page.until_payloads({"a": [1, 2, 3]}, list(range(100)))
    elsewhere = new_topic("elsewhere")
    (poll,) = server.wait(elsewhere, timeout=30)
    until(lambda: page.all("#stats button"), "a topic to watch in the stats")
    page.one("#messages li:first-child summary").click()
    page.one("aside > details > summary").click()
    page.run(axe)
    for scheme in "light", "dark":
        page.media(prefers_color_scheme=scheme)
        violations = page.driver.execute_async_script(
            "const done = arguments[arguments.length - 1]; document.getAnimations().forEach((animation) => animation.finish());"
            " axe.run().then((results) => done(results.violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html)}`)))")
        assert not violations, scheme
    page.media()
    server.publish(elsewhere, 1)
    poll.result()


def test_the_link_in_the_readme(page, server):
    """It opens the console with a topic."""
    (link,) = re.findall(r"<http://127\.0\.0\.1:8080(/\?.*?)>", TEXTS["README.md"])
    page.open()
    page.driver.get(server.url + link)
    page.until_state("Waiting for messages")
    assert page.texts("#topics .name") == ["orders"]
    server.until_waiting("orders")
    server.publish("orders", {"order_id": 1})
    page.until_payloads({"order_id": 1})


def test_the_page_in_the_readme(server, driver):
    """Saved where README says, the page shows published messages, also those published during a reload."""
    (source,) = blocks("html")
    (server.run / "www/orders.html").write_text(source)
    server.until_waiting("orders", 0)   # the statistics may still show the page of the test before
    driver.get(f"{server.url}/orders.html")
    server.until_waiting("orders")
    server.publish("orders", {"order_id": 1})
    shown = lambda: [item.text for item in driver.find_elements("css selector", "#orders li")]   # noqa: E731
    until(lambda: shown() == ['{"order_id":1}'], "the order in the page")
    driver.get("about:blank")
    server.publish("orders", {"order_id": 2})
    driver.get(f"{server.url}/orders.html")
    until(lambda: shown() == ['{"order_id":2}'], "the order that came while the page was away")
