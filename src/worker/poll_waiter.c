#include "worker/poll_waiter.h"

#include "api/poll_request.h"
#include "core/clock.h"
#include "core/config.h"
#include "postgres/catch_up.h"

#include <stdlib.h>

/* How long a read may outlast the poll's deadline, and a poll with a very short timeout may look for the database. */
enum { GRACE_MS = 900 };

/* How long a poll without a cursor to answer with still tries to reach the database after a release. */
enum { LAST_TRIES_MS = 3000 };

/*
 * A wait shorter than this is not shown to the web server: its answer then goes out whole, which costs the server less. The price
 * is that a client that leaves so soon is noticed only then.
 */
enum { QUIET_MS = 250 };

/* While messages wait for their positions, each read gives some of them theirs; nobody else may be there to do it. */
enum { BACKLOG_PAUSE_MS = 20 };

/* Pauses between attempts to reach the database: none before the second, then doubled up to the last, each with jitter. */
enum { FIRST_PAUSE_MS = 50, LAST_PAUSE_MS = 1000 };

static int64_t cursor_position(const struct cursor *cursor)
{
    switch (cursor->kind) {
    case CURSOR_NOW:
        return CATCH_UP_FROM_NOW;
    case CURSOR_MESSAGE:
    case CURSOR_TIME:
        return cursor->position;
    case CURSOR_ALL:
    case CURSOR_UNKNOWN:
        break;
    }
    return 0;
}

enum error poll_waiter_init(struct poll_waiter *waiter, const struct config *config,
                            struct message_source *source, const struct interrupts *interrupts,
                            struct poll_client *client, const struct poll_request *request,
                            const char *remote_user, const char *client_address)
{
    size_t count = (size_t)request->topic_count;
    struct poll_waiter made = { config, source, interrupts, client, .began_wait = false };

    made.who =
        (struct source_poll){ request, remote_user, client_address, interrupts, clock_monotonic_ms(), 0 };
    made.who.deadline_ms = made.who.started_ms + request->timeout_s * 1000;
    made.heartbeat_ms = config->heartbeat_s ? made.who.started_ms + config->heartbeat_s * 1000 : INT64_MAX;
    made.states = calloc(count, sizeof *made.states);
    made.positions = calloc(count, sizeof *made.positions);
    if (!made.states || !made.positions || !page_init(&made.page, request->topic_count)) {
        free(made.states);
        free(made.positions);
        return ERROR_MEMORY;
    }
    for (int i = 0; i < request->topic_count; i++) {
        made.positions[i] = cursor_position(&request->topics[i].cursor);
        made.states[i] = (struct poll_state){ made.positions[i], -1, GAP_NONE };
    }
    *waiter = made;
    return ERROR_NONE;
}

/* What the client is to be told, given what the table says of the position that its cursor stands for. */
static enum gap judge_gap(const struct cursor *cursor, enum gap gap)
{
    switch (cursor->kind) {
    case CURSOR_UNKNOWN:
        return GAP_UNKNOWN;
    case CURSOR_ALL:
        return GAP_NONE; /* whatever is retained is all that was asked for */
    case CURSOR_TIME:
        /* A time at which nothing had been published yet, rather than a position from a database that was restored. */
        return gap == GAP_AHEAD && cursor_position_ms(cursor->position) <= clock_wall_ms() ? GAP_NONE : gap;
    case CURSOR_NOW:
    case CURSOR_MESSAGE:
        break;
    }
    return gap;
}

/* Takes over where reading started, and the gaps. */
static void take_starts(struct poll_waiter *waiter, bool first)
{
    for (int i = 0; i < waiter->page.topic_count; i++) {
        const struct page_topic *topic = &waiter->page.topics[i];
        struct poll_state *state = &waiter->states[i];
        enum gap gap = first ? judge_gap(&waiter->who.request->topics[i].cursor, topic->gap) : topic->gap;

        if (state->gap == GAP_NONE && gap != GAP_NONE) {
            state->gap = gap;
            state->oldest = topic->oldest;
        }
        state->position = topic->start;
        waiter->positions[i] = topic->start;
    }
}

/*
 * Sleeps before another attempt; the next pause is longer. Before the first read there is no cursor to answer with, so a release
 * does not end it then.
 */
static enum error pause_before_retry(const struct poll_waiter *waiter, bool first, int64_t *pause_ms,
                                     int64_t give_up_ms)
{
    static const volatile sig_atomic_t never;
    struct interrupts ours = *waiter->interrupts;
    int64_t now_ms = clock_monotonic_ms(), jittered_ms = *pause_ms / 2 + random() % (*pause_ms / 2 + 1);
    enum error error;

    if (first)
        ours.drain = &never;
    error = wait_for_event(&ours, -1, 0, clock_min(now_ms + jittered_ms, give_up_ms));

    *pause_ms = *pause_ms ? clock_min(*pause_ms * 2, LAST_PAUSE_MS) : FIRST_PAUSE_MS;
    return error == ERROR_TIMEOUT ? ERROR_NONE : error;
}

/* A schema of another version may be one that is being upgraded, and we about to be replaced. */
static bool may_pass(enum error error)
{
    return error == ERROR_DATABASE_AWAY || error == ERROR_SCHEMA;
}

/*
 * One page, however often the database must be asked until the poll's time is up. Every attempt starts from the same
 * positions: a cursor moves only with the answer that carries it.
 */
static enum error read_page(struct poll_waiter *waiter, enum source_read how)
{
    int64_t give_up_ms = clock_max(waiter->who.deadline_ms, clock_monotonic_ms()) + GRACE_MS;
    bool first = how & SOURCE_AUTHORIZE, released = false;
    int64_t pause_ms = 0;
    enum error error, interrupted;

    for (;;) {
        int64_t attempt_ms =
            clock_min(clock_monotonic_ms() + waiter->config->query_timeout_s * 1000, give_up_ms);

        page_clear(&waiter->page);
        error = waiter->source->operations->read(waiter->source, &waiter->who, how, waiter->positions,
                                                 &waiter->page, attempt_ms);
        if (!may_pass(error) ||
            clock_monotonic_ms() >= (error == ERROR_SCHEMA ? waiter->who.deadline_ms : give_up_ms))
            break;
        if (*waiter->interrupts->drain && !released) {
            give_up_ms = clock_min(give_up_ms, clock_monotonic_ms() + LAST_TRIES_MS);
            released = true;
        }
        if (!first)
            how |= SOURCE_SUBSCRIBE; /* the lost connection took the subscription with it */
        interrupted = pause_before_retry(waiter, first, &pause_ms, give_up_ms);
        if (interrupted) {
            error = first ? error : interrupted;
            break;
        }
    }
    if (!error)
        take_starts(waiter, first);
    return error;
}

/* Sends one if it is due. */
static bool send_heartbeat(struct poll_waiter *waiter)
{
    if (clock_monotonic_ms() < waiter->heartbeat_ms || waiter->heartbeat_ms >= waiter->who.deadline_ms)
        return true;
    waiter->heartbeat_ms += waiter->config->heartbeat_s * 1000;
    return waiter->client->heartbeat(waiter->client);
}

/* The first part of a wait; began_wait is still not set when news came in it. */
static enum error wait_quietly(struct poll_waiter *waiter)
{
    const int64_t end_ms = clock_min(waiter->who.deadline_ms, clock_monotonic_ms() + QUIET_MS);
    enum error error = waiter->source->operations->wait(waiter->source, waiter->interrupts, end_ms);

    if (error != ERROR_TIMEOUT || end_ms == waiter->who.deadline_ms)
        return error;
    waiter->began_wait = true;
    return waiter->client->begin_wait(waiter->client) ? ERROR_NONE : ERROR_CLIENT_GONE;
}

/* Sleeps until there may be something to read; sends heartbeats meanwhile. */
static enum error wait_news(struct poll_waiter *waiter)
{
    const int64_t pause_ms = waiter->page.backlog ? BACKLOG_PAUSE_MS : waiter->config->reread_s * 1000;
    const int64_t end_ms = clock_min(waiter->who.deadline_ms, clock_monotonic_ms() + pause_ms);
    enum error error = waiter->began_wait ? ERROR_NONE : wait_quietly(waiter);

    if (error || !waiter->began_wait)
        return error;
    do {
        error = waiter->source->operations->wait(waiter->source, waiter->interrupts,
                                                 clock_min(waiter->heartbeat_ms, end_ms));
        if (error == ERROR_TIMEOUT && !send_heartbeat(waiter))
            error = ERROR_CLIENT_GONE;
    } while (error == ERROR_TIMEOUT && clock_monotonic_ms() < end_ms);
    return error;
}

/* Whether the last read gave something to answer with: a message, or a gap, which the client is to know of at once. */
static bool has_answer(const struct poll_waiter *waiter)
{
    bool any = waiter->page.message_count > 0;

    for (int i = 0; !any && i < waiter->page.topic_count; i++)
        any = waiter->states[i].gap != GAP_NONE;
    return any;
}

/* From the subscription on: until there is something to answer with, or a reason to stop. */
static enum error wait_for_messages(struct poll_waiter *waiter)
{
    enum error error = read_page(waiter, SOURCE_SUBSCRIBE);

    if (!error && !has_answer(waiter))
        waiter->waits_since_ms = clock_monotonic_ms();
    while (!error && !has_answer(waiter) && clock_monotonic_ms() < waiter->who.deadline_ms) {
        error = wait_news(waiter);
        /* Subscribing again makes good a lost connection, and a subscription that was lost unnoticed. */
        if (error == ERROR_NONE || (error == ERROR_TIMEOUT && waiter->page.backlog))
            error = read_page(waiter, SOURCE_READ_ONLY);
        else if (error == ERROR_TIMEOUT || error == ERROR_DATABASE_AWAY)
            error = read_page(waiter, SOURCE_SUBSCRIBE);
    }
    return error ? error : has_answer(waiter) ? ERROR_NONE : ERROR_TIMEOUT;
}

enum error poll_waiter_run(struct poll_waiter *waiter)
{
    enum error error = read_page(waiter, SOURCE_AUTHORIZE);

    if (!error && !has_answer(waiter))
        error = waiter->who.request->timeout_s > 0 ? wait_for_messages(waiter) : ERROR_TIMEOUT;
    if (error)
        page_clear(&waiter->page);
    return error;
}

void poll_waiter_release(struct poll_waiter *waiter)
{
    waiter->source->operations->end(waiter->source);
    page_release(&waiter->page);
    free(waiter->states);
    free(waiter->positions);
    *waiter = (struct poll_waiter){ 0 };
}
