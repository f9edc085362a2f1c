#include "worker/source_shared.h"

#include "api/poll_request.h"
#include "core/clock.h"
#include "core/config.h"
#include "postgres/catch_up.h"
#include "shared/latch.h"
#include "shared/read_channel.h"
#include "shared/read_permits.h"
#include "shared/scoreboard.h"
#include "shared/topic_table.h"
#include "shared/wait_sets.h"

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

struct source_shared {
    struct message_source base;
    const struct config *config;
    struct scoreboard *scoreboard;
    int number;
    struct slot *slot;
    const struct reply *reply;
    uint32_t asked;                     /* as in the slot, which somebody else may have written over */
    char error[READ_CHANNEL_TEXT_SIZE]; /* what went wrong last */
    bool entered;                       /* in the sets of those who wait */
    int topic_count;                    /* of this poll */
    struct ring_topic_ref *refs;        /* this poll's topics in the message ring */
    int64_t *seen;                      /* their newest positions when it was read last */
};

/* ---- asking the manager */

/*
 * Sleeps until the manager has answered everything asked. Not for as long as the client is there: its poll has no cursor to be
 * answered with before, should it have closed its sending side only.
 */
static enum error wait_answer(struct source_shared *source, const struct interrupts *interrupts,
                              int64_t deadline_ms)
{
    struct interrupts ours = *interrupts;

    ours.client_fd = -1;
    for (;;) {
        enum error error;

        (void)atomic_exchange(&source->slot->woken, 0); /* also takes in what was written before it was set */
        if (atomic_load(&source->reply->answered) == source->asked)
            return ERROR_NONE;
        error = wait_for_event(&ours, -1, 0, deadline_ms);
        if (error)
            return error;
    }
}

/* Returns how many bytes of names the slot holds then. */
static size_t put_question(struct source_shared *source, const struct source_poll *poll, bool authorize,
                           int64_t deadline_ms)
{
    struct slot *slot = source->slot;
    char *names = scoreboard_names(source->scoreboard, slot);
    uint32_t at = 0;

    atomic_store_explicit(&slot->authorize, authorize, memory_order_relaxed);
    atomic_store_explicit(&slot->question_deadline_ms, deadline_ms, memory_order_relaxed);
    (void)snprintf(slot->user, sizeof slot->user, "%s", poll->remote_user);
    for (int i = 0; i < poll->request->topic_count; i++) {
        const struct poll_topic *topic = &poll->request->topics[i];

        memcpy(names + at, topic->name, topic->length);
        atomic_store_explicit(&slot->topics[i].name_at, at, memory_order_relaxed);
        atomic_store_explicit(&slot->topics[i].name_length, (uint32_t)topic->length, memory_order_relaxed);
        at += (uint32_t)topic->length;
    }
    atomic_store_explicit(&slot->question_count, poll->request->topic_count, memory_order_relaxed);
    atomic_store(&slot->asked, ++source->asked);
    (void)atomic_fetch_or(&source->scoreboard->askers[source->number / 64], UINT64_C(1)
                                                                                << source->number % 64);
    latch_set(source->scoreboard);
    return at;
}

/*
 * Has the manager listen to the topics, tell where they stand and, if need be, whether the user may poll them. The answer's
 * positions replace those that are to be read from now.
 */
static enum error ask(struct source_shared *source, const struct source_poll *poll, bool authorize,
                      int64_t *positions, int64_t deadline_ms)
{
    /* A question that was not answered in an earlier poll's time is still the manager's. */
    enum error error = wait_answer(source, poll->interrupts, deadline_ms);
    size_t names_size = 0;

    if (strlen(poll->remote_user) >= SCOREBOARD_USER_SIZE)
        return ERROR_DENIED; /* nobody is called so */
    if (!error) {
        names_size = put_question(source, poll, authorize, deadline_ms);
        error = wait_answer(source, poll->interrupts, deadline_ms);
    }
    if (!error && names_size > NAMES_KEPT_BYTES)
        scoreboard_free_names(source->scoreboard, source->slot);
    if (!error)
        error = source->reply->error;
    for (int i = 0; !error && i < poll->request->topic_count; i++) {
        source->refs[i] = source->reply->topics[i].ref;
        if (positions[i] == CATCH_UP_FROM_NOW)
            positions[i] = source->reply->topics[i].now;
    }
    return error;
}

static bool is_open_to_all(const struct scoreboard *scoreboard)
{
    return atomic_load(&scoreboard->manager->open_until_ms) > clock_monotonic_ms();
}

/* Whether the message ring knows all the topics. */
static bool find_topics(struct source_shared *source, const struct poll_request *request)
{
    for (int i = 0; i < request->topic_count; i++)
        if (!topic_table_find(source->scoreboard->topics, source->scoreboard->ring, request->topics[i].name,
                              request->topics[i].length, &source->refs[i]))
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
 * One of the counted reads, by deadline_ms; false: none was free. Who waits for one sleeps, and the end of a read wakes one of them.
 * Rings when there are fewer readers than reads.
 */
static bool take_read(struct source_shared *source, int64_t deadline_ms)
{
    struct scoreboard *scoreboard = source->scoreboard;

    if (!read_permits_take(scoreboard, source->number, deadline_ms))
        return false;
    if (read_permits_taken(scoreboard) > atomic_load(&scoreboard->manager->readers))
        latch_set(scoreboard);
    return true;
}

static enum error read_by_reader(struct source_shared *source, const struct read_channel_question *question,
                                 struct page *page)
{
    int socket = read_channel_ask(source->scoreboard->read_queue, question);
    enum error error = ERROR_DATABASE_AWAY;

    if (socket < 0) {
        (void)snprintf(source->error, sizeof source->error, "no reader of the table can be asked");
        return error;
    }
    /* Its own word on why it took too long comes a moment later. */
    error = read_channel_receive(socket, question->deadline_ms + LAST_WORD_MS, page, source->error);
    (void)close(socket);
    return error;
}

static enum error read_table(struct source_shared *source, const struct source_poll *poll, bool authorize,
                             const int64_t *positions, struct page *page, int64_t deadline_ms)
{
    /* A poll with a short timeout queues for a read all the same, and may then use it: busy is not away. */
    const int64_t patience_ms =
        clock_max(deadline_ms, poll->started_ms + source->config->query_timeout_s * 1000);
    enum error error = ERROR_DATABASE_AWAY;

    if (!take_read(source, patience_ms)) {
        (void)snprintf(source->error, sizeof source->error, "too many others read the table");
        return error;
    }
    deadline_ms = clock_max(deadline_ms, clock_monotonic_ms() + QUICK_READ_MS);
    counters_add(&source->slot->counters, COUNTER_TABLE_PAGES, 1);
    error = read_by_reader(source,
                           &(struct read_channel_question){
                               poll->request, positions, authorize ? poll->remote_user : NULL, deadline_ms },
                           page);
    read_permits_return(source->scoreboard, source->number);
    return error;
}

/* ---- the poll */

/* Enters the poll among those who wait; what is appended from now on wakes it. */
static void enter(struct source_shared *source, const struct source_poll *poll)
{
    struct slot *slot = source->slot;

    if (source->entered)
        wait_sets_leave(source->scoreboard, source->number);
    for (int i = 0; i < poll->request->topic_count; i++)
        atomic_store(&slot->topics[i].topic, source->refs[i].topic);
    atomic_store(&slot->topic_count, poll->request->topic_count);
    wait_sets_enter(source->scoreboard, source->number);
    if (!source->entered) {
        (void)snprintf(slot->client, sizeof slot->client, "%s", poll->client);
        atomic_store(&slot->since_ms, poll->started_ms);
        atomic_store(&slot->deadline_ms, poll->deadline_ms);
        (void)atomic_fetch_add(&slot->wait_id, 1);
        atomic_store(&slot->state, SLOT_WAITING);
        latch_wake_stats_writer(source->scoreboard);
    }
    source->entered = true;
}

/* Whether something was appended, or a topic was closed, since see_newest(). */
static bool has_news(const struct source_shared *source)
{
    int64_t newest;

    for (int i = 0; i < source->topic_count; i++)
        if (ring_has_topic(source->refs[i]) &&
            (!ring_newest(source->scoreboard->ring, source->refs[i], &newest) || newest != source->seen[i]))
            return true;
    return false;
}

static void see_newest(struct source_shared *source, int topic_count)
{
    source->topic_count = topic_count;
    for (int i = 0; i < topic_count; i++)
        if (!ring_newest(source->scoreboard->ring, source->refs[i], &source->seen[i]))
            source->seen[i] = -1;
}

/* Whether the message ring has caught up with the manager's answer. */
static bool is_up_to_date(const struct source_shared *source)
{
    for (int i = 0; i < source->topic_count; i++)
        if (source->seen[i] < source->reply->topics[i].newest)
            return false;
    return true;
}

static enum error managed_read(struct message_source *base, const struct source_poll *poll,
                               enum source_read how, const int64_t *positions, struct page *page,
                               int64_t deadline_ms)
{
    struct source_shared *source = (struct source_shared *)base;
    const struct poll_request *request = poll->request;
    const bool authorize = how & SOURCE_AUTHORIZE;
    /* If can_poll() allows everything it need not be asked, which takes a database connection of its own. */
    const bool ask_may_poll = authorize && !is_open_to_all(source->scoreboard);
    const bool known = find_topics(source, request), once = request->timeout_s == 0;
    /* A poll that does not wait wants what is committed now, which the message ring may learn a moment later. */
    const bool asked = ask_may_poll || once || !known || is_any_from_now(positions, request->topic_count);
    int64_t *starts = calloc((size_t)request->topic_count, sizeof *starts);
    enum error error = starts ? ERROR_NONE : ERROR_MEMORY;

    source->error[0] = '\0';
    if (error)
        goto out;
    if (once &&
        !known) { /* not worth listening to, unless only the manager has a connection to the database */
        error = read_table(source, poll, ask_may_poll, positions, page, deadline_ms);
        if (error != ERROR_DATABASE_AWAY)
            goto out;
    }
    memcpy(starts, positions, (size_t)request->topic_count * sizeof *starts);
    if (asked)
        error = ask(source, poll, ask_may_poll, starts, deadline_ms);
    if (error == ERROR_TIMEOUT)
        error = ERROR_DATABASE_AWAY;
    if (error == ERROR_DRAINED) { /* the manager may be gone; the table alone can answer once more */
        source->topic_count = 0;
        error = read_table(source, poll, authorize, positions, page, deadline_ms);
        goto out;
    }
    if (error)
        goto out;

    /* Who had to ask again waits for topics that were forgotten meanwhile; they have other numbers now. */
    if ((how & SOURCE_SUBSCRIBE) || (asked && source->entered))
        enter(source, poll);
    see_newest(source, request->topic_count);
    if ((!asked || is_up_to_date(source)) && ring_read(source->scoreboard->ring, source->refs, starts,
                                                       request->limit, source->config->page_bytes, page))
        counters_add(&source->slot->counters, COUNTER_RING_PAGES, 1);
    else
        error = read_table(source, poll, false, starts, page, deadline_ms);
out:
    free(starts);
    /* A newer poll wants its place, so it does not hold out until the database is back. It may have no cursor to answer with. */
    if (error == ERROR_DATABASE_AWAY && atomic_load(&source->slot->drain))
        error = authorize ? ERROR_TOO_MANY : ERROR_DRAINED;
    return error;
}

/* When to look again for topics that nobody listens to because there were too many; never if there are none. */
static int64_t look_again_ms(const struct source_shared *source)
{
    for (int i = 0; i < source->topic_count; i++)
        if (!ring_has_topic(source->refs[i]))
            return clock_monotonic_ms() + CROWDED_MS;
    return INT64_MAX;
}

/*
 * When the poll is to be answered early; INT64_MAX: it is not. Not before it has lasted a while: two pages that share one place, and
 * each come back as soon as they are answered, would go round without a pause.
 */
static int64_t release_ms(const struct source_shared *source)
{
    return atomic_load(&source->slot->drain)
               ? atomic_load(&source->slot->since_ms) + SCOREBOARD_SHORTEST_WAIT_MS
               : INT64_MAX;
}

static enum error managed_wait(struct message_source *base, const struct interrupts *interrupts,
                               int64_t deadline_ms)
{
    struct source_shared *source = (struct source_shared *)base;
    const int64_t again_ms = clock_min(deadline_ms, look_again_ms(source));

    for (;;) {
        int64_t early_ms;
        enum error error;

        (void)atomic_exchange(&source->slot->woken, 0); /* as above */
        early_ms = release_ms(source);
        if (clock_monotonic_ms() >= early_ms)
            return ERROR_DRAINED;
        if (has_news(source))
            return ERROR_NONE;
        error = wait_for_event(interrupts, -1, 0, clock_min(again_ms, early_ms));
        if (error == ERROR_TIMEOUT && early_ms <= again_ms)
            continue;
        if (error == ERROR_TIMEOUT && again_ms < deadline_ms)
            return ERROR_NONE;
        if (error)
            return error;
    }
}

static void managed_end(struct message_source *base)
{
    struct source_shared *source = (struct source_shared *)base;

    if (!source->entered)
        return;
    wait_sets_leave(source->scoreboard, source->number);
    atomic_store(&source->slot->state, SLOT_SERVING);
    latch_wake_stats_writer(source->scoreboard);
    atomic_store(&source->slot->drain, 0);
    source->entered = false;
}

static const char *managed_error(const struct message_source *base)
{
    return ((const struct source_shared *)base)->error;
}

static void managed_free(struct message_source *base)
{
    struct source_shared *source = (struct source_shared *)base;

    if (!source)
        return;
    managed_end(base);
    free(source->refs);
    free(source->seen);
    free(source);
}

struct message_source *source_shared_new(const struct config *config, struct scoreboard *scoreboard,
                                         int number)
{
    static const struct source_operations operations = { managed_read,  managed_wait, managed_end,
                                                         managed_error, NULL,         managed_free };
    struct source_shared *source = calloc(1, sizeof *source);

    if (!source)
        return NULL;
    *source = (struct source_shared){ .base = { &operations },
                                      .config = config,
                                      .scoreboard = scoreboard,
                                      .number = number,
                                      .slot = scoreboard_slot(scoreboard, number),
                                      .reply = scoreboard_reply(scoreboard, number),
                                      .refs = calloc((size_t)scoreboard->max_topics, sizeof *source->refs),
                                      .seen = calloc((size_t)scoreboard->max_topics, sizeof *source->seen) };
    if (!source->refs || !source->seen) {
        managed_free(&source->base);
        return NULL;
    }
    source->asked = atomic_load(&source->reply->answered);
    return &source->base;
}
