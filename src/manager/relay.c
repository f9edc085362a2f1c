#include "manager/relay.h"

#include "api/message.h"
#include "api/poll_request.h"
#include "core/backoff.h"
#include "core/clock.h"
#include "core/config.h"
#include "core/log.h"
#include "core/utf8.h"
#include "manager/announcements.h"
#include "manager/notify_throttle.h"
#include "manager/open_to_all.h"
#include "manager/read_pace.h"
#include "manager/subscriptions.h"
#include "manager/worker_queue.h"
#include "postgres/calls.h"
#include "postgres/catch_up.h"
#include "postgres/database.h"
#include "postgres/query_batch.h"
#include "shared/latch.h"
#include "shared/look.h"
#include "shared/question.h"
#include "shared/read_permits.h"
#include "shared/scoreboard.h"
#include "shared/topic_table.h"
#include "shared/wait_sets.h"

#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    READ_MESSAGES = 1000, /* maximum number of messages in one read and in one batch of positions */
    READ_BYTES = 8 * 1024 * 1024,
    /* if there are at most this many topics, the messages of others are not asked for */
    LISTED_TOPICS = 100,
    QUESTIONS = 512, /* maximum number of questions that one cycle answers */
    /* maximum number of topics in a cycle's questions, unless it has only one question */
    QUESTION_TOPICS = 5000,
    /* if the database was away for longer, the ring does not catch up but starts anew */
    LONG_AWAY_MS = 10 * 1000,
    READ_ONLY_LOOK_MS = 1000, /* how often to check whether a read-only database has become writable */
    LOOK_PATIENCE_MS = 20, /* a look waits this long for messages that the first read did not return whole */
    /* questions and looks wait for a backlog that takes fewer cycles, of about 50 ms at most each */
    BACKLOG_CYCLES = 8,
    /* look this often without any NOTIFY, because a manager may have died after it muted publishers */
    LOOK_MS = 5000,
    IDLE_CYCLE_MS = 60 * 1000, /* time between two cycles while nobody polls: see stats_writer.h */
    /* catch_up_followed_statement() is not tried again for this long after it has failed */
    FOLLOW_AGAIN_MS = 60 * 1000,
    NUMBERS_MS = 2 * LOOK_MS, /* workers rely on this relay to number for this long after a look */
    SELF_HOST_BYTES = 80,     /* how much of the host's name is in the topic of the heartbeats */
    SWEEP_PAUSE_MS = 1, /* between two parts of a search for unused topics, in which messages are delivered */
    NO_CYCLE = 0
};

/* The topics that a cycle asks about. */
struct asked {
    struct poll_topic *topics;
    int *numbers;
    struct catch_up_newest *newest;
    int count;
};

/* One batch of statements in progress. */
struct cycle {
    /* Index of each statement in the batch; -1: the statement is not in this batch. */
    int listen_at, prepare_follow_at, lead_at, unmute_at, messages_at, newest_at, open_at;
    /* What each statement is to do, for the log line that says that the manager cannot do it. */
    const char *purposes[QUERY_BATCH_MAX_STATEMENTS];
    enum notify_throttle_action action;
    bool numbers;             /* the statement at messages_at gives positions before it reads */
    bool follows;             /* the statement at messages_at is that of catch_up_followed_statement() */
    bool skips;               /* empty the ring and close all topics, so that their waiters ask again */
    int questions[QUESTIONS]; /* the workers that asked; WORKER_QUEUE_NONE: the worker has died since */
    int question_count;
    bool look; /* this cycle begins the look that workers wait for */
    struct asked asked;
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
    /* The ring has every message of open topics up to this position. CATCH_UP_FROM_NOW: no topic is open. */
    int64_t complete_to;
    /* messages up to this position were deleted before they were read, and the ring was restarted for that */
    int64_t deleted_to;
    struct notify_throttle throttle;
    struct read_pace read_pace;
    struct query_batch batch;
    struct cycle cycle;
    uint64_t cycle_number;
    int64_t cycle_began_us;
    bool looking;            /* a look (look.h) was begun and has not ended */
    bool look_fails;         /* not all that is committed has a position, so the look is refused at once */
    int64_t look_refused_ms; /* when the look is refused, unless the ring is complete before */
    bool caught_up;          /* the cycle's read has reached the last message that has a position */
    int backlog_cycles;      /* how many cycles in a row have left a backlog */
    enum error logged_error; /* the last error that was logged; it is not logged again while it lasts */
    bool is_lost;            /* the connection was lost or could not be opened, and has not worked since */
    int64_t away_since_ms;   /* since when the connection has not worked; 0: it works */
    bool relisten;           /* the connection is new and LISTENs to nothing yet */
    bool prepared;           /* the session keeps the statements that read messages */
    bool follow_prepared;    /* it also keeps that of catch_up_followed_statement() */
    bool needs_page;         /* the last read could not tell what follows, so read_feed() must */
    bool never_prepares;     /* the session turned out to be shared with others */
    int64_t follow_ms;       /* when to prepare that of catch_up_followed_statement() at the earliest */
    char server[64];         /* identifies the server by the time of its start, and the table by its OID */
    bool read_only;          /* the database was read-only in the last batch that numbered */
    struct open_to_all *open_to_all;
    struct backoff backoff; /* the relay connects again from backoff.due_ms on */
    int64_t worked_ms;      /* when the last cycle succeeded */
    int64_t sweep_ms;       /* when to search for unused topics next */
    int64_t look_ms;        /* when to look for messages without a position next */
    struct printbuf *json;
};

/* ---- memory */

static bool asked_init(struct asked *asked, int capacity)
{
    asked->topics = calloc((size_t)capacity, sizeof *asked->topics);
    asked->numbers = calloc((size_t)capacity, sizeof *asked->numbers);
    asked->newest = calloc((size_t)capacity, sizeof *asked->newest);
    return asked->topics && asked->numbers && asked->newest;
}

static void asked_release(struct asked *asked)
{
    free(asked->topics);
    free(asked->numbers);
    free(asked->newest);
}

struct relay *relay_new(const struct config *config, struct scoreboard *scoreboard, struct open_to_all *open)
{
    struct relay *relay = calloc(1, sizeof *relay);

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
    relay->complete_to = CATCH_UP_FROM_NOW;
    read_pace_init(&relay->read_pace, scoreboard->read_permits);
    relay->away_since_ms = clock_monotonic_ms();
    relay->to_wake = calloc(READ_MESSAGES, sizeof *relay->to_wake);
    relay->json = printbuf_new();
    /* Cut the host's name between two characters: the database refuses text that is not valid UTF-8. */
    (void)snprintf(scoreboard->self_topic, sizeof scoreboard->self_topic, "\001%.*s/%d",
                   (int)utf8_valid_length(config->host, strnlen(config->host, SELF_HOST_BYTES)), config->host,
                   (int)getpid());
    if (!subscriptions_init(&relay->subscriptions, scoreboard) || !relay->database || !relay->to_wake ||
        !worker_queue_init(&relay->pending, scoreboard->worker_count) || !relay->json ||
        !asked_init(&relay->cycle.asked, QUESTION_TOPICS + scoreboard->max_topics)) {
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
    printbuf_free(relay->json);
    asked_release(&relay->cycle.asked);
    free(relay);
}

/* ---- composing a cycle's batch of statements */

/* Returns when to search for unused topics next. */
static int64_t sweep_due_ms(const struct relay *relay, int64_t now_ms)
{
    return now_ms + subscriptions_linger_ms(&relay->subscriptions) / 4;
}

/* at: unless NULL, is set to the statement's index. */
static struct statement *add_statement(struct relay *relay, const char *purpose, int *at)
{
    if (at)
        *at = relay->batch.count;
    relay->cycle.purposes[relay->batch.count] = purpose;
    return query_batch_add(&relay->batch);
}

/* Adds one question's topics to those that the cycle asks about. */
static void list_question(struct relay *relay, struct question *question, int64_t now_ms)
{
    struct asked *asked = &relay->cycle.asked;

    for (int i = 0; i < question->topic_count; i++) {
        struct question_topic *topic = &question->topics[i];
        struct subscription *subscription;

        topic->number =
            subscriptions_add(&relay->subscriptions, topic->name, topic->length, now_ms, relay->cycle_number);
        if (topic->number < 0)
            continue;
        subscription = &relay->subscriptions.by_topic[topic->number];
        subscription->used_ms = now_ms;
        if (subscription->cycle == relay->cycle_number)
            continue;
        subscription->cycle = relay->cycle_number;
        subscription->newest_at = asked->count;
        asked->topics[asked->count] = (struct poll_topic){ .name = topic->name, .length = topic->length };
        asked->numbers[asked->count++] = topic->number;
    }
}

/* Adds as many questions as fit into one cycle. */
static void list_questions(struct relay *relay, int64_t now_ms)
{
    struct cycle *cycle = &relay->cycle;
    int worker;

    while (cycle->question_count < QUESTIONS && cycle->asked.count < QUESTION_TOPICS &&
           (worker = worker_queue_take(&relay->pending)) != WORKER_QUEUE_NONE) {
        cycle->questions[cycle->question_count++] = worker;
        list_question(relay, scoreboard_question(relay->scoreboard, worker), now_ms);
    }
    /* The new topics may have made numbers scarce; then unused topics are removed sooner. */
    relay->sweep_ms = clock_min(relay->sweep_ms, sweep_due_ms(relay, now_ms));
}

/* Begins the look that workers ask for, unless one is under way. */
static void list_look(struct relay *relay, int64_t now_ms)
{
    relay->cycle.look = !relay->looking && look_is_wanted(relay->scoreboard);
    if (!relay->cycle.look)
        return;
    look_begin(relay->scoreboard);
    relay->looking = true;
    relay->look_fails = false;
    relay->look_refused_ms = now_ms + LOOK_PATIENCE_MS;
}

static bool listen_statements(struct relay *relay)
{
    const struct poll_topic self = { .name = relay->scoreboard->self_topic,
                                     .length = strlen(relay->scoreboard->self_topic) };
    static const char PURPOSE[] = "LISTEN";

    if (!relay->relisten)
        return true;
    call_listen_to_batches(add_statement(relay, PURPOSE, NULL));
    return call_listen_to_topic(add_statement(relay, PURPOSE, &relay->cycle.listen_at), &self);
}

/*
 * Prepares the statements that read messages, because to parse and plan them costs a fifth of running them.
 * Waits until a heartbeat has shown that the session is this relay's own: behind a pooler in transaction
 * mode, other sessions would not know the names.
 */
static bool prepare_statements(struct relay *relay)
{
    static const char PURPOSE[] = "prepare the statements that read messages";
    struct statement *new_messages, *read_feed;

    if (relay->prepared || relay->never_prepares || database_is_pooled(relay->database) ||
        !atomic_load(&relay->scoreboard->listen_works))
        return true;
    relay->prepared = true;
    new_messages = add_statement(relay, PURPOSE, NULL);
    read_feed = add_statement(relay, PURPOSE, NULL);
    if (!catch_up_new_statement(new_messages, 0, 0, 0, NULL, 0, true) ||
        !catch_up_feed_statement(read_feed, 0, 0, 0, NULL, 0))
        return false;
    new_messages->use = read_feed->use = STATEMENT_PREPARE;
    return true;
}

/* Prepares the statement that reads as a manager that follows another one. */
static bool prepare_follow(struct relay *relay, int64_t now_ms)
{
    static const char PURPOSE[] = "prepare the statement that reads pgpoll.feed_messages";
    struct statement *followed;

    if (!relay->prepared || relay->follow_prepared || now_ms < relay->follow_ms)
        return true;
    relay->follow_prepared = true;
    call_set_plans(add_statement(relay, PURPOSE, NULL));
    followed = add_statement(relay, PURPOSE, &relay->cycle.prepare_follow_at);
    if (!catch_up_followed_statement(followed, 0))
        return false;
    followed->use = STATEMENT_PREPARE;
    return true;
}

static bool throttle_statement(struct relay *relay, int64_t now_ms)
{
    struct cycle *cycle = &relay->cycle;

    cycle->action = notify_throttle_look(&relay->throttle, now_ms);
    if (cycle->action == NOTIFY_THROTTLE_MUTE)
        return call_mute_doorbell(add_statement(relay, "ask publishers not to NOTIFY", NULL),
                                  NOTIFY_THROTTLE_MUTE_MS);
    if (cycle->action == NOTIFY_THROTTLE_UNMUTE)
        call_unmute_doorbell(add_statement(relay, "ask publishers to NOTIFY again", &cycle->unmute_at));
    return true;
}

/* Copies the names of these topics into memory, which the caller frees. Returns NULL if out of memory. */
static char *list_topics(const struct relay *relay, const int *numbers, int count, struct poll_topic *topics)
{
    char *names = calloc((size_t)count + 1, TOPIC_TABLE_NAME_SIZE);

    for (int i = 0; names && i < count; i++) {
        char *name = names + (size_t)i * TOPIC_TABLE_NAME_SIZE;

        topics[i] = (struct poll_topic){ .name = name };
        topics[i].length = topic_table_name(relay->scoreboard->topics, numbers[i], name);
    }
    return names;
}

/*
 * Makes the statement that reads the messages of wanted topics. While many messages come, it names all
 * topics in use, if they are few, so that the database does not read and send messages that nobody waits
 * for. A topic that is opened later needs none of the messages that this statement gives positions to:
 * its newest position is read after that.
 */
static bool read_wanted(const struct relay *relay, struct statement *statement)
{
    const struct subscriptions *subscriptions = &relay->subscriptions;
    const struct cycle *cycle = &relay->cycle;
    const int64_t after = cycle->skips ? CATCH_UP_FROM_NOW : relay->complete_to;
    const bool all = cycle->numbers && relay->throttle.busy && subscriptions->used_count <= LISTED_TOPICS;
    const int *numbers = all ? subscriptions->used : subscriptions->wanted;
    const int count = all ? subscriptions->used_count : subscriptions->wanted_count;
    struct poll_topic wanted[SUBSCRIPTIONS_MAX_WANTED];
    char *names = list_topics(relay, numbers, count, wanted);
    bool made = names != NULL;

    if (made && cycle->numbers)
        made = catch_up_new_statement(statement, READ_MESSAGES, READ_BYTES, after, wanted, count, !all);
    else if (made)
        made = catch_up_feed_statement(statement, READ_MESSAGES, READ_BYTES, after, wanted, count);
    free(names);
    return made;
}

/* Adds the statement that reads messages. */
static bool read_statement(struct relay *relay)
{
    const char *purpose =
        relay->cycle.numbers ? "give positions to new messages" : "read messages that have positions";
    struct statement *statement = add_statement(relay, purpose, &relay->cycle.messages_at);
    const bool made = relay->cycle.follows ? catch_up_followed_statement(statement, relay->complete_to)
                                           : read_wanted(relay, statement);

    if (made && relay->prepared)
        statement->use = STATEMENT_RUN_PREPARED;
    return made;
}

/*
 * Adds the statement that reads all messages after complete_to, if it is due. If a look is due, or a question
 * must be answered, the statement first gives positions to new messages, because the answer to a question
 * must count all that was committed before.
 */
static bool messages_statement(struct relay *relay, int64_t now_ms)
{
    struct cycle *cycle = &relay->cycle;

    cycle->numbers = cycle->question_count > 0 || cycle->look ||
                     now_ms >= clock_min(relay->look_ms, notify_throttle_due_ms(&relay->throttle));
    if (!cycle->numbers && now_ms < announcements_due_ms(&relay->announcements))
        return true;
    if (cycle->numbers) {
        relay->look_ms = now_ms + clock_min(LOOK_MS, relay->config->reread_s * 1000);
        /*
         * The manager that holds this lock leads. If anybody else takes it, no manager leads, which only
         * costs 50 to 500 ms now and then.
         */
        if (relay->throttle.follows)
            call_lead(add_statement(relay, "ask whether this manager leads", &cycle->lead_at));
        if (!throttle_statement(relay, now_ms))
            return false;
    }
    cycle->follows = relay->follow_prepared && !cycle->numbers && !cycle->skips && !relay->needs_page &&
                     !relay->announcements.others && relay->complete_to != CATCH_UP_FROM_NOW;
    return read_statement(relay);
}

static bool newest_statement(struct relay *relay)
{
    const struct asked *asked = &relay->cycle.asked;

    return asked->count == 0 ||
           catch_up_newest_statement(
               add_statement(relay, "read the newest positions of topics", &relay->cycle.newest_at),
               asked->topics, asked->count);
}

/*
 * Composes all statements that are due. LISTEN comes first, so that it has taken effect when the reads begin.
 * The topics' newest positions come after the messages. So a topic that is opened at its newest position
 * lacks nothing that the ring has passed already.
 */
static bool compose(struct relay *relay, int64_t now_ms)
{
    struct cycle *cycle = &relay->cycle;
    bool made;

    cycle->listen_at = cycle->prepare_follow_at = cycle->lead_at = cycle->unmute_at = cycle->messages_at =
        cycle->newest_at = cycle->open_at = -1;
    cycle->skips = relay->relisten && now_ms - relay->worked_ms > LONG_AWAY_MS;
    relay->caught_up = false;
    relay->cycle_number++;
    list_look(relay, now_ms);
    list_questions(relay, now_ms);
    made = listen_statements(relay) && prepare_statements(relay) && prepare_follow(relay, now_ms) &&
           messages_statement(relay, now_ms) && newest_statement(relay);
    if (now_ms >= open_to_all_due_ms(relay->open_to_all))
        open_to_all_ask(relay->open_to_all,
                        add_statement(relay, "ask whether can_poll() and authenticate() are as installed",
                                      &cycle->open_at),
                        now_ms);
    return made;
}

/* ---- reading a cycle's results */

/*
 * Takes the identity of the server after a connection was made. If it is another server, or if this one was
 * restarted, the messages with positions up to complete_to may not be those that the ring has there: a
 * standby may have been promoted, or a backup restored.
 */
static void take_server(struct relay *relay, const PGresult *result)
{
    const char *server = PQgetvalue(result, 0, 1);

    if (strncmp(relay->server, server, sizeof relay->server - 1) != 0)
        relay->cycle.skips = true;
    (void)snprintf(relay->server, sizeof relay->server, "%s", server);
    (void)snprintf(relay->announcements.self_channel, sizeof relay->announcements.self_channel, "%s",
                   PQgetvalue(result, 0, 0));
    relay->announcements.heard_ms = clock_monotonic_ms();
    atomic_store(&relay->scoreboard->heartbeat_wanted, 1);
    latch_wake_stats_writer(relay->scoreboard);
    relay->relisten = false;
}

/*
 * Restarts the ring, which cannot go on from where it ends. Workers ask about all topics again, and read from
 * the table what the ring does not have.
 */
static void restart_ring(struct relay *relay, int64_t complete_to)
{
    subscriptions_close(&relay->subscriptions);
    ring_reset(relay->scoreboard->ring);
    relay->complete_to = complete_to;
}

/* Appends a message, unless the topic was opened at a later position. */
static void append_message(struct relay *relay, int topic, const char *name, size_t name_length,
                           const struct message *message)
{
    struct subscription *subscription = &relay->subscriptions.by_topic[topic];
    struct ring_message entry = { .position = message->position };

    if (message->position <= subscriptions_newest(&relay->subscriptions, topic))
        return;
    printbuf_reset(relay->json);
    /*
     * If the message is too large for a page, or there is no memory for the JSON, the ring gets the position
     * only, and workers have the table read.
     */
    if (message->payload && subscriptions_quote(&relay->subscriptions, topic, name, name_length) &&
        message_append(relay->json, subscription->quoted, message)) {
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

/*
 * Notes whether the database is read-only. If it is, nothing is numbered, but messages that have a position
 * are still delivered.
 */
static void set_read_only(struct relay *relay, bool read_only)
{
    if (read_only)
        relay->look_ms = clock_min(relay->look_ms, clock_monotonic_ms() + READ_ONLY_LOOK_MS);
    database_note_read_only(&relay->read_only, read_only);
}

/*
 * Sets until when workers may rely on this relay to number messages. They may only if the relay hears of new
 * messages.
 */
static void set_numbers_until(struct relay *relay, bool numbers)
{
    atomic_store(
        &relay->scoreboard->manager->numbers_until_ms,
        numbers && atomic_load(&relay->scoreboard->listen_works) ? relay->batch.started_ms + NUMBERS_MS : 0);
}

/*
 * Whether a backlog was left that may end soon. What asks for all that is committed waits for the end of it,
 * unless it is long.
 */
static bool awaits_backlog(const struct relay *relay)
{
    return relay->backlog_cycles > 0 && relay->backlog_cycles < BACKLOG_CYCLES;
}

static void take_numbering(struct relay *relay, const struct catch_up_feed *feed)
{
    struct cycle *cycle = &relay->cycle;
    bool all_notify = cycle->unmute_at >= 0 && database_is_true(relay->batch.results[cycle->unmute_at]);

    notify_throttle_found(&relay->throttle, cycle->action, all_notify, feed->assigned, clock_monotonic_ms());
    set_read_only(relay, feed->read_only);
    set_numbers_until(relay, !feed->read_only);
    relay->backlog_cycles = feed->more ? relay->backlog_cycles + 1 : 0;
    if (feed->more) /* the next cycle goes on numbering */
        notify_throttle_hear(&relay->throttle);
    if (awaits_backlog(relay))
        relay->look_refused_ms = clock_max(relay->look_refused_ms, clock_monotonic_ms() + LOOK_PATIENCE_MS);
    else if (feed->read_only || feed->more)
        relay->look_fails = true;
}

/* Returns the topic of the message in a row of a read, or -1 if the ring does not have the topic. */
static int open_topic(const struct relay *relay, const PGresult *result, int row)
{
    size_t length;
    const char *name = catch_up_topic(result, row, &length);

    return catch_up_is_message(result, row) ? subscriptions_find(&relay->subscriptions, name, length) : -1;
}

/* Makes the next read return the messages of the rest of this page with their payloads. */
static void want_rest(struct relay *relay, const PGresult *result, int row)
{
    subscriptions_want_none(&relay->subscriptions);
    for (; row < PQntuples(result); row++) {
        const int topic = open_topic(relay, result, row);

        if (topic >= 0)
            subscriptions_want(&relay->subscriptions, topic);
    }
}

/*
 * Appends the messages of a page. Returns false if the page lacks the payload of a message, because no
 * announcement named its topic. Then the next read goes on from there.
 */
static bool append_page(struct relay *relay, const PGresult *result)
{
    for (int i = 0; i < PQntuples(result); i++) {
        const int topic = open_topic(relay, result, i);

        if (topic >= 0 && !catch_up_is_whole(result, i)) {
            want_rest(relay, result, i);
            return false;
        }
        if (catch_up_is_message(result, i)) {
            const struct message message = catch_up_message(result, i);
            size_t length;
            const char *name = catch_up_topic(result, i, &length);

            if (topic >= 0)
                append_message(relay, topic, name, length, &message);
            relay->complete_to = message.position;
        }
    }
    return true;
}

/*
 * Restarts the ring if the page does not go on where the ring ends: positions that the ring has may be given
 * to other messages, or messages that it lacks were deleted before they were read, or are not to be read.
 */
static void check_page(struct relay *relay, const struct catch_up_feed *feed)
{
    const bool was_restored = feed->complete_to < relay->complete_to;

    if (was_restored)
        log_write(LOG_LEVEL_WARNING,
                  "the database was restored to an earlier state: clearing the message ring");
    if (was_restored || feed->deleted_to > relay->deleted_to || relay->cycle.skips)
        restart_ring(relay, feed->complete_to);
    relay->deleted_to = clock_max(relay->deleted_to, feed->deleted_to);
}

/*
 * Takes one page of all messages after complete_to, in order of position. Only the page is believed: it lacks
 * no message up to its own complete_to, whatever was announced.
 */
static void take_page(struct relay *relay, const PGresult *result, const struct catch_up_feed *feed)
{
    bool whole;

    if (relay->cycle.numbers)
        take_numbering(relay, feed);
    check_page(relay, feed);
    whole = append_page(relay, result);
    wake_waiters(relay);
    if (whole)
        relay->complete_to = feed->complete_to;
    relay->caught_up = whole && !feed->more;
    relay->needs_page = relay->cycle.follows && !whole;
    if (relay->caught_up)
        announcements_clear(&relay->announcements);
    else
        relay->announcements.urgent = true;
}

/*
 * Opens the topics that were asked about and are not open yet. The ring will have their messages after their
 * newest positions.
 */
static void take_newest(struct relay *relay, const PGresult *result)
{
    struct asked *asked = &relay->cycle.asked;

    for (int i = 0; i < asked->count && i < PQntuples(result); i++) {
        asked->newest[i] = catch_up_newest(result, i);
        if (!relay->subscriptions.by_topic[asked->numbers[i]].open)
            subscriptions_open(&relay->subscriptions, asked->numbers[i], asked->newest[i].newest,
                               asked->newest[i].hash);
    }
}

static enum error answer_question(struct relay *relay, int worker)
{
    const struct question *question = scoreboard_question(relay->scoreboard, worker);
    struct reply *reply = scoreboard_reply(relay->scoreboard, worker);

    for (int i = 0; i < question->topic_count; i++) {
        struct reply_topic *answer = &reply->topics[i];
        const int topic = question->topics[i].number;
        const struct catch_up_newest *newest;

        if (topic < 0 || !ring_find(relay->scoreboard->ring, topic, &answer->ref))
            return ERROR_MEMORY;
        newest = &relay->cycle.asked.newest[relay->subscriptions.by_topic[topic].newest_at];
        answer->newest = newest->newest;
        answer->now = newest->now;
    }
    return ERROR_NONE;
}

/*
 * Reports a cycle that is over, as a measure of how busy the database is. Of the manager that leads, cycles
 * count that have numbered something, and of one that follows, those that have read something.
 */
static void pace_reads(struct relay *relay, const struct catch_up_feed *feed, int messages)
{
    const struct cycle *cycle = &relay->cycle;
    const bool counts =
        relay->throttle.follows ? !cycle->numbers && messages > 0 : cycle->numbers && feed->assigned > 0;

    if (!counts || feed->more)
        return;
    read_pace_take(&relay->read_pace, clock_monotonic_us() - relay->cycle_began_us,
                   messages + cycle->asked.count, read_permits_taken(relay->scoreboard) > 0,
                   clock_monotonic_ms());
    read_permits_allow(relay->scoreboard, relay->read_pace.allowed);
}

/* Takes what the statement at messages_at has read. */
static void take_messages(struct relay *relay)
{
    const struct cycle *cycle = &relay->cycle;
    const PGresult *result = relay->batch.results[cycle->messages_at];
    struct catch_up_feed feed;

    if (!cycle->follows) {
        feed = catch_up_feed(result);
    } else if (!catch_up_followed(result, relay->complete_to, &feed)) {
        relay->needs_page = relay->announcements.urgent = true;
        return;
    }
    if (cycle->listen_at < 0)
        pace_reads(relay, &feed, PQntuples(result) - !catch_up_is_message(result, 0));
    take_page(relay, result, &feed);
}

/*
 * Notes whether this manager leads: pace_reads() measures other cycles of one that leads than of one that
 * follows. The first cycle of a session asks for the lead. A manager that gets it later takes over from one
 * that has gone, whose clients may come to this host, so few readers may work at first.
 */
static void take_lead(struct relay *relay, const PGresult *result)
{
    const bool follows = !database_is_true(result);

    if (!follows && relay->cycle.listen_at < 0)
        read_pace_begin(&relay->read_pace, clock_monotonic_ms());
    relay->throttle.follows = relay->read_pace.follows = follows;
}

static void end_look(struct relay *relay, enum look_state state)
{
    if (relay->looking)
        look_end(relay->scoreboard, state);
    relay->looking = false;
}

/*
 * Ends the look if the ring has everything that the look found. If it does not, the next cycle reads what the
 * first one did not return whole.
 */
static void check_look(struct relay *relay)
{
    if (relay->caught_up && !relay->look_fails)
        end_look(relay, LOOK_DONE);
    else if (relay->look_fails || clock_monotonic_ms() >= relay->look_refused_ms)
        end_look(relay, LOOK_REFUSED);
}

static void answer_questions(struct relay *relay)
{
    const struct cycle *cycle = &relay->cycle;

    if (awaits_backlog(relay)) {
        worker_queue_put_back(&relay->pending, cycle->questions, cycle->question_count);
        return;
    }
    for (int i = 0; i < cycle->question_count; i++)
        if (cycle->questions[i] != WORKER_QUEUE_NONE)
            question_answer(relay->scoreboard, cycle->questions[i],
                            answer_question(relay, cycle->questions[i]));
}

/*
 * Takes the results of a cycle that succeeded. The server comes first: it says whether the ring goes on. The
 * messages come before the lead, because the role in which the cycle was composed says whether it counts
 * as a measure (pace_reads()), and before the newest positions, at which topics are opened.
 */
static void succeed(struct relay *relay)
{
    struct cycle *cycle = &relay->cycle;

    if (relay->logged_error)
        log_write(LOG_LEVEL_INFO, "connected to the database again, at host %s port %s",
                  database_host(relay->database), database_port(relay->database));
    if (relay->is_lost) {
        counters_add(&relay->scoreboard->counters, COUNTER_RECONNECTS, 1);
        read_pace_begin(&relay->read_pace, clock_monotonic_ms());
    }
    relay->is_lost = false;
    relay->away_since_ms = 0;
    relay->logged_error = ERROR_NONE;
    backoff_reset(&relay->backoff);
    relay->worked_ms = clock_monotonic_ms();
    if (cycle->listen_at >= 0)
        take_server(relay, relay->batch.results[cycle->listen_at]);
    if (cycle->messages_at >= 0)
        take_messages(relay);
    if (cycle->lead_at >= 0)
        take_lead(relay, relay->batch.results[cycle->lead_at]);
    if (cycle->newest_at >= 0)
        take_newest(relay, relay->batch.results[cycle->newest_at]);
    if (cycle->open_at >= 0)
        open_to_all_take(relay->open_to_all, relay->batch.results[cycle->open_at], relay->batch.started_ms);
    answer_questions(relay);
    check_look(relay);
}

/* Closes the connection. The next one is opened after a pause. */
static void reconnect(struct relay *relay)
{
    relay->is_lost = true;
    if (relay->away_since_ms == 0)
        relay->away_since_ms = clock_monotonic_ms();
    announcements_lose(&relay->announcements);
    set_numbers_until(relay, false);
    database_close(relay->database, NULL);
    backoff_fail(&relay->backoff, clock_monotonic_ms());
}

/*
 * Whether a prepared statement did not exist (invalid_sql_statement_name), or existed already
 * (duplicate_prepared_statement): a pooler has changed the session.
 */
static bool is_unknown_name(const char *sqlstate)
{
    return strcmp(sqlstate, "26000") == 0 || strcmp(sqlstate, "42P05") == 0;
}

/* Whether the server has ended the session (codes that begin with 57P), whatever it was doing. */
static bool was_ended(const struct relay *relay)
{
    return strncmp(database_sqlstate(relay->database), "57P", 3) == 0;
}

/*
 * Whether the server has refused the statement by which the relay follows: the role may lack a right to what
 * it reads, or an upgrade has locked or changed that. All else can be done without it.
 */
static bool cannot_follow(const struct relay *relay)
{
    const struct cycle *cycle = &relay->cycle;
    const int failed = database_failed(relay->database);

    return *database_sqlstate(relay->database) && !was_ended(relay) &&
           (failed == cycle->prepare_follow_at || (cycle->follows && failed == cycle->messages_at));
}

static void log_failure(const struct relay *relay, enum error error)
{
    const struct database *database = relay->database;
    const int failed = database_failed(database);

    if (error != ERROR_MEMORY && failed >= 0 && !was_ended(relay))
        log_write(error_log_level(error), "cannot %s, reconnecting: %s", relay->cycle.purposes[failed],
                  database_error(database));
    else
        log_write(error_log_level(error), "LISTEN connection failed, reconnecting: %s",
                  database_error(database));
}

/* Ends a cycle that failed. Its questions go back to wait for the next cycle. */
static void fail(struct relay *relay, enum error error)
{
    struct cycle *cycle = &relay->cycle;

    worker_queue_put_back(&relay->pending, cycle->questions, cycle->question_count);
    end_look(relay, LOOK_REFUSED);
    if (relay->logged_error != error)
        log_failure(relay, error);
    relay->logged_error = error;
    if (is_unknown_name(database_sqlstate(relay->database)))
        relay->never_prepares = true;
    if (cannot_follow(relay))
        relay->follow_ms = clock_monotonic_ms() + FOLLOW_AGAIN_MS;
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
    cycle->question_count = cycle->asked.count = 0;
}

/* ---- the interface to the manager's loop */

struct pollfd relay_pollfd(const struct relay *relay)
{
    return database_pollfd(relay->database);
}

int64_t relay_away_since_ms(const struct relay *relay)
{
    return relay->away_since_ms;
}

/* Returns when the next cycle is due because of a look. */
static int64_t look_due_ms(const struct relay *relay)
{
    if (!relay->looking)
        return look_is_wanted(relay->scoreboard) ? 0 : INT64_MAX;
    return relay->look_refused_ms;
}

/* Returns when the next cycle is due without any announcement or question. */
static int64_t routine_due_ms(const struct relay *relay)
{
    const int64_t due_ms = clock_min(relay->look_ms, relay->sweep_ms);

    return atomic_load(&relay->scoreboard->is_quiet)
               ? clock_max(due_ms, relay->batch.started_ms + IDLE_CYCLE_MS)
               : due_ms;
}

/* Returns when the next cycle is due, or the running one needs attention. */
static int64_t cycle_due_ms(const struct relay *relay)
{
    if (relay->batch.running)
        return query_batch_due_ms(&relay->batch);
    if (!database_is_connected(relay->database))
        return relay->backoff.due_ms;
    if (relay->pending.count > 0)
        return 0;
    return clock_min(clock_min(clock_min(routine_due_ms(relay), look_due_ms(relay)),
                               notify_throttle_due_ms(&relay->throttle)),
                     clock_min(clock_min(announcements_due_ms(&relay->announcements),
                                         announcements_deaf_ms(&relay->announcements)),
                               open_to_all_due_ms(relay->open_to_all)));
}

int64_t relay_due_ms(const struct relay *relay)
{
    return relay->batch.running ? cycle_due_ms(relay)
                                : clock_min(cycle_due_ms(relay), read_pace_due_ms(&relay->read_pace));
}

static void begin(struct relay *relay, int64_t now_ms)
{
    enum error error = ERROR_MEMORY;

    relay->cycle_began_us = clock_monotonic_us();
    if (!database_is_connected(relay->database)) {
        relay->relisten = true;
        relay->prepared = relay->follow_prepared = false;
        /*
         * The previous session may have muted publishers. So look until unmute_doorbell() says that all of
         * them send NOTIFY again.
         */
        relay->throttle = (struct notify_throttle){ .heard = true, .follows = true, .muting = true };
    }
    if (compose(relay, now_ms))
        error =
            query_batch_begin(&relay->batch, relay->database, now_ms, relay->config->query_timeout_s * 1000);
    else
        database_close(relay->database, "out of memory");
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
    if (now_ms >= relay->sweep_ms) {
        const bool ended = subscriptions_sweep(&relay->subscriptions, now_ms,
                                               subscriptions_linger_ms(&relay->subscriptions), NO_CYCLE);

        relay->sweep_ms = ended ? sweep_due_ms(relay, now_ms) : now_ms + SWEEP_PAUSE_MS;
    }
    read_pace_step(&relay->read_pace, read_permits_taken(relay->scoreboard) > 0, now_ms);
    read_permits_allow(relay->scoreboard, relay->read_pace.allowed);
    if (cycle_due_ms(relay) <= now_ms)
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
