#include "manager/relay.h"

#include "api/message.h"
#include "api/poll_request.h"
#include "core/backoff.h"
#include "core/clock.h"
#include "core/config.h"
#include "core/log.h"
#include "manager/announcements.h"
#include "manager/notify_throttle.h"
#include "manager/open_to_all.h"
#include "manager/subscriptions.h"
#include "manager/worker_queue.h"
#include "postgres/catch_up.h"
#include "postgres/database.h"
#include "postgres/query_batch.h"
#include "shared/latch.h"
#include "shared/look.h"
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
    READ_MESSAGES = 1000, /* at most, in one read and in one batch of positions */
    READ_BYTES = 8 * 1024 * 1024,
    QUESTIONS = 512,          /* at most, answered in one cycle */
    CONFIRM_MS = 1000,        /* until a full read, after a read showed messages that were not announced */
    READ_ONLY_LOOK_MS = 1000, /* how often to check whether a read-only database has become writable */
    LOOK_PATIENCE_MS = 20,    /* for the announcements of what other managers had numbered before a look */
    LOOK_MS = 5000,           /* look this often without any NOTIFY: a manager may have died while it muted */
    QUIET_MS = 60 * 1000,     /* between cycles while nobody polls: see stats_writer.h */
    NUMBERS_MS = 2 * LOOK_MS  /* for so long after a look the workers rely on this relay to number */
};

/* Topics that one statement is about. */
struct list {
    struct poll_topic *topics;
    int *topic_numbers;
    int64_t *positions;
    int count;
};

/* One batch of statements in progress. */
struct cycle {
    /* Index of each statement in the batch; -1: not in this batch. */
    int listen_at, unmute_at, numbering_at, newest_at, open_at, read_at;
    enum notify_throttle_action action;
    int questions[QUESTIONS]; /* the workers that asked; WORKER_QUEUE_NONE: it has died since */
    int question_count;
    bool full;            /* read all topics, not only those with news */
    bool look;            /* its numbering is the look that workers wait for */
    int64_t backlog_end;  /* where a backlog that is being numbered ends; 0: none */
    int64_t numbered_to;  /* all that its numbering saw has a position up to this one; 0: unknown */
    int64_t announced_to; /* the last position announced before the batch began */
    struct list listen, newest, read, unlisten;
};

struct relay {
    const struct config *config;
    struct scoreboard *scoreboard;
    struct database *database;
    struct subscriptions subscriptions;
    int *to_wake; /* topics that got messages and whose waiters must be woken */
    int to_wake_count;
    struct worker_queue pending; /* workers whose questions wait for the next cycle */
    struct announcements announcements;
    int64_t complete_to; /* the message ring has every message up to this position; 0: unknown */
    struct notify_throttle throttle;
    struct query_batch batch;
    struct cycle cycle;
    uint64_t cycle_number;
    bool looking;            /* a look of look.h was begun and has not ended */
    int64_t look_to;         /* it ends when the ring is complete up to this position; 0: unknown yet */
    int64_t look_refused_ms; /* when it is refused, if the ring is not complete by then */
    enum error logged_error; /* of the connection; logged once while it lasts */
    bool is_lost;            /* the connection was lost or could not be opened, and has not worked since */
    bool relisten;           /* the connection is new and LISTENs to nothing yet */
    bool read_only;          /* the database was read-only in the last batch that numbered */
    struct open_to_all *open_to_all;
    struct backoff backoff; /* says when to connect again */
    int64_t full_ms;        /* time of the next full read */
    int64_t sweep_ms;       /* time of the next search for unused topics */
    int64_t look_ms;        /* time of the next look for messages without a position */
    struct printbuf *json;
};

/* ---- memory */

static bool list_init(struct list *list, int capacity)
{
    list->topics = calloc((size_t)capacity, sizeof *list->topics);
    list->topic_numbers = calloc((size_t)capacity, sizeof *list->topic_numbers);
    list->positions = calloc((size_t)capacity, sizeof *list->positions);
    return list->topics && list->topic_numbers && list->positions;
}

static void list_release(struct list *list)
{
    free(list->topics);
    free(list->topic_numbers);
    free(list->positions);
}

static void list_add(struct list *list, const char *name, int topic, int64_t position)
{
    list->topics[list->count] = (struct poll_topic){ .name = name, .length = strlen(name) };
    list->topic_numbers[list->count] = topic;
    list->positions[list->count] = position;
    list->count++;
}

struct relay *relay_new(const struct config *config, struct scoreboard *scoreboard, struct open_to_all *open)
{
    struct relay *relay = calloc(1, sizeof *relay);
    int capacity = topic_table_size(scoreboard->topics);

    if (!relay)
        return NULL;
    relay->config = config;
    relay->scoreboard = scoreboard;
    relay->backoff = BACKOFF_DATABASE;
    relay->open_to_all = open;
    relay->announcements = (struct announcements){ .scoreboard = scoreboard,
                                                   .subscriptions = &relay->subscriptions,
                                                   .throttle = &relay->throttle };
    relay->database = database_new(config->query_timeout_s * 1000);
    relay->to_wake = calloc((size_t)capacity, sizeof *relay->to_wake);
    relay->json = printbuf_new();
    (void)snprintf(scoreboard->self_topic, sizeof scoreboard->self_topic, "\001%.80s/%d", config->host,
                   (int)getpid());
    if (!subscriptions_init(&relay->subscriptions, scoreboard) || !relay->database || !relay->to_wake ||
        !worker_queue_init(&relay->pending, scoreboard->worker_count) || !relay->json ||
        !list_init(&relay->cycle.listen, capacity + 1) || !list_init(&relay->cycle.newest, capacity) ||
        !list_init(&relay->cycle.read, capacity) || !list_init(&relay->cycle.unlisten, capacity)) {
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
    free(relay->to_wake);
    worker_queue_release(&relay->pending);
    announcements_release(&relay->announcements);
    printbuf_free(relay->json);
    list_release(&relay->cycle.listen);
    list_release(&relay->cycle.newest);
    list_release(&relay->cycle.read);
    list_release(&relay->cycle.unlisten);
    free(relay);
}

/* ---- composing a cycle's batch of statements */

static const char *name_of(const struct relay *relay, int topic)
{
    return subscriptions_name(&relay->subscriptions, topic);
}

/* When to search for unused topics next. */
static int64_t sweep_due_ms(const struct relay *relay, int64_t now_ms)
{
    return now_ms + subscriptions_linger_ms(&relay->subscriptions) / 4;
}

static struct statement *add_statement(struct relay *relay, const char *sql, int *at)
{
    *at = relay->batch.count;
    return query_batch_add(&relay->batch, sql);
}

/* Adds one question's topics to the lists. */
static void list_question(struct relay *relay, struct question *question, int64_t now_ms)
{
    struct cycle *cycle = &relay->cycle;

    for (int i = 0; i < question->topic_count; i++) {
        int topic = subscriptions_add(&relay->subscriptions, question->topics[i].name,
                                      question->topics[i].length, now_ms);
        struct subscription *subscription = &relay->subscriptions.by_topic[topic < 0 ? 0 : topic];

        question->topics[i].number = topic;
        if (topic < 0 || subscription->cycle == relay->cycle_number)
            continue;
        subscription->cycle = relay->cycle_number;
        subscription->newest_at = cycle->newest.count;
        subscription->used_ms = now_ms;
        list_add(&cycle->newest, name_of(relay, topic), topic, CATCH_UP_FROM_NOW);
        if (!subscription->listening && !relay->relisten)
            list_add(&cycle->listen, name_of(relay, topic), topic, 0);
    }
}

/* Adds as many questions as fit into one cycle. */
static void list_questions(struct relay *relay, int64_t now_ms)
{
    struct cycle *cycle = &relay->cycle;
    int worker;

    while (cycle->question_count < QUESTIONS &&
           (worker = worker_queue_take(&relay->pending)) != WORKER_QUEUE_NONE) {
        cycle->questions[cycle->question_count++] = worker;
        list_question(relay, scoreboard_question(relay->scoreboard, worker), now_ms);
    }
    /* The topics added may have made room short, and unused topics then linger less long. */
    relay->sweep_ms = clock_min(relay->sweep_ms, sweep_due_ms(relay, now_ms));
}

/* Begins the look that workers ask for, unless one is under way. */
static void list_look(struct relay *relay, int64_t now_ms)
{
    if (!relay->looking && look_is_wanted(relay->scoreboard)) {
        look_begin(relay->scoreboard);
        relay->looking = true;
        relay->look_to = 0;
        relay->look_refused_ms = now_ms + LOOK_PATIENCE_MS;
    }
    relay->cycle.look = relay->looking && relay->look_to == 0;
}

static void list_read(struct relay *relay, int topic)
{
    if (relay->subscriptions.by_topic[topic].open)
        list_add(&relay->cycle.read, name_of(relay, topic), topic,
                 subscriptions_newest(&relay->subscriptions, topic));
}

static void list_reads(struct relay *relay)
{
    const struct subscriptions *all = &relay->subscriptions;
    const int *numbers = relay->cycle.full ? all->used : all->news;
    int count = relay->cycle.full ? all->used_count : all->news_count;

    for (int i = 0; i < count; i++)
        list_read(relay, numbers[i]);
    subscriptions_forget_news(&relay->subscriptions);
    relay->cycle.announced_to = relay->announcements.last;
    /* Nothing to read: the announced messages are of other topics, or in the ring already. */
    if (relay->cycle.read.count == 0) {
        relay->announcements.count = 0;
        relay->complete_to = clock_max(relay->complete_to, relay->announcements.last);
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

/* Numbers new messages, before anything is read in the same batch. */
static bool numbering_statements(struct relay *relay, int64_t now_ms)
{
    struct cycle *cycle = &relay->cycle;
    struct statement *statement;

    cycle->action = NOTIFY_THROTTLE_LEAVE;
    /* First read what others have numbered, so that our next batch continues where the ring ends. */
    if (!cycle->full && !cycle->look && cycle->question_count == 0 &&
        (cycle->read.count > 0 ||
         now_ms < clock_min(relay->look_ms, notify_throttle_due_ms(&relay->throttle))))
        return true;
    relay->look_ms = now_ms + LOOK_MS;
    cycle->action = notify_throttle_look(&relay->throttle, now_ms);
    if (cycle->action == NOTIFY_THROTTLE_MUTE) {
        statement =
            query_batch_add(&relay->batch, "SELECT pgpoll.mute_doorbell($1) WHERE " STATEMENT_WRITABLE);
        if (!statement_add_int4(statement, NOTIFY_THROTTLE_MUTE_MS))
            return false;
    } else if (cycle->action == NOTIFY_THROTTLE_UNMUTE) {
        (void)add_statement(relay, "SELECT pgpoll.unmute_doorbell() WHERE " STATEMENT_WRITABLE,
                            &cycle->unmute_at);
    }
    return catch_up_batch_statement(add_statement(relay, NULL, &cycle->numbering_at), READ_MESSAGES,
                                    READ_BYTES);
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
        int topic = relay->subscriptions.used[i];

        if (subscriptions_is_unused(&relay->subscriptions, topic, now_ms) &&
            relay->subscriptions.by_topic[topic].cycle != relay->cycle_number)
            list_add(&cycle->unlisten, name_of(relay, topic), topic, 0);
    }
    if (cycle->unlisten.count == 0)
        return true;
    statement = query_batch_add(&relay->batch, "SELECT pgpoll.unlisten($1)");
    return statement_add_topics(statement, cycle->unlisten.topics, cycle->unlisten.count);
}

/*
 * Composes all statements that are due. LISTEN comes first, so that it has taken effect when the reads begin.
 */
static bool compose(struct relay *relay, int64_t now_ms)
{
    struct cycle *cycle = &relay->cycle;
    bool made;

    cycle->listen_at = cycle->unmute_at = cycle->numbering_at = cycle->newest_at = cycle->open_at =
        cycle->read_at = -1;
    cycle->backlog_end = cycle->numbered_to = 0;
    cycle->full = relay->relisten || now_ms >= relay->full_ms;
    relay->cycle_number++;
    list_look(relay, now_ms);
    if (cycle->full)
        relay->full_ms = now_ms + relay->config->reread_s * 1000;
    list_reads(relay);
    list_questions(relay, now_ms);
    made = listen_statement(relay) && numbering_statements(relay, now_ms) &&
           read_statement(relay, &cycle->newest, 1, &cycle->newest_at) &&
           read_statement(relay, &cycle->read, READ_MESSAGES, &cycle->read_at) &&
           unlisten_statement(relay, now_ms);
    if (now_ms >= open_to_all_due_ms(relay->open_to_all))
        (void)add_statement(relay, open_to_all_ask(relay->open_to_all, now_ms), &cycle->open_at);
    return made;
}

/* ---- reading a cycle's results */

static void take_channels(struct relay *relay, const PGresult *result)
{
    const struct list *list = &relay->cycle.listen;

    for (int i = 0; i < list->count && i < PQntuples(result); i++) {
        const char *channel = PQgetvalue(result, i, 0);

        if (list->topic_numbers[i] < 0)
            (void)snprintf(relay->announcements.self_channel, sizeof relay->announcements.self_channel, "%s",
                           channel);
        else
            subscriptions_set_channel(&relay->subscriptions, list->topic_numbers[i], channel);
    }
    if (relay->relisten) {
        relay->announcements.heard_ms = clock_monotonic_ms();
        atomic_store(&relay->scoreboard->heartbeat_wanted, 1);
        latch_wake_stats_writer(relay->scoreboard);
    }
    relay->relisten = false;
}

/* The database was restored to an earlier state: positions in the ring may be given to other messages. */
static void clear_ring(struct relay *relay, int topic, int64_t position)
{
    log_write(LOG_LEVEL_WARNING, "the database was restored to an earlier state: clearing the message ring");
    relay->complete_to = 0;
    ring_reset(relay->scoreboard->ring);
    ring_open(relay->scoreboard->ring, topic, position);
    wait_sets_wake(relay->scoreboard, topic);
}

/*
 * Takes the newest position of each topic asked about. From there on, the ring is complete for a new topic.
 */
static void take_newest(struct relay *relay, const PGresult *result)
{
    struct list *list = &relay->cycle.newest;

    for (int i = 0; i < PQntuples(result); i++) {
        struct catch_up_row row = catch_up_row(result, i);
        int topic = list->topic_numbers[row.topic_index];

        if (row.kind != CATCH_UP_TOPIC)
            continue;
        list->positions[row.topic_index] = row.newest;
        if (row.topic.start > row.newest)
            relay->cycle.backlog_end = row.topic.start;
        if (!relay->subscriptions.by_topic[topic].open)
            ring_open(relay->scoreboard->ring, topic, row.newest);
        else if (row.newest < subscriptions_newest(&relay->subscriptions, topic))
            clear_ring(relay, topic, row.newest);
        relay->subscriptions.by_topic[topic].open = true;
    }
}

/*
 * Takes a topic's row of a read, which tells of messages pruned before they were read, or of a restored
 * database.
 */
static void take_start(struct relay *relay, int topic, const struct catch_up_row *row)
{
    if (row->topic.gap == GAP_AHEAD) {
        clear_ring(relay, topic, row->newest);
    } else if (row->topic.gap == GAP_EXPIRED) {
        ring_skip(relay->scoreboard->ring, topic, row->topic.start);
        wait_sets_wake(relay->scoreboard, topic);
    }
}

static void append_message(struct relay *relay, int topic, const struct message *message)
{
    struct subscription *subscription = &relay->subscriptions.by_topic[topic];
    struct ring_message entry = { .position = message->position };

    if (message->position <= subscriptions_newest(&relay->subscriptions, topic))
        return;
    printbuf_reset(relay->json);
    /* Without memory for the JSON, the ring gets the position only, and workers have the table read. */
    if (message_append(relay->json, subscription->quoted, message)) {
        entry.json = relay->json->buf;
        entry.length = (size_t)printbuf_length(relay->json);
    }
    entry.bytes = (int64_t)(message->payload_length + message->metadata_length);
    ring_append(relay->scoreboard->ring, topic, &entry);
    if (!subscription->wake)
        relay->to_wake[relay->to_wake_count++] = topic;
    subscription->wake = true;
}

static void wake_waiters(struct relay *relay)
{
    for (int i = 0; i < relay->to_wake_count; i++) {
        relay->subscriptions.by_topic[relay->to_wake[i]].wake = false;
        wait_sets_wake(relay->scoreboard, relay->to_wake[i]);
    }
    relay->to_wake_count = 0;
}

/* A read-only database numbers nothing, but messages that have a position are still delivered. */
static void set_read_only(struct relay *relay, bool read_only)
{
    if (read_only)
        relay->look_ms = clock_min(relay->look_ms, clock_monotonic_ms() + READ_ONLY_LOOK_MS);
    database_note_read_only(&relay->read_only, read_only);
}

/* Until when workers may leave it to this relay to number: only if it hears of new messages. */
static void set_numbers_until(struct relay *relay, bool numbers)
{
    atomic_store(
        &relay->scoreboard->manager->numbers_until_ms,
        numbers && atomic_load(&relay->scoreboard->listen_works) ? relay->batch.started_ms + NUMBERS_MS : 0);
}

/*
 * Takes the messages of a batch that this manager numbered. If the batch continues where the ring ends, they
 * go into the ring at once. If not, others have numbered messages in between; all are announced, and are read
 * in order.
 */
static void take_batch(struct relay *relay, const PGresult *result)
{
    struct cycle *cycle = &relay->cycle;
    struct catch_up_batch batch = catch_up_batch(result);
    bool all_notify = cycle->unmute_at >= 0 && database_is_true(relay->batch.results[cycle->unmute_at]);

    notify_throttle_found(&relay->throttle, cycle->action, all_notify, batch.assigned, clock_monotonic_ms());
    set_read_only(relay, batch.read_only);
    set_numbers_until(relay, !batch.read_only);
    if (batch.more)
        notify_throttle_hear(&relay->throttle); /* the next cycle continues, and answers questions as well */
    if (batch.read_only || batch.more) /* what is committed need not have a position: refuse the look */
        relay->look_refused_ms = 0;
    if (batch.read_only)
        return;
    if (!batch.more && batch.assigned == 0)
        cycle->numbered_to = batch.previous;
    else if (!batch.more && batch.message_count > 0)
        cycle->numbered_to = catch_up_message(result, batch.message_count - 1).position;
    /* No position above batch.previous existed: the announcement was forged, so what it led to is unknown. */
    if (PQntuples(result) > 0 && relay->announcements.last > batch.previous)
        relay->announcements.last = relay->complete_to = cycle->announced_to = relay->full_ms = 0;
    if (batch.message_count == 0 || batch.previous != relay->complete_to ||
        (cycle->read_at >= 0 && !cycle->full))
        return;
    for (int i = 0; i < batch.message_count; i++) {
        struct message message = catch_up_message(result, i);
        struct ring_topic_ref ref;

        if (topic_table_find(relay->scoreboard->topics, relay->scoreboard->ring, PQgetvalue(result, i, 0),
                             (size_t)PQgetlength(result, i, 0), &ref))
            append_message(relay, ref.topic, &message);
        relay->complete_to = message.position;
    }
    wake_waiters(relay);
}

/*
 * How many rows of a read may be used (relay.h): all of a full read, otherwise those up to the last message
 * whose position was announced, by itself or as part of a batch.
 */
static int usable_rows(const struct relay *relay, const PGresult *result)
{
    int rows = PQntuples(result);

    if (relay->cycle.full)
        return rows;
    while (rows > 0) {
        struct catch_up_row row = catch_up_row(result, rows - 1);

        if (row.kind == CATCH_UP_TOPIC)
            break;
        /* An announced position need not be on this page: it may be on a later one, or deleted. */
        if (row.kind == CATCH_UP_MESSAGE && (row.message.position <= relay->cycle.announced_to ||
                                             announcements_has(&relay->announcements, row.message.position)))
            break;
        rows--;
    }
    return rows;
}

/*
 * Takes the messages of a read. Returns whether it reached the end, so that everything announced is in the
 * ring.
 */
static bool take_news(struct relay *relay, const PGresult *result)
{
    const struct list *list = &relay->cycle.read;
    int total = PQntuples(result), rows = usable_rows(relay, result);
    bool more = total > 0 && catch_up_row(result, total - 1).kind == CATCH_UP_MORE;

    for (int i = 0; i < rows; i++) {
        struct catch_up_row row = catch_up_row(result, i);
        int topic = list->topic_numbers[row.topic_index];

        if (row.kind == CATCH_UP_TOPIC)
            take_start(relay, topic, &row);
        else if (row.kind == CATCH_UP_MESSAGE)
            append_message(relay, topic, &row.message);
    }
    wake_waiters(relay);
    /* The next cycle reads on, for which the announced positions are kept. */
    for (int i = 0; more && i < list->count; i++)
        subscriptions_have_news(&relay->subscriptions, list->topic_numbers[i]);
    if (!more)
        relay->announcements.count = 0;
    else if (relay->cycle.full)
        relay->full_ms = 0;
    if (!more && rows < total && relay->full_ms > clock_monotonic_ms() + CONFIRM_MS)
        relay->full_ms = clock_monotonic_ms() + CONFIRM_MS;
    return !more;
}

/* After a full read that came after the numbering, the ring has all that the numbering saw. */
static void complete_ring(struct relay *relay, bool read_all)
{
    if (read_all)
        relay->complete_to = clock_max(relay->complete_to, relay->cycle.announced_to);
    if (read_all && relay->cycle.full)
        relay->complete_to = clock_max(relay->complete_to, relay->cycle.numbered_to);
}

static void end_look(struct relay *relay, enum look_state state)
{
    if (relay->looking)
        look_end(relay->scoreboard, state);
    relay->looking = false;
}

/*
 * Ends the look if the ring is complete. If not, others have numbered something that is not in the ring yet:
 * their announcements are under way.
 */
static void check_look(struct relay *relay)
{
    if (relay->cycle.look)
        relay->look_to = relay->cycle.numbered_to;
    if (relay->look_to > 0 && relay->complete_to >= relay->look_to)
        end_look(relay, LOOK_DONE);
    else if (clock_monotonic_ms() >= relay->look_refused_ms)
        end_look(relay, LOOK_REFUSED);
}

static void answer_questions(struct relay *relay)
{
    struct cycle *cycle = &relay->cycle;

    for (int i = 0; i < cycle->question_count; i++) {
        const struct question *question;
        struct reply *reply;

        if (cycle->questions[i] == WORKER_QUEUE_NONE)
            continue;
        question = scoreboard_question(relay->scoreboard, cycle->questions[i]);
        reply = scoreboard_reply(relay->scoreboard, cycle->questions[i]);
        for (int k = 0; k < question->topic_count; k++) {
            struct reply_topic *answer = &reply->topics[k];
            int topic = question->topics[k].number;

            if (topic >= 0 && ring_find(relay->scoreboard->ring, topic, &answer->ref)) {
                answer->newest = cycle->newest.positions[relay->subscriptions.by_topic[topic].newest_at];
                answer->now = clock_max(answer->newest, cycle->backlog_end);
            } else {
                answer->ref = RING_NO_TOPIC;
                answer->newest = answer->now = CATCH_UP_FROM_NOW;
            }
        }
        question_answer(relay->scoreboard, cycle->questions[i], ERROR_NONE);
    }
}

static void succeed(struct relay *relay)
{
    struct cycle *cycle = &relay->cycle;

    if (relay->logged_error)
        log_write(LOG_LEVEL_INFO, "connected to the database again");
    if (relay->is_lost)
        counters_add(&relay->scoreboard->counters, COUNTER_RECONNECTS, 1);
    relay->is_lost = false;
    relay->logged_error = ERROR_NONE;
    backoff_reset(&relay->backoff);
    if (cycle->listen_at >= 0)
        take_channels(relay, relay->batch.results[cycle->listen_at]);
    if (cycle->numbering_at >= 0)
        take_batch(relay, relay->batch.results[cycle->numbering_at]);
    if (cycle->newest_at >= 0)
        take_newest(relay, relay->batch.results[cycle->newest_at]);
    complete_ring(relay, cycle->read_at < 0 || take_news(relay, relay->batch.results[cycle->read_at]));
    if (cycle->open_at >= 0)
        open_to_all_take(relay->open_to_all, relay->batch.results[cycle->open_at], relay->batch.started_ms);
    answer_questions(relay);
    check_look(relay);
    for (int i = 0; i < cycle->unlisten.count; i++)
        subscriptions_remove(&relay->subscriptions, cycle->unlisten.topic_numbers[i]);
}

/* Closes the connection; the next one is opened after a pause. */
static void reconnect(struct relay *relay)
{
    relay->is_lost = true;
    announcements_lose(&relay->announcements);
    set_numbers_until(relay, false);
    database_close(relay->database, NULL);
    backoff_fail(&relay->backoff, clock_monotonic_ms());
}

/* The cycle failed: its questions and its topics with news go back to wait for the next one. */
static void fail(struct relay *relay, enum error error)
{
    struct cycle *cycle = &relay->cycle;

    for (int i = 0; i < cycle->read.count; i++)
        subscriptions_have_news(&relay->subscriptions, cycle->read.topic_numbers[i]);
    for (int i = 0; i < cycle->unlisten.count; i++) /* UNLISTEN may have taken effect before the error */
        subscriptions_remove(&relay->subscriptions, cycle->unlisten.topic_numbers[i]);
    worker_queue_put_back(&relay->pending, cycle->questions, cycle->question_count);
    end_look(relay, LOOK_REFUSED);
    if (relay->logged_error != error)
        log_write(error_log_level(error), "LISTEN connection failed, reconnecting: %s",
                  database_error(relay->database));
    relay->logged_error = error;
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

/* ---- the interface to the manager's loop */

struct pollfd relay_pollfd(const struct relay *relay)
{
    return database_pollfd(relay->database);
}

/* When the next cycle is due because of a look. */
static int64_t look_due_ms(const struct relay *relay)
{
    if (!relay->looking)
        return look_is_wanted(relay->scoreboard) ? 0 : INT64_MAX;
    return relay->look_to == 0 || relay->announcements.last >= relay->look_to ? 0 : relay->look_refused_ms;
}

/* When the next cycle is due without any news or question. */
static int64_t routine_due_ms(const struct relay *relay)
{
    const int64_t due_ms = clock_min(clock_min(relay->full_ms, relay->look_ms), relay->sweep_ms);

    return atomic_load(&relay->scoreboard->is_quiet) ? clock_max(due_ms, relay->batch.started_ms + QUIET_MS)
                                                     : due_ms;
}

int64_t relay_due_ms(const struct relay *relay)
{
    if (relay->batch.running)
        return query_batch_due_ms(&relay->batch);
    if (!database_is_connected(relay->database))
        return relay->backoff.due_ms;
    if (relay->pending.count > 0 || relay->subscriptions.news_count > 0)
        return 0;
    return clock_min(
        clock_min(routine_due_ms(relay),
                  clock_min(look_due_ms(relay), notify_throttle_due_ms(&relay->throttle))),
        clock_min(announcements_deaf_ms(&relay->announcements), open_to_all_due_ms(relay->open_to_all)));
}

static void begin(struct relay *relay, int64_t now_ms)
{
    enum error error = ERROR_MEMORY;

    if (!database_is_connected(relay->database)) {
        relay->relisten = true;
        /*
         * The previous session may have muted publishers: look until unmute_doorbell() says that all NOTIFY
         * again.
         */
        relay->throttle = (struct notify_throttle){ .heard = true, .muting = true };
        relay->announcements.last = relay->complete_to = 0;
        subscriptions_lose(&relay->subscriptions);
    }
    announcements_sort(&relay->announcements);
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
    announcements_take(&relay->announcements, relay->database, relay->complete_to);
    if (database_is_connected(relay->database) && now_ms >= announcements_deaf_ms(&relay->announcements)) {
        announcements_set_deaf(&relay->announcements);
        reconnect(relay);
    }
    if (relay_due_ms(relay) <= now_ms)
        begin(relay, now_ms);
    look_watch(relay->scoreboard, relay->batch.running);
}

void relay_ask(struct relay *relay, int worker)
{
    worker_queue_add(&relay->pending, worker);
}

void relay_forget_worker(struct relay *relay, int worker)
{
    worker_queue_remove(&relay->pending, worker);
    for (int i = 0; i < relay->cycle.question_count; i++)
        if (relay->cycle.questions[i] == worker)
            relay->cycle.questions[i] = WORKER_QUEUE_NONE;
}
