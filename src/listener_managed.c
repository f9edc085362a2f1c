#include "listener_managed.h"

#include "catch_up.h"
#include "clock.h"
#include "config.h"
#include "poll_request.h"
#include "reading.h"
#include "scoreboard.h"
#include "topic_table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    CROWDED_MS = 1000,
    QUICK_READ_MS = 500, /* a page may take, once it is its turn */
    LAST_WORD_MS = 100,
    NAMES_KEPT_BYTES = 64 * 1024
};

struct listener_managed {
    struct listener base;
    const struct config *config;
    struct scoreboard *scoreboard;
    int number;
    struct slot *slot;
    const struct reply *reply;
    uint32_t asked;                /* as in the slot, which somebody else may have written over */
    char error[READING_TEXT_SIZE]; /* what went wrong last */
    bool entered;                  /* in the sets of those who wait */
    int topic_count;               /* of this poll */
    struct window_topic_ref *refs; /* this poll's topics in the window */
    int64_t *seen;                 /* their newest positions when it was read last */
};

/* ---- asking the manager */

/*
 * Sleeps until the manager has answered everything asked. Not for as long as the client is there: its poll has no cursor to be
 * answered with before, should it have closed its sending side only.
 */
static enum error wait_answer(struct listener_managed *listener, const struct interrupts *interrupts,
                              int64_t give_up_ms)
{
    struct interrupts ours = *interrupts;

    ours.client_fd = -1;
    for (;;) {
        enum error error;

        (void)atomic_exchange(&listener->slot->woken, 0); /* also takes in what was written before it was set */
        if (atomic_load(&listener->reply->answered) == listener->asked)
            return ERROR_NONE;
        error = interrupts_wait(&ours, -1, 0, give_up_ms);
        if (error)
            return error;
    }
}

/* Returns how many bytes of names the slot holds then. */
static size_t put_question(struct listener_managed *listener, const struct listener_poll *poll, bool authorize,
                           int64_t give_up_ms)
{
    struct slot *slot = listener->slot;
    char *names = scoreboard_names(listener->scoreboard, slot);
    uint32_t at = 0;

    atomic_store_explicit(&slot->authorize, authorize, memory_order_relaxed);
    atomic_store_explicit(&slot->give_up_ms, give_up_ms, memory_order_relaxed);
    (void)snprintf(slot->user, sizeof slot->user, "%s", poll->remote_user);
    for (int i = 0; i < poll->request->topic_count; i++) {
        const struct poll_topic *topic = &poll->request->topics[i];

        memcpy(names + at, topic->name, topic->length);
        atomic_store_explicit(&slot->topics[i].name_at, at, memory_order_relaxed);
        atomic_store_explicit(&slot->topics[i].name_length, (uint32_t)topic->length, memory_order_relaxed);
        at += (uint32_t)topic->length;
    }
    atomic_store_explicit(&slot->question_count, poll->request->topic_count, memory_order_relaxed);
    atomic_store(&slot->asked, ++listener->asked);
    (void)atomic_fetch_or(&listener->scoreboard->askers[listener->number / 64], UINT64_C(1) << listener->number % 64);
    scoreboard_ring(listener->scoreboard);
    return at;
}

/*
 * Has the manager listen to the topics, tell where they stand and, if need be, whether the user may poll them. The answer's
 * positions replace those that are to be read from now.
 */
static enum error ask(struct listener_managed *listener, const struct listener_poll *poll, bool authorize,
                      int64_t *positions, int64_t give_up_ms)
{
    /* A question that was not answered in an earlier poll's time is still the manager's. */
    enum error error = wait_answer(listener, poll->interrupts, give_up_ms);
    size_t names_size = 0;

    if (strlen(poll->remote_user) >= SCOREBOARD_USER_SIZE)
        return ERROR_DENIED; /* nobody is called so */
    if (!error) {
        names_size = put_question(listener, poll, authorize, give_up_ms);
        error = wait_answer(listener, poll->interrupts, give_up_ms);
    }
    if (!error && names_size > NAMES_KEPT_BYTES)
        scoreboard_forget_names(listener->scoreboard, listener->slot);
    if (!error)
        error = listener->reply->error;
    for (int i = 0; !error && i < poll->request->topic_count; i++) {
        listener->refs[i] = listener->reply->topics[i].ref;
        if (positions[i] == CATCH_UP_FROM_NOW)
            positions[i] = listener->reply->topics[i].newest;
    }
    return error;
}

static bool is_open_to_all(const struct scoreboard *scoreboard)
{
    return atomic_load(&scoreboard->manager->open_until_ms) > clock_monotonic_ms();
}

/* Whether the window knows all the topics. */
static bool find_topics(struct listener_managed *listener, const struct poll_request *request)
{
    for (int i = 0; i < request->topic_count; i++)
        if (!topic_table_find(listener->scoreboard->topics, listener->scoreboard->window, request->topics[i].name,
                              request->topics[i].length, &listener->refs[i]))
            return false;
    return true;
}

static bool is_any_from_now(const int64_t *positions, int count)
{
    for (int i = 0; i < count; i++)
        if (positions[i] == CATCH_UP_FROM_NOW)
            return true;
    return false;
}

/* ---- reading the table */

/*
 * One of the counted reads, by give_up_ms; false: none was free. Who waits for one sleeps, and the end of a read wakes one of them.
 * Rings when there are fewer readers than reads.
 */
static bool take_read(struct listener_managed *listener, int64_t give_up_ms)
{
    struct scoreboard *scoreboard = listener->scoreboard;

    if (!scoreboard_take_read(scoreboard, listener->number, give_up_ms))
        return false;
    if (scoreboard_reads(scoreboard) > atomic_load(&scoreboard->manager->readers))
        scoreboard_ring(scoreboard);
    return true;
}

static enum error read_by_reader(struct listener_managed *listener, const struct reading_question *question,
                                 struct page *page)
{
    int socket = reading_ask(listener->scoreboard->read_queue, question);
    enum error error = ERROR_DATABASE_AWAY;

    if (socket < 0) {
        (void)snprintf(listener->error, sizeof listener->error, "no reader of the table can be asked");
        return error;
    }
    /* Its own word on why it took too long comes a moment later. */
    error = reading_receive(socket, question->give_up_ms + LAST_WORD_MS, page, listener->error);
    (void)close(socket);
    return error;
}

static enum error read_table(struct listener_managed *listener, const struct listener_poll *poll, bool authorize,
                             const int64_t *positions, struct page *page, int64_t give_up_ms)
{
    /* A poll with a short timeout queues for a read all the same, and may then use it: busy is not away. */
    const int64_t patience_ms = clock_max(give_up_ms, poll->started_ms + listener->config->query_timeout_s * 1000);
    enum error error = ERROR_DATABASE_AWAY;

    if (!take_read(listener, patience_ms)) {
        (void)snprintf(listener->error, sizeof listener->error, "too many others read the table");
        return error;
    }
    give_up_ms = clock_max(give_up_ms, clock_monotonic_ms() + QUICK_READ_MS);
    tally_add(&listener->slot->tally, TALLY_TABLE_PAGES, 1);
    error = read_by_reader(
        listener,
        &(struct reading_question){ poll->request, positions, authorize ? poll->remote_user : NULL, give_up_ms }, page);
    scoreboard_give_read(listener->scoreboard, listener->number);
    return error;
}

/* ---- the poll */

/* Enters the poll among those who wait; what is appended from now on wakes it. */
static void enter(struct listener_managed *listener, const struct listener_poll *poll)
{
    struct slot *slot = listener->slot;

    if (listener->entered)
        scoreboard_leave(listener->scoreboard, listener->number);
    for (int i = 0; i < poll->request->topic_count; i++)
        atomic_store(&slot->topics[i].number, listener->refs[i].number);
    atomic_store(&slot->topic_count, poll->request->topic_count);
    scoreboard_enter(listener->scoreboard, listener->number);
    if (!listener->entered) {
        (void)snprintf(slot->client, sizeof slot->client, "%s", poll->client);
        atomic_store(&slot->since_ms, poll->started_ms);
        atomic_store(&slot->deadline_ms, poll->deadline_ms);
        (void)atomic_fetch_add(&slot->wait_number, 1);
        atomic_store(&slot->state, SLOT_WAITING);
        scoreboard_wake_stats_writer(listener->scoreboard);
    }
    listener->entered = true;
}

/* Whether something was appended, or a topic was closed, since see_newest(). */
static bool has_news(const struct listener_managed *listener)
{
    int64_t newest;

    for (int i = 0; i < listener->topic_count; i++)
        if (window_has_topic(listener->refs[i]) &&
            (!window_newest(listener->scoreboard->window, listener->refs[i], &newest) || newest != listener->seen[i]))
            return true;
    return false;
}

static void see_newest(struct listener_managed *listener, int topic_count)
{
    listener->topic_count = topic_count;
    for (int i = 0; i < topic_count; i++)
        if (!window_newest(listener->scoreboard->window, listener->refs[i], &listener->seen[i]))
            listener->seen[i] = -1;
}

/* Whether the window has caught up with the manager's answer. */
static bool is_up_to_date(const struct listener_managed *listener)
{
    for (int i = 0; i < listener->topic_count; i++)
        if (listener->seen[i] < listener->reply->topics[i].newest)
            return false;
    return true;
}

static enum error managed_read(struct listener *base, const struct listener_poll *poll, enum listener_read how,
                               const int64_t *positions, struct page *page, int64_t give_up_ms)
{
    struct listener_managed *listener = (struct listener_managed *)base;
    const struct poll_request *request = poll->request;
    const bool authorize = how & LISTENER_AUTHORIZE;
    /* If can_poll() allows everything it need not be asked, which takes a database connection of its own. */
    const bool ask_may_poll = authorize && !is_open_to_all(listener->scoreboard);
    const bool known = find_topics(listener, request), once = request->timeout_s == 0;
    /* A poll that does not wait wants what is committed now, which the window may learn a moment later. */
    const bool asked = ask_may_poll || once || !known || is_any_from_now(positions, request->topic_count);
    int64_t *starts = calloc((size_t)request->topic_count, sizeof *starts);
    enum error error = starts ? ERROR_NONE : ERROR_MEMORY;

    listener->error[0] = '\0';
    if (error)
        goto out;
    if (once && !known) { /* not worth listening to, unless only the manager has a connection to the database */
        error = read_table(listener, poll, ask_may_poll, positions, page, give_up_ms);
        if (error != ERROR_DATABASE_AWAY)
            goto out;
    }
    memcpy(starts, positions, (size_t)request->topic_count * sizeof *starts);
    if (asked)
        error = ask(listener, poll, ask_may_poll, starts, give_up_ms);
    if (error == ERROR_TIMEOUT)
        error = ERROR_DATABASE_AWAY;
    if (error == ERROR_RELEASED) { /* the manager may be gone; the table alone can answer once more */
        listener->topic_count = 0;
        error = read_table(listener, poll, authorize, positions, page, give_up_ms);
        goto out;
    }
    if (error)
        goto out;

    /* Who had to ask again waits for topics that were forgotten meanwhile; they have other numbers now. */
    if ((how & LISTENER_SUBSCRIBE) || (asked && listener->entered))
        enter(listener, poll);
    see_newest(listener, request->topic_count);
    if ((!asked || is_up_to_date(listener)) && window_read(listener->scoreboard->window, listener->refs, starts,
                                                           request->limit, listener->config->page_bytes, page))
        tally_add(&listener->slot->tally, TALLY_WINDOW_PAGES, 1);
    else
        error = read_table(listener, poll, false, starts, page, give_up_ms);
out:
    free(starts);
    /* A newer poll wants its place, so it does not hold out until the database is back. It may have no cursor to answer with. */
    if (error == ERROR_DATABASE_AWAY && atomic_load(&listener->slot->released))
        error = authorize ? ERROR_TOO_MANY : ERROR_RELEASED;
    return error;
}

/* When to look again for topics that nobody listens to because there were too many; never if there are none. */
static int64_t look_again_ms(const struct listener_managed *listener)
{
    for (int i = 0; i < listener->topic_count; i++)
        if (!window_has_topic(listener->refs[i]))
            return clock_monotonic_ms() + CROWDED_MS;
    return INT64_MAX;
}

/*
 * When the poll is to be answered early; INT64_MAX: it is not. Not before it has lasted a while: two pages that share one place, and
 * each come back as soon as they are answered, would go round without a pause.
 */
static int64_t release_ms(const struct listener_managed *listener)
{
    return atomic_load(&listener->slot->released) ? atomic_load(&listener->slot->since_ms) + SCOREBOARD_SHORTEST_WAIT_MS
                                                  : INT64_MAX;
}

static enum error managed_wait(struct listener *base, const struct interrupts *interrupts, int64_t deadline_ms)
{
    struct listener_managed *listener = (struct listener_managed *)base;
    const int64_t again_ms = clock_min(deadline_ms, look_again_ms(listener));

    for (;;) {
        int64_t early_ms;
        enum error error;

        (void)atomic_exchange(&listener->slot->woken, 0); /* as above */
        early_ms = release_ms(listener);
        if (clock_monotonic_ms() >= early_ms)
            return ERROR_RELEASED;
        if (has_news(listener))
            return ERROR_NONE;
        error = interrupts_wait(interrupts, -1, 0, clock_min(again_ms, early_ms));
        if (error == ERROR_TIMEOUT && early_ms <= again_ms)
            continue;
        if (error == ERROR_TIMEOUT && again_ms < deadline_ms)
            return ERROR_NONE;
        if (error)
            return error;
    }
}

static void managed_end(struct listener *base)
{
    struct listener_managed *listener = (struct listener_managed *)base;

    if (!listener->entered)
        return;
    scoreboard_leave(listener->scoreboard, listener->number);
    atomic_store(&listener->slot->state, SLOT_SERVING);
    scoreboard_wake_stats_writer(listener->scoreboard);
    atomic_store(&listener->slot->released, 0);
    listener->entered = false;
}

static const char *managed_error(const struct listener *base)
{
    return ((const struct listener_managed *)base)->error;
}

static void managed_free(struct listener *base)
{
    struct listener_managed *listener = (struct listener_managed *)base;

    if (!listener)
        return;
    managed_end(base);
    free(listener->refs);
    free(listener->seen);
    free(listener);
}

struct listener *listener_managed_new(const struct config *config, struct scoreboard *scoreboard, int number)
{
    static const struct listener_operations operations = { managed_read,  managed_wait, managed_end,
                                                           managed_error, NULL,         managed_free };
    struct listener_managed *listener = calloc(1, sizeof *listener);

    if (!listener)
        return NULL;
    *listener = (struct listener_managed){ .base = { &operations },
                                           .config = config,
                                           .scoreboard = scoreboard,
                                           .number = number,
                                           .slot = scoreboard_slot(scoreboard, number),
                                           .reply = scoreboard_reply(scoreboard, number),
                                           .refs = calloc((size_t)scoreboard->max_topics, sizeof *listener->refs),
                                           .seen = calloc((size_t)scoreboard->max_topics, sizeof *listener->seen) };
    if (!listener->refs || !listener->seen) {
        managed_free(&listener->base);
        return NULL;
    }
    listener->asked = atomic_load(&listener->reply->answered);
    return &listener->base;
}
