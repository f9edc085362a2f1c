/** What was published. */
export interface Message<Payload = unknown> {
    topic: string;
    /** Sorts in the order of delivery. Can be used as a cursor. */
    message_id: string;
    payload: Payload;
    /** When the publisher's transaction began: UTC, as YYYY-MM-DDTHH:MM:SS.ffffff. */
    timestamp: string;
    metadata: unknown;
    /** Can be used as a cursor, too. */
    stream_id: string;
}

/** Maps topics to cursors. */
export type Cursors = Record<string, string>;

/** Messages may be missing after a cursor. */
export interface Gap {
    /** expired: messages after the cursor were deleted. unknown: it is no cursor of this server. ahead: it is newer than the database. */
    reason: "expired" | "unknown" | "ahead";
    requested: string;
    /** The message_id of the oldest message that is kept, if there is one. */
    oldest: string | null;
}

/** Keeps the cursors between two runs. Use one storage for each set of topics. */
export interface CursorStorage {
    load(): Cursors | Promise<Cursors>;
    save(cursors: Cursors): void | Promise<void>;
}

export interface LongPollOptions {
    /** Cursors of topics that the storage has none for. "0" reads all kept messages. Without a cursor, a topic is read from now on. */
    since?: Cursors;
    /** How long a poll waits at the server, in seconds: 1 to 60, by default 30. */
    timeout?: number;
    /** The largest number of messages in one answer: 1 to 1,000, by default 100. */
    limit?: number;
    /** Further request headers, such as Authorization. */
    headers?: Record<string, string>;
    /** Ends the loop without an error. */
    signal?: AbortSignal;
    storage?: CursorStorage;
    /** Parses an answer. By default JSON.parse, which rounds integers beyond 2^53. */
    parse?(text: string): any;
    /** Called for a gap, before the messages of the same answer. By default calls console.warn. */
    onGap?(topic: string, gap: Gap): void;
    /** Called when a poll failed and will be repeated after so many seconds. By default calls console.warn. */
    onRetry?(error: Error, seconds: number): void;
    /** Called when the server has accepted or answered a poll. */
    onOpen?(): void;
}

/** Thrown when the server refuses the request: repeating it would not help. */
export class Refused extends Error {
    readonly status: number;
}

/** Yields every message of the topics until the loop is left, options.signal aborts it or the server refuses the request. */
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

/** Keeps the cursors in a file (Node.js). The file is replaced atomically, so that a power failure leaves the old or the new one. */
export function inFile(path: string): CursorStorage;
