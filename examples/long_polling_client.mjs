/*
 * Long polling for browsers and Node 18 or later. Copy it, with its types (long_polling_client.d.mts) if you want them.
 * Browsers must get it as JavaScript: a web server that does not know .mjs, as nginx, does under the name long_polling_client.js.
 *
 *     import { inFile, longPoll } from "./long_polling_client.mjs";
 *
 *     for await (const message of longPoll("http://localhost:8080", ["orders"], { storage: inFile("orders.json") }))
 *         console.log(message.topic, message.payload);
 *
 * A message counts as done when you ask for the next one; with a storage, its page's end is written there. After a crash the
 * last page comes again, so do the same message twice without harm.
 */
const FIRST_BACKOFF_S = 0.5, LAST_BACKOFF_S = 30, LONGEST_RETRY_AFTER_S = 3600, SILENCE_S = 10;

/** The server says that this request is wrong: asking again would not help. */
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
        const asked = response.headers.get("Retry-After") ?? "";
        const seconds = /^\d+$/.test(asked) ? Number(asked) : (Date.parse(asked) - Date.now()) / 1000;
        this.retryAfter = Math.min(Math.max(seconds || 0, 0), LONGEST_RETRY_AFTER_S);
    }
}

/**
 * Yields every message of the topics, for ever: until the loop is left, options.signal aborts it or the server refuses.
 * @param {string | URL} url
 * @param {readonly string[]} topics
 * @param {import("./long_polling_client.mjs").LongPollOptions} options
 * @returns {AsyncGenerator<import("./long_polling_client.mjs").Message>}
 */
export async function* longPoll(url, topics, options = {}) {
    const { timeout = 30, limit, signal, storage, onGap = warnOfGap, onRetry = warnOfRetry } = options;
    // Without a prototype: a topic may be called "__proto__".
    let cursors = Object.create(null);
    for (const [topic, cursor] of Object.entries({ ...options.since, ...(await storage?.load()) }))
        if (topics.includes(topic) && cursor !== "$")
            cursors[topic] = cursor;

    for (let failures = 0; !signal?.aborted;) {
        // A topic without a cursor (or with "$") is read from now on. When that is, it first asks at once, so that no failure of a longer
        // poll can lose what is committed meanwhile.
        const seconds = topics.every((topic) => cursors[topic]) ? timeout : 0;
        let answer;
        try {
            answer = await poll(`${url}`.replace(/\/$/, ""), { topics, since: cursors, timeout: seconds, limit }, options);
            failures = 0;
        } catch (error) {
            if (signal?.aborted)
                return;
            if (error instanceof Refused)
                throw error;
            const pause = backoff(++failures) + (error.retryAfter ?? 0);
            onRetry(error, pause);
            await sleep(pause, signal);
            continue;
        }
        for (const [topic, gap] of Object.entries(answer.gaps ?? {}))
            onGap(topic, gap);
        try {
            for (const message of answer.messages) {
                yield message;
                cursors[message.topic] = message.message_id;
                if (signal?.aborted)
                    return;
            }
            cursors = Object.assign(Object.create(null), answer.next_since);
        } finally {
            await storage?.save(cursors);
        }
    }
}

/**
 * @param {string} url
 * @param {{ topics: readonly string[], since: object, timeout: number, limit?: number }} request
 * @param {import("./long_polling_client.mjs").LongPollOptions} options
 */
async function poll(url, request, { headers, parse = JSON.parse, signal, onOpen }) {
    const attempt = new AbortController();
    const stop = () => attempt.abort();
    // It is silence that ends the attempt, not how long an answer takes to arrive: on a slow line that may be minutes.
    let timer;
    const expect = (seconds) => {
        clearTimeout(timer);
        timer = setTimeout(() => attempt.abort(new Error(`nothing from the server for ${seconds} s`)), seconds * 1000);
    };
    expect(request.timeout + SILENCE_S);
    signal?.addEventListener("abort", stop);
    try {
        const response = await fetch(`${url}/messages/poll`, {
            method: "POST",
            headers: { "Content-Type": "application/json", ...headers },
            body: JSON.stringify(request),
            signal: attempt.signal,
        });
        if (response.status >= 400 && response.status < 500 && ![408, 425, 429].includes(response.status))
            throw new Refused(response.status, await response.text());
        if (response.status !== 200 || !response.body)
            throw new Unavailable(response);
        onOpen?.();
        const reader = response.body.getReader(), decoder = new TextDecoder();
        let text = "";
        for (let part; !(part = await reader.read()).done; expect(request.timeout + SILENCE_S))
            text += decoder.decode(part.value, { stream: true });
        const answer = parse(text);
        if (!Array.isArray(answer?.messages) || !answer.next_since)
            throw new Error("not an answer of pgpoll");
        return answer;
    } finally {
        clearTimeout(timer);
        signal?.removeEventListener("abort", stop);
        stop(); // a body that nobody reads holds its connection
    }
}

/** Seconds: up to twice as long with every failure, and never the same for all clients. */
function backoff(failures) {
    return Math.random() * Math.min(LAST_BACKOFF_S, FIRST_BACKOFF_S * 2 ** (failures - 1));
}

/** @returns {Promise<void>} */
function sleep(seconds, signal) {
    return new Promise((resolve) => {
        const wake = () => {
            clearTimeout(timer);
            signal?.removeEventListener("abort", wake);
            resolve();
        };
        const timer = setTimeout(wake, seconds * 1000);
        signal?.addEventListener("abort", wake);
    });
}

function warnOfGap(topic, { reason, requested }) {
    console.warn(`${topic}: messages may be missing (${reason}), asked for ${requested}`);
}

function warnOfRetry(error, seconds) {
    console.warn(`${error.cause?.message || error.message}; next attempt in ${seconds.toFixed(1)} s`);
}

/** Keeps the cursors in the browser, under this key. */
export function inLocalStorage(key) {
    return {
        load: () => JSON.parse(localStorage.getItem(key) ?? "{}"),
        save: (cursors) => localStorage.setItem(key, JSON.stringify(cursors)),
    };
}

/** Keeps the cursors in a file (Node): all or nothing, also when the power goes. */
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
