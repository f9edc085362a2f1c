#include "worker/source_shared.h"

#include "api/cursor.h"
#include "api/poll_request.h"
#include "core/clock.h"
#include "core/config.h"
#include "shared/latch.h"
#include "shared/look.h"
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
    QUICK_READ_MS = 500, /* a poll that has a permit may read this long, even after its deadline */
    /* a poll may wait for its turn to read until this long after its deadline: HTTP clients allow for 10 s */
    BUSY_MS = 8 * 1000,
    LOOK_MS = 1000,        /* how often a poll that waits for its turn looks for it without being woken */
    LAST_WORD_MS = 100,    /* an answer may arrive this long after the deadline of the question */
    DRAINED_ASK_MS = 3000, /* how long a worker that is told to end waits for its manager */
    NAMES_KEPT_BYTES = 64 * 1024 /* after a question, names that take more than this are freed */
};

struct source_shared {
    struct message_source base;
    const struct config *config;
    struct scoreboard *scoreboard;
    int worker; /* this worker's index */
    struct slot *slot;
    const struct reply *reply;
    uint32_t asked;                     /* a copy of slot->asked, which a broken worker may overwrite */
    char error[READ_CHANNEL_TEXT_SIZE]; /* the text of the last error */
    bool entered;                       /* the poll is in the wait sets */
    int topic_count;                    /* how many topics this poll has */
    struct ring_topic_ref *refs;        /* this poll's topics in the message ring */
    int64_t *seen;                      /* the newest position of each topic at the last read of the ring */
    int64_t *starts;                    /* the positions after which the current read starts */
};

/* ---- asking the manager */

/*
 * Sleeps until the manager has answered all questions or, if look is not 0, has ended the look with that
 * number. Ignores disconnects, because a client that has closed only its sending side still needs an answer,
 * and before the first read there is no cursor to answer with.
 */
static enum error wait_answer(struct source_shared *source, uint64_t look,
                              const struct interrupts *interrupts, int64_t deadline_ms)
{
    struct interrupts without_client = *interrupts;

    without_client.client_fd = -1;
    for (;;) {
        enum error error;

        (void)atomic_exchange(&source->slot->woken, 0); /* acquires what was written before woken was set */
        if (look ? look_state(source->scoreboard, look) != LOOK_PENDING
                 : atomic_load(&source->reply->answered) == source->asked)
            return ERROR_NONE;
        error = wait_for_event(&without_client, -1, 0, deadline_ms);
        if (error)
            return error;
    }
}

/* Publishes the question that the slot holds. */
static void put_question(struct source_shared *source, enum question_kind kind, bool only_refresh,
                         int64_t deadline_ms)
{
    struct slot *slot = source->slot;

    atomic_store_explicit(&slot->question_kind, (int)kind, memory_order_relaxed);
    atomic_store_explicit(&slot->only_refresh, only_refresh, memory_order_relaxed);
    atomic_store_explicit(&slot->question_deadline_ms, deadline_ms, memory_order_relaxed);
    atomic_store(&slot->asked, ++source->asked);
    (void)atomic_fetch_or(&source->scoreboard->askers[source->worker / SCOREBOARD_WORD_BITS],
                          scoreboard_bit(source->worker));
    latch_set(source->scoreboard);
}

/* Writes the user and the topics into the slot. Returns how many bytes the names of the topics take. */
static size_t put_topics(struct source_shared *source, const struct source_poll *poll)
{
    struct slot *slot = source->slot;
    char *names = scoreboard_names(source->scoreboard, slot);
    uint32_t at = 0;

    (void)snprintf(slot->user, sizeof slot->user, "%s", poll->remote_user);
    for (int i = 0; i < poll->request->topic_count; i++) {
        const struct poll_topic *topic = &poll->request->topics[i];

        memcpy(names + at, topic->name, topic->length);
        atomic_store_explicit(&slot->topics[i].name_at, at, memory_order_relaxed);
        atomic_store_explicit(&slot->topics[i].name_length, (uint32_t)topic->length, memory_order_relaxed);
        at += (uint32_t)topic->length;
    }
    atomic_store_explicit(&slot->question_count, poll->request->topic_count, memory_order_relaxed);
    return at;
}

/* Writes the token into the slot. The manager moves it out of the slot when it takes the question. */
static void put_token(struct source_shared *source, const char *token)
{
    const size_t length = strlen(token);

    source->slot->user[0] = '\0';
    memcpy(scoreboard_names(source->scoreboard, source->slot), token, length);
    atomic_store_explicit(&source->slot->token_length, (uint32_t)length, memory_order_relaxed);
}

/*
 * Asks the manager a question of this kind about the poll's topics, which the manager must answer by
 * deadline_ms. Returns the manager's answer, or the error that ended the wait for it.
 */
static enum error ask(struct source_shared *source, const struct source_poll *poll, enum question_kind kind,
                      int64_t deadline_ms)
{
    /* The manager may still work on a question for which an earlier poll stopped waiting. */
    enum error error = wait_answer(source, 0, poll->interrupts, deadline_ms);
    size_t names_size = 0;

    if (!error) {
        names_size = put_topics(source, poll);
        put_question(source, kind, false, deadline_ms);
        error = wait_answer(source, 0, poll->interrupts, deadline_ms + LAST_WORD_MS);
    }
    if (!error && names_size > NAMES_KEPT_BYTES)
        scoreboard_free_names(source->scoreboard, source->slot);
    return error ? error : source->reply->error;
}

/*
 * Makes the manager number new messages, open the topics in the ring, and report their references and current
 * positions. The current position replaces a position that is CATCH_UP_FROM_NOW.
 */
static enum error locate(struct source_shared *source, const struct source_poll *poll, int64_t *positions,
                         int64_t deadline_ms)
{
    const enum error error = ask(source, poll, QUESTION_LOCATE, deadline_ms);

    for (int i = 0; !error && i < poll->request->topic_count; i++) {
        source->refs[i] = source->reply->topics[i].ref;
        if (positions[i] == CATCH_UP_FROM_NOW)
            positions[i] = source->reply->topics[i].now;
    }
    return error;
}

/* Whether the manager gives new messages their positions, so that readers need not. */
static bool manager_numbers(const struct source_shared *source)
{
    return atomic_load(&source->scoreboard->manager->numbers_until_ms) > clock_monotonic_ms();
}

/*
 * Makes the manager give positions to all messages that are committed now and bring the ring up to date.
 * Returns false if the manager cannot, or not by deadline_ms.
 */
static bool look(struct source_shared *source, const struct source_poll *poll, int64_t deadline_ms)
{
    uint64_t number;

    if (!manager_numbers(source))
        return false;
    number = look_ask(source->scoreboard, source->worker);
    return wait_answer(source, number, poll->interrupts, deadline_ms) == ERROR_NONE &&
           look_state(source->scoreboard, number) == LOOK_DONE;
}

/*
 * Replaces each position that is CATCH_UP_FROM_NOW by the newest position of its topic in the ring, after a
 * look. Returns false if a topic is no longer in the ring.
 */
static bool find_now(const struct source_shared *source, int topic_count, int64_t *positions)
{
    for (int i = 0; i < topic_count; i++)
        if (positions[i] == CATCH_UP_FROM_NOW &&
            !ring_newest(source->scoreboard->ring, source->refs[i], &positions[i]))
            return false;
    return true;
}

/* ---- who may poll */

/* Whether the manager has answered the last question, so that the slot may hold another one. */
static bool may_put(const struct source_shared *source)
{
    return atomic_load(&source->reply->answered) == source->asked;
}

static void count_remembered(const struct source_shared *source)
{
    counters_add(&source->slot->counters, COUNTER_ACCESS_REMEMBERED, 1);
}

/*
 * Looks up the remembered answers of can_poll() for the poll's topics. *answer is ERROR_DENIED if can_poll()
 * refused one of the topics, which suffices, or else ERROR_NONE. Returns whether *answer is known, known but
 * due to be asked again, or unknown.
 */
static enum access_found find_permission(struct source_shared *source, const struct source_poll *poll,
                                         enum error *answer)
{
    const struct access_memory *memory = source->scoreboard->permissions;
    const struct keyed_hash user = access_memory_hash(memory, poll->remote_user, strlen(poll->remote_user));
    const int64_t now_ms = clock_monotonic_ms();
    enum access_found all = ACCESS_KNOWN;

    *answer = ERROR_NONE;
    for (int i = 0; i < poll->request->topic_count; i++) {
        const struct poll_topic *topic = &poll->request->topics[i];
        const struct keyed_hash hash = access_memory_hash_topic(user, topic->name, topic->length);
        bool allowed = false;
        const enum access_found found = access_memory_find(memory, hash, now_ms, &allowed);

        if (found != ACCESS_UNKNOWN && !allowed) {
            source->base.refused_topic = i;
            *answer = ERROR_DENIED;
            return ACCESS_KNOWN;
        }
        if (found == ACCESS_UNKNOWN || all == ACCESS_KNOWN)
            all = found;
        if (all == ACCESS_UNKNOWN)
            break;
    }
    return all;
}

/*
 * Checks whether the user may poll the topics. Returns ERROR_NONE, ERROR_DENIED, or the error because of
 * which that is not known.
 */
static enum error authorize(struct source_shared *source, const struct source_poll *poll, int64_t deadline_ms)
{
    enum access_found found;
    enum error error;

    if (atomic_load(&source->scoreboard->manager->open_until_ms) > clock_monotonic_ms())
        return ERROR_NONE; /* can_poll() allows everything: do not spend time and a connection on it */
    if (strlen(poll->remote_user) >= SCOREBOARD_USER_SIZE)
        return ERROR_DENIED; /* a name that long does not fit into the slot */
    found = find_permission(source, poll, &error);
    if (found == ACCESS_UNKNOWN) {
        error = ask(source, poll, QUESTION_AUTHORIZE, deadline_ms);
        if (error == ERROR_DENIED)
            source->base.refused_topic = source->reply->refused_topic;
        return error == ERROR_TIMEOUT ? ERROR_DATABASE_AWAY : error;
    }
    count_remembered(source);
    if (found == ACCESS_DUE && may_put(source)) {
        (void)put_topics(source, poll);
        put_question(source, QUESTION_AUTHORIZE, true, deadline_ms);
    }
    return error;
}

/*
 * Asks the manager which user sent the token. After a drain it goes on waiting for the answer for
 * DRAINED_ASK_MS, because only the manager can give it.
 */
static enum error ask_user(struct source_shared *source, const struct source_poll *poll, const char *token,
                           char user[static SOURCE_USER_SIZE], int64_t deadline_ms)
{
    static const volatile sig_atomic_t never;
    struct interrupts interrupts = *poll->interrupts;
    enum error error = wait_answer(source, 0, &interrupts, deadline_ms);

    if (!error) {
        put_token(source, token);
        put_question(source, QUESTION_AUTHENTICATE, false, deadline_ms);
        error = wait_answer(source, 0, &interrupts, deadline_ms + LAST_WORD_MS);
    }
    if (error == ERROR_DRAINED && !may_put(source)) {
        interrupts.drain = &never;
        error = wait_answer(source, 0, &interrupts,
                            clock_min(deadline_ms, clock_monotonic_ms() + DRAINED_ASK_MS) + LAST_WORD_MS);
    }
    if (!error)
        error = source->reply->error;
    if (!error)
        memcpy(user, source->reply->user, SOURCE_USER_SIZE);
    return error == ERROR_TIMEOUT || error == ERROR_DRAINED ? ERROR_DATABASE_AWAY : error;
}

static bool is_anonymous(const struct source_shared *source)
{
    return atomic_load(&source->scoreboard->manager->anonymous_until_ms) > clock_monotonic_ms();
}

static enum error shared_authenticate(struct message_source *base, const struct source_poll *poll,
                                      const char *authorization, char user[static SOURCE_USER_SIZE],
                                      int64_t deadline_ms)
{
    struct source_shared *source = (struct source_shared *)base;
    const struct access_memory *memory = source->scoreboard->users;
    const bool usable = source_is_usable(authorization);
    enum access_found found;
    enum error error = ERROR_NONE;

    source->error[0] = user[0] = '\0';
    if (is_anonymous(source))
        return ERROR_NONE;
    if (!usable)
        authorization = ""; /* ask all the same: if authenticate() is as installed, it does not matter */
    found = access_memory_find(memory, access_memory_hash(memory, authorization, strlen(authorization)),
                               clock_monotonic_ms(), user);
    if (found == ACCESS_UNKNOWN)
        error = ask_user(source, poll, authorization, user, deadline_ms);
    else
        count_remembered(source);
    if (found == ACCESS_DUE && may_put(source)) {
        put_token(source, authorization);
        put_question(source, QUESTION_AUTHENTICATE, true, deadline_ms);
    }
    return error || usable || is_anonymous(source) ? error : ERROR_UNAUTHENTICATED;
}

/* ---- what a read needs */

/* Looks up the references of all topics. Returns false if a topic is not in the message ring. */
static bool find_topics(struct source_shared *source, const struct poll_request *request)
{
    for (int i = 0; i < request->topic_count; i++)
        if (!topic_table_find(source->scoreboard->topics, source->scoreboard->ring, request->topics[i].name,
                              request->topics[i].length, &source->refs[i]))
            return false;
    return true;
}

/*
 * Whether the answer must include all messages that are committed now, because the poll does not wait or has
 * no cursor for a topic. The ring alone does not suffice then, because a message enters it a moment after its
 * commit.
 */
static bool needs_now(const struct poll_request *request, const int64_t *positions)
{
    bool needs = request->timeout_s == 0;

    for (int i = 0; !needs && i < request->topic_count; i++)
        needs = positions[i] == CATCH_UP_FROM_NOW;
    return needs;
}

/* ---- reading the table */

/* Returns until when a statement may take that begins with the poll. */
static int64_t statement_deadline_ms(const struct source_shared *source, const struct source_poll *poll)
{
    return poll->started_ms + source->config->query_timeout_s * 1000;
}

/*
 * Waits for a read permit, at least until deadline_ms and for PGPOLL_QUERY_TIMEOUT_S: otherwise a poll with a
 * short timeout would report a database as away that is only busy. If the manager reaches the database, now
 * or later in the wait, it is surely only busy. Then the poll stays in the queue as long as it may, because
 * if it came again, it would be the last, and leaves it when its client does. When this worker is told to
 * end, the shorter time counts. authorize: the read may refuse the poll, so the head is not sent before.
 * Returns ERROR_NONE, ERROR_TIMEOUT or ERROR_CLIENT_GONE.
 */
static enum error wait_for_permit(struct source_shared *source, const struct source_poll *poll,
                                  bool authorize, int64_t deadline_ms)
{
    static const volatile sig_atomic_t never;
    struct interrupts interrupts = *poll->interrupts;
    const int64_t began_ms = clock_monotonic_ms();
    const int64_t least_ms = clock_max(deadline_ms, statement_deadline_ms(source, poll));
    int64_t end_ms = least_ms, since_ms = INT64_MAX, due_ms;

    interrupts.client_fd = -1;
    while (!read_permits_take(source->scoreboard, source->worker)) {
        enum error error;

        if (interrupts.drain != &never && manager_numbers(source)) {
            since_ms = authorize ? INT64_MAX : began_ms;
            end_ms = clock_max(least_ms, poll->deadline_ms + BUSY_MS);
        }
        if (clock_monotonic_ms() >= end_ms)
            return ERROR_TIMEOUT;
        if (!poll->attend(poll->waiter, since_ms, &interrupts, &due_ms))
            return ERROR_CLIENT_GONE;
        due_ms = clock_min(due_ms, clock_monotonic_ms() + LOOK_MS);
        error = wait_for_event(&interrupts, -1, 0, clock_min(due_ms, end_ms));
        if (error == ERROR_CLIENT_GONE)
            return error;
        if (error == ERROR_DRAINED) {
            interrupts.drain = &never;
            end_ms = least_ms;
        }
    }
    return ERROR_NONE;
}

/*
 * Takes a read permit. Returns ERROR_NONE, ERROR_CLIENT_GONE, or, if none was free in time,
 * ERROR_READERS_BUSY, or ERROR_DATABASE_AWAY if the manager does not reach the database either. If fewer
 * readers run than permits are taken, sets the manager's latch, so that the manager starts another reader.
 */
static enum error take_permit(struct source_shared *source, const struct source_poll *poll, bool authorize,
                              int64_t deadline_ms)
{
    struct scoreboard *scoreboard = source->scoreboard;
    const enum error error = wait_for_permit(source, poll, authorize, deadline_ms);

    if (error)
        read_permits_return(scoreboard, source->worker);
    else if (read_permits_taken(scoreboard) > atomic_load(&scoreboard->manager->readers))
        latch_set(scoreboard);
    if (error != ERROR_TIMEOUT)
        return error;
    (void)snprintf(source->error, sizeof source->error, "too many other polls are reading the table");
    return manager_numbers(source) ? ERROR_READERS_BUSY : ERROR_DATABASE_AWAY;
}

static enum error read_by_reader(struct source_shared *source, const struct read_channel_question *question,
                                 struct page *page)
{
    int socket = read_channel_ask(source->scoreboard->read_queue, question);
    enum error error = ERROR_DATABASE_AWAY;

    if (socket < 0) {
        (void)snprintf(source->error, sizeof source->error, "cannot send the question to a reader process");
        return error;
    }
    /* A reader that has run out of time reports why a moment after the deadline. */
    error = read_channel_receive(socket, question->deadline_ms + LAST_WORD_MS, page, source->error);
    (void)close(socket);
    return error;
}

static enum error read_table(struct source_shared *source, const struct source_poll *poll, bool authorize,
                             bool number, const int64_t *positions, struct page *page, int64_t deadline_ms)
{
    const int64_t began_ms = clock_monotonic_ms();
    enum error error = take_permit(source, poll, authorize, deadline_ms);

    if (error)
        return error;
    /* As in check_user(), the read does not lose the time of the wait. */
    deadline_ms = clock_max(deadline_ms - began_ms, QUICK_READ_MS) + clock_monotonic_ms();
    counters_add(&source->slot->counters, COUNTER_TABLE_PAGES, 1);
    error = read_by_reader(source,
                           &(struct read_channel_question){ poll->request, positions,
                                                            authorize ? poll->remote_user : NULL, number,
                                                            deadline_ms },
                           page);
    read_permits_return(source->scoreboard, source->worker);
    return error;
}

/* ---- the poll */

/* Whether the table could not be read for now. */
static bool is_unread(enum error error)
{
    return error == ERROR_DATABASE_AWAY || error == ERROR_READERS_BUSY;
}

/* Enters the poll into the wait sets, so that messages appended from now on wake it. */
static void enter(struct source_shared *source, const struct source_poll *poll)
{
    struct slot *slot = source->slot;

    if (source->entered)
        wait_sets_leave(source->scoreboard, source->worker);
    for (int i = 0; i < poll->request->topic_count; i++)
        atomic_store(&slot->topics[i].topic, source->refs[i].topic);
    atomic_store(&slot->topic_count, poll->request->topic_count);
    wait_sets_enter(source->scoreboard, source->worker);
    if (!source->entered) {
        (void)snprintf(slot->client, sizeof slot->client, "%s", poll->client);
        (void)snprintf(slot->client_user, sizeof slot->client_user, "%s", poll->remote_user);
        atomic_store(&slot->since_ms, poll->started_ms);
        atomic_store(&slot->deadline_ms, poll->deadline_ms);
        (void)atomic_fetch_add(&slot->wait_id, 1);
        atomic_store(&slot->state, SLOT_WAITING);
        latch_wake_stats_writer(source->scoreboard);
    }
    source->entered = true;
}

/* Whether a message was appended to the ring, or a topic was closed in it, since note_newest(). */
static bool has_news(const struct source_shared *source)
{
    int64_t newest;

    for (int i = 0; i < source->topic_count; i++)
        if (!ring_newest(source->scoreboard->ring, source->refs[i], &newest) || newest != source->seen[i])
            return true;
    return false;
}

static void note_newest(struct source_shared *source, int topic_count)
{
    source->topic_count = topic_count;
    for (int i = 0; i < topic_count; i++)
        if (!ring_newest(source->scoreboard->ring, source->refs[i], &source->seen[i]))
            source->seen[i] = -1;
}

/* Whether the message ring has every message up to the positions of the manager's reply. */
static bool is_up_to_date(const struct source_shared *source)
{
    for (int i = 0; i < source->topic_count; i++)
        if (source->seen[i] < source->reply->topics[i].newest)
            return false;
    return true;
}

/*
 * Returns until when a poll may wait for can_poll(): until its own deadline, and at least as long as one call
 * may take.
 */
static int64_t authorize_deadline_ms(const struct source_shared *source, const struct source_poll *poll,
                                     int64_t deadline_ms)
{
    return clock_max(clock_max(deadline_ms, poll->deadline_ms), statement_deadline_ms(source, poll));
}

/*
 * Returns until when a poll's first read may take. Without it there is no answer, so it gets the time of any
 * statement, however short the poll is; but not if the manager does not reach the database, because then that
 * is not slow but away.
 */
static int64_t first_read_deadline_ms(const struct source_shared *source, const struct source_poll *poll,
                                      int64_t deadline_ms)
{
    return manager_numbers(source) ? clock_max(deadline_ms, statement_deadline_ms(source, poll))
                                   : deadline_ms;
}

/*
 * Checks whether the user may poll. Adds the time that this takes to *deadline_ms, so that the read does not
 * lose it.
 */
static enum error check_user(struct source_shared *source, const struct source_poll *poll,
                             int64_t *deadline_ms)
{
    const int64_t began_ms = clock_monotonic_ms();
    const enum error error = authorize(source, poll, authorize_deadline_ms(source, poll, *deadline_ms));

    *deadline_ms = first_read_deadline_ms(source, poll, *deadline_ms) + clock_monotonic_ms() - began_ms;
    return error;
}

/*
 * Makes the manager do what this read needs: open the topics in the ring, number new messages, report the
 * current positions. known: all topics are in the ring. starts: the poll's positions; the current position
 * replaces a CATCH_UP_FROM_NOW. *asked: whether a question about each topic was asked. *number: whether a
 * reader must number messages, because the manager may not have numbered all that this read must return.
 */
static enum error prepare(struct source_shared *source, const struct source_poll *poll, bool known,
                          int64_t *starts, int64_t deadline_ms, bool *asked, bool *number)
{
    enum error error;

    *asked = !known;
    *number = !manager_numbers(source);
    if (!*asked && needs_now(poll->request, starts))
        *asked = !look(source, poll, deadline_ms) || !find_now(source, poll->request->topic_count, starts);
    if (!*asked)
        return ERROR_NONE;
    *number = false;
    error = locate(source, poll, starts, deadline_ms);
    return error == ERROR_TIMEOUT ? ERROR_DATABASE_AWAY : error;
}

/*
 * Keeps where "now" is: if the table cannot be read, another attempt must not start at a later now, and pass
 * over what was committed meanwhile.
 */
static void keep_now(const struct source_shared *source, int topic_count, int64_t *positions)
{
    for (int i = 0; i < topic_count; i++)
        if (positions[i] == CATCH_UP_FROM_NOW)
            positions[i] = source->starts[i];
}

/* Whether the poll is in the wait sets of other numbers than its topics have now. */
static bool has_moved(const struct source_shared *source, int topic_count)
{
    for (int i = 0; i < topic_count; i++)
        if (atomic_load(&source->slot->topics[i].topic) != source->refs[i].topic)
            return true;
    return false;
}

/* Reads for a user who may poll. */
static enum error read_allowed(struct source_shared *source, const struct source_poll *poll, bool subscribe,
                               int64_t *positions, struct page *page, int64_t deadline_ms)
{
    const struct poll_request *request = poll->request;
    const bool known = find_topics(source, request);
    bool asked, number;
    enum error error;

    /*
     * While the manager does not number, a reader answers a poll that does not wait. The manager is asked
     * only if no reader reaches the database.
     */
    if (request->timeout_s == 0 && !known && !manager_numbers(source)) {
        error = read_table(source, poll, false, true, positions, page, deadline_ms);
        if (!is_unread(error))
            return error;
    }
    memcpy(source->starts, positions, (size_t)request->topic_count * sizeof *source->starts);
    error = prepare(source, poll, known, source->starts, deadline_ms, &asked, &number);
    if (error)
        return error;
    keep_now(source, request->topic_count, positions);

    /*
     * If topics were removed from the ring while the poll waited, they may have other numbers now, because
     * this worker or another one has asked about them since. Then the poll enters the wait sets again.
     */
    if (subscribe || (source->entered && has_moved(source, request->topic_count)))
        enter(source, poll);
    /*
     * Before the ring or the table is read: a message that comes after this has the worker read again. If the
     * table were read first, one that comes between would count as seen.
     */
    note_newest(source, request->topic_count);
    if ((asked && !is_up_to_date(source)) ||
        !ring_read(source->scoreboard->ring, source->refs, source->starts, request->limit,
                   source->config->page_bytes, page))
        return read_table(source, poll, false, number, source->starts, page, deadline_ms);
    counters_add(&source->slot->counters, COUNTER_RING_PAGES, 1);
    return ERROR_NONE;
}

static enum error shared_read(struct message_source *base, const struct source_poll *poll,
                              enum source_read how, int64_t *positions, struct page *page,
                              int64_t deadline_ms)
{
    struct source_shared *source = (struct source_shared *)base;
    const bool checks_user = how & SOURCE_AUTHORIZE;
    enum error error = ERROR_NONE;

    source->error[0] = '\0';
    source->base.refused_topic = -1;
    if (checks_user)
        error = check_user(source, poll, &deadline_ms);
    if (!error)
        error = read_allowed(source, poll, how & SOURCE_SUBSCRIBE, positions, page, deadline_ms);
    if (error == ERROR_DRAINED) { /* the manager may have ended, but a reader can still read the table */
        source->topic_count = 0;
        error = read_table(source, poll, checks_user, true, positions, page, deadline_ms);
    }
    /*
     * A poll that must be answered early does not wait for the table. If its first read failed, it has no
     * cursor to answer with, so it is refused.
     */
    if (is_unread(error) && atomic_load(&source->slot->drain))
        error = checks_user ? ERROR_TOO_MANY : ERROR_DRAINED;
    return error;
}

/* Returns when the poll must be answered early, or INT64_MAX if it need not be. */
static int64_t drain_ms(const struct source_shared *source)
{
    const int shortest_ms = atomic_load(&source->slot->drain);

    return shortest_ms ? atomic_load(&source->slot->since_ms) + shortest_ms : INT64_MAX;
}

static enum error shared_wait(struct message_source *base, const struct interrupts *interrupts,
                              int64_t deadline_ms)
{
    struct source_shared *source = (struct source_shared *)base;

    for (;;) {
        int64_t early_ms;
        enum error error;

        (void)atomic_exchange(&source->slot->woken, 0); /* as in wait_answer() */
        /* Now it has no permit to read, unless a broken worker has written one. Others would wait for it. */
        read_permits_return(source->scoreboard, source->worker);
        early_ms = drain_ms(source);
        if (clock_monotonic_ms() >= early_ms)
            return ERROR_DRAINED;
        if (has_news(source))
            return ERROR_NONE;
        error = wait_for_event(interrupts, -1, 0, clock_min(deadline_ms, early_ms));
        if (error == ERROR_TIMEOUT && early_ms <= deadline_ms)
            continue;
        if (error)
            return error;
    }
}

static void shared_end(struct message_source *base)
{
    struct source_shared *source = (struct source_shared *)base;

    if (!source->entered)
        return;
    wait_sets_leave(source->scoreboard, source->worker);
    atomic_store(&source->slot->state, SLOT_SERVING);
    latch_wake_stats_writer(source->scoreboard);
    atomic_store(&source->slot->drain, 0);
    source->entered = false;
}

static const char *shared_error(const struct message_source *base)
{
    return ((const struct source_shared *)base)->error;
}

static void shared_free(struct message_source *base)
{
    struct source_shared *source = (struct source_shared *)base;

    if (!source)
        return;
    shared_end(base);
    free(source->refs);
    free(source->seen);
    free(source->starts);
    free(source);
}

struct message_source *source_shared_new(const struct config *config, struct scoreboard *scoreboard,
                                         int worker)
{
    static const struct source_operations operations = { shared_authenticate, shared_read,  shared_wait,
                                                         shared_end,          shared_error, NULL,
                                                         shared_free };
    struct source_shared *source = calloc(1, sizeof *source);

    if (!source)
        return NULL;
    *source =
        (struct source_shared){ .base = { &operations, -1 },
                                .config = config,
                                .scoreboard = scoreboard,
                                .worker = worker,
                                .slot = scoreboard_slot(scoreboard, worker),
                                .reply = scoreboard_reply(scoreboard, worker),
                                .refs = calloc((size_t)scoreboard->max_topics, sizeof *source->refs),
                                .seen = calloc((size_t)scoreboard->max_topics, sizeof *source->seen),
                                .starts = calloc((size_t)scoreboard->max_topics, sizeof *source->starts) };
    if (!source->refs || !source->seen || !source->starts) {
        shared_free(&source->base);
        return NULL; /* cppcheck-suppress memleak; base is the first member of source */
    }
    source->asked = atomic_load(&source->reply->answered);
    return &source->base;
}
