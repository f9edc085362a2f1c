/*
 * The console: watches topics through examples/long_polling_client.mjs, which is installed beside it as .js. The topics are in the page's address, their cursors in
 * the tab's session storage, so that a reload goes on where the page was, and two tabs do not take each other's place.
 *
 * Whatever comes from the server is text and nothing else; the page's Content-Security-Policy has the browser refuse innerHTML.
 */
import { longPoll, Refused } from "./long_polling_client.js";

const KEPT_MESSAGES = 1000, KEPT_CHARACTERS = 16_000_000, MAX_TOPICS = 50, PAGE = 200;
const PREVIEW_CHARACTERS = 400, SHOWN_CHARACTERS = 20_000, STATS_TOPICS = 20;
const MAX_TOPIC_REM = 9, STATS_MS = 2000, ANNOUNCE_MS = 5000, FILTER_MS = 150, FLOOD_MS = 100;

const at = (id) => document.getElementById(id);
const counted = (number, what) => `${number.toLocaleString("en")} ${what}${number === 1 ? "" : "s"}`;

function element(name, properties = {}, ...children) {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
}

const HIDING = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b\u200c\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;
const hex = (character) => character.charCodeAt(0).toString(16).padStart(4, "0");

/** Replaces characters that hide or reorder others by their JSON escapes, which mean the same. */
function visible(text) {
    return text.replace(HIDING, (character) => `\\u${hex(character)}`);
}

/** Parses JSON. Numbers keep all their digits if the browser can do that. */
function parse(text) {
    try {
        return JSON.parse(text, (key, value, context) =>
            typeof value === "number" && context && JSON.rawJSON && String(value) !== context.source ? JSON.rawJSON(context.source) : value);
    } catch {
        return JSON.parse(text); // a reviver recurses, so deep values need a plain parse
    }
}

function json(value, indent) {
    try {
        return visible(JSON.stringify(value, null, indent));
    } catch {
        return "(nested too deeply to be shown)";
    }
}

// --- announcements for screen readers: results and errors at once, the number of new messages every few seconds

let arrived = Object.create(null), announcing;

function announce(text) {
    at("live").textContent = text;
}

function announceLater(topic) {
    arrived[topic] = (arrived[topic] ?? 0) + 1;
    announcing ??= setTimeout(() => {
        const topics = Object.entries(arrived).sort((a, b) => b[1] - a[1]);
        announce(topics.slice(0, 3).map(([name, number]) => `${counted(number, "new message")} in ${visible(name)}`).join(", "));
        arrived = Object.create(null);
        announcing = undefined;
    }, ANNOUNCE_MS);
}

// --- topics and cursors

let topics = [...new Set(new URLSearchParams(location.search).getAll("topic"))], refused = new Set();
let cursors = Object.create(null);
try {
    Object.assign(cursors, JSON.parse(sessionStorage.getItem("pgpoll.cursors")));
} catch {
    // Nothing is stored, or there is no storage: read from now on.
}

function keepCursors(next) {
    cursors = Object.assign(Object.create(null), next);
    try {
        sessionStorage.setItem("pgpoll.cursors", JSON.stringify(cursors));
    } catch {
        // The storage is full or not allowed. Only a reload would need the cursors.
    }
}

function setTopics(next) {
    topics = next;
    refused.clear();
    keepCursors(Object.fromEntries(Object.entries(cursors).filter(([topic]) => topics.includes(topic))));
    const address = new URL(location.href);
    address.search = new URLSearchParams(topics.map((topic) => ["topic", topic]));
    history.replaceState(null, "", address);
    showTopics();
    watch();
}

function watchTopic(topic, start = "$") {
    const next = Object.assign(Object.create(null), cursors);
    if (start !== "$")
        next[topic] = start;
    cursors = next;
    setTopics([...topics, topic]);
    at("topics").scrollTop = at("topics").scrollHeight;
    announce(`Watching ${visible(topic)}`);
}

function faultOf(topic) {
    if (!topic.trim())
        return "Type a topic's name.";
    if ([...topic].length > 255)
        return "A topic has at most 255 characters.";
    if (/[\u0000-\u001f\u007f-\u009f]/.test(topic))
        return "A topic has no control characters.";
    if (topics.includes(topic))
        return "You watch this topic already.";
    return topics.length >= MAX_TOPICS ? `A poll has at most ${MAX_TOPICS} topics.` : "";
}

function showTopics() {
    at("topics").replaceChildren(...topics.map((topic, index) => {
        const remove = element("button", { type: "button", textContent: "×", title: "Stop watching", ariaLabel: `Stop watching ${visible(topic)}` });
        remove.addEventListener("click", () => {
            setTopics(topics.filter((other) => other !== topic));
            (at("topics").querySelectorAll("button")[Math.min(index, topics.length - 1)] ?? at("topic")).focus();
            announce(`No longer watching ${visible(topic)}`);
        });
        const isRefused = refused.has(topic), name = element("span", { className: "name", textContent: visible(topic), title: visible(topic) });
        return element("li", { className: isRefused ? "refused" : "" }, name,
            ...(isRefused ? [element("span", { className: "why", textContent: "refused" })] : []), remove);
    }));
    widen(topics);
    showEmpty();
    showCommands();
    showStats();
}

at("add").addEventListener("submit", (event) => {
    event.preventDefault();
    const topic = at("topic").value, fault = faultOf(topic);
    at("topic-error").textContent = fault;
    at("topic").ariaInvalid = fault ? "true" : null;
    if (!fault) {
        watchTopic(topic, at("start").value);
        at("topic").value = "";
    }
    at("topic").focus();
});

// --- the connection

let paused = false, state = "", countdown, watching = { stop: new AbortController(), ended: Promise.resolve() };

/** Says why no messages arrive, as far as that is known. Empty while everything works. */
let fault = "";

/** kind: idle, connecting, waiting, retrying, paused, refused or login. Only a change of kind is announced. */
function setState(kind, text) {
    clearInterval(countdown);
    at("login").hidden = kind !== "login";
    if (kind !== "retrying")
        fault = "";
    at("why").textContent = fault;
    at("state").dataset.kind = kind;
    at("state").title = "";
    at("state-text").textContent = text;
    const settled = !["retrying", "refused"].includes(kind);
    if (settled && document.activeElement === at("retry"))
        at("pause").focus(); // hides the button
    at("retry").hidden = settled;
    if (kind !== state && !(state === "" && kind === "idle"))
        announce(text);
    state = kind;
    showEmpty();
}

function setRetrying(error, seconds) {
    const end = performance.now() + seconds * 1000;
    const show = () => {
        const left = Math.ceil((end - performance.now()) / 1000);
        at("state-text").textContent = left > 0 ? `Reconnecting in ${left} s` : "Reconnecting";
    };
    fault = error.status === 503 ? "the server does not reach its database, or has no worker"
        : error.status ? `the server answers with status ${error.status}` : "the server does not answer";
    setState("retrying", "Connection lost");
    at("state").title = error.message;
    show();
    countdown = setInterval(show, 250);
}

/** Polls for the present topics once the previous poll has ended. */
function watch() {
    const stop = new AbortController(), before = watching;
    before.stop.abort();
    watching = { stop, ended: before.ended.then(() => poll(stop.signal)) };
}

async function poll(signal) {
    if (signal.aborted)
        return;
    if (paused)
        return setState("paused", "Paused");
    if (topics.length === 0)
        return setState("idle", "No topic yet");
    setState("connecting", "Connecting");
    const options = {
        signal, parse, limit: PAGE, onGap: addGap, onRetry: setRetrying,
        storage: { load: () => cursors, save: keepCursors },
        headers, onOpen: showWaiting,
        onRefused: (error) => error.status === 401 && askForToken(signal),
    };
    try {
        for await (const message of longPoll(location.origin, topics, options))
            addMessage(message);
    } catch (error) {
        setState("refused", error instanceof Refused ? `Refused: ${reasonOf(error)}` : `Stopped: ${error.message}`);
        if (error.status === 403)
            markRefused(signal);
    }
}

/** While the server does not reach its database, it keeps polls that it has accepted. */
function showWaiting() {
    if (stats.isAway)
        setState("waiting-in-vain", "The database is away");
    else
        setState("waiting", "Waiting for messages");
}

// The page forgets the token when it is closed: it is stored nowhere.
let token = "", tokenGiven;

function headers() {
    return token ? { Authorization: `Bearer ${token}` } : {};
}

/** Resolves to true once there is another token. */
function askForToken(signal) {
    setState("login", token ? "Refused: this token is not valid (any more)" : "The server asks who you are");
    at("token").focus();
    return new Promise((resolve) => {
        tokenGiven = resolve;
        signal.addEventListener("abort", () => resolve(false));
    });
}

at("login").addEventListener("submit", (event) => {
    event.preventDefault();
    token = at("token").value.trim();
    at("token").value = "";
    if (!/^[\x21-\x7e]*$/.test(token))
        token = "";
    setState("connecting", "Connecting");
    at("topic").focus();
    tokenGiven?.(true);
});

/** The server's answer does not say which topic it refused, so each is asked for alone. */
async function markRefused(signal) {
    for (const topic of topics) {
        try {
            const response = await fetch("/messages/poll", { method: "POST", headers: headers(), signal,
                body: JSON.stringify({ topics: [topic], since: { [topic]: "$" }, timeout: 0 }) });
            if (response.status === 403)
                refused.add(topic);
        } catch {
            return; // no longer asked, or no longer there
        }
    }
    showTopics();
    announce(`Refused: ${[...refused].map(visible).join(", ")}`);
}

function reasonOf(refused) {
    try {
        const { detail } = JSON.parse(refused.message.slice(4));
        return visible(typeof detail === "string" ? detail : detail.map(({ loc, msg }) => `${loc.slice(1).join(" ")}: ${msg}`).join("; "));
    } catch {
        return `status ${refused.status}`;
    }
}

at("retry").addEventListener("click", watch);

at("pause").addEventListener("click", () => {
    paused = !paused;
    at("pause").ariaPressed = `${paused}`;
    showEmpty();
    watch();
});

// --- messages, the newest first, up to a limit

let received = 0, characters = 0, latest = 0, topicWidth = 3, entries = [], current;

function addMessage(message) {
    const now = Date.now(), text = json(message.payload);
    const entry = { message, text, now, node: element("li", { className: now - latest < FLOOD_MS ? "" : "new" }) };
    const delay = now - Date.parse(`${message.timestamp}Z`);
    const summary = element("summary", { tabIndex: -1 },
        element("span", { className: "time", textContent: clock(now) }),
        element("span", { className: "topic", textContent: visible(message.topic) }),
        element("span", { className: "payload", textContent: text.slice(0, PREVIEW_CHARACTERS) }),
        element("span", { className: "delay" }, element("span", { className: "hidden", textContent: "delay " }), duration(delay)));
    const details = element("details", {}, summary);
    details.addEventListener("toggle", () => {
        if (details.open && !details.querySelector(".whole"))
            details.append(whole(entry));
    });
    entry.node.append(details);
    add(entry);
    received++;
    latest = now;
    announceLater(message.topic);
    showCountSoon();
}

function addGap(topic, { reason, requested, oldest }) {
    const why = {
        expired: "messages after this page's place have been pruned",
        unknown: "the server does not know this page's place",
        ahead: "the database is older than this page's place, as after a restore; it goes on from now",
    }[reason] ?? reason;
    const text = `Gap in ${visible(topic)}, messages may be missing: ${why} (${visible(requested)}${oldest && reason !== "ahead" ? `; the oldest message kept is ${oldest}` : ""})`;
    add({ message: { topic }, text, node: element("li", { className: "gap", textContent: text }) });
    announce(text);
}

// What somebody reads does not move: while the list is scrolled, has the focus or shows a whole message, messages are held back.
let held = [];

function isBeingRead() {
    const list = at("messages");
    return entries.length > 0 && (at("scroller").scrollTop > 0 || (list.contains(document.activeElement) && document.hasFocus())
        || list.querySelector("details[open]") !== null);
}

function add(entry) {
    if (held.length === 0 && !isBeingRead())
        return show(entry);
    held.push(entry);
    if (held.length > KEPT_MESSAGES)
        held.shift();
    showHeld();
}

function showHeld() {
    const focused = document.activeElement === at("held");
    at("held").hidden = held.length === 0;
    at("held").textContent = `Show ${counted(held.length, "new message")}`;
    if (focused && held.length === 0)
        at("messages").focus();
}

function release() {
    held.splice(0).forEach(show);
    showHeld();
    showCount();
}

at("held").addEventListener("click", () => {
    release();
    at("scroller").scrollTop = 0;
});

for (const event of ["scroll", "focusout", "toggle"])
    at("scroller").addEventListener(event, () => setTimeout(() => held.length > 0 && !isBeingRead() && release()), true);

function show(entry) {
    entry.size = entry.text.length;
    entries.push(entry);
    characters += entry.size;
    entry.node.hidden = !matches(entry);
    at("messages").prepend(entry.node);
    widen([entry.message.topic]);
    while (entries.length > KEPT_MESSAGES || (characters > KEPT_CHARACTERS && entries.length > 1))
        drop(entries.shift());
    if (!current?.isConnected || current.closest("li").hidden)
        setCurrent(summaries()[0]);
    showEmpty();
}

/** The column of topics is as wide as their names need, and the payload has the rest. */
function widen(names) {
    const wider = Math.min(MAX_TOPIC_REM, Math.max(topicWidth, ...names.map((name) => visible(name).length * 0.55)));
    if (wider > topicWidth)
        at("messages-section").style.setProperty("--topic", `${topicWidth = wider}rem`);
}

function drop({ node, size }) {
    characters -= size;
    if (node.contains(document.activeElement))
        at("messages").focus();
    node.remove();
}

function whole({ message, now, text }) {
    const pretty = json(message.payload, 2);
    const payload = element("pre", { tabIndex: 0, textContent: pretty.slice(0, SHOWN_CHARACTERS) });
    const buttons = element("div", { className: "buttons" }, copyButton("Copy payload", () => text));
    if (pretty.length > SHOWN_CHARACTERS) {
        const all = element("button", { type: "button", className: "small", textContent: `Show all ${pretty.length.toLocaleString("en")} characters` });
        all.addEventListener("click", () => {
            payload.textContent = pretty;
            payload.focus();
            all.remove();
        });
        buttons.append(all);
    }
    payload.ariaLabel = "Payload";
    payload.role = "region";
    const facts = { "Topic": visible(message.topic), "Published": `${message.timestamp} UTC`, "Arrived": new Date(now).toISOString().replace("Z", " UTC"),
        "message_id": message.message_id, "stream_id": message.stream_id, "Metadata": json(message.metadata).slice(0, SHOWN_CHARACTERS) };
    return element("div", { className: "whole" }, payload, buttons,
        element("dl", {}, ...Object.entries(facts).flatMap(([name, value]) => [element("dt", { textContent: name }), element("dd", { textContent: value })])));
}

function clock(ms) {
    const time = new Date(ms), two = (number) => `${number}`.padStart(2, "0");
    return `${two(time.getHours())}:${two(time.getMinutes())}:${two(time.getSeconds())}.${`${time.getMilliseconds()}`.padStart(3, "0")}`;
}

function duration(ms) {
    if (!Number.isFinite(ms))
        return "?";
    const size = Math.abs(ms), sign = ms < 0 ? "−" : "";
    for (const [unit, length, below] of [["ms", 1, 1000], ["s", 1000, 60_000], ["min", 60_000, 3_600_000], ["h", 3_600_000, 172_800_000]])
        if (size < below)
            return `${sign}${unit === "s" ? (size / length).toFixed(1) : Math.floor(size / length)} ${unit}`;
    return `${sign}${Math.floor(size / 86_400_000).toLocaleString("en")} d`;
}

function matches({ message, text }) {
    const wanted = at("filter").value.toLowerCase();
    return !wanted || message.topic.toLowerCase().includes(wanted) || text.toLowerCase().includes(wanted);
}

let counting;

function showCountSoon() {
    counting ??= setTimeout(showCount);
}

function showCount() {
    clearTimeout(counting);
    counting = undefined;
    const shown = entries.filter(({ node }) => !node.hidden).length;
    at("count").textContent = received === 0 ? ""
        : `${received.toLocaleString("en")} received` + (shown < received ? `, ${shown.toLocaleString("en")} shown` : "");
}

function showEmpty() {
    at("empty").hidden = entries.some(({ node }) => !node.hidden);
    at("empty").textContent = entries.length > 0 ? "No message matches the filter."
        : paused ? "Paused. What is published meanwhile stays at the server, and comes when you go on."
        : topics.length === 0 ? "Type the name of a topic above to watch its messages arrive, or choose one of the “Topics at the server”."
        : state === "refused" ? "Nothing comes, because the server refused the poll: see above."
        : state === "login" ? "Nothing comes until you log in: see above."
        : state === "waiting-in-vain" ? "Nothing comes while the server does not reach its database. It goes on by itself."
        : fault ? `Nothing comes, because ${fault}.`
        : "Nothing yet. Publish a message: the line is under “From a shell”.";
}

let filtering;
at("filter").addEventListener("input", () => {
    clearTimeout(filtering);
    filtering = setTimeout(() => {
        for (const entry of entries)
            entry.node.hidden = !matches(entry);
        setCurrent(summaries()[0]);
        showEmpty();
        showCount();
        announce(at("count").textContent);
    }, FILTER_MS);
});

at("clear").addEventListener("click", () => {
    entries.splice(0).forEach(drop);
    held = [];
    showHeld();
    received = 0;
    showEmpty();
    showCount();
    announce("Cleared");
});

// Tab stops once at the list; the arrow keys move through it.
const summaries = () => [...at("messages").querySelectorAll("li:not([hidden]) summary")];

function setCurrent(summary) {
    if (current)
        current.tabIndex = -1;
    current = summary;
    if (current)
        current.tabIndex = 0;
}

at("messages").addEventListener("focusin", ({ target }) => target.matches("summary") && setCurrent(target));
at("messages").addEventListener("keydown", (event) => {
    const all = summaries(), from = all.indexOf(event.target);
    const to = { ArrowDown: from + 1, ArrowUp: from - 1, Home: 0, End: all.length - 1 }[event.key];
    if (to === undefined || (from < 0 && event.target !== at("messages")))
        return;
    event.preventDefault();
    all[Math.max(0, Math.min(to, all.length - 1))]?.focus();
});

// --- the server: its waiting polls, and the commands to type

let stats = {};

async function readStats() {
    if (!document.hidden) {
        try {
            const response = await fetch("/messages/poll/stats", { cache: "no-store", headers: headers(), signal: AbortSignal.timeout(5000) });
            stats = response.ok ? await response.json() : { closed: [401, 403, 404].includes(response.status),
                isAway: response.status === 503 && response.headers.get("Content-Type") === "application/json" };
        } catch {
            stats = {};
        }
        showStats();
        if (["waiting", "waiting-in-vain"].includes(state) && Boolean(stats.isAway) !== (state === "waiting-in-vain"))
            showWaiting();
    }
    setTimeout(readStats, STATS_MS);
}

function showStats() {
    const { active_waiters: waiters, topic_subscriber_counts: waiting, retained_topics: retained = [], closed, isAway } = stats;
    if (!waiting) {
        at("stats").hidden = true;
        at("stats-summary").textContent = closed ? "The statistics are closed to this address." : isAway ? "The database is away." : "Not known.";
        return;
    }
    const counts = Object.assign(Object.create(null), Object.fromEntries(retained.map((topic) => [topic, 0])), waiting);
    const names = Object.keys(counts).sort((a, b) => counts[b] - counts[a] || (a < b ? -1 : 1)), more = names.length - STATS_TOPICS;
    at("stats").hidden = names.length === 0;
    at("stats-summary").textContent = `${counted(waiters, "poll")} on ${counted(Object.keys(waiting).length, "topic")}.`
        + (more > 0 ? ` The ${STATS_TOPICS} with the most:` : "");
    showKnown(names.filter((topic) => !topics.includes(topic)));

    // Keep the row of a topic that is still there: a button in it may have the focus.
    const body = at("stats").tBodies[0], old = new Map([...body.rows].map((row) => [row.topic, row]));
    const rows = names.slice(0, STATS_TOPICS).map((topic) => {
        const row = old.get(topic)?.watched === topics.includes(topic) ? old.get(topic) : statsRow(topic);
        row.cells[1].textContent = counts[topic].toLocaleString("en");
        return row;
    });
    if (rows.length !== body.rows.length || rows.some((row, index) => row !== body.rows[index])) {
        const focused = body.contains(document.activeElement) && document.activeElement;
        body.replaceChildren(...rows);
        if (focused)
            (focused.isConnected ? focused : at("topic")).focus();
    }
}

/** What the field for a topic offers. */
function showKnown(names) {
    const shown = [...at("known").options].map(({ value }) => value);
    if (names.length !== shown.length || names.some((name, index) => name !== shown[index]))
        at("known").replaceChildren(...names.map((value) => element("option", { value })));
}

function statsRow(topic) {
    const watched = topics.includes(topic), text = { className: "name", textContent: visible(topic), title: visible(topic) };
    const name = watched ? element("span", text) : element("button", { ...text, type: "button", ariaLabel: `Watch ${visible(topic)}` });
    if (!watched)
        name.addEventListener("click", () => faultOf(topic) || watchTopic(topic));
    return Object.assign(element("tr", {}, element("th", { scope: "row" }, name), element("td")), { topic, watched });
}

/** Quotes an SQL literal, with escapes for the characters that visible() escapes. */
const literal = (text) => text.search(HIDING) < 0 ? `'${text.replaceAll("'", "''")}'`
    : `U&'${text.replaceAll("'", "''").replaceAll("\\", "\\\\").replace(HIDING, (character) => `\\${hex(character)}`)}'`;

/** Quotes a word for a POSIX shell. bash expands "!" between double quotes. */
const single = (text) => `'${text.replaceAll("'", `'\\''`)}'`;
const quoted = (text) => text.includes("!") ? single(text) : `"${text.replace(/[\\"$`]/g, "\\$&")}"`;

/** Formats JSON with spaces, on one line. JSON text has no line breaks within strings. */
const spaced = (value) => JSON.stringify(value, null, 1).replace(/([{[])\n\s*/g, "$1").replace(/\n\s*([}\]])/g, "$1").replace(/\n\s*/g, " ");

function showCommands() {
    const named = topics.length > 0 ? topics : ["orders"], curl = (request) => `curl ${location.origin}/messages/poll -d ${single(visible(spaced(request)))}`;
    const insert = `INSERT INTO pgpoll.messages (topic, payload) VALUES (${literal(named[0])}, '{"order_id": 1}')`;
    const lines = {
        "Publish": `psql -c ${quoted(insert)}`,
        "Wait for the next": curl({ topics: named, timeout: 60 }),
        "Read all that is kept": curl({ topics: named, since: Object.fromEntries(named.map((topic) => [topic, "0"])), timeout: 0 }),
    };
    at("commands").replaceChildren(...Object.entries(lines).map(([title, line]) => {
        const shown = element("pre", { textContent: line });
        const copy = copyButton("Copy", () => line, shown);
        copy.ariaLabel = `Copy: ${title}`;
        return element("li", {}, element("div", { className: "head" }, element("span", { textContent: title }), copy), shown);
    }));
    for (const shown of at("commands").querySelectorAll("pre"))
        if (shown.scrollHeight > shown.clientHeight)
            shown.tabIndex = 0;
}

/** Without access to the clipboard (neither HTTPS nor localhost), the button selects the text instead. */
function copyButton(label, text, shown) {
    const button = element("button", { type: "button", className: "small", textContent: label });
    button.addEventListener("click", async () => {
        let said = "Copied";
        try {
            await navigator.clipboard.writeText(text());
        } catch {
            getSelection().selectAllChildren(shown ?? button.closest(".whole").querySelector("pre"));
            said = "Selected: copy it with Ctrl-C";
        }
        button.textContent = said;
        announce(said);
        setTimeout(() => button.textContent = label, 2000);
    });
    return button;
}

showTopics();
watch();
readStats();
