#include "manager/authorizer.h"

#include "api/poll_request.h"
#include "core/backoff.h"
#include "core/clock.h"
#include "core/config.h"
#include "core/log.h"
#include "manager/open_to_all.h"
#include "manager/worker_queue.h"
#include "postgres/calls.h"
#include "postgres/database.h"
#include "postgres/query_batch.h"
#include "shared/access_memory.h"
#include "shared/question.h"
#include "shared/scoreboard.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum {
    OPEN_AFTER_MS = 5,   /* another session is opened for a question that has waited this long */
    IDLE_MS = 10 * 1000, /* a session other than the first is closed after it has been free for this long */
    /* an asker counts as slow for this long after its last call that did not end in time */
    SLOW_MS = 60 * 1000,
    SLOW_ASKERS = 256, /* maximum number of askers that are noted as slow */
    /* shortest time between two log lines that say that an access memory is full */
    LOG_FORGOTTEN_MS = 60 * 1000
};

/* A database session, and the question for which it calls a function. */
struct session {
    struct database *database;
    struct query_batch batch;
    /*
     * NULL: the session is free. If a worker waits for the answer, the scoreboard owns the question, else the
     * session does.
     */
    struct question *question;
    int worker; /* the worker that waits for the answer; WORKER_QUEUE_NONE: nobody waits */
    bool in_lane;
    struct poll_topic *topics; /* the topics for which can_poll() is called */
    int *indexes;              /* the index of each of these topics in the question */
    int topic_count;
    struct backoff backoff; /* the session may connect from backoff.due_ms on */
    int64_t idle_ms;        /* since when the session has been free */
};

struct slow_asker {
    uint64_t asker;
    int64_t until_ms;
};

struct authorizer {
    const struct config *config;
    struct scoreboard *scoreboard;
    struct session *sessions;
    int session_count;
    /* workers whose questions wait for a session; lane has those in the slow lane */
    struct worker_queue waiting, lane;
    struct question *refreshes, **refreshes_end;
    int refresh_count;
    /* decides which of waiting, lane and refreshes is first in turn for the next free session */
    unsigned turn;
    struct slow_asker slow[SLOW_ASKERS];
    int64_t expiry_ms;    /* no question for which a worker waits has a deadline before this time */
    bool is_away;         /* the last attempt to call a function failed because of the connection */
    int64_t forgotten_ms; /* when the log last said that an access memory is full */
};

/* ---- memory */

static bool session_init(struct session *session, const struct config *config, int max_topics)
{
    session->worker = WORKER_QUEUE_NONE;
    session->backoff = BACKOFF_DATABASE;
    session->database = database_new(config->query_timeout_s * 1000);
    session->topics = calloc((size_t)max_topics, sizeof *session->topics);
    session->indexes = calloc((size_t)max_topics, sizeof *session->indexes);
    return session->database && session->topics && session->indexes;
}

struct authorizer *authorizer_new(const struct config *config, struct scoreboard *scoreboard)
{
    struct authorizer *authorizer = calloc(1, sizeof *authorizer);
    bool made;

    if (!authorizer)
        return NULL;
    authorizer->config = config;
    authorizer->scoreboard = scoreboard;
    authorizer->refreshes_end = &authorizer->refreshes;
    authorizer->expiry_ms = INT64_MAX;
    authorizer->sessions = calloc((size_t)config->access_connections, sizeof *authorizer->sessions);
    made = worker_queue_init(&authorizer->waiting, scoreboard->worker_count) &&
           worker_queue_init(&authorizer->lane, scoreboard->worker_count) && authorizer->sessions;
    for (; made && authorizer->session_count < config->access_connections; authorizer->session_count++)
        made = session_init(&authorizer->sessions[authorizer->session_count], config, scoreboard->max_topics);
    if (!made) {
        authorizer_free(authorizer);
        return NULL;
    }
    return authorizer;
}

static void session_release(struct session *session)
{
    database_free(session->database);
    query_batch_end(&session->batch);
    if (session->worker == WORKER_QUEUE_NONE)
        scoreboard_free_question(session->question);
    free(session->topics);
    free(session->indexes);
}

static struct question *take_refresh(struct authorizer *authorizer)
{
    struct question *question = authorizer->refreshes;

    if (!question)
        return NULL;
    authorizer->refreshes = question->next;
    if (!question->next)
        authorizer->refreshes_end = &authorizer->refreshes;
    authorizer->refresh_count--;
    return question;
}

void authorizer_free(struct authorizer *authorizer)
{
    if (!authorizer)
        return;
    for (int i = 0; authorizer->sessions && i < authorizer->config->access_connections; i++)
        session_release(&authorizer->sessions[i]);
    while (authorizer->refreshes)
        scoreboard_free_question(take_refresh(authorizer));
    free(authorizer->sessions);
    worker_queue_release(&authorizer->waiting);
    worker_queue_release(&authorizer->lane);
    free(authorizer);
}

/* ---- the access memories */

static struct keyed_hash user_hash(const struct authorizer *authorizer, const struct question *question)
{
    return access_memory_hash(authorizer->scoreboard->permissions, question->user, strlen(question->user));
}

static struct keyed_hash token_hash(const struct authorizer *authorizer, const struct question *question)
{
    return access_memory_hash(authorizer->scoreboard->users, question->text, question->text_size - 1);
}

static void log_forgotten(struct authorizer *authorizer, const struct access_memory *memory, int64_t now_ms)
{
    counters_add(&authorizer->scoreboard->counters, COUNTER_ACCESS_FORGOTTEN, 1);
    if (authorizer->forgotten_ms && now_ms < authorizer->forgotten_ms + LOG_FORGOTTEN_MS)
        return;
    authorizer->forgotten_ms = now_ms;
    log_write(
        LOG_LEVEL_WARNING,
        "the memory of %s is full with %d answers: forgot one before its time, so the function is called "
        "more often; lower PGPOLL_ACCESS_MEMORY_S, or raise PGPOLL_WORKERS",
        memory == authorizer->scoreboard->users ? "authenticate()" : "can_poll()",
        access_memory_count(memory));
}

/*
 * Remembers an answer to a question that was asked at asked_ms. If the answer is used in the second half of
 * the time for which it is kept, the question is asked again.
 */
static void remember(struct authorizer *authorizer, struct access_memory *memory, struct keyed_hash hash,
                     const void *value, size_t size, int64_t asked_ms)
{
    const int64_t kept_ms = authorizer->config->access_memory_s * 1000;

    if (kept_ms > 0 &&
        access_memory_put(memory, hash, value, size, asked_ms, asked_ms + kept_ms / 2, asked_ms + kept_ms))
        log_forgotten(authorizer, memory, asked_ms);
}

static enum access_found find_permission(const struct authorizer *authorizer, struct keyed_hash user,
                                         const struct question_topic *topic, int64_t now_ms, bool *allowed)
{
    return access_memory_find(authorizer->scoreboard->permissions,
                              access_memory_hash_topic(user, topic->name, topic->length), now_ms, allowed);
}

/* ---- who is slow */

static bool is_slow(const struct authorizer *authorizer, uint64_t asker, int64_t now_ms)
{
    for (int i = 0; i < SLOW_ASKERS; i++)
        if (authorizer->slow[i].asker == asker && now_ms < authorizer->slow[i].until_ms)
            return true;
    return false;
}

/*
 * Notes that an asker's call did not end in time. If there is no room, drops the asker that was noted first.
 */
static void note_slow(struct authorizer *authorizer, uint64_t asker, int64_t now_ms)
{
    struct slow_asker *oldest = &authorizer->slow[0];

    for (int i = 0; i < SLOW_ASKERS && oldest->asker != asker; i++)
        if (authorizer->slow[i].asker == asker || authorizer->slow[i].until_ms < oldest->until_ms)
            oldest = &authorizer->slow[i];
    *oldest = (struct slow_asker){ asker, now_ms + SLOW_MS };
}

/* Returns how many sessions one asker may have at the same time, and how many may serve the slow lane. */
static int half(const struct authorizer *authorizer)
{
    return authorizer->session_count < 2 ? 1 : authorizer->session_count / 2;
}

static int lane_count(const struct authorizer *authorizer)
{
    int count = 0;

    for (int i = 0; i < authorizer->session_count; i++)
        count += authorizer->sessions[i].question && authorizer->sessions[i].in_lane;
    return count;
}

static bool belongs_in_lane(const struct authorizer *authorizer, uint64_t asker, int64_t now_ms)
{
    int count = 0;

    for (int i = 0; i < authorizer->session_count; i++)
        count += authorizer->sessions[i].question && authorizer->sessions[i].question->asker == asker;
    return count >= half(authorizer) || is_slow(authorizer, asker, now_ms);
}

/*
 * Returns the hash by which an asker is known: that of the user or the token, or for an anonymous poll that
 * of its first topic.
 */
static uint64_t asker_of(const struct authorizer *authorizer, const struct question *question)
{
    const struct keyed_hash user = user_hash(authorizer, question);

    if (question->kind == QUESTION_AUTHENTICATE)
        return token_hash(authorizer, question).words[0];
    return *question->user
               ? user.words[0]
               : access_memory_hash_topic(user, question->topics[0].name, question->topics[0].length)
                     .words[0];
}

/* ---- taking questions */

static struct question *question_of(const struct authorizer *authorizer, int worker)
{
    return scoreboard_question(authorizer->scoreboard, worker);
}

void authorizer_ask(struct authorizer *authorizer, int worker)
{
    struct question *question = question_of(authorizer, worker);

    question->asker = asker_of(authorizer, question);
    authorizer->expiry_ms = clock_min(authorizer->expiry_ms, question->deadline_ms);
    worker_queue_add(&authorizer->waiting, worker);
}

/*
 * Reduces a question to the topics whose answers are due to be renewed, and defers these answers, so that
 * they are not due again meanwhile. Returns whether anything is left to ask.
 */
static bool keep_due(const struct authorizer *authorizer, struct question *question, int64_t now_ms)
{
    struct scoreboard *scoreboard = authorizer->scoreboard;
    char user[SCOREBOARD_USER_SIZE];
    struct keyed_hash hash;
    bool allowed;
    int kept = 0;

    if (question->kind == QUESTION_AUTHENTICATE) {
        hash = token_hash(authorizer, question);
        if (access_memory_find(scoreboard->users, hash, now_ms, user) != ACCESS_DUE)
            return false;
        access_memory_defer(scoreboard->users, hash);
        return true;
    }
    hash = user_hash(authorizer, question);
    for (int i = 0; i < question->topic_count; i++) {
        const struct question_topic topic = question->topics[i];

        if (find_permission(authorizer, hash, &topic, now_ms, &allowed) != ACCESS_DUE)
            continue;
        access_memory_defer(scoreboard->permissions,
                            access_memory_hash_topic(hash, topic.name, topic.length));
        question->topics[kept++] = topic;
    }
    question->topic_count = kept;
    return kept > 0;
}

void authorizer_refresh(struct authorizer *authorizer, struct question *question)
{
    const int64_t now_ms = clock_monotonic_ms();

    if (authorizer->refresh_count >= authorizer->scoreboard->worker_count ||
        !keep_due(authorizer, question, now_ms)) {
        scoreboard_free_question(question);
        return;
    }
    question->asker = asker_of(authorizer, question);
    question->next = NULL;
    *authorizer->refreshes_end = question;
    authorizer->refreshes_end = &question->next;
    authorizer->refresh_count++;
}

void authorizer_forget_worker(struct authorizer *authorizer, int worker)
{
    worker_queue_remove(&authorizer->waiting, worker);
    worker_queue_remove(&authorizer->lane, worker);
    for (int i = 0; i < authorizer->session_count; i++)
        if (authorizer->sessions[i].question && authorizer->sessions[i].worker == worker) {
            /* The call goes on, so the session keeps the question. */
            (void)scoreboard_release_question(authorizer->scoreboard, worker);
            authorizer->sessions[i].worker = WORKER_QUEUE_NONE;
        }
}

/* ---- answering from the access memories, and giving up */

static void answer(const struct authorizer *authorizer, int worker, enum error error, int refused_topic)
{
    scoreboard_reply(authorizer->scoreboard, worker)->refused_topic = refused_topic;
    question_answer(authorizer->scoreboard, worker, error);
}

static void answer_user(const struct authorizer *authorizer, int worker, const char *user)
{
    char *reply = scoreboard_reply(authorizer->scoreboard, worker)->user;

    memcpy(reply, user, strlen(user) + 1);
    question_answer(authorizer->scoreboard, worker, ERROR_NONE);
}

/*
 * Answers a worker's question if the answer is in the access memory by now. Otherwise lists in session the
 * topics whose answers are not known. Returns whether the question was answered.
 */
static bool answer_known(struct authorizer *authorizer, int worker, struct session *session, int64_t now_ms)
{
    const struct question *question = question_of(authorizer, worker);
    char user[SCOREBOARD_USER_SIZE];
    struct keyed_hash hash;
    bool allowed = true;

    session->topic_count = 0;
    if (question->kind == QUESTION_AUTHENTICATE) {
        if (access_memory_find(authorizer->scoreboard->users, token_hash(authorizer, question), now_ms,
                               user) == ACCESS_UNKNOWN)
            return false;
        answer_user(authorizer, worker, user);
        return true;
    }
    hash = user_hash(authorizer, question);
    for (int i = 0; i < question->topic_count; i++) {
        if (find_permission(authorizer, hash, &question->topics[i], now_ms, &allowed) == ACCESS_UNKNOWN) {
            session->indexes[session->topic_count++] = i;
        } else if (!allowed) {
            answer(authorizer, worker, ERROR_DENIED, i);
            return true;
        }
    }
    if (session->topic_count == 0)
        answer(authorizer, worker, ERROR_NONE, 0);
    return session->topic_count == 0;
}

static enum error timeout_of(const struct question *question)
{
    return question->kind == QUESTION_AUTHENTICATE ? ERROR_AUTHENTICATE_TIMEOUT : ERROR_CAN_POLL_TIMEOUT;
}

/* Returns the answer to a question whose deadline has passed. */
static enum error late_answer(const struct authorizer *authorizer, const struct question *question)
{
    return authorizer->is_away ? ERROR_DATABASE_AWAY : timeout_of(question);
}

/* Answers a worker's question if its deadline has passed. Returns whether it has. */
static bool answer_late(const struct authorizer *authorizer, int worker, int64_t now_ms)
{
    const struct question *question = question_of(authorizer, worker);

    if (question->deadline_ms > now_ms)
        return false;
    question_answer(authorizer->scoreboard, worker, late_answer(authorizer, question));
    return true;
}

static void expire_queue(struct authorizer *authorizer, struct worker_queue *queue, int64_t now_ms)
{
    for (int left = queue->count; left > 0; left--) {
        const int worker = worker_queue_take(queue);

        if (answer_late(authorizer, worker, now_ms))
            continue;
        authorizer->expiry_ms =
            clock_min(authorizer->expiry_ms, question_of(authorizer, worker)->deadline_ms);
        worker_queue_add(queue, worker);
    }
}

/*
 * Answers a session's question if its deadline has passed. The call goes on, and its answer will be
 * remembered.
 */
static void expire_session(struct authorizer *authorizer, struct session *session, int64_t now_ms)
{
    if (!session->question || session->worker == WORKER_QUEUE_NONE)
        return;
    if (session->question->deadline_ms > now_ms) {
        authorizer->expiry_ms = clock_min(authorizer->expiry_ms, session->question->deadline_ms);
        return;
    }
    scoreboard_reply(authorizer->scoreboard, session->worker)->error =
        late_answer(authorizer, session->question);
    session->question = question_take_over(authorizer->scoreboard, session->worker);
    session->worker = WORKER_QUEUE_NONE;
}

/* Answers the questions whose deadline has passed. */
static void expire(struct authorizer *authorizer, int64_t now_ms)
{
    if (now_ms < authorizer->expiry_ms)
        return;
    authorizer->expiry_ms = INT64_MAX;
    expire_queue(authorizer, &authorizer->waiting, now_ms);
    expire_queue(authorizer, &authorizer->lane, now_ms);
    for (int i = 0; i < authorizer->session_count; i++)
        expire_session(authorizer, &authorizer->sessions[i], now_ms);
}

/* ---- calling */

static bool make_statement(struct session *session)
{
    struct statement *statement = query_batch_add(&session->batch);

    if (session->question->kind == QUESTION_AUTHENTICATE) {
        call_authenticate(statement, session->question->text);
        return true;
    }
    for (int i = 0; i < session->topic_count; i++) {
        const struct question_topic *topic = &session->question->topics[session->indexes[i]];

        session->topics[i] = (struct poll_topic){ .name = topic->name, .length = topic->length };
    }
    return call_refused_topic(statement, session->question->user, session->topics, session->topic_count);
}

static bool take(struct authorizer *authorizer, struct session *session, int worker)
{
    session->worker = worker;
    session->question = question_of(authorizer, worker);
    return true;
}

/* Whether a function must be called for a worker's question. If not, the question has been answered here. */
static bool must_ask(struct authorizer *authorizer, struct session *session, int worker, int64_t now_ms)
{
    return !answer_late(authorizer, worker, now_ms) && !answer_known(authorizer, worker, session, now_ms);
}

/*
 * Each of the take_ functions that follow chooses a question for a free session, and notes it there. It
 * returns false if there is no question of its kind that may be taken now.
 */
static bool take_from_lane(struct authorizer *authorizer, struct session *session, int64_t now_ms)
{
    int worker;

    while (lane_count(authorizer) < half(authorizer) &&
           (worker = worker_queue_take(&authorizer->lane)) != WORKER_QUEUE_NONE)
        if (must_ask(authorizer, session, worker, now_ms)) {
            session->in_lane = true;
            return take(authorizer, session, worker);
        }
    return false;
}

static bool take_waiting(struct authorizer *authorizer, struct session *session, int64_t now_ms)
{
    int worker;

    while ((worker = worker_queue_take(&authorizer->waiting)) != WORKER_QUEUE_NONE) {
        if (!must_ask(authorizer, session, worker, now_ms))
            continue;
        if (!belongs_in_lane(authorizer, question_of(authorizer, worker)->asker, now_ms)) {
            session->in_lane = false;
            return take(authorizer, session, worker);
        }
        worker_queue_add(&authorizer->lane, worker);
    }
    return false;
}

/* Drops the questions of askers that belong in the slow lane: these are asked again when the asker polls. */
static bool take_refreshing(struct authorizer *authorizer, struct session *session, int64_t now_ms)
{
    struct question *question;

    while ((question = take_refresh(authorizer))) {
        if (belongs_in_lane(authorizer, question->asker, now_ms)) {
            scoreboard_free_question(question);
            continue;
        }
        session->in_lane = false;
        session->question = question;
        session->worker = WORKER_QUEUE_NONE;
        session->topic_count = question->topic_count;
        for (int i = 0; i < question->topic_count; i++)
            session->indexes[i] = i;
        return true;
    }
    return false;
}

/*
 * Takes the next question for a session. Each call begins with another kind of question, so that no kind
 * waits for ever because there are always questions of another one.
 */
static bool take_next(struct authorizer *authorizer, struct session *session, int64_t now_ms)
{
    static bool (*const sources[])(struct authorizer *, struct session *,
                                   int64_t) = { take_waiting, take_from_lane, take_refreshing };
    enum { SOURCES = sizeof sources / sizeof *sources };
    const unsigned first = authorizer->turn++;

    for (unsigned i = 0; i < SOURCES; i++)
        if (sources[(first + i) % SOURCES](authorizer, session, now_ms))
            return true;
    /* take_waiting(), if it was called last, may have moved a question to the slow lane. */
    return take_from_lane(authorizer, session, now_ms);
}

/* ---- results */

/*
 * Takes the result of can_poll(). refused: the number of the first topic that is not allowed, counted from 1;
 * 0: all topics are allowed.
 */
static void finish_authorize(struct authorizer *authorizer, struct session *session, int32_t refused)
{
    const struct keyed_hash user = user_hash(authorizer, session->question);
    const int known = refused > 0 && refused <= session->topic_count ? refused : session->topic_count;

    for (int i = 0; i < known; i++) {
        const struct poll_topic *topic = &session->topics[i];
        const bool allowed = i + 1 != refused;

        remember(authorizer, authorizer->scoreboard->permissions,
                 access_memory_hash_topic(user, topic->name, topic->length), &allowed, sizeof allowed,
                 session->batch.started_ms);
    }
    if (refused)
        open_to_all_deny(authorizer->scoreboard);
    if (session->worker != WORKER_QUEUE_NONE)
        answer(authorizer, session->worker, refused ? ERROR_DENIED : ERROR_NONE,
               refused ? session->indexes[known - 1] : 0);
}

static void finish_authenticate(struct authorizer *authorizer, struct session *session,
                                const PGresult *result)
{
    const char *user = PQgetvalue(result, 0, 0);
    enum error error = ERROR_NONE;

    if (PQgetisnull(result, 0, 0)) {
        error = ERROR_UNAUTHENTICATED; /* not remembered: refused tokens must not push out good ones */
    } else if (strlen(user) >= SCOREBOARD_USER_SIZE) {
        log_write(LOG_LEVEL_WARNING, "pgpoll.authenticate() returned a name of %zu bytes, %d are allowed",
                  strlen(user), SCOREBOARD_USER_SIZE - 1);
        error = ERROR_AUTHENTICATE_FAILED;
    } else {
        remember(authorizer, authorizer->scoreboard->users, token_hash(authorizer, session->question), user,
                 strlen(user) + 1, session->batch.started_ms);
    }
    if (session->worker == WORKER_QUEUE_NONE)
        return;
    if (error)
        question_answer(authorizer->scoreboard, session->worker, error);
    else
        answer_user(authorizer, session->worker, user);
}

/* Logs why a call failed. An error message of authenticate() may quote the token, so it is not logged. */
static void log_failure(const struct session *session, enum error error)
{
    const struct database *database = session->database;

    if (error == ERROR_CAN_POLL_FAILED)
        log_write(LOG_LEVEL_WARNING, "pgpoll.can_poll() failed: %s", database_error(database));
    else if (error == ERROR_AUTHENTICATE_FAILED)
        log_write(
            LOG_LEVEL_WARNING,
            "pgpoll.authenticate() failed with SQLSTATE %s; only PostgreSQL's log has the message, which "
            "may quote the token",
            database_sqlstate(database));
    else if (error == timeout_of(session->question))
        log_write(LOG_LEVEL_WARNING, "pgpoll.%s() did not answer within PGPOLL_QUERY_TIMEOUT_S: %s",
                  error == ERROR_CAN_POLL_TIMEOUT ? "can_poll" : "authenticate", database_error(database));
    else
        log_write(LOG_LEVEL_WARNING, "cannot ask who may poll: %s", database_error(database));
}

static enum error failure_of(const struct question *question)
{
    return question->kind == QUESTION_AUTHENTICATE ? ERROR_AUTHENTICATE_FAILED : ERROR_CAN_POLL_FAILED;
}

static void fail(struct authorizer *authorizer, struct session *session, enum error error)
{
    const int64_t now_ms = clock_monotonic_ms();
    const enum error timed_out = timeout_of(session->question);
    const enum error named =
        database_name_error(session->database, error, failure_of(session->question), timed_out);
    const bool slow = named == timed_out;
    const bool was_away = authorizer->is_away;

    /* A failed attempt to connect is repeated again and again. Only the first failure is logged. */
    authorizer->is_away = named == error;
    if (!was_away || !authorizer->is_away)
        log_failure(session, named);
    if (slow)
        note_slow(authorizer, session->question->asker, now_ms);
    if (error != ERROR_DATABASE_QUERY) { /* after an SQL error the connection is still good */
        database_close(session->database, NULL);
        if (!slow)
            backoff_fail(&session->backoff, now_ms);
    }
    if (session->worker != WORKER_QUEUE_NONE)
        question_answer(authorizer->scoreboard, session->worker, named);
}

static void finish(struct authorizer *authorizer, struct session *session, enum error error)
{
    if (error) {
        fail(authorizer, session, error);
    } else {
        authorizer->is_away = false;
        backoff_reset(&session->backoff);
        if (session->question->kind == QUESTION_AUTHENTICATE)
            finish_authenticate(authorizer, session, session->batch.results[0]);
        else
            finish_authorize(authorizer, session, database_int4(session->batch.results[0], 0, 0));
    }
    query_batch_end(&session->batch);
    if (session->worker == WORKER_QUEUE_NONE)
        scoreboard_free_question(session->question);
    session->question = NULL;
    session->worker = WORKER_QUEUE_NONE;
    session->idle_ms = clock_monotonic_ms();
}

/* ---- the interface to the manager's loop */

int authorizer_pollfds(const struct authorizer *authorizer, struct pollfd fds[static AUTHORIZER_MAX_SESSIONS])
{
    for (int i = 0; i < authorizer->session_count; i++)
        fds[i] = database_pollfd(authorizer->sessions[i].database);
    return authorizer->session_count;
}

/*
 * Returns when the oldest of the questions that a session may work on now was taken from its worker, or
 * INT64_MAX if there is none.
 */
static int64_t waiting_since_ms(const struct authorizer *authorizer)
{
    int64_t since_ms = authorizer->refreshes ? authorizer->refreshes->taken_ms : INT64_MAX;
    const int worker = worker_queue_first(&authorizer->waiting);
    const int slow =
        lane_count(authorizer) < half(authorizer) ? worker_queue_first(&authorizer->lane) : WORKER_QUEUE_NONE;

    if (worker != WORKER_QUEUE_NONE)
        since_ms = clock_min(since_ms, question_of(authorizer, worker)->taken_ms);
    if (slow != WORKER_QUEUE_NONE)
        since_ms = clock_min(since_ms, question_of(authorizer, slow)->taken_ms);
    return since_ms;
}

/* Returns when a free session may take a question that has waited since since_ms. */
static int64_t start_ms(const struct authorizer *authorizer, const struct session *session, int64_t since_ms)
{
    if (since_ms == INT64_MAX)
        return INT64_MAX;
    if (database_is_connected(session->database))
        return 0;
    return clock_max(session->backoff.due_ms, session == authorizer->sessions ? 0 : since_ms + OPEN_AFTER_MS);
}

int64_t authorizer_due_ms(const struct authorizer *authorizer)
{
    const int64_t since_ms = waiting_since_ms(authorizer);
    int64_t due_ms = authorizer->expiry_ms;

    for (int i = 0; i < authorizer->session_count; i++) {
        const struct session *session = &authorizer->sessions[i];

        if (session->question)
            due_ms = clock_min(due_ms, query_batch_due_ms(&session->batch));
        else
            due_ms = clock_min(due_ms, start_ms(authorizer, session, since_ms));
        if (!session->question && i > 0 && database_is_connected(session->database))
            due_ms = clock_min(due_ms, session->idle_ms + IDLE_MS);
    }
    return due_ms;
}

static void begin(struct authorizer *authorizer, struct session *session, int64_t now_ms)
{
    enum error error = ERROR_MEMORY;

    if (!take_next(authorizer, session, now_ms))
        return;
    counters_add(&authorizer->scoreboard->counters, COUNTER_ACCESS_CALLS, 1);
    if (make_statement(session))
        error = query_batch_begin(&session->batch, session->database, now_ms,
                                  authorizer->config->query_timeout_s * 1000);
    if (error != ERROR_PENDING)
        finish(authorizer, session, error);
}

static void step(struct authorizer *authorizer, struct session *session, bool ready, int64_t now_ms)
{
    const enum error error = query_batch_step(&session->batch, ready, now_ms);

    if (error != ERROR_PENDING)
        finish(authorizer, session, error);
    else if (!session->question && ready)
        (void)database_consume(session->database); /* a lost idle connection is opened again when needed */
    if (!session->question && session != authorizer->sessions && now_ms >= session->idle_ms + IDLE_MS)
        database_close(session->database, NULL);
}

void authorizer_step(struct authorizer *authorizer, const struct pollfd *fds)
{
    const int64_t now_ms = clock_monotonic_ms();

    for (int i = 0; i < authorizer->session_count; i++)
        step(authorizer, &authorizer->sessions[i], fds[i].revents != 0, now_ms);
    expire(authorizer, now_ms);
    for (int i = 0; i < authorizer->session_count; i++) {
        struct session *session = &authorizer->sessions[i];

        if (!session->question && start_ms(authorizer, session, waiting_since_ms(authorizer)) <= now_ms)
            begin(authorizer, session, now_ms);
    }
}
