// Compiled, never run: what examples/long_polling_client.d.mts must allow, and what not.
import { inFile, inLocalStorage, inSessionStorage, longPoll, Refused, type Cursors, type CursorStorage } from "../../examples/long_polling_client.mjs";

const inMemory = (cursors: Cursors): CursorStorage => ({ load: () => cursors, save: async (saved) => void Object.assign(cursors, saved) });

export async function everyOption(signal: AbortSignal): Promise<string | undefined> {
    try {
        for await (const message of longPoll<{ order_id: number }>(new URL("http://127.0.0.1:8080"), ["orders"] as const, {
            since: { orders: "0" }, timeout: 20, limit: 10, headers: { Authorization: "Basic x" }, signal, storage: inMemory({}),
            credentials: "include", pauseWhenHidden: true, share: "ann", onRefused: async (error) => error.status === 401,
            parse: JSON.parse, onGap: (topic, gap) => console.log(topic, gap.reason === "expired", gap.oldest?.length),
            onRetry: (error, seconds) => console.log(error.message, error.status === 503, seconds.toFixed(1)), onOpen() {},
        })) {
            const id: number = message.payload.order_id;
            // @ts-expect-error: it is a number
            const wrong: string = message.payload.order_id;
            return `${id} ${wrong} ${message.message_id} ${message.timestamp} ${message.stream_id}`;
        }
    } catch (error) {
        if (error instanceof Refused && error.status === 403)
            return undefined;
    }
    return undefined;
}

export async function unknownPayload(): Promise<void> {
    for await (const { payload } of longPoll("http://127.0.0.1:8080", ["orders"], { storage: inFile("cursors.json") })) {
        // @ts-expect-error: may be any JSON value
        payload.order_id;
    }
}

const token = async (old?: number) => `${old}`;
const messages = longPoll("http://127.0.0.1:8080", ["orders"], {
    headers: async (refused) => ({ Authorization: await token(refused?.status) }),
    onRefused: (error) => console.log(error.message),
});
messages.add("invoices", "0");
messages.add("alerts");
messages.remove("orders");
// @ts-expect-error: a cursor is a string
messages.add("orders", 0);
longPoll("http://127.0.0.1:8080", [], {
    headers: () => {
        throw new Refused(401, "nobody is logged in");
    },
});
// @ts-expect-error: headers have names
longPoll("http://127.0.0.1:8080", ["orders"], { headers: () => "Bearer x" });
// @ts-expect-error: topics are a list
longPoll("http://127.0.0.1:8080", "orders", { storage: inLocalStorage("orders") });
longPoll("http://127.0.0.1:8080", ["orders"], { storage: inSessionStorage("orders") });
// @ts-expect-error: no such option
longPoll("http://127.0.0.1:8080", ["orders"], { retries: 3 });
