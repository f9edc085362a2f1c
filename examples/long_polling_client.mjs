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
 * A page that the user leaves stops polling, so that it holds no connection in the browser's back/forward cache. It continues
 * when the user comes back.
 */
const FIRST_BACKOFF_S = 0.5, LAST_BACKOFF_S = 30, LONGEST_RETRY_AFTER_S = 3600, SILENCE_S = 10;
const CUT_S = 1; // a poll that a proxy ends after this time counts as a timeout, not as a failure

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
        const asked = response.headers.get("Retry-After") ?? "";
        const seconds = /^\d+$/.test(asked) ? Number(asked) : (Date.parse(asked) - Date.now()) / 1000;
        this.retryAfter = Math.min(Math.max(seconds || 0, 0), LONGEST_RETRY_AFTER_S);
    }
}

/** Something between the server and this client ended a poll that was waiting. */
class Cut extends Error {}

/**
 * Yields every message of the topics, until the loop is left, options.signal aborts it or the server refuses.
 * @param {string | URL} url
 * @param {readonly string[]} topics
 * @param {import("./long_polling_client.mjs").LongPollOptions} options
 * @returns {AsyncGenerator<import("./long_polling_client.mjs").Message>}
 */
export async function* longPoll(url, topics, options = {}) {
    const { timeout = 30, limit, signal, storage, onGap = warnOfGap, onRetry = warnOfRetry } = options;
    // Without a prototype: a topic may be called "__proto__".
    let cursors = Object.create(null);
    const others = Object.create(null); // cursors of other topics, which stay in the storage
    for (const [topic, cursor] of Object.entries({ ...options.since, ...(await storage?.load()) }))
        if (!topics.includes(topic))
            others[topic] = cursor;
        else if (cursor !== "$")
            cursors[topic] = cursor;

    for (let failures = 0; !signal?.aborted;) {
        // Without a cursor, or with "$", a topic is read from now on. The first poll asks, without waiting, for a cursor
        // that means "now", so that no failure of a longer poll can lose what is committed meanwhile.
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
            if (error instanceof Hidden || error instanceof Cut) {
                failures = 0;
                await (error instanceof Hidden && error.over);
                continue;
            }
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
            await storage?.save(Object.assign(Object.create(null), others, cursors));
        }
    }
}

/** The user left the page. */
class Hidden extends Error {
    /** Settles when the user comes back. */
    over = new Promise((resolve) => globalThis.addEventListener("pageshow", resolve, { once: true }));
}

/**
 * @param {string} url
 * @param {{ topics: readonly string[], since: object, timeout: number, limit?: number }} request
 * @param {import("./long_polling_client.mjs").LongPollOptions} options
 */
async function poll(url, request, { headers, parse = JSON.parse, signal, onOpen }) {
    const attempt = new AbortController();
    const stop = () => attempt.abort();
    const hide = () => attempt.abort(new Hidden());
    const began = Date.now(), waited = () => Date.now() - began >= CUT_S * 1000;
    // The time limit applies to silence, not to the whole answer, which may take minutes on a slow line.
    let timer;
    const expect = (seconds) => {
        clearTimeout(timer);
        timer = setTimeout(() => attempt.abort(new Error(`nothing from the server for ${seconds} s`)), seconds * 1000);
    };
    expect(request.timeout + SILENCE_S);
    signal?.addEventListener("abort", stop);
    if (typeof document !== "undefined")
        addEventListener("pagehide", hide);
    try {
        const response = await fetch(`${url}/messages/poll`, {
            method: "POST",
            headers: { "Content-Type": "application/json", ...headers },
            body: JSON.stringify(request),
            signal: attempt.signal,
        });
        if (response.status >= 400 && response.status < 500 && ![408, 425, 429].includes(response.status))
            throw new Refused(response.status, await response.text());
        if (response.status === 504 && waited())
            throw new Cut();
        if (response.status !== 200)
            throw new Unavailable(response);
        onOpen?.();
        const text = await read(response, () => expect(request.timeout + SILENCE_S)).catch((error) => {
            throw waited() && !attempt.signal.aborted ? new Cut() : error;
        });
        if (!text.trim() && waited())
            throw new Cut();
        const answer = parse(text);
        if (!Array.isArray(answer?.messages) || !answer.next_since)
            throw new Error("this is not an answer of pgpoll");
        return answer;
    } finally {
        clearTimeout(timer);
        signal?.removeEventListener("abort", stop);
        globalThis.removeEventListener?.("pagehide", hide);
        stop(); // a body that is not read keeps its connection open
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
