#include "feeder.h"

#include "catch_up.h"
#include "clock.h"
#include "config.h"
#include "database.h"
#include "doorbell.h"
#include "exchange.h"
#include "log.h"
#include "message.h"
#include "poll_request.h"
#include "scoreboard.h"
#include "subscriptions.h"
#include "topic_table.h"

#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    READ_MESSAGES = 1000, /* in one read */
    READ_BYTES = 8 * 1024 * 1024,
    QUESTIONS = 512,          /* answered together */
    OPEN_MS = 2500,           /* how long "can_poll() allows everything" is believed; DESIGN.md 2 allows 5 s */
    OPEN_AGAIN_MS = 1500,     /* and when it is asked again */
    CONFIRM_MS = 1000,        /* a message that no notification told of is published after so long */
    DEAF_MS = 7500,           /* so long before the last beat that was sent none was heard: that is two */
    DELIVERY_MS = 1000,       /* a beat may take */
    READ_ONLY_LOOK_MS = 1000, /* whether a read-only database has become writable */
    LOOK_MS = 5000, /* without having heard anything: another manager may have died while the doorbell was muted */
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
    int64_t end; /* the last batch announced before it began */
    struct list listen, newest, read, unlisten;
};

struct feeder {
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
    int64_t announced;   /* the last position of the last batch announced; 0: none since the connection was made */
    int64_t complete_to; /* the window has every message up to here; 0: not known */
    struct doorbell doorbell;
    struct exchange exchange;
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

struct feeder *feeder_new(const struct config *config, struct scoreboard *scoreboard)
{
    struct feeder *feeder = calloc(1, sizeof *feeder);
    int capacity = topic_table_size(scoreboard->topics);

    if (!feeder)
        return NULL;
    feeder->config = config;
    feeder->scoreboard = scoreboard;
    feeder->database = database_new(config->query_timeout_s * 1000);
    feeder->fed = calloc((size_t)capacity, sizeof *feeder->fed);
    feeder->pending = calloc((size_t)scoreboard->worker_count, sizeof *feeder->pending);
    feeder->json = printbuf_new();
    (void)snprintf(scoreboard->self_topic, sizeof scoreboard->self_topic, "\001%.80s/%d", config->host, (int)getpid());
    if (!subscriptions_init(&feeder->subscriptions, scoreboard) || !feeder->database || !feeder->fed ||
        !feeder->pending || !feeder->json || !list_init(&feeder->cycle.listen, capacity + 1) ||
        !list_init(&feeder->cycle.newest, capacity) || !list_init(&feeder->cycle.read, capacity) ||
        !list_init(&feeder->cycle.unlisten, capacity)) {
        feeder_free(feeder);
        return NULL;
    }
    return feeder;
}

void feeder_free(struct feeder *feeder)
{
    if (!feeder)
        return;
    database_free(feeder->database);
    exchange_end(&feeder->exchange);
    subscriptions_release(&feeder->subscriptions);
    free(feeder->fed);
    free(feeder->pending);
    free(feeder->told);
    printbuf_free(feeder->json);
    list_release(&feeder->cycle.listen);
    list_release(&feeder->cycle.newest);
    list_release(&feeder->cycle.read);
    list_release(&feeder->cycle.unlisten);
    free(feeder);
}

/* ---- notifications */

static void tell(struct feeder *feeder, int64_t position)
{
    if (feeder->told_count == feeder->told_capacity) {
        int capacity = feeder->told_capacity ? feeder->told_capacity * 2 : 256;
        int64_t *told = realloc(feeder->told, (size_t)capacity * sizeof *told);

        if (!told)
            return; /* the message is then published by the next full read */
        feeder->told = told;
        feeder->told_capacity = capacity;
    }
    feeder->told[feeder->told_count++] = position;
}

static void set_hears(struct feeder *feeder, bool hears)
{
    if (atomic_exchange(&feeder->scoreboard->hears, hears) != hears)
        scoreboard_wake_stats_writer(feeder->scoreboard);
}

static void take_notification(struct feeder *feeder, const PGnotify *notification)
{
    int64_t position = strtoll(notification->extra, NULL, 10);
    int number;

    if (strcmp(notification->relname, feeder->self_channel) == 0) {
        feeder->heard_ms = clock_monotonic_ms();
        set_hears(feeder, true);
        if (feeder->is_deaf)
            log_write(LOG_LEVEL_INFO, "LISTEN delivers again");
        feeder->is_deaf = false;
    } else if (strcmp(notification->relname, "pgpoll") == 0) {
        if (*notification->extra)
            feeder->announced = position;
        else
            doorbell_ring(&feeder->doorbell);
    } else if (position > feeder->complete_to) { /* a publisher's has no position */
        number = subscriptions_find(&feeder->subscriptions, notification->relname);
        if (number >= 0) {
            subscriptions_have_news(&feeder->subscriptions, number);
            tell(feeder, position);
        }
    }
}

/* When to find that notifications do not arrive; INT64_MAX: as far as is known they do. */
static int64_t deaf_ms(const struct feeder *feeder)
{
    int64_t sent_ms = atomic_load(&feeder->scoreboard->sent_ms);

    return sent_ms - feeder->heard_ms < DEAF_MS ? INT64_MAX : sent_ms + DELIVERY_MS;
}

static void take_notifications(struct feeder *feeder)
{
    PGnotify *notification;

    while ((notification = database_notification(feeder->database))) {
        take_notification(feeder, notification);
        PQfreemem(notification);
    }
}

static int compare_positions(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

static bool was_told(const struct feeder *feeder, int64_t position)
{
    return feeder->told_count > 0 &&
           bsearch(&position, feeder->told, (size_t)feeder->told_count, sizeof *feeder->told, compare_positions);
}

/* ---- a cycle's beginning: what is to be asked of the database */

static const char *name_of(const struct feeder *feeder, int number)
{
    return subscriptions_name(&feeder->subscriptions, number);
}

/* When to look for topics that nobody polls any more. */
static int64_t sweep_due_ms(const struct feeder *feeder, int64_t now_ms)
{
    return now_ms + subscriptions_linger_ms(&feeder->subscriptions) / 4;
}

static struct statement *add_statement(struct feeder *feeder, const char *sql, int *at)
{
    *at = feeder->exchange.count;
    return exchange_add(&feeder->exchange, sql);
}

/* Enters one question's topics into the lists. */
static void list_question(struct feeder *feeder, struct question *question, int64_t now_ms)
{
    struct cycle *cycle = &feeder->cycle;

    for (int i = 0; i < question->topic_count; i++) {
        int number =
            subscriptions_add(&feeder->subscriptions, question->topics[i].name, question->topics[i].length, now_ms);
        struct subscription *topic = &feeder->subscriptions.by_number[number < 0 ? 0 : number];

        question->topics[i].number = number;
        if (number < 0 || topic->cycle == feeder->cycle_number)
            continue;
        topic->cycle = feeder->cycle_number;
        topic->newest_at = cycle->newest.count;
        topic->used_ms = now_ms;
        list_add(&cycle->newest, name_of(feeder, number), number, CATCH_UP_FROM_NOW);
        if (!topic->listening && !feeder->relisten)
            list_add(&cycle->listen, name_of(feeder, number), number, 0);
    }
}

/* Takes as many questions as go into one cycle. */
static void list_questions(struct feeder *feeder, int64_t now_ms)
{
    struct cycle *cycle = &feeder->cycle;
    int taken = 0;

    while (taken < feeder->pending_count && cycle->question_count < QUESTIONS) {
        cycle->questions[cycle->question_count++] = feeder->pending[taken];
        list_question(feeder, scoreboard_question(feeder->scoreboard, feeder->pending[taken++]), now_ms);
    }
    feeder->pending_count -= taken;
    memmove(feeder->pending, feeder->pending + taken, (size_t)feeder->pending_count * sizeof *feeder->pending);
    /* Room may be short now. */
    feeder->sweep_ms = clock_min(feeder->sweep_ms, sweep_due_ms(feeder, now_ms));
}

static void list_read(struct feeder *feeder, int number)
{
    if (feeder->subscriptions.by_number[number].open)
        list_add(&feeder->cycle.read, name_of(feeder, number), number,
                 subscriptions_newest(&feeder->subscriptions, number));
}

static void list_reads(struct feeder *feeder)
{
    const struct subscriptions *all = &feeder->subscriptions;
    const int *numbers = feeder->cycle.full ? all->used : all->news;
    int count = feeder->cycle.full ? all->used_count : all->news_count;

    for (int i = 0; i < count; i++)
        list_read(feeder, numbers[i]);
    subscriptions_forget_news(&feeder->subscriptions);
    feeder->cycle.end = feeder->announced;
    if (feeder->cycle.read.count == 0) { /* what was announced is of other topics, or there already */
        feeder->told_count = 0;
        feeder->complete_to = clock_max(feeder->complete_to, feeder->announced);
    }
}

static bool listen_statement(struct feeder *feeder)
{
    struct cycle *cycle = &feeder->cycle;
    struct statement *statement;

    for (int i = 0; feeder->relisten && i < feeder->subscriptions.used_count; i++)
        list_add(&cycle->listen, name_of(feeder, feeder->subscriptions.used[i]), feeder->subscriptions.used[i], 0);
    if (feeder->relisten) {
        list_add(&cycle->listen, feeder->scoreboard->self_topic, -1, 0);
        (void)exchange_add(&feeder->exchange, "LISTEN pgpoll");
    }
    if (cycle->listen.count == 0)
        return true;
    statement = add_statement(feeder, "SELECT pgpoll.listen($1)", &cycle->listen_at);
    return statement_add_topics(statement, cycle->listen.topics, cycle->listen.count);
}

/* New messages get their positions before anything is read. */
static bool batch_statements(struct feeder *feeder, int64_t now_ms)
{
    struct cycle *cycle = &feeder->cycle;
    struct statement *statement;

    cycle->action = DOORBELL_LEAVE;
    /* First what others gave positions to, so that a batch can follow on it. */
    if (!cycle->full && cycle->question_count == 0 &&
        (cycle->read.count > 0 || now_ms < clock_min(feeder->look_ms, doorbell_due_ms(&feeder->doorbell))))
        return true;
    feeder->look_ms = now_ms + LOOK_MS;
    cycle->action = doorbell_look(&feeder->doorbell, now_ms);
    if (cycle->action == DOORBELL_MUTE) {
        statement = exchange_add(&feeder->exchange, "SELECT pgpoll.mute_doorbell($1) WHERE " STATEMENT_WRITABLE);
        if (!statement_add_int4(statement, DOORBELL_MUTE_MS))
            return false;
    } else if (cycle->action == DOORBELL_UNMUTE) {
        (void)add_statement(feeder, "SELECT pgpoll.unmute_doorbell() WHERE " STATEMENT_WRITABLE, &cycle->unmute_at);
    }
    return catch_up_batch_statement(add_statement(feeder, NULL, &cycle->batch_at), READ_MESSAGES, READ_BYTES);
}

static bool read_statement(struct feeder *feeder, struct list *list, int messages, int *at)
{
    struct poll_request request = { .topics = list->topics, .topic_count = list->count, .limit = messages };

    return list->count == 0 ||
           catch_up_statement(add_statement(feeder, NULL, at), &request, list->positions, READ_BYTES);
}

static bool unlisten_statement(struct feeder *feeder, int64_t now_ms)
{
    struct cycle *cycle = &feeder->cycle;
    struct statement *statement;

    if (now_ms < feeder->sweep_ms)
        return true;
    feeder->sweep_ms = sweep_due_ms(feeder, now_ms);
    subscriptions_mark_used(&feeder->subscriptions, now_ms);
    for (int i = 0; i < feeder->subscriptions.used_count; i++) {
        int number = feeder->subscriptions.used[i];

        if (subscriptions_is_unused(&feeder->subscriptions, number, now_ms) &&
            feeder->subscriptions.by_number[number].cycle != feeder->cycle_number)
            list_add(&cycle->unlisten, name_of(feeder, number), number, 0);
    }
    if (cycle->unlisten.count == 0)
        return true;
    statement = exchange_add(&feeder->exchange, "SELECT pgpoll.unlisten($1)");
    return statement_add_topics(statement, cycle->unlisten.topics, cycle->unlisten.count);
}

/* When to ask again whether can_poll() allows everything: not while nobody polls. */
static int64_t open_due_ms(const struct feeder *feeder)
{
    return atomic_load(&feeder->scoreboard->workers->polls) == feeder->polls ? INT64_MAX
                                                                             : feeder->open_asked_ms + OPEN_AGAIN_MS;
}

/* Puts together everything that is to be asked now; LISTEN comes before the reads, so that it has taken effect. */
static bool compose(struct feeder *feeder, int64_t now_ms)
{
    struct cycle *cycle = &feeder->cycle;
    bool made;

    cycle->listen_at = cycle->unmute_at = cycle->batch_at = cycle->newest_at = cycle->open_at = cycle->read_at = -1;
    cycle->full = feeder->relisten || now_ms >= feeder->full_ms;
    feeder->cycle_number++;
    if (cycle->full)
        feeder->full_ms = now_ms + feeder->config->reread_s * 1000;
    list_reads(feeder);
    list_questions(feeder, now_ms);
    made = listen_statement(feeder) && batch_statements(feeder, now_ms) &&
           read_statement(feeder, &cycle->newest, 1, &cycle->newest_at) &&
           read_statement(feeder, &cycle->read, READ_MESSAGES, &cycle->read_at) && unlisten_statement(feeder, now_ms);
    if (now_ms >= open_due_ms(feeder)) {
        feeder->open_asked_ms = now_ms;
        feeder->polls = atomic_load(&feeder->scoreboard->workers->polls);
        (void)add_statement(feeder, "SELECT pgpoll.is_open_to_all()", &cycle->open_at);
    }
    return made;
}

/* ---- a cycle's end: what the database said */

static void take_channels(struct feeder *feeder, const PGresult *result)
{
    const struct list *list = &feeder->cycle.listen;

    for (int i = 0; i < list->count && i < PQntuples(result); i++) {
        const char *channel = PQgetvalue(result, i, 0);

        if (list->numbers[i] < 0)
            (void)snprintf(feeder->self_channel, sizeof feeder->self_channel, "%s", channel);
        else
            subscriptions_set_channel(&feeder->subscriptions, list->numbers[i], channel);
    }
    if (feeder->relisten) {
        feeder->heard_ms = clock_monotonic_ms();
        atomic_store(&feeder->scoreboard->beat_wanted, 1);
        scoreboard_wake_stats_writer(feeder->scoreboard);
    }
    feeder->relisten = false;
}

/* The database has fewer messages than were read from it before: it was restored. Positions may come again. */
static void start_anew(struct feeder *feeder, int number, int64_t position)
{
    log_write(LOG_LEVEL_WARNING, "the database is older than what was read from it: the window starts anew");
    feeder->complete_to = 0;
    window_reset(feeder->scoreboard->window);
    window_open(feeder->scoreboard->window, number, position);
    scoreboard_wake_topic(feeder->scoreboard, number);
}

/* Where the topics asked about stand; those that are new are complete from there on. */
static void take_newest(struct feeder *feeder, const PGresult *result)
{
    struct list *list = &feeder->cycle.newest;

    for (int i = 0; i < PQntuples(result); i++) {
        struct catch_up_row row = catch_up_row(result, i);
        int number = list->numbers[row.topic_index];

        if (row.kind != CATCH_UP_TOPIC)
            continue;
        list->positions[row.topic_index] = row.topic.start;
        if (!feeder->subscriptions.by_number[number].open)
            window_open(feeder->scoreboard->window, number, row.topic.start);
        else if (row.topic.start < subscriptions_newest(&feeder->subscriptions, number))
            start_anew(feeder, number, row.topic.start);
        feeder->subscriptions.by_number[number].open = true;
    }
}

/* What a topic's row of a read tells: messages that were pruned before we read them, or a database that was restored. */
static void take_start(struct feeder *feeder, int number, const struct page_topic *topic)
{
    if (topic->gap == GAP_AHEAD) {
        start_anew(feeder, number, topic->start);
    } else if (topic->gap == GAP_EXPIRED) {
        window_skip(feeder->scoreboard->window, number, topic->start);
        scoreboard_wake_topic(feeder->scoreboard, number);
    }
}

static void publish(struct feeder *feeder, int number, const struct message *message)
{
    struct subscription *topic = &feeder->subscriptions.by_number[number];
    struct window_message entry = { .position = message->position };

    if (message->position <= subscriptions_newest(&feeder->subscriptions, number))
        return;
    printbuf_reset(feeder->json);
    /* Out of memory for it: the window then only announces it. */
    if (message_append(feeder->json, topic->quoted, message)) {
        entry.json = feeder->json->buf;
        entry.length = (size_t)printbuf_length(feeder->json);
    }
    entry.bytes = (int64_t)(message->payload_length + message->metadata_length);
    window_append(feeder->scoreboard->window, number, &entry);
    if (!topic->fed)
        feeder->fed[feeder->fed_count++] = number;
    topic->fed = true;
}

static void wake_fed(struct feeder *feeder)
{
    for (int i = 0; i < feeder->fed_count; i++) {
        feeder->subscriptions.by_number[feeder->fed[i]].fed = false;
        scoreboard_wake_topic(feeder->scoreboard, feeder->fed[i]);
    }
    feeder->fed_count = 0;
}

/* A read-only database still serves what has a position. */
static void set_read_only(struct feeder *feeder, bool read_only)
{
    if (read_only)
        feeder->look_ms = clock_min(feeder->look_ms, clock_monotonic_ms() + READ_ONLY_LOOK_MS);
    if (read_only && !feeder->read_only)
        log_write(LOG_LEVEL_WARNING, "the database is read-only (default_transaction_read_only): new messages are not "
                                     "delivered and statistics are not updated until it is writable again");
    else if (feeder->read_only && !read_only)
        log_write(LOG_LEVEL_INFO, "the database is writable again");
    feeder->read_only = read_only;
}

/*
 * A batch that follows on what the window has goes there at once. Others gave positions, too, if it does not: then these are announced
 * like those, and all are read in their order.
 */
static void take_batch(struct feeder *feeder, const PGresult *result)
{
    struct cycle *cycle = &feeder->cycle;
    struct catch_up_batch batch = catch_up_batch(result);
    bool all_ring = cycle->unmute_at >= 0 && database_is_true(feeder->exchange.results[cycle->unmute_at]);

    doorbell_found(&feeder->doorbell, cycle->action, all_ring, batch.assigned, clock_monotonic_ms());
    set_read_only(feeder, batch.read_only);
    if (batch.read_only)
        return;
    /* No position beyond that was ever given: the announcement was forged, and nothing is known. */
    if (PQntuples(result) > 0 && feeder->announced > batch.previous)
        feeder->announced = feeder->complete_to = cycle->end = feeder->full_ms = 0;
    if (batch.message_count == 0 || batch.previous != feeder->complete_to || (cycle->read_at >= 0 && !cycle->full))
        return;
    for (int i = 0; i < batch.message_count; i++) {
        struct message message = catch_up_message(result, i);
        struct window_topic_ref ref;

        if (topic_table_find(feeder->scoreboard->topics, feeder->scoreboard->window, PQgetvalue(result, i, 0),
                             (size_t)PQgetlength(result, i, 0), &ref))
            publish(feeder, ref.number, &message);
        feeder->complete_to = message.position;
    }
    wake_fed(feeder);
}

/* The rows of a read that may be used: all of a full one, else those of batches announced, and up to the last that was told of. */
static int usable_rows(const struct feeder *feeder, const PGresult *result)
{
    int rows = PQntuples(result);

    if (feeder->cycle.full)
        return rows;
    while (rows > 0) {
        struct catch_up_row row = catch_up_row(result, rows - 1);

        if (row.kind == CATCH_UP_TOPIC)
            break;
        /* What was told of may be of a later page, or deleted. */
        if (row.kind == CATCH_UP_MESSAGE &&
            (row.message.position <= feeder->cycle.end || was_told(feeder, row.message.position)))
            break;
        rows--;
    }
    return rows;
}

/* Returns whether that was all that had been told of. */
static bool take_news(struct feeder *feeder, const PGresult *result)
{
    const struct list *list = &feeder->cycle.read;
    int total = PQntuples(result), rows = usable_rows(feeder, result);
    bool more = total > 0 && catch_up_row(result, total - 1).kind == CATCH_UP_MORE;

    for (int i = 0; i < rows; i++) {
        struct catch_up_row row = catch_up_row(result, i);
        int number = list->numbers[row.topic_index];

        if (row.kind == CATCH_UP_TOPIC)
            take_start(feeder, number, &row.topic);
        else if (row.kind == CATCH_UP_MESSAGE)
            publish(feeder, number, &row.message);
    }
    wake_fed(feeder);
    for (int i = 0; more && i < list->count; i++) /* read on, with what was told of the rest */
        subscriptions_have_news(&feeder->subscriptions, list->numbers[i]);
    if (!more)
        feeder->told_count = 0;
    else if (feeder->cycle.full)
        feeder->full_ms = 0;
    if (!more && rows < total && feeder->full_ms > clock_monotonic_ms() + CONFIRM_MS)
        feeder->full_ms = clock_monotonic_ms() + CONFIRM_MS;
    return !more;
}

static void answer_questions(struct feeder *feeder)
{
    struct cycle *cycle = &feeder->cycle;

    for (int i = 0; i < cycle->question_count; i++) {
        const struct question *question;
        struct reply *reply;

        if (cycle->questions[i] == NOBODY)
            continue;
        question = scoreboard_question(feeder->scoreboard, cycle->questions[i]);
        reply = scoreboard_reply(feeder->scoreboard, cycle->questions[i]);
        for (int k = 0; k < question->topic_count; k++) {
            struct reply_topic *topic = &reply->topics[k];
            int number = question->topics[k].number;

            if (number >= 0 && window_find(feeder->scoreboard->window, number, &topic->ref)) {
                topic->newest = cycle->newest.positions[feeder->subscriptions.by_number[number].newest_at];
            } else {
                topic->ref = WINDOW_NO_TOPIC;
                topic->newest = CATCH_UP_FROM_NOW;
            }
        }
        scoreboard_answer(feeder->scoreboard, cycle->questions[i], ERROR_NONE);
    }
}

static void succeed(struct feeder *feeder)
{
    struct cycle *cycle = &feeder->cycle;

    if (feeder->away)
        log_write(LOG_LEVEL_INFO, "connected to the database again");
    if (feeder->is_lost)
        tally_add(&feeder->scoreboard->tally, TALLY_RECONNECTS, 1);
    feeder->is_lost = false;
    feeder->away = ERROR_NONE;
    feeder->pause_ms = 0;
    if (cycle->listen_at >= 0)
        take_channels(feeder, feeder->exchange.results[cycle->listen_at]);
    if (cycle->batch_at >= 0)
        take_batch(feeder, feeder->exchange.results[cycle->batch_at]);
    if (cycle->newest_at >= 0)
        take_newest(feeder, feeder->exchange.results[cycle->newest_at]);
    if (cycle->read_at >= 0 && take_news(feeder, feeder->exchange.results[cycle->read_at]))
        feeder->complete_to = clock_max(feeder->complete_to, cycle->end);
    if (cycle->open_at >= 0)
        atomic_store(&feeder->scoreboard->manager->open_until_ms,
                     database_is_true(feeder->exchange.results[cycle->open_at]) ? feeder->exchange.started_ms + OPEN_MS
                                                                                : 0);
    answer_questions(feeder);
    for (int i = 0; i < cycle->unlisten.count; i++)
        subscriptions_remove(&feeder->subscriptions, cycle->unlisten.numbers[i]);
}

/* Closes the connection; the next one is opened after a pause. */
static void reconnect(struct feeder *feeder)
{
    feeder->is_lost = true;
    set_hears(feeder, false);
    database_close(feeder->database, NULL);
    feeder->pause_ms = feeder->pause_ms ? feeder->pause_ms * 2 : FIRST_PAUSE_MS;
    if (feeder->pause_ms > LAST_PAUSE_MS)
        feeder->pause_ms = LAST_PAUSE_MS;
    feeder->retry_ms = clock_monotonic_ms() + feeder->pause_ms / 2 + random() % (feeder->pause_ms / 2 + 1);
}

/* Nothing of the cycle counts; its questions and its news wait for the next one. */
static void fail(struct feeder *feeder, enum error error)
{
    struct cycle *cycle = &feeder->cycle;

    for (int i = 0; i < cycle->read.count; i++)
        subscriptions_have_news(&feeder->subscriptions, cycle->read.numbers[i]);
    for (int i = 0; i < cycle->unlisten.count; i++)
        subscriptions_remove(&feeder->subscriptions,
                             cycle->unlisten.numbers[i]); /* UNLISTEN may have taken effect all the same */
    for (int i = cycle->question_count - 1; i >= 0; i--)
        if (cycle->questions[i] == NOBODY)
            cycle->questions[i] = cycle->questions[--cycle->question_count];
    memmove(feeder->pending + cycle->question_count, feeder->pending,
            (size_t)feeder->pending_count * sizeof *feeder->pending);
    memcpy(feeder->pending, cycle->questions, (size_t)cycle->question_count * sizeof *cycle->questions);
    feeder->pending_count += cycle->question_count;
    if (feeder->away != error)
        log_write(error_log_level(error), "no news from the database: %s", database_error(feeder->database));
    feeder->away = error;
    reconnect(feeder);
}

static void finish(struct feeder *feeder, enum error error)
{
    struct cycle *cycle = &feeder->cycle;

    if (error)
        fail(feeder, error);
    else
        succeed(feeder);
    exchange_end(&feeder->exchange);
    cycle->question_count = 0;
    cycle->listen.count = cycle->newest.count = cycle->read.count = cycle->unlisten.count = 0;
}

/* ---- what the manager's loop calls */

struct pollfd feeder_pollfd(const struct feeder *feeder)
{
    return database_pollfd(feeder->database);
}

int64_t feeder_due_ms(const struct feeder *feeder)
{
    if (feeder->exchange.running)
        return exchange_due_ms(&feeder->exchange);
    if (!database_is_connected(feeder->database))
        return feeder->retry_ms;
    if (feeder->pending_count > 0 || feeder->subscriptions.news_count > 0)
        return 0;
    return clock_min(clock_min(clock_min(feeder->full_ms, feeder->look_ms), doorbell_due_ms(&feeder->doorbell)),
                     clock_min(clock_min(feeder->sweep_ms, deaf_ms(feeder)), open_due_ms(feeder)));
}

static void begin(struct feeder *feeder, int64_t now_ms)
{
    enum error error = ERROR_MEMORY;

    if (!database_is_connected(feeder->database)) {
        feeder->relisten = true;
        /* The one before may have muted it: until nobody is under way who kept quiet, look. */
        feeder->doorbell = (struct doorbell){ .rung = true, .muting = true };
        feeder->announced = feeder->complete_to = 0;
        subscriptions_lose(&feeder->subscriptions);
    }
    if (feeder->told_count > 0)
        qsort(feeder->told, (size_t)feeder->told_count, sizeof *feeder->told, compare_positions);
    if (compose(feeder, now_ms))
        error = exchange_begin(&feeder->exchange, feeder->database, now_ms, feeder->config->query_timeout_s * 1000);
    if (error != ERROR_PENDING)
        finish(feeder, error);
}

void feeder_step(struct feeder *feeder, bool ready)
{
    int64_t now_ms = clock_monotonic_ms();
    enum error error = exchange_step(&feeder->exchange, ready, now_ms);

    if (error != ERROR_PENDING)
        finish(feeder, error);
    if (!feeder->exchange.running && ready && database_is_connected(feeder->database) &&
        database_consume(feeder->database) != ERROR_NONE)
        finish(feeder, ERROR_DATABASE_AWAY);
    if (feeder->exchange.running)
        return;
    take_notifications(feeder);
    if (database_is_connected(feeder->database) && now_ms >= deaf_ms(feeder)) {
        if (!feeder->is_deaf)
            log_write(LOG_LEVEL_ERROR, "LISTEN delivers nothing: is there a pooler in transaction mode in between?");
        feeder->is_deaf = true;
        reconnect(feeder);
    }
    if (feeder_due_ms(feeder) <= now_ms)
        begin(feeder, now_ms);
}

void feeder_ask(struct feeder *feeder, int number)
{
    feeder->pending[feeder->pending_count++] = number; /* each worker is asking one question at most */
}

void feeder_forget_worker(struct feeder *feeder, int number)
{
    int kept = 0;

    for (int i = 0; i < feeder->pending_count; i++)
        if (feeder->pending[i] != number)
            feeder->pending[kept++] = feeder->pending[i];
    feeder->pending_count = kept;
    /* A question under way is answered to nobody. */
    for (int i = 0; i < feeder->cycle.question_count; i++)
        if (feeder->cycle.questions[i] == number)
            feeder->cycle.questions[i] = NOBODY;
}
