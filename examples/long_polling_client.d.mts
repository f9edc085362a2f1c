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
    /**
     * Where to begin a topic that the storage has no cursor for; without one, from now on. "0": all that is kept. "-50": the last 50
     * messages that are kept ("-1" to "-1000").
     */
    since?: Cursors;
    /** How long a poll waits at the server, in seconds: 1 to 60, by default 30. */
    timeout?: number;
    /** The largest number of messages in one answer: 1 to 1,000, by default 100. */
    limit?: number;
    /**
     * Further request headers, such as Authorization. A function is called before each poll, and once more when the server has answered
     * 401: then refused is that answer, and the function has to return other headers. If it throws Refused, the poll counts as refused;
     * after any other error the client tries again later.
     */
    headers?: Record<string, string> | ((refused?: Refused) => Record<string, string> | Promise<Record<string, string>>);
    /** "include" sends cookies to another origin, too; the server has to list the page's origin. */
    credentials?: RequestCredentials;
    /** true: polls only while the page is visible. Meanwhile, messages stay at the server. */
    pauseWhenHidden?: boolean;
    /**
     * A name. All pages of the origin that use the same name and url wait with one poll. It must be another one for each user, since the
     * pages get each other's messages. Without Web Locks, which browsers have on HTTPS and localhost only, each page polls for itself.
     */
    share?: string;
    /** Ends the loop without an error. */
    signal?: AbortSignal;
    storage?: CursorStorage;
    /** Parses an answer. By default JSON.parse, which rounds integers beyond 2^53. */
    parse?(text: string): any;
    /** Called for a gap, before the messages of the same answer. By default calls console.warn. */
    onGap?(topic: string, gap: Gap): void;
    /**
     * Called when a poll failed and will be repeated after so many seconds. status is that of the answer, if there was one.
     * By default calls console.warn.
     */
    onRetry?(error: Error & { status?: number }, seconds: number): void;
    /**
     * The server has refused the poll; a 401 also with new headers. Return true, or a promise of it, to poll again, for example when the
     * user has logged in. Otherwise the loop throws the error.
     */
    onRefused?(error: Refused): unknown;
    /** Called when the server has accepted or answered a poll. */
    onOpen?(): void;
}

/** Thrown when the server refuses the request: repeating it would not help. */
export class Refused extends Error {
    constructor(status: number, text: string);
    readonly status: number;
}

export interface LongPoll<Payload = unknown> extends AsyncGenerator<Message<Payload>, void, undefined> {
    /**
     * One topic more. It is read from where this loop or the storage has stopped to read it, else from since, else from now on.
     * No message of the other topics is lost or comes twice.
     */
    add(topic: string, since?: string): void;
    /** One topic less. Its cursor is kept. Without any topic, the loop waits for the next one. */
    remove(topic: string): void;
}

/** Yields every message of the topics until the loop is left, options.signal aborts it or the server refuses the request. */
export function longPoll<Payload = unknown>(
    url: string | URL,
    topics: readonly string[],
    options?: LongPollOptions,
): LongPoll<Payload>;

/**
 * Keeps the cursors in the browser, under this key, for all tabs and after the browser is closed. Two tabs that use the key at
 * the same time move each other's cursors: use it where only one tab polls.
 */
export function inLocalStorage(key: string): CursorStorage;

/** Keeps the cursors of this tab, under this key, until the tab is closed. A reload continues where it was. */
export function inSessionStorage(key: string): CursorStorage;

/** Keeps the cursors in a file (Node.js). The file is replaced atomically, so that a power failure leaves the old or the new one. */
export function inFile(path: string): CursorStorage;
