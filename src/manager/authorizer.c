#include "manager/authorizer.h"

#include "api/poll_request.h"
#include "core/backoff.h"
#include "core/clock.h"
#include "core/config.h"
#include "core/log.h"
#include "manager/worker_queue.h"
#include "postgres/database.h"
#include "postgres/query_batch.h"
#include "shared/scoreboard.h"

#include <stdlib.h>
#include <string.h>

enum { BATCH = QUERY_BATCH_MAX_STATEMENTS };

struct answered {
    int worker;
    enum error answer;
};

struct authorizer {
    const struct config *config;
    struct scoreboard *scoreboard;
    struct database *database;
    struct worker_queue waiting; /* workers whose questions wait for the next batch */
    struct answered *answered;
    int answered_count;
    int limit; /* questions in a batch: 1 after a failure, to find the one that fails; doubled by success */
    int asked[BATCH]; /* by statement of the batch: the worker that asked; WORKER_QUEUE_NONE: it has died */
    struct query_batch batch;
    struct poll_topic *topics; /* of one question, for its statement */
    struct backoff backoff;    /* says when to connect again */
};

struct authorizer *authorizer_new(const struct config *config, struct scoreboard *scoreboard)
{
    struct authorizer *authorizer = calloc(1, sizeof *authorizer);

    if (!authorizer)
        return NULL;
    authorizer->config = config;
    authorizer->scoreboard = scoreboard;
    authorizer->limit = BATCH;
    authorizer->backoff = BACKOFF_DATABASE;
    authorizer->database = database_new(config->query_timeout_s * 1000);
    authorizer->answered = calloc((size_t)scoreboard->worker_count, sizeof *authorizer->answered);
    authorizer->topics = calloc((size_t)scoreboard->max_topics, sizeof *authorizer->topics);
    if (!worker_queue_init(&authorizer->waiting, scoreboard->worker_count) || !authorizer->database ||
        !authorizer->answered || !authorizer->topics) {
        authorizer_free(authorizer);
        return NULL;
    }
    return authorizer;
}

void authorizer_free(struct authorizer *authorizer)
{
    if (!authorizer)
        return;
    database_free(authorizer->database);
    query_batch_end(&authorizer->batch);
    worker_queue_release(&authorizer->waiting);
    free(authorizer->answered);
    free(authorizer->topics);
    free(authorizer);
}

struct pollfd authorizer_pollfd(const struct authorizer *authorizer)
{
    return database_pollfd(authorizer->database);
}

int64_t authorizer_due_ms(const struct authorizer *authorizer)
{
    if (authorizer->batch.running)
        return query_batch_due_ms(&authorizer->batch);
    return authorizer->waiting.count > 0 ? authorizer->backoff.due_ms : INT64_MAX;
}

void authorizer_ask(struct authorizer *authorizer, int worker)
{
    worker_queue_add(&authorizer->waiting, worker);
}

static void add_answer(struct authorizer *authorizer, int worker, enum error answer)
{
    if (worker != WORKER_QUEUE_NONE)
        authorizer->answered[authorizer->answered_count++] = (struct answered){ worker, answer };
}

int authorizer_take(struct authorizer *authorizer, enum error *answer)
{
    if (authorizer->answered_count == 0)
        return WORKER_QUEUE_NONE;
    *answer = authorizer->answered[--authorizer->answered_count].answer;
    return authorizer->answered[authorizer->answered_count].worker;
}

void authorizer_forget_worker(struct authorizer *authorizer, int worker)
{
    worker_queue_remove(&authorizer->waiting, worker);
    for (int i = 0; i < authorizer->batch.count; i++)
        if (authorizer->asked[i] == worker)
            authorizer->asked[i] = WORKER_QUEUE_NONE;
}

static bool make_statement(struct authorizer *authorizer, int worker)
{
    const struct question *question = scoreboard_question(authorizer->scoreboard, worker);

    for (int i = 0; i < question->topic_count; i++)
        authorizer->topics[i] =
            (struct poll_topic){ .name = question->topics[i].name, .length = question->topics[i].length };
    authorizer->asked[authorizer->batch.count] = worker;
    return statement_may_poll(query_batch_add(&authorizer->batch, NULL), question->user, authorizer->topics,
                              question->topic_count);
}

/*
 * The whole batch failed. Its questions are asked again one by one, so that only the one that fails gets the
 * error.
 */
static void fail(struct authorizer *authorizer, enum error error)
{
    const int asked_count = authorizer->batch.count;

    log_write(LOG_LEVEL_WARNING, "pgpoll.can_poll() failed: %s", database_error(authorizer->database));
    authorizer->limit = 1;
    if (error != ERROR_DATABASE_QUERY) { /* after an SQL error the connection is still good */
        database_close(authorizer->database, NULL);
        backoff_fail(&authorizer->backoff, clock_monotonic_ms());
    }
    if (asked_count == 1) {
        add_answer(authorizer, authorizer->asked[0], error);
        return;
    }
    worker_queue_put_back(&authorizer->waiting, authorizer->asked, asked_count);
}

static void finish(struct authorizer *authorizer, enum error error)
{
    if (error) {
        fail(authorizer, error);
    } else {
        for (int i = 0; i < authorizer->batch.count; i++)
            add_answer(authorizer, authorizer->asked[i],
                       database_is_true(authorizer->batch.results[i]) ? ERROR_NONE : ERROR_DENIED);
        authorizer->limit = (int)clock_min(authorizer->limit * 2, BATCH);
        backoff_reset(&authorizer->backoff);
    }
    query_batch_end(&authorizer->batch);
}

static void begin(struct authorizer *authorizer, int64_t now_ms)
{
    enum error error = ERROR_MEMORY;
    bool made = true;
    int worker;

    while (made && authorizer->batch.count < authorizer->limit &&
           (worker = worker_queue_take(&authorizer->waiting)) != WORKER_QUEUE_NONE) {
        if (scoreboard_question(authorizer->scoreboard, worker)->deadline_ms < now_ms)
            add_answer(authorizer, worker, ERROR_DATABASE_AWAY);
        else
            made = make_statement(authorizer, worker);
    }
    if (made)
        error = query_batch_begin(&authorizer->batch, authorizer->database, now_ms,
                                  authorizer->config->query_timeout_s * 1000);
    if (error != ERROR_PENDING)
        finish(authorizer, error);
}

void authorizer_step(struct authorizer *authorizer, bool ready)
{
    int64_t now_ms = clock_monotonic_ms();
    enum error error = query_batch_step(&authorizer->batch, ready, now_ms);

    if (error != ERROR_PENDING)
        finish(authorizer, error);
    else if (!authorizer->batch.running && ready)
        (void)database_consume(authorizer->database); /* a lost idle connection is opened again when needed */
    if (!authorizer->batch.running && now_ms >= authorizer_due_ms(authorizer))
        begin(authorizer, now_ms);
}
