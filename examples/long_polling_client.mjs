/*
 * Long polling for browsers and Node 18 or later. Copy this file, and its types (long_polling_client.d.mts) if you want them.
 * Browsers accept it only as JavaScript. Where the web server does not know .mjs (nginx), name it long_polling_client.js.
 *
 *     import { inFile, longPoll } from "./long_polling_client.mjs";
 *
 *     for await (const message of longPoll("http://127.0.0.1:8080", ["orders"], { storage: inFile("orders.json") }))
 *         console.log(message.topic, message.payload);
 *
 * A message counts as done when you ask for the next one. With a storage, the cursors are written there after each page. After a
 * crash the client gets the last page again, so your work must tolerate the same message twice.
 *
 * A page that the user leaves, or that the browser freezes, stops polling, so that it holds no connection. It continues when the user
 * comes back. With the option share, all pages of an origin wait with one poll.
 */
const FIRST_BACKOFF_S = 0.5, LAST_BACKOFF_S = 30, LONGEST_RETRY_AFTER_S = 3600, SILENCE_S = 10;
const CUT_S = 1; // a poll that a proxy ends after this time counts as a timeout, not as a failure
const LEADER_SILENCE_S = 5, KEEP_S = 20, FORGET_S = 90, QUEUED_PAGES = 16; // of pages that share a poll

/** Thrown when the server refuses the request: repeating it would not help. */
export class Refused extends Error {
    constructor(status, text) {
        super(`${status} ${text}`);
        this.name = "Refused";
        this.status = status;
    }
}

class Unavailable extends Error {
    constructor(response) {
        super(`${response.status} ${response.statusText}`.trim());
        this.name = "Unavailable";
        this.status = response.status;
        const asked = response.headers.get("Retry-After") ?? "";
        const seconds = /^\d+$/.test(asked) ? Number(asked) : (Date.parse(asked) - Date.now()) / 1000;
        this.retryAfter = Math.min(Math.max(seconds || 0, 0), LONGEST_RETRY_AFTER_S);
    }
}

/** Something between the server and this client ended a poll that was waiting. */
class Cut extends Error {}

/** We ended the poll ourselves, because it is no longer the right one. */
class Interrupted extends Error {}

/**
 * Yields every message of the topics, until the loop is left, options.signal aborts it or the server refuses. add() and remove()
 * change the topics meanwhile.
 * @param {string | URL} url
 * @param {readonly string[]} topics
 * @param {import("./long_polling_client.mjs").LongPollOptions} options
 * @returns {import("./long_polling_client.mjs").LongPoll}
 */
export function longPoll(url, topics, options = {}) {
    const loop = new Loop(`${url}`.replace(/\/$/, ""), topics, options);
    return Object.assign(loop.messages(), {
        add: (topic, since) => loop.add(topic, since),
        remove: (topic) => loop.remove(topic),
    });
}

/** A cursor from which no failed poll can lose anything. "-N" and none mean something else at each poll. */
const isFixed = (cursor) => Boolean(cursor) && !cursor.startsWith("-");

class Loop {
    failures = 0;
    left = false; // the user left the page, which the browser may keep to come back to
    frozen = false;
    /** Topics of the poll at hand whose messages are still wanted. */
    asked = new Set();
    news = new Bell();

    constructor(url, topics, options) {
        this.url = url;
        this.topics = new Set(topics);
        this.options = options;
        this.poller = new Poller(url, options);
        // Without a prototype: a topic may be called "__proto__". Cursors of topics that are not polled stay, for add() and the storage.
        this.cursors = Object.create(null);
        this.take(options.since);
    }

    take(cursors) {
        for (const [topic, cursor] of Object.entries(cursors ?? {}))
            this.cursors[topic] = cursor === "$" ? undefined : cursor;
    }

    add(topic, since) {
        if (this.topics.has(topic))
            return;
        if (!this.cursors[topic])
            this.take({ [topic]: since });
        this.topics.add(topic);
        this.changed();
    }

    remove(topic) {
        if (!this.topics.delete(topic))
            return;
        this.asked.delete(topic);
        this.changed();
    }

    /** No cursor moves with a poll that is interrupted: the next one brings what it would have brought. */
    changed() {
        this.poller.interrupt();
        this.share?.fallBehind();
        this.news.ring();
    }

    get isAway() {
        return this.left || this.frozen || Boolean(this.options.pauseWhenHidden && globalThis.document?.hidden);
    }

    async *messages() {
        const { signal, storage, timeout = 30, share } = this.options;
        const unwatch = this.watch();
        try {
            this.take(await storage?.load());
            if (share !== undefined && globalThis.navigator?.locks && globalThis.BroadcastChannel)
                this.share = new Share(this, `pgpoll ${share} ${this.url}`);
            while (!signal?.aborted) {
                if (this.isAway || this.topics.size === 0) {
                    await this.news.within();
                    continue;
                }
                const answer = await (this.share ? this.share.next() : this.ask(timeout));
                if (answer)
                    yield* this.deliver(answer);
            }
        } finally {
            this.share?.leave();
            unwatch();
        }
    }

    /** Calls back when the user leaves or returns, and when options.signal aborts. Returns the function that stops it. */
    watch() {
        const { signal } = this.options, page = typeof document !== "undefined";
        const look = ({ type }) => {
            this.left = type === "pagehide" || (this.left && type !== "pageshow");
            this.frozen = type === "freeze" || (this.frozen && type !== "resume");
            if (type === "abort" || this.isAway) {
                this.poller.interrupt();
                this.share?.leave();
            }
            this.news.ring();
        };
        const targets = [[signal, ["abort"]], ...(page ? [[window, ["pagehide", "pageshow"]], [document, ["freeze", "resume", "visibilitychange"]]] : [])];
        for (const [target, types] of targets)
            types.forEach((type) => target?.addEventListener(type, look));
        return () => {
            for (const [target, types] of targets)
                types.forEach((type) => target?.removeEventListener(type, look));
        };
    }

    /** @returns {Promise<object | undefined>} an answer; undefined: none, and what is wanted may be another by now */
    async ask(timeout) {
        const { signal, limit, onRefused } = this.options, topics = [...this.topics];
        this.asked = new Set(topics);
        // Without a fixed cursor, a topic is read from now on. The first poll asks at once where now is, so that no failure of a longer
        // poll can lose what is committed meanwhile.
        const seconds = topics.every((topic) => isFixed(this.cursors[topic])) ? timeout : 0;
        try {
            const { answer } = await this.poller.send({ topics, since: this.cursorsOf(topics), timeout: seconds, limit });
            this.failures = 0;
            return answer;
        } catch (error) {
            if (error instanceof Interrupted || error instanceof Cut) {
                this.failures = 0;
                return undefined;
            }
            if (error instanceof Refused && !(onRefused && await this.unlessAborted(onRefused(error))) && !signal?.aborted)
                throw error;
            await this.pause(error, ++this.failures);
            return undefined;
        }
    }

    /** Waits after the last of so many failures. isOver: whether the cause is known to be gone. */
    async pause(error, failures, isOver = () => false) {
        const { signal, onRetry = warnOfRetry } = this.options, pause = backoff(failures) + (error.retryAfter ?? 0);
        if (!(error instanceof Refused || signal?.aborted))
            onRetry(error, pause);
        for (const end = Date.now() + pause * 1000; Date.now() < end && !signal?.aborted && !isOver();)
            await this.news.within(end - Date.now());
    }

    /** @returns {Promise<any>} what the promise gives; undefined when options.signal aborts */
    unlessAborted(promise) {
        const { signal } = this.options;
        return Promise.race([promise, new Promise((resolve) => signal?.addEventListener("abort", () => resolve(undefined)))]);
    }

    cursorsOf(topics) {
        return Object.fromEntries(topics.filter((topic) => this.cursors[topic]).map((topic) => [topic, this.cursors[topic]]));
    }

    async *deliver(answer) {
        const { signal, storage, onGap = warnOfGap } = this.options;
        for (const [topic, gap] of Object.entries(answer.gaps ?? {}))
            onGap(topic, gap);
        try {
            for (const message of answer.messages) {
                if (!this.asked.has(message.topic))
                    continue; // removed meanwhile, and perhaps added again: then it is read from its cursor
                yield message;
                this.cursors[message.topic] = message.message_id;
                if (signal?.aborted)
                    return;
            }
            for (const topic of this.asked)
                this.cursors[topic] = answer.next_since[topic];
        } finally {
            await storage?.save(Object.assign(Object.create(null), this.cursors));
        }
    }
}

/** Wakes everything that waits for it. */
class Bell {
    /** @returns {Promise<boolean>} true when it rings, false if it does not within so many milliseconds */
    within(ms) {
        return new Promise((resolve) => {
            const timer = ms === undefined ? undefined : setTimeout(() => this.waiting.delete(wake) && resolve(false), ms);
            const wake = () => {
                clearTimeout(timer);
                resolve(true);
            };
            this.waiting.add(wake);
        });
    }

    ring() {
        const waiting = this.waiting;
        this.waiting = new Set();
        waiting.forEach((wake) => wake());
    }

    waiting = new Set();
}

/** Sends polls, one at a time. */
class Poller {
    constructor(url, options) {
        this.url = url;
        this.options = options;
        /** Whether a poll has been sent, and has no answer yet. */
        this.isSent = false;
        /** Whether a proxy has answered 504, for a poll that waited or because it does not reach the server: one that does not wait tells. */
        this.isInDoubt = false;
    }

    /** Ends the poll under way: send() then throws Interrupted. */
    interrupt() {
        this.attempt?.abort(new Interrupted());
    }

    /**
     * @param {{ topics: readonly string[], since: object, timeout: number, limit?: number }} request
     * @returns {Promise<{ text: string, answer: any }>}
     */
    async send(request) {
        const { headers } = this.options;
        if (this.isInDoubt)
            request = { ...request, timeout: 0 };
        try {
            return await this.trySend(request);
        } catch (error) {
            if (!(error instanceof Refused && error.status === 401 && typeof headers === "function"))
                throw error;
            return await this.trySend(request, error); // the headers may have expired: once, with new ones
        }
    }

    async trySend(request, refused) {
        const { headers, credentials, parse = JSON.parse, onOpen } = this.options;
        const attempt = this.attempt = new AbortController();
        // The time limit applies to silence, not to the whole answer, which may take minutes on a slow line.
        let timer;
        const expect = () => {
            const seconds = request.timeout + SILENCE_S;
            clearTimeout(timer);
            timer = setTimeout(() => attempt.abort(new Error(`nothing from the server for ${seconds} s`)), seconds * 1000);
        };
        const ended = new Promise((_, reject) => attempt.signal.addEventListener("abort", () => reject(attempt.signal.reason)));
        ended.catch(() => {});
        try {
            const own = await Promise.race([typeof headers === "function" ? headers(refused) : headers, ended]);
            const began = Date.now(), waited = () => request.timeout > 0 && Date.now() - began >= CUT_S * 1000;
            expect();
            this.isSent = true;
            const response = await fetch(`${this.url}/messages/poll`, {
                method: "POST",
                headers: { "Content-Type": "application/json", ...own },
                credentials,
                body: JSON.stringify(request),
                signal: attempt.signal,
            });
            if (response.status >= 400 && response.status < 500 && ![408, 425, 429].includes(response.status))
                throw new Refused(response.status, await response.text());
            if (response.status === 504 && waited()) {
                this.isInDoubt = true;
                throw new Cut();
            }
            if (response.status !== 200)
                throw new Unavailable(response);
            onOpen?.();
            const text = await read(response, expect).catch((error) => {
                throw waited() && !attempt.signal.aborted ? new Cut() : error;
            });
            if (!text.trim() && waited())
                throw new Cut();
            const answer = parse(text);
            if (!Array.isArray(answer?.messages) || !answer.next_since)
                throw new Error("this is not an answer of pgpoll");
            this.isInDoubt = false;
            return { text, answer };
        } catch (error) {
            throw attempt.signal.aborted ? attempt.signal.reason : error; // some browsers have an error of their own
        } finally {
            clearTimeout(timer);
            this.isSent = false;
            attempt.abort(); // a body that is not read keeps its connection open
        }
    }
}

/**
 * The poll that pages of one origin share. The page that holds the lock of this name is the leader. It waits for the topics of all pages,
 * and sends each answer to all, itself included, with the cursors of its poll. Only waiting is shared: a page that may have missed
 * something asks the server itself, with a timeout of 0, until there is no more. Each page has its own cursors, and takes an answer only
 * if it follows them. So a leader that fails, or an answer that is lost or sent twice, costs time or a request, but no message:
 *
 * 1. A page listens to the channel, asks until there is no more, and then tells what it wants, with its cursors (want).
 * 2. The leader polls for what was wanted, from the lowest cursors. It says so before each poll (leader, since).
 * 3. A page whose topics are missing there tells again; from time to time each says that its topics are still wanted (keep).
 * 4. A leader whose poll fails, or whose user leaves, releases the lock. One that does not answer (ping) loses it. After a failure the page
 *    pauses before it leads again, unless an answer for another leader shows that polls succeed.
 * 5. At a new leader, after it has missed something, and when its topics change, a page falls behind, and begins with 1.
 */
class Share {
    isBehind = true;
    /** Answers that have not been looked at. */
    queue = [];
    keptAt = 0;
    /** Why this page's poll as leader failed, and how often that has happened since one succeeded. */
    failure = undefined;
    failures = 0;
    /** Of the leader: topic to cursor, and when a page last wanted it. */
    wanted = new Map();
    changes = new Bell();

    constructor(loop, name) {
        this.loop = loop;
        this.name = name;
        this.poller = new Poller(loop.url, { ...loop.options, parse: JSON.parse });
    }

    fallBehind() {
        this.isBehind = true;
        this.hasJoined = false;
        this.queue.length = 0;
    }

    /** The next answer, like Loop.ask(), but usually without a poll of this page. */
    async next() {
        const { loop } = this;
        if (!this.channel) {
            this.channel = new BroadcastChannel(this.name);
            this.channel.onmessage = ({ data }) => this.hear(data);
            this.leader = undefined;
        }
        if (this.failure) {
            const { failure } = this;
            this.failure = undefined;
            await loop.pause(failure, ++this.failures, () => loop.isAway || this.queue.length > 0); // another page's poll works
            return undefined;
        }
        if (this.isBehind) {
            this.isBehind = false;
            const answer = await loop.ask(0);
            if (!answer || answer.has_more)
                this.fallBehind();
            return answer;
        }
        const page = this.queue.shift();
        if (page)
            return this.fitting(page);
        if (!this.hasJoined) {
            this.hasJoined = true;
            this.tell({ want: new Map(Object.entries(loop.cursorsOf([...loop.topics]))) });
            if (!this.bid)
                this.lead();
        }
        if (await loop.news.within(LEADER_SILENCE_S * 1000) || this.id)
            return undefined;
        this.tell({ ping: true });
        if (!await loop.news.within(LEADER_SILENCE_S * 1000) && this.hasJoined)
            this.lead(true);
        return undefined;
    }

    /** Returns what is new to this page in the leader's answer; undefined if the answer does not follow its cursors: then the page asks itself. */
    fitting({ since, text }) {
        const { loop } = this, { cursors, topics } = loop, { parse = JSON.parse } = loop.options;
        let answer;
        try {
            answer = parse(text);
        } catch {
            // The poll of this page will report the fault.
        }
        if (!answer || [...topics].some((topic) => !(since.get(topic) <= cursors[topic]) || Object.hasOwn(answer.gaps ?? {}, topic))) {
            this.fallBehind();
            return undefined;
        }
        loop.asked = new Set(topics);
        answer.messages = answer.messages.filter(({ topic, message_id }) => message_id > cursors[topic]);
        const later = (topic) => answer.next_since[topic] > cursors[topic] ? answer.next_since[topic] : cursors[topic];
        return { ...answer, next_since: Object.fromEntries([...topics].map((topic) => [topic, later(topic)])), gaps: undefined };
    }

    tell(words) {
        this.channel?.postMessage(words);
        this.hear(words);
    }

    hear({ leader, since, text, want = new Map(), keep = [], ping }) {
        if (this.id) {
            const before = this.wanted.size;
            let lower = false;
            for (const [topic, cursor] of want) {
                const known = this.wanted.get(topic)?.cursor;
                lower ||= known > cursor;
                this.wanted.set(topic, { cursor: known < cursor ? known : cursor, at: Date.now() });
            }
            for (const topic of keep)
                if (this.wanted.has(topic))
                    this.wanted.get(topic).at = Date.now();
            if (lower || this.wanted.size > before) {
                this.poller.interrupt();
                this.changes.ring();
            }
            if (ping && this.poller.isSent)
                this.announce();
        }
        if (leader)
            this.follow(leader, since, text);
    }

    follow(leader, since, text) {
        const { loop } = this;
        if (this.leader && leader !== this.leader)
            this.fallBehind();
        this.leader = leader;
        if (text !== undefined && this.queue.length >= QUEUED_PAGES)
            this.fallBehind(); // this page's work is slow
        else if (text !== undefined)
            this.queue.push({ since, text });
        const missing = this.hasJoined ? [...loop.topics].filter((topic) => !since.has(topic)) : [];
        if (missing.length > 0)
            this.tell({ want: new Map(Object.entries(loop.cursorsOf(missing))) });
        else if (Date.now() - this.keptAt > KEEP_S * 1000) {
            this.keptAt = Date.now();
            this.tell({ keep: [...loop.topics] });
        }
        loop.news.ring();
    }

    announce() {
        this.tell({ leader: this.id, since: new Map([...this.wanted].map(([topic, { cursor }]) => [topic, cursor])) });
    }

    /** Leads once no other page does, or, with steal, at once. */
    async lead(steal = false) {
        this.bid?.abort();
        const bid = this.bid = new AbortController();
        try {
            await navigator.locks.request(this.name, steal ? { steal } : { signal: bid.signal }, () => bid.signal.aborted || this.serve(bid.signal));
        } catch {
            // Given up, or stolen.
        }
        bid.abort();
        if (this.bid === bid) {
            this.bid = undefined;
            this.fallBehind();
            this.loop.news.ring();
        }
    }

    /** The leader's polls, until one fails or signal aborts. */
    async serve(signal) {
        const { timeout = 30, limit } = this.loop.options;
        const id = this.id = `${Date.now()} ${Math.random()}`;
        const stop = () => {
            if (this.id === id) {
                this.id = undefined;
                this.poller.interrupt();
                this.changes.ring();
            }
        };
        this.wanted = new Map();
        signal.addEventListener("abort", stop);
        while (this.id === id) {
            for (const [topic, { at }] of this.wanted)
                if (Date.now() - at > FORGET_S * 1000)
                    this.wanted.delete(topic);
            this.announce();
            if (this.wanted.size === 0) {
                await this.changes.within();
                continue;
            }
            const since = new Map([...this.wanted].map(([topic, { cursor }]) => [topic, cursor]));
            try {
                const request = { topics: [...since.keys()], since: Object.fromEntries(since), timeout, limit };
                const { text, answer } = await this.poller.send(request);
                this.failures = 0;
                for (const [topic, cursor] of Object.entries(answer.next_since))
                    this.wanted.get(topic).cursor = cursor;
                if (answer.messages.length > 0 || answer.gaps)
                    this.tell({ leader: id, since, text });
            } catch (error) {
                if (!(error instanceof Interrupted || error instanceof Cut)) {
                    this.failure = error instanceof Refused ? undefined : error;
                    stop();
                }
                if (error instanceof Refused && error.status !== 401) {
                    // Together the topics are too many, or one page may not have its own any more.
                    this.loop.share = undefined;
                    this.leave();
                    this.loop.news.ring();
                }
            }
        }
    }

    /** Leads no longer, and hears nothing. */
    leave() {
        this.bid?.abort();
        this.bid = undefined;
        this.channel?.close();
        this.channel = undefined;
        this.fallBehind();
    }
}

/** The response's text. alive: called whenever a part of it has arrived. */
async function read(response, alive) {
    if (!response.body) // the platform has no streams
        return response.text();
    const reader = response.body.getReader(), decoder = new TextDecoder();
    let text = "";
    for (let part; !(part = await reader.read()).done; alive())
        text += decoder.decode(part.value, { stream: true });
    return text;
}

/** Seconds to wait: random, at most twice as long after each failure. */
function backoff(failures) {
    return Math.random() * Math.min(LAST_BACKOFF_S, FIRST_BACKOFF_S * 2 ** (failures - 1));
}

function warnOfGap(topic, { reason, requested }) {
    console.warn(`${topic}: messages may be missing (${reason}), asked for ${requested}`);
}

function warnOfRetry(error, seconds) {
    console.warn(`${error.cause?.message || error.message}; next attempt in ${seconds.toFixed(1)} s`);
}

/**
 * Keeps the cursors in the browser, under this key, for all tabs and after the browser is closed. Two tabs that use the key at
 * the same time move each other's cursors: use it where only one tab polls.
 */
export function inLocalStorage(key) {
    return inWebStorage(localStorage, key);
}

/** Keeps the cursors of this tab, under this key, until the tab is closed. A reload continues where it was. */
export function inSessionStorage(key) {
    return inWebStorage(sessionStorage, key);
}

function inWebStorage(storage, key) {
    return {
        load: () => JSON.parse(storage.getItem(key) ?? "{}"),
        save: (cursors) => storage.setItem(key, JSON.stringify(cursors)),
    };
}

/** Keeps the cursors in a file (Node.js). The file is replaced atomically, so that a power failure leaves the old or the new one. */
export function inFile(path) {
    return {
        async load() {
            const { readFile } = await import("node:fs/promises");
            return JSON.parse(await readFile(path, "utf8").catch((error) => {
                if (error.code !== "ENOENT")
                    throw error;
                return "{}";
            }));
        },
        async save(cursors) {
            const { open, rename } = await import("node:fs/promises");
            const file = await open(`${path}.new`, "w");
            try {
                await file.writeFile(JSON.stringify(cursors));
                await file.sync();
            } finally {
                await file.close();
            }
            await rename(`${path}.new`, path);
        },
    };
}
