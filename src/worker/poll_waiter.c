#include "worker/poll_waiter.h"

#include "api/cursor.h"
#include "api/poll_request.h"
#include "core/backoff.h"
#include "core/clock.h"
#include "core/config.h"

#include <stdlib.h>

/*
 * How long after the poll's deadline a read may end. It also gives a poll with a very short timeout enough
 * time to reach the database.
 */
enum { GRACE_MS = 900 };

/*
 * How long after a drain a poll goes on trying to reach the database, if it has no cursor to answer with yet.
 */
enum { LAST_TRIES_MS = 3000 };

/*
 * How long after the begin of the wait the head is sent. An answer within this time goes out in one piece,
 * which costs the web server less. The price is that a disconnect of the client within this time is noticed
 * only when it has passed.
 */
enum { QUIET_MS = 250 };

/*
 * The pause between reads while there is a backlog. Each read gives a batch of the backlog its positions. The
 * poll must not rely on other processes for that, because there may be none.
 */
enum { BACKLOG_PAUSE_MS = 20 };

static int64_t cursor_position(const struct cursor *cursor)
{
    switch (cursor->kind) {
    case CURSOR_NOW:
        return CATCH_UP_FROM_NOW;
    case CURSOR_MESSAGE:
    case CURSOR_TIME:
    case CURSOR_LAST:
        return cursor->position;
    case CURSOR_ALL:
    case CURSOR_UNKNOWN:
        break;
    }
    return 0;
}

/* Sends the head. Returns false if the client has disconnected. */
static bool begin_wait(struct poll_waiter *waiter)
{
    waiter->began_wait = true;
    return waiter->client->begin_wait(waiter->client);
}

/* Sends a heartbeat if one is due. Returns false if the client has disconnected. */
static bool send_heartbeat(struct poll_waiter *waiter)
{
    if (clock_monotonic_ms() < waiter->heartbeat_ms || waiter->heartbeat_ms >= waiter->poll.deadline_ms)
        return true;
    waiter->heartbeat_ms += waiter->config->heartbeat_s * 1000;
    return waiter->client->heartbeat(waiter->client);
}

/* Is the operation attend() of struct source_poll. */
static bool attend(struct poll_waiter *waiter, int64_t since_ms, struct interrupts *interrupts,
                   int64_t *due_ms)
{
    const int64_t head_ms = waiter->can_begin_wait && since_ms < INT64_MAX ? since_ms + QUIET_MS : INT64_MAX;

    if (!waiter->began_wait && clock_monotonic_ms() < head_ms) {
        *due_ms = head_ms;
        return true;
    }
    if (waiter->began_wait ? !send_heartbeat(waiter) : !begin_wait(waiter))
        return false;
    interrupts->client_fd = waiter->interrupts->client_fd;
    *due_ms = waiter->heartbeat_ms < waiter->poll.deadline_ms ? waiter->heartbeat_ms : INT64_MAX;
    return true;
}

enum error poll_waiter_init(struct poll_waiter *waiter, const struct config *config,
                            struct message_source *source, const struct interrupts *interrupts,
                            struct poll_client *client, const struct poll_request *request,
                            const char *remote_user, const char *client_address)
{
    const size_t count = (size_t)request->topic_count;
    const int64_t now_ms = clock_monotonic_ms();
    struct poll_waiter made = { config, source, interrupts, client, .began_wait = false };

    made.poll = (struct source_poll){ request,    remote_user, client_address,
                                      interrupts, now_ms,      now_ms + request->timeout_s * 1000,
                                      attend,     waiter };
    made.heartbeat_ms = config->heartbeat_s ? now_ms + config->heartbeat_s * 1000 : INT64_MAX;
    made.positions = calloc(count, sizeof *made.positions);
    made.gaps = calloc(count, sizeof *made.gaps);
    if (!made.positions || !made.gaps || !page_init(&made.page, request->topic_count)) {
        free(made.positions);
        free(made.gaps);
        return ERROR_MEMORY;
    }
    for (int i = 0; i < request->topic_count; i++) {
        made.positions[i] = cursor_position(&request->topics[i].cursor);
        made.gaps[i] = (struct poll_gap){ GAP_NONE, -1 };
    }
    *waiter = made;
    return ERROR_NONE;
}

/*
 * Returns the gap to report to the client, given the client's cursor and the gap that the read found after
 * the cursor's position.
 */
static enum gap judge_gap(const struct cursor *cursor, enum gap gap)
{
    switch (cursor->kind) {
    case CURSOR_UNKNOWN:
        return GAP_UNKNOWN;
    case CURSOR_ALL:
    case CURSOR_LAST:
        return GAP_NONE; /* the cursor asks for retained messages, so the client misses nothing */
    case CURSOR_TIME:
        /*
         * New messages get positions from the clock, so they come after a time in the past, and the client
         * misses none. A time in the future would hide them until it has come.
         */
        return gap == GAP_AHEAD && cursor_position_ms(cursor->position) <= clock_wall_ms() ? GAP_NONE : gap;
    case CURSOR_NOW:
    case CURSOR_MESSAGE:
        break;
    }
    return gap;
}

/*
 * Copies the start positions and gaps of the topics from the page to the poll. first: this was the first
 * read, so gaps are judged by the cursors.
 */
static void copy_starts(struct poll_waiter *waiter, bool first)
{
    for (int i = 0; i < waiter->page.topic_count; i++) {
        const struct page_topic *topic = &waiter->page.topics[i];
        enum gap gap = first ? judge_gap(&waiter->poll.request->topics[i].cursor, topic->gap) : topic->gap;

        if (waiter->gaps[i].gap == GAP_NONE && gap != GAP_NONE)
            waiter->gaps[i] = (struct poll_gap){ gap, topic->oldest };
        waiter->positions[i] = topic->start;
    }
}

/*
 * Whether the poll has a cursor for each topic to answer with. first: no read has succeeded yet, so these are
 * the client's own. A poll that does not wait asks what there is now, so it is not answered without a read.
 */
static bool has_cursors(const struct poll_waiter *waiter, bool first)
{
    const struct poll_request *request = waiter->poll.request;

    if (first && request->timeout_s == 0)
        return false;
    for (int i = 0; first && i < request->topic_count; i++)
        if (request->topics[i].cursor.kind != CURSOR_MESSAGE)
            return false;
    return true;
}

/* Sleeps until due_ms, when another attempt is due. A drain ends the pause if there are cursors. */
static enum error pause_before_retry(const struct poll_waiter *waiter, bool first, int64_t due_ms)
{
    static const volatile sig_atomic_t never;
    struct interrupts interrupts = *waiter->interrupts;
    enum error error;

    if (!has_cursors(waiter, first))
        interrupts.drain = &never;
    error = wait_for_event(&interrupts, -1, 0, due_ms);
    return error == ERROR_TIMEOUT ? ERROR_NONE : error;
}

/*
 * Whether another attempt may succeed. If the schema has another version, an upgrade may be under way, which
 * also replaces this process.
 */
static bool is_worth_retry(enum error error)
{
    return error == ERROR_DATABASE_AWAY || error == ERROR_READERS_BUSY || error == ERROR_SCHEMA;
}

/*
 * What to do in each attempt to reach the database: authenticate with the Authorization header authorization,
 * or, if that is NULL, read a page with the flags how.
 */
struct attempt {
    const char *authorization;
    enum source_read how;
};

static enum error make_attempt(struct poll_waiter *waiter, const struct attempt *attempt, int64_t deadline_ms)
{
    const struct source_operations *operations = waiter->source->operations;

    if (attempt->authorization)
        return operations->authenticate(waiter->source, &waiter->poll, attempt->authorization, waiter->user,
                                        deadline_ms);
    page_clear(&waiter->page);
    return operations->read(waiter->source, &waiter->poll, attempt->how, waiter->positions, &waiter->page,
                            deadline_ms);
}

/*
 * Makes attempts until one does not fail for a reason that may pass, or until the poll's time is up.
 * Returns the result of the last attempt, or the reason why a pause between attempts ended.
 */
static enum error try_until_done(struct poll_waiter *waiter, struct attempt attempt)
{
    int64_t deadline_ms = clock_max(waiter->poll.deadline_ms, clock_monotonic_ms()) + GRACE_MS;
    const bool first = attempt.authorization || attempt.how & SOURCE_AUTHORIZE;
    bool drained = false, failed = false;
    struct backoff backoff = BACKOFF_DATABASE;
    enum error error, interrupted;

    for (;;) {
        error = make_attempt(
            waiter, &attempt,
            clock_min(clock_monotonic_ms() + waiter->config->query_timeout_s * 1000, deadline_ms));
        if (!is_worth_retry(error) || clock_monotonic_ms() >= deadline_ms ||
            (error == ERROR_SCHEMA && clock_monotonic_ms() >= waiter->poll.deadline_ms))
            return error;
        if (*waiter->interrupts->drain && has_cursors(waiter, first))
            return ERROR_DRAINED;
        if (*waiter->interrupts->drain && !drained) { /* there is nothing to answer with yet */
            deadline_ms = clock_min(deadline_ms, clock_monotonic_ms() + LAST_TRIES_MS);
            drained = true;
        }
        if (!first)
            attempt.how |= SOURCE_SUBSCRIBE; /* without a manager, it ended with the connection */
        if (failed) /* the second attempt follows at once, because perhaps only an idle connection was lost */
            backoff_fail(&backoff, clock_monotonic_ms());
        failed = true;
        interrupted = pause_before_retry(waiter, first, clock_min(backoff.due_ms, deadline_ms));
        if (interrupted == ERROR_CLIENT_GONE && first && !waiter->began_wait)
            return error; /* a client that has closed only its sending side can still read why */
        if (interrupted)
            return interrupted;
    }
}

/*
 * Reads one page. Every attempt starts from the same positions, because a cursor moves only with the answer
 * that carries it.
 */
static enum error read_page(struct poll_waiter *waiter, enum source_read how)
{
    const bool first = how & SOURCE_AUTHORIZE;
    enum error error;

    waiter->can_begin_wait = has_cursors(waiter, first);
    error = try_until_done(waiter, (struct attempt){ NULL, how });
    if (!error)
        copy_starts(waiter, first);
    return error;
}

/*
 * Waits for QUIET_MS, then has the head sent and sets began_wait. If the wait ends earlier, began_wait stays
 * false.
 */
static enum error wait_quietly(struct poll_waiter *waiter)
{
    const int64_t end_ms = clock_min(waiter->poll.deadline_ms, clock_monotonic_ms() + QUIET_MS);
    enum error error = waiter->source->operations->wait(waiter->source, waiter->interrupts, end_ms);

    if (error != ERROR_TIMEOUT || end_ms == waiter->poll.deadline_ms)
        return error;
    return begin_wait(waiter) ? ERROR_NONE : ERROR_CLIENT_GONE;
}

/*
 * Sleeps until there may be new messages (ERROR_NONE) or it is time for another read (ERROR_TIMEOUT). Sends
 * heartbeats meanwhile.
 */
static enum error wait_for_news(struct poll_waiter *waiter)
{
    const int64_t pause_ms = waiter->page.backlog ? BACKLOG_PAUSE_MS : waiter->config->reread_s * 1000;
    const int64_t end_ms = clock_min(waiter->poll.deadline_ms, clock_monotonic_ms() + pause_ms);
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

/*
 * Whether there is something to answer with: a message in the last page, or a gap, which is answered at once.
 */
static bool has_answer(const struct poll_waiter *waiter)
{
    bool any = waiter->page.message_count > 0;

    for (int i = 0; !any && i < waiter->page.topic_count; i++)
        any = waiter->gaps[i].gap != GAP_NONE;
    return any;
}

/* Subscribes, then waits and reads until there is something to answer with or a reason to stop. */
static enum error wait_for_messages(struct poll_waiter *waiter)
{
    enum error error = read_page(waiter, SOURCE_SUBSCRIBE);

    if (!error && !has_answer(waiter))
        waiter->waits_since_ms = clock_monotonic_ms();
    while (!error && !has_answer(waiter) && clock_monotonic_ms() < waiter->poll.deadline_ms) {
        error = wait_for_news(waiter);
        /*
         * At each periodic re-read subscribe again, because the subscription may have been lost without
         * notice.
         */
        if (error == ERROR_NONE || (error == ERROR_TIMEOUT && waiter->page.backlog))
            error = read_page(waiter, SOURCE_READ_ONLY);
        else if (error == ERROR_TIMEOUT || error == ERROR_DATABASE_AWAY)
            error = read_page(waiter, SOURCE_SUBSCRIBE);
    }
    return error ? error : has_answer(waiter) ? ERROR_NONE : ERROR_TIMEOUT;
}

enum error poll_waiter_authenticate(struct poll_waiter *waiter, const char *authorization)
{
    const enum error error = try_until_done(waiter, (struct attempt){ .authorization = authorization });

    waiter->poll.remote_user = waiter->user;
    return error;
}

enum error poll_waiter_run(struct poll_waiter *waiter)
{
    enum error error = read_page(waiter, SOURCE_AUTHORIZE);

    if (!error && !has_answer(waiter))
        error = waiter->poll.request->timeout_s > 0 ? wait_for_messages(waiter) : ERROR_TIMEOUT;
    if (error)
        page_clear(&waiter->page);
    return error;
}

void poll_waiter_release(struct poll_waiter *waiter)
{
    waiter->source->operations->end(waiter->source);
    page_release(&waiter->page);
    free(waiter->positions);
    free(waiter->gaps);
    *waiter = (struct poll_waiter){ 0 };
}
