#include "manager/relay.h"

#include "api/message.h"
#include "api/poll_request.h"
#include "core/clock.h"
#include "core/config.h"
#include "core/log.h"
#include "manager/notify_throttle.h"
#include "manager/subscriptions.h"
#include "postgres/catch_up.h"
#include "postgres/database.h"
#include "postgres/query_batch.h"
#include "shared/latch.h"
#include "shared/question.h"
#include "shared/scoreboard.h"
#include "shared/topic_table.h"
#include "shared/wait_sets.h"

#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    READ_MESSAGES = 1000, /* in one read */
    READ_BYTES = 8 * 1024 * 1024,
    QUESTIONS = 512,          /* answered together */
    OPEN_MS = 2500,           /* how long "can_poll() allows everything" is believed; 5 s are allowed */
    OPEN_AGAIN_MS = 1500,     /* and when it is asked again */
    CONFIRM_MS = 1000,        /* a message that no notification told of is published after so long */
    DEAF_MS = 7500,           /* so long before the last beat that was sent none was heard: that is two */
    DELIVERY_MS = 1000,       /* a beat may take */
    READ_ONLY_LOOK_MS = 1000, /* whether a read-only database has become writable */
    LOOK_MS =
        5000, /* without having heard anything: another manager may have died while the latch was muted */
    FIRST_PAUSE_MS = 50,
    LAST_PAUSE_MS = 1000,
    NOBODY = -1 /* for a worker's number: it has died since it asked */
};

/* Topics of one statement. */
struct list {
    struct poll_topic *topics;
    int *numbers;
    int64_t *positions;
    int count;
};

/* What is under way, and the places of its statements; -1: not among them. */
struct cycle {
    int listen_at, unmute_at, batch_at, newest_at, open_at, read_at;
    enum doorbell_action action;
    int questions[QUESTIONS]; /* slots */
    int question_count;
    bool full;   /* the read is of all topics */
    int64_t now; /* the end of the backlog that is worked off, 0: none */
    int64_t end; /* the last batch announced before it began */
    struct list listen, newest, read, unlisten;
};

struct relay {
    const struct config *config;
    struct scoreboard *scoreboard;
    struct database *database;
    struct subscriptions subscriptions;
    int *fed; /* topics whose waiters are to be woken */
    int fed_count;
    char self_channel[SUBSCRIPTIONS_CHANNEL_SIZE];
    int *pending; /* slots whose questions wait, oldest first */
    int pending_count;
    int64_t *told; /* positions that notifications told of and that were not yet read */
    int told_count, told_capacity;
    int64_t
        announced; /* the last position of the last batch announced; 0: none since the connection was made */
    int64_t complete_to; /* the message ring has every message up to here; 0: not known */
    struct notify_throttle doorbell;
    struct query_batch batch;
    struct cycle cycle;
    uint64_t cycle_number;
    enum error away; /* why, as far as it was logged */
    bool is_deaf;    /* LISTEN was seen to deliver nothing, and has not delivered since; this was logged */
    bool is_lost;    /* the connection was lost, or could not be opened, and is not open again yet */
    bool relisten;   /* the connection is a new one */
    bool read_only;  /* the database gave no positions when it was asked last */
    uint64_t polls;  /* when can_poll() was asked about last */
    int64_t retry_ms, pause_ms, full_ms, open_asked_ms, heard_ms, sweep_ms, look_ms;
    struct printbuf *json;
};

/* ---- memory */

static bool list_init(struct list *list, int capacity)
{
    list->topics = calloc((size_t)capacity, sizeof *list->topics);
    list->numbers = calloc((size_t)capacity, sizeof *list->numbers);
    list->positions = calloc((size_t)capacity, sizeof *list->positions);
    return list->topics && list->numbers && list->positions;
}

static void list_release(struct list *list)
{
    free(list->topics);
    free(list->numbers);
    free(list->positions);
}

static void list_add(struct list *list, const char *name, int number, int64_t position)
{
    list->topics[list->count] = (struct poll_topic){ .name = name, .length = strlen(name) };
    list->numbers[list->count] = number;
    list->positions[list->count] = position;
    list->count++;
}

struct relay *relay_new(const struct config *config, struct scoreboard *scoreboard)
{
    struct relay *relay = calloc(1, sizeof *relay);
    int capacity = topic_table_size(scoreboard->topics);

    if (!relay)
        return NULL;
    relay->config = config;
    relay->scoreboard = scoreboard;
    relay->database = database_new(config->query_timeout_s * 1000);
    relay->fed = calloc((size_t)capacity, sizeof *relay->fed);
    relay->pending = calloc((size_t)scoreboard->worker_count, sizeof *relay->pending);
    relay->json = printbuf_new();
    (void)snprintf(scoreboard->self_topic, sizeof scoreboard->self_topic, "\001%.80s/%d", config->host,
                   (int)getpid());
    if (!subscriptions_init(&relay->subscriptions, scoreboard) || !relay->database || !relay->fed ||
        !relay->pending || !relay->json || !list_init(&relay->cycle.listen, capacity + 1) ||
        !list_init(&relay->cycle.newest, capacity) || !list_init(&relay->cycle.read, capacity) ||
        !list_init(&relay->cycle.unlisten, capacity)) {
        relay_free(relay);
        return NULL;
    }
    return relay;
}

void relay_free(struct relay *relay)
{
    if (!relay)
        return;
    database_free(relay->database);
    query_batch_end(&relay->batch);
    subscriptions_release(&relay->subscriptions);
    free(relay->fed);
    free(relay->pending);
    free(relay->told);
    printbuf_free(relay->json);
    list_release(&relay->cycle.listen);
    list_release(&relay->cycle.newest);
    list_release(&relay->cycle.read);
    list_release(&relay->cycle.unlisten);
    free(relay);
}

/* ---- notifications */

static void tell(struct relay *relay, int64_t position)
{
    if (relay->told_count == relay->told_capacity) {
        int capacity = relay->told_capacity ? relay->told_capacity * 2 : 256;
        int64_t *told = realloc(relay->told, (size_t)capacity * sizeof *told);

        if (!told)
            return; /* the message is then published by the next full read */
        relay->told = told;
        relay->told_capacity = capacity;
    }
    relay->told[relay->told_count++] = position;
}

static void set_hears(struct relay *relay, bool hears)
{
    if (atomic_exchange(&relay->scoreboard->listen_works, hears) != hears)
        latch_wake_stats_writer(relay->scoreboard);
}

static void take_notification(struct relay *relay, const PGnotify *notification)
{
    int64_t position = strtoll(notification->extra, NULL, 10);
    int number;

    if (strcmp(notification->relname, relay->self_channel) == 0) {
        relay->heard_ms = clock_monotonic_ms();
        set_hears(relay, true);
        if (relay->is_deaf)
            log_write(LOG_LEVEL_INFO, "LISTEN delivers again");
        relay->is_deaf = false;
    } else if (strcmp(notification->relname, "pgpoll") == 0) {
        if (*notification->extra)
            relay->announced = position;
        else
            doorbell_ring(&relay->doorbell);
    } else if (position > relay->complete_to) { /* a publisher's has no position */
        number = subscriptions_find(&relay->subscriptions, notification->relname);
        if (number >= 0) {
            subscriptions_have_news(&relay->subscriptions, number);
            tell(relay, position);
        }
    }
}

/* When to find that notifications do not arrive; INT64_MAX: as far as is known they do. */
static int64_t deaf_ms(const struct relay *relay)
{
    int64_t sent_ms = atomic_load(&relay->scoreboard->heartbeat_ms);

    return sent_ms - relay->heard_ms < DEAF_MS ? INT64_MAX : sent_ms + DELIVERY_MS;
}

static void take_notifications(struct relay *relay)
{
    PGnotify *notification;

    while ((notification = database_notification(relay->database))) {
        take_notification(relay, notification);
        PQfreemem(notification);
    }
}

static int compare_positions(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

static bool was_told(const struct relay *relay, int64_t position)
{
    return relay->told_count > 0 &&
           bsearch(&position, relay->told, (size_t)relay->told_count, sizeof *relay->told, compare_positions);
}

/* ---- a cycle's beginning: what is to be asked of the database */

static const char *name_of(const struct relay *relay, int number)
{
    return subscriptions_name(&relay->subscriptions, number);
}

/* When to look for topics that nobody polls any more. */
static int64_t sweep_due_ms(const struct relay *relay, int64_t now_ms)
{
    return now_ms + subscriptions_linger_ms(&relay->subscriptions) / 4;
}

static struct statement *add_statement(struct relay *relay, const char *sql, int *at)
{
    *at = relay->batch.count;
    return query_batch_add(&relay->batch, sql);
}

/* Enters one question's topics into the lists. */
static void list_question(struct relay *relay, struct question *question, int64_t now_ms)
{
    struct cycle *cycle = &relay->cycle;

    for (int i = 0; i < question->topic_count; i++) {
        int number = subscriptions_add(&relay->subscriptions, question->topics[i].name,
                                       question->topics[i].length, now_ms);
        struct subscription *topic = &relay->subscriptions.by_number[number < 0 ? 0 : number];

        question->topics[i].number = number;
        if (number < 0 || topic->cycle == relay->cycle_number)
            continue;
        topic->cycle = relay->cycle_number;
        topic->newest_at = cycle->newest.count;
        topic->used_ms = now_ms;
        list_add(&cycle->newest, name_of(relay, number), number, CATCH_UP_FROM_NOW);
        if (!topic->listening && !relay->relisten)
            list_add(&cycle->listen, name_of(relay, number), number, 0);
    }
}

/* Takes as many questions as go into one cycle. */
static void list_questions(struct relay *relay, int64_t now_ms)
{
    struct cycle *cycle = &relay->cycle;
    int taken = 0;

    while (taken < relay->pending_count && cycle->question_count < QUESTIONS) {
        cycle->questions[cycle->question_count++] = relay->pending[taken];
        list_question(relay, scoreboard_question(relay->scoreboard, relay->pending[taken++]), now_ms);
    }
    relay->pending_count -= taken;
    memmove(relay->pending, relay->pending + taken, (size_t)relay->pending_count * sizeof *relay->pending);
    /* Room may be short now. */
    relay->sweep_ms = clock_min(relay->sweep_ms, sweep_due_ms(relay, now_ms));
}

static void list_read(struct relay *relay, int number)
{
    if (relay->subscriptions.by_number[number].open)
        list_add(&relay->cycle.read, name_of(relay, number), number,
                 subscriptions_newest(&relay->subscriptions, number));
}

static void list_reads(struct relay *relay)
{
    const struct subscriptions *all = &relay->subscriptions;
    const int *numbers = relay->cycle.full ? all->used : all->news;
    int count = relay->cycle.full ? all->used_count : all->news_count;

    for (int i = 0; i < count; i++)
        list_read(relay, numbers[i]);
    subscriptions_forget_news(&relay->subscriptions);
    relay->cycle.end = relay->announced;
    if (relay->cycle.read.count == 0) { /* what was announced is of other topics, or there already */
        relay->told_count = 0;
        relay->complete_to = clock_max(relay->complete_to, relay->announced);
    }
}

static bool listen_statement(struct relay *relay)
{
    struct cycle *cycle = &relay->cycle;
    struct statement *statement;

    for (int i = 0; relay->relisten && i < relay->subscriptions.used_count; i++)
        list_add(&cycle->listen, name_of(relay, relay->subscriptions.used[i]), relay->subscriptions.used[i],
                 0);
    if (relay->relisten) {
        list_add(&cycle->listen, relay->scoreboard->self_topic, -1, 0);
        (void)query_batch_add(&relay->batch, "LISTEN pgpoll");
    }
    if (cycle->listen.count == 0)
        return true;
    statement = add_statement(relay, "SELECT pgpoll.listen($1)", &cycle->listen_at);
    return statement_add_topics(statement, cycle->listen.topics, cycle->listen.count);
}

/* New messages get their positions before anything is read. */
static bool batch_statements(struct relay *relay, int64_t now_ms)
{
    struct cycle *cycle = &relay->cycle;
    struct statement *statement;

    cycle->action = NOTIFY_THROTTLE_LEAVE;
    /* First what others gave positions to, so that a batch can follow on it. */
    if (!cycle->full && cycle->question_count == 0 &&
        (cycle->read.count > 0 || now_ms < clock_min(relay->look_ms, doorbell_due_ms(&relay->doorbell))))
        return true;
    relay->look_ms = now_ms + LOOK_MS;
    cycle->action = doorbell_look(&relay->doorbell, now_ms);
    if (cycle->action == NOTIFY_THROTTLE_MUTE) {
        statement =
            query_batch_add(&relay->batch, "SELECT pgpoll.mute_doorbell($1) WHERE " STATEMENT_WRITABLE);
        if (!statement_add_int4(statement, NOTIFY_THROTTLE_MUTE_MS))
            return false;
    } else if (cycle->action == NOTIFY_THROTTLE_UNMUTE) {
        (void)add_statement(relay, "SELECT pgpoll.unmute_doorbell() WHERE " STATEMENT_WRITABLE,
                            &cycle->unmute_at);
    }
    return catch_up_batch_statement(add_statement(relay, NULL, &cycle->batch_at), READ_MESSAGES, READ_BYTES);
}

static bool read_statement(struct relay *relay, struct list *list, int messages, int *at)
{
    struct poll_request request = { .topics = list->topics, .topic_count = list->count, .limit = messages };

    return list->count == 0 ||
           catch_up_statement(add_statement(relay, NULL, at), &request, list->positions, READ_BYTES);
}

static bool unlisten_statement(struct relay *relay, int64_t now_ms)
{
    struct cycle *cycle = &relay->cycle;
    struct statement *statement;

    if (now_ms < relay->sweep_ms)
        return true;
    relay->sweep_ms = sweep_due_ms(relay, now_ms);
    subscriptions_mark_used(&relay->subscriptions, now_ms);
    for (int i = 0; i < relay->subscriptions.used_count; i++) {
        int number = relay->subscriptions.used[i];

        if (subscriptions_is_unused(&relay->subscriptions, number, now_ms) &&
            relay->subscriptions.by_number[number].cycle != relay->cycle_number)
            list_add(&cycle->unlisten, name_of(relay, number), number, 0);
    }
    if (cycle->unlisten.count == 0)
        return true;
    statement = query_batch_add(&relay->batch, "SELECT pgpoll.unlisten($1)");
    return statement_add_topics(statement, cycle->unlisten.topics, cycle->unlisten.count);
}

/* When to ask again whether can_poll() allows everything: not while nobody polls. */
static int64_t open_due_ms(const struct relay *relay)
{
    return atomic_load(&relay->scoreboard->workers->polls) == relay->polls
               ? INT64_MAX
               : relay->open_asked_ms + OPEN_AGAIN_MS;
}

/* Puts together everything that is to be asked now; LISTEN comes before the reads, so that it has taken effect. */
static bool compose(struct relay *relay, int64_t now_ms)
{
    struct cycle *cycle = &relay->cycle;
    bool made;

    cycle->listen_at = cycle->unmute_at = cycle->batch_at = cycle->newest_at = cycle->open_at =
        cycle->read_at = -1;
    cycle->now = 0;
    cycle->full = relay->relisten || now_ms >= relay->full_ms;
    relay->cycle_number++;
    if (cycle->full)
        relay->full_ms = now_ms + relay->config->reread_s * 1000;
    list_reads(relay);
    list_questions(relay, now_ms);
    made = listen_statement(relay) && batch_statements(relay, now_ms) &&
           read_statement(relay, &cycle->newest, 1, &cycle->newest_at) &&
           read_statement(relay, &cycle->read, READ_MESSAGES, &cycle->read_at) &&
           unlisten_statement(relay, now_ms);
    if (now_ms >= open_due_ms(relay)) {
        relay->open_asked_ms = now_ms;
        relay->polls = atomic_load(&relay->scoreboard->workers->polls);
        (void)add_statement(relay, "SELECT pgpoll.is_open_to_all()", &cycle->open_at);
    }
    return made;
}

/* ---- a cycle's end: what the database said */

static void take_channels(struct relay *relay, const PGresult *result)
{
    const struct list *list = &relay->cycle.listen;

    for (int i = 0; i < list->count && i < PQntuples(result); i++) {
        const char *channel = PQgetvalue(result, i, 0);

        if (list->numbers[i] < 0)
            (void)snprintf(relay->self_channel, sizeof relay->self_channel, "%s", channel);
        else
            subscriptions_set_channel(&relay->subscriptions, list->numbers[i], channel);
    }
    if (relay->relisten) {
        relay->heard_ms = clock_monotonic_ms();
        atomic_store(&relay->scoreboard->heartbeat_wanted, 1);
        latch_wake_stats_writer(relay->scoreboard);
    }
    relay->relisten = false;
}

/* The database has fewer messages than were read from it before: it was restored. Positions may come again. */
static void start_anew(struct relay *relay, int number, int64_t position)
{
    log_write(LOG_LEVEL_WARNING, "the database is older than what was read from it: the window starts anew");
    relay->complete_to = 0;
    ring_reset(relay->scoreboard->ring);
    ring_open(relay->scoreboard->ring, number, position);
    wait_sets_wake(relay->scoreboard, number);
}

/* Where the topics asked about stand; those that are new are complete from there on. */
static void take_newest(struct relay *relay, const PGresult *result)
{
    struct list *list = &relay->cycle.newest;

    for (int i = 0; i < PQntuples(result); i++) {
        struct catch_up_row row = catch_up_row(result, i);
        int number = list->numbers[row.topic_index];

        if (row.kind != CATCH_UP_TOPIC)
            continue;
        list->positions[row.topic_index] = row.newest;
        if (row.topic.start > row.newest)
            relay->cycle.now = row.topic.start;
        if (!relay->subscriptions.by_number[number].open)
            ring_open(relay->scoreboard->ring, number, row.newest);
        else if (row.newest < subscriptions_newest(&relay->subscriptions, number))
            start_anew(relay, number, row.newest);
        relay->subscriptions.by_number[number].open = true;
    }
}

/* What a topic's row of a read tells: messages that were pruned before we read them, or a database that was restored. */
static void take_start(struct relay *relay, int number, const struct catch_up_row *row)
{
    if (row->topic.gap == GAP_AHEAD) {
        start_anew(relay, number, row->newest);
    } else if (row->topic.gap == GAP_EXPIRED) {
        ring_skip(relay->scoreboard->ring, number, row->topic.start);
        wait_sets_wake(relay->scoreboard, number);
    }
}

static void publish(struct relay *relay, int number, const struct message *message)
{
    struct subscription *topic = &relay->subscriptions.by_number[number];
    struct ring_message entry = { .position = message->position };

    if (message->position <= subscriptions_newest(&relay->subscriptions, number))
        return;
    printbuf_reset(relay->json);
    /* Out of memory for it: the message ring then only announces it. */
    if (message_append(relay->json, topic->quoted, message)) {
        entry.json = relay->json->buf;
        entry.length = (size_t)printbuf_length(relay->json);
    }
    entry.bytes = (int64_t)(message->payload_length + message->metadata_length);
    ring_append(relay->scoreboard->ring, number, &entry);
    if (!topic->fed)
        relay->fed[relay->fed_count++] = number;
    topic->fed = true;
}

static void wake_fed(struct relay *relay)
{
    for (int i = 0; i < relay->fed_count; i++) {
        relay->subscriptions.by_number[relay->fed[i]].fed = false;
        wait_sets_wake(relay->scoreboard, relay->fed[i]);
    }
    relay->fed_count = 0;
}

/* A read-only database still serves what has a position. */
static void set_read_only(struct relay *relay, bool read_only)
{
    if (read_only)
        relay->look_ms = clock_min(relay->look_ms, clock_monotonic_ms() + READ_ONLY_LOOK_MS);
    if (read_only && !relay->read_only)
        log_write(LOG_LEVEL_WARNING,
                  "the database is read-only (default_transaction_read_only): new messages are not "
                  "delivered and statistics are not updated until it is writable again");
    else if (relay->read_only && !read_only)
        log_write(LOG_LEVEL_INFO, "the database is writable again");
    relay->read_only = read_only;
}

/*
 * A batch that follows on what the message ring has goes there at once. Others gave positions, too, if it does not: then these are announced
 * like those, and all are read in their order.
 */
static void take_batch(struct relay *relay, const PGresult *result)
{
    struct cycle *cycle = &relay->cycle;
    struct catch_up_batch batch = catch_up_batch(result);
    bool all_ring = cycle->unmute_at >= 0 && database_is_true(relay->batch.results[cycle->unmute_at]);

    doorbell_found(&relay->doorbell, cycle->action, all_ring, batch.assigned, clock_monotonic_ms());
    set_read_only(relay, batch.read_only);
    if (batch.more)
        doorbell_ring(&relay->doorbell); /* questions are answered in between */
    if (batch.read_only)
        return;
    /* No position beyond that was ever given: the announcement was forged, and nothing is known. */
    if (PQntuples(result) > 0 && relay->announced > batch.previous)
        relay->announced = relay->complete_to = cycle->end = relay->full_ms = 0;
    if (batch.message_count == 0 || batch.previous != relay->complete_to ||
        (cycle->read_at >= 0 && !cycle->full))
        return;
    for (int i = 0; i < batch.message_count; i++) {
        struct message message = catch_up_message(result, i);
        struct ring_topic_ref ref;

        if (topic_table_find(relay->scoreboard->topics, relay->scoreboard->ring, PQgetvalue(result, i, 0),
                             (size_t)PQgetlength(result, i, 0), &ref))
            publish(relay, ref.topic, &message);
        relay->complete_to = message.position;
    }
    wake_fed(relay);
}

/* The rows of a read that may be used: all of a full one, else those of batches announced, and up to the last that was told of. */
static int usable_rows(const struct relay *relay, const PGresult *result)
{
    int rows = PQntuples(result);

    if (relay->cycle.full)
        return rows;
    while (rows > 0) {
        struct catch_up_row row = catch_up_row(result, rows - 1);

        if (row.kind == CATCH_UP_TOPIC)
            break;
        /* What was told of may be of a later page, or deleted. */
        if (row.kind == CATCH_UP_MESSAGE &&
            (row.message.position <= relay->cycle.end || was_told(relay, row.message.position)))
            break;
        rows--;
    }
    return rows;
}

/* Returns whether that was all that had been told of. */
static bool take_news(struct relay *relay, const PGresult *result)
{
    const struct list *list = &relay->cycle.read;
    int total = PQntuples(result), rows = usable_rows(relay, result);
    bool more = total > 0 && catch_up_row(result, total - 1).kind == CATCH_UP_MORE;

    for (int i = 0; i < rows; i++) {
        struct catch_up_row row = catch_up_row(result, i);
        int number = list->numbers[row.topic_index];

        if (row.kind == CATCH_UP_TOPIC)
            take_start(relay, number, &row);
        else if (row.kind == CATCH_UP_MESSAGE)
            publish(relay, number, &row.message);
    }
    wake_fed(relay);
    for (int i = 0; more && i < list->count; i++) /* read on, with what was told of the rest */
        subscriptions_have_news(&relay->subscriptions, list->numbers[i]);
    if (!more)
        relay->told_count = 0;
    else if (relay->cycle.full)
        relay->full_ms = 0;
    if (!more && rows < total && relay->full_ms > clock_monotonic_ms() + CONFIRM_MS)
        relay->full_ms = clock_monotonic_ms() + CONFIRM_MS;
    return !more;
}

static void answer_questions(struct relay *relay)
{
    struct cycle *cycle = &relay->cycle;

    for (int i = 0; i < cycle->question_count; i++) {
        const struct question *question;
        struct reply *reply;

        if (cycle->questions[i] == NOBODY)
            continue;
        question = scoreboard_question(relay->scoreboard, cycle->questions[i]);
        reply = scoreboard_reply(relay->scoreboard, cycle->questions[i]);
        for (int k = 0; k < question->topic_count; k++) {
            struct reply_topic *topic = &reply->topics[k];
            int number = question->topics[k].number;

            if (number >= 0 && ring_find(relay->scoreboard->ring, number, &topic->ref)) {
                topic->newest = cycle->newest.positions[relay->subscriptions.by_number[number].newest_at];
                topic->now = clock_max(topic->newest, cycle->now);
            } else {
                topic->ref = RING_NO_TOPIC;
                topic->newest = topic->now = CATCH_UP_FROM_NOW;
            }
        }
        question_answer(relay->scoreboard, cycle->questions[i], ERROR_NONE);
    }
}

static void succeed(struct relay *relay)
{
    struct cycle *cycle = &relay->cycle;

    if (relay->away)
        log_write(LOG_LEVEL_INFO, "connected to the database again");
    if (relay->is_lost)
        counters_add(&relay->scoreboard->counters, COUNTER_RECONNECTS, 1);
    relay->is_lost = false;
    relay->away = ERROR_NONE;
    relay->pause_ms = 0;
    if (cycle->listen_at >= 0)
        take_channels(relay, relay->batch.results[cycle->listen_at]);
    if (cycle->batch_at >= 0)
        take_batch(relay, relay->batch.results[cycle->batch_at]);
    if (cycle->newest_at >= 0)
        take_newest(relay, relay->batch.results[cycle->newest_at]);
    if (cycle->read_at >= 0 && take_news(relay, relay->batch.results[cycle->read_at]))
        relay->complete_to = clock_max(relay->complete_to, cycle->end);
    if (cycle->open_at >= 0)
        atomic_store(
            &relay->scoreboard->manager->open_until_ms,
            database_is_true(relay->batch.results[cycle->open_at]) ? relay->batch.started_ms + OPEN_MS : 0);
    answer_questions(relay);
    for (int i = 0; i < cycle->unlisten.count; i++)
        subscriptions_remove(&relay->subscriptions, cycle->unlisten.numbers[i]);
}

/* Closes the connection; the next one is opened after a pause. */
static void reconnect(struct relay *relay)
{
    relay->is_lost = true;
    set_hears(relay, false);
    database_close(relay->database, NULL);
    relay->pause_ms = relay->pause_ms ? relay->pause_ms * 2 : FIRST_PAUSE_MS;
    if (relay->pause_ms > LAST_PAUSE_MS)
        relay->pause_ms = LAST_PAUSE_MS;
    relay->retry_ms = clock_monotonic_ms() + relay->pause_ms / 2 + random() % (relay->pause_ms / 2 + 1);
}

/* Nothing of the cycle counts; its questions and its news wait for the next one. */
static void fail(struct relay *relay, enum error error)
{
    struct cycle *cycle = &relay->cycle;

    for (int i = 0; i < cycle->read.count; i++)
        subscriptions_have_news(&relay->subscriptions, cycle->read.numbers[i]);
    for (int i = 0; i < cycle->unlisten.count; i++)
        subscriptions_remove(&relay->subscriptions,
                             cycle->unlisten.numbers[i]); /* UNLISTEN may have taken effect all the same */
    for (int i = cycle->question_count - 1; i >= 0; i--)
        if (cycle->questions[i] == NOBODY)
            cycle->questions[i] = cycle->questions[--cycle->question_count];
    memmove(relay->pending + cycle->question_count, relay->pending,
            (size_t)relay->pending_count * sizeof *relay->pending);
    memcpy(relay->pending, cycle->questions, (size_t)cycle->question_count * sizeof *cycle->questions);
    relay->pending_count += cycle->question_count;
    if (relay->away != error)
        log_write(error_log_level(error), "no news from the database: %s", database_error(relay->database));
    relay->away = error;
    reconnect(relay);
}

static void finish(struct relay *relay, enum error error)
{
    struct cycle *cycle = &relay->cycle;

    if (error)
        fail(relay, error);
    else
        succeed(relay);
    query_batch_end(&relay->batch);
    cycle->question_count = 0;
    cycle->listen.count = cycle->newest.count = cycle->read.count = cycle->unlisten.count = 0;
}

/* ---- what the manager's loop calls */

struct pollfd relay_pollfd(const struct relay *relay)
{
    return database_pollfd(relay->database);
}

int64_t relay_due_ms(const struct relay *relay)
{
    if (relay->batch.running)
        return query_batch_due_ms(&relay->batch);
    if (!database_is_connected(relay->database))
        return relay->retry_ms;
    if (relay->pending_count > 0 || relay->subscriptions.news_count > 0)
        return 0;
    return clock_min(clock_min(clock_min(relay->full_ms, relay->look_ms), doorbell_due_ms(&relay->doorbell)),
                     clock_min(clock_min(relay->sweep_ms, deaf_ms(relay)), open_due_ms(relay)));
}

static void begin(struct relay *relay, int64_t now_ms)
{
    enum error error = ERROR_MEMORY;

    if (!database_is_connected(relay->database)) {
        relay->relisten = true;
        /* The one before may have muted it: until nobody is under way who kept quiet, look. */
        relay->doorbell = (struct notify_throttle){ .rung = true, .muting = true };
        relay->announced = relay->complete_to = 0;
        subscriptions_lose(&relay->subscriptions);
    }
    if (relay->told_count > 0)
        qsort(relay->told, (size_t)relay->told_count, sizeof *relay->told, compare_positions);
    if (compose(relay, now_ms))
        error =
            query_batch_begin(&relay->batch, relay->database, now_ms, relay->config->query_timeout_s * 1000);
    if (error != ERROR_PENDING)
        finish(relay, error);
}

void relay_step(struct relay *relay, bool ready)
{
    int64_t now_ms = clock_monotonic_ms();
    enum error error = query_batch_step(&relay->batch, ready, now_ms);

    if (error != ERROR_PENDING)
        finish(relay, error);
    if (!relay->batch.running && ready && database_is_connected(relay->database) &&
        database_consume(relay->database) != ERROR_NONE)
        finish(relay, ERROR_DATABASE_AWAY);
    if (relay->batch.running)
        return;
    take_notifications(relay);
    if (database_is_connected(relay->database) && now_ms >= deaf_ms(relay)) {
        if (!relay->is_deaf)
            log_write(LOG_LEVEL_ERROR,
                      "LISTEN delivers nothing: is there a pooler in transaction mode in between?");
        relay->is_deaf = true;
        reconnect(relay);
    }
    if (relay_due_ms(relay) <= now_ms)
        begin(relay, now_ms);
}

void relay_ask(struct relay *relay, int number)
{
    relay->pending[relay->pending_count++] = number; /* each worker is asking one question at most */
}

void relay_forget_worker(struct relay *relay, int number)
{
    int kept = 0;

    for (int i = 0; i < relay->pending_count; i++)
        if (relay->pending[i] != number)
            relay->pending[kept++] = relay->pending[i];
    relay->pending_count = kept;
    /* A question under way is answered to nobody. */
    for (int i = 0; i < relay->cycle.question_count; i++)
        if (relay->cycle.questions[i] == number)
            relay->cycle.questions[i] = NOBODY;
}
