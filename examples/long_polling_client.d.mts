/** What was published. */
export interface Message<Payload = unknown> {
    topic: string;
    /** Sorts in the order of delivery; a cursor. */
    message_id: string;
    payload: Payload;
    /** When the publisher's transaction began: UTC, as YYYY-MM-DDTHH:MM:SS.ffffff. */
    timestamp: string;
    metadata: unknown;
    /** A cursor, too. */
    stream_id: string;
}

/** Topic to cursor. */
export type Cursors = Record<string, string>;

/** A cursor could not be honoured: messages may be missing. */
export interface Gap {
    /** The messages after it were pruned; it is none of the server's; or it is newer than the database. */
    reason: "expired" | "unknown" | "ahead";
    requested: string;
    /** The message_id of the oldest message that is kept, if there is one. */
    oldest: string | null;
}

/** Where cursors live between two runs: one for each set of topics. */
export interface CursorStorage {
    load(): Cursors | Promise<Cursors>;
    save(cursors: Cursors): void | Promise<void>;
}

export interface LongPollOptions {
    /**
     * Where to begin a topic that the storage has no cursor for; without one, from now on. "0": all that is kept. "-50": the last 50
     * messages that are kept ("-1" to "-1000").
     */
    since?: Cursors;
    /** Seconds that a poll waits at the server, 1 to 60; 30 if not given. */
    timeout?: number;
    /** Messages in one answer, 1 to 1,000; 100 if not given. */
    limit?: number;
    /** Further request headers, such as Authorization. */
    headers?: Record<string, string>;
    /** Ends the loop, quietly. */
    signal?: AbortSignal;
    storage?: CursorStorage;
    /** Reads an answer; JSON.parse if not given, which rounds numbers beyond 2^53. */
    parse?(text: string): any;
    /** Before the messages of the answer that told of it; console.warn if not given. */
    onGap?(topic: string, gap: Gap): void;
    /** The server cannot be reached, or not now; console.warn if not given. */
    onRetry?(error: Error, seconds: number): void;
    /** The server has taken the poll, or answered it. */
    onOpen?(): void;
}

/** The server says that this request is wrong: asking again would not help. */
export class Refused extends Error {
    readonly status: number;
}

/** Yields every message of the topics, for ever: until the loop is left, options.signal aborts it or the server refuses. */
export function longPoll<Payload = unknown>(
    url: string | URL,
    topics: readonly string[],
    options?: LongPollOptions,
): AsyncGenerator<Message<Payload>, void, undefined>;

/**
 * Keeps the cursors in the browser, under this key, for all tabs and after the browser is closed. Two tabs that use the key at
 * the same time move each other's cursors: use it where only one tab polls.
 */
export function inLocalStorage(key: string): CursorStorage;

/** Keeps the cursors of this tab, under this key, until the tab is closed. A reload continues where it was. */
export function inSessionStorage(key: string): CursorStorage;

/** Keeps the cursors in a file (Node). Writes the file as a whole or not at all, also if the power fails. */
export function inFile(path: string): CursorStorage;
