#include "gate.h"

#include "clock.h"
#include "config.h"
#include "database.h"
#include "hive.h"
#include "log.h"
#include "poll_request.h"
#include "statement.h"

#include <stdlib.h>
#include <string.h>

enum { BATCH = 32, NOBODY = -1, RETRY_MS = 200 };

struct answered {
    int number;
    enum error answer;
};

struct gate {
    const struct config *config;
    struct hive *hive;
    struct database *database;
    int *waiting; /* numbers, oldest first */
    int waiting_count;
    struct answered *answered;
    int answered_count;
    int limit; /* questions asked together: one at a time after a batch failed, to find out which it was */
    int asked[BATCH];
    int asked_count;
    struct statement statements[BATCH];
    PGresult *results[BATCH];
    struct poll_topic *topics; /* of one question */
    bool running;
    int64_t started_ms, retry_ms;
};

struct gate *gate_new(const struct config *config, struct hive *hive)
{
    struct gate *gate = calloc(1, sizeof *gate);

    if (!gate)
        return NULL;
    gate->config = config;
    gate->hive = hive;
    gate->limit = BATCH;
    gate->database = database_new();
    gate->waiting = calloc((size_t)hive->worker_count, sizeof *gate->waiting);
    gate->answered = calloc((size_t)hive->worker_count, sizeof *gate->answered);
    gate->topics = calloc((size_t)hive->max_topics, sizeof *gate->topics);
    if (!gate->database || !gate->waiting || !gate->answered || !gate->topics) {
        gate_free(gate);
        return NULL;
    }
    return gate;
}

static void end_exchange(struct gate *gate)
{
    for (int i = 0; i < BATCH; i++) {
        PQclear(gate->results[i]);
        gate->results[i] = NULL;
        statement_release(&gate->statements[i]);
    }
    gate->asked_count = 0;
    gate->running = false;
}

void gate_free(struct gate *gate)
{
    if (!gate)
        return;
    database_free(gate->database);
    end_exchange(gate);
    free(gate->waiting);
    free(gate->answered);
    free(gate->topics);
    free(gate);
}

int gate_socket(const struct gate *gate)
{
    return database_socket(gate->database);
}

short gate_events(const struct gate *gate)
{
    return database_events(gate->database);
}

int64_t gate_due_ms(const struct gate *gate)
{
    if (gate->running)
        return gate->started_ms + gate->config->query_timeout_s * 1000;
    return gate->waiting_count > 0 ? gate->retry_ms : INT64_MAX;
}

void gate_ask(struct gate *gate, int number)
{
    gate->waiting[gate->waiting_count++] = number; /* a worker asks one thing at a time, so there is room */
}

static void settle(struct gate *gate, int number, enum error answer)
{
    if (number != NOBODY)
        gate->answered[gate->answered_count++] = (struct answered){ number, answer };
}

int gate_take(struct gate *gate, enum error *answer)
{
    if (gate->answered_count == 0)
        return NOBODY;
    *answer = gate->answered[--gate->answered_count].answer;
    return gate->answered[gate->answered_count].number;
}

void gate_forget_worker(struct gate *gate, int number)
{
    int kept = 0;

    for (int i = 0; i < gate->waiting_count; i++)
        if (gate->waiting[i] != number)
            gate->waiting[kept++] = gate->waiting[i];
    gate->waiting_count = kept;
    for (int i = 0; i < gate->asked_count; i++)
        if (gate->asked[i] == number)
            gate->asked[i] = NOBODY;
}

static bool make_statement(struct gate *gate, int number)
{
    const struct cell *cell = hive_cell(gate->hive, number);
    struct statement *statement = &gate->statements[gate->asked_count];

    for (int i = 0; i < cell->question_count; i++)
        gate->topics[i] =
            (struct poll_topic){ .name = cell->names + cell->topics[i].name_at, .length = cell->topics[i].name_length };
    gate->asked[gate->asked_count++] = number;
    return statement_may_poll(statement, cell->user, gate->topics, cell->question_count);
}

/* The whole batch failed. Asked one by one, the good ones will be answered; the bad one is told of its own failure. */
static void fail(struct gate *gate, enum error error)
{
    const bool alone = gate->asked_count == 1;

    log_write(LOG_LEVEL_WARNING, "can_poll() was not answered: %s", database_error(gate->database));
    database_close(gate->database, NULL);
    gate->retry_ms = clock_monotonic_ms() + RETRY_MS;
    gate->limit = 1;
    if (alone) {
        settle(gate, gate->asked[0], error);
        return;
    }
    memmove(gate->waiting + gate->asked_count, gate->waiting, (size_t)gate->waiting_count * sizeof *gate->waiting);
    memcpy(gate->waiting, gate->asked, (size_t)gate->asked_count * sizeof *gate->asked);
    gate->waiting_count += gate->asked_count;
    gate_forget_worker(gate, NOBODY);
}

static void finish(struct gate *gate, enum error error)
{
    if (error) {
        fail(gate, error);
    } else {
        for (int i = 0; i < gate->asked_count; i++)
            settle(gate, gate->asked[i], database_is_true(gate->results[i]) ? ERROR_NONE : ERROR_DENIED);
        if (gate->waiting_count == 0)
            gate->limit = BATCH;
    }
    end_exchange(gate);
}

static void begin(struct gate *gate, int64_t now_ms)
{
    enum error error = ERROR_MEMORY;
    bool made = true;
    int taken = 0;

    gate->started_ms = now_ms;
    gate->running = true;
    for (; made && taken < gate->waiting_count && gate->asked_count < gate->limit; taken++) {
        if (hive_cell(gate->hive, gate->waiting[taken])->give_up_ms < now_ms)
            settle(gate, gate->waiting[taken], ERROR_DATABASE_AWAY);
        else
            made = make_statement(gate, gate->waiting[taken]);
    }
    gate->waiting_count -= taken;
    memmove(gate->waiting, gate->waiting + taken, (size_t)gate->waiting_count * sizeof *gate->waiting);
    if (made)
        error = gate->asked_count == 0
                    ? ERROR_NONE
                    : database_begin(gate->database, gate->statements, gate->asked_count, gate->results);
    if (error != ERROR_PENDING)
        finish(gate, error);
}

void gate_step(struct gate *gate, bool ready)
{
    int64_t now_ms = clock_monotonic_ms();
    enum error error = ERROR_PENDING;

    if (gate->running && ready)
        error = database_step(gate->database);
    if (gate->running && error == ERROR_PENDING && now_ms >= gate_due_ms(gate)) {
        database_close(gate->database, "no answer in time");
        error = ERROR_DATABASE_AWAY;
    }
    if (gate->running && error != ERROR_PENDING)
        finish(gate, error);
    else if (!gate->running && ready)
        (void)database_consume(gate->database); /* an idle connection that was cut is made anew when needed */
    if (!gate->running && now_ms >= gate_due_ms(gate))
        begin(gate, now_ms);
}
