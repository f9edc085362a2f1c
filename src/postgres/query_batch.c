#include "postgres/query_batch.h"

#include "core/clock.h"
#include "postgres/database.h"

struct statement *query_batch_add(struct query_batch *batch)
{
    return &batch->statements[batch->count++];
}

enum error query_batch_begin(struct query_batch *batch, struct database *database, int64_t now_ms,
                             int64_t timeout_ms)
{
    enum error error = ERROR_NONE;

    batch->database = database;
    batch->started_ms = now_ms;
    batch->timeout_ms = timeout_ms;
    batch->deadline_ms = now_ms + timeout_ms;
    if (batch->count > 0)
        error = database_begin(database, batch->statements, batch->count, batch->results);
    batch->running = error == ERROR_PENDING;
    return error;
}

enum error query_batch_step(struct query_batch *batch, bool ready, int64_t now_ms)
{
    enum error error = ERROR_PENDING;

    if (!batch->running)
        return ERROR_PENDING;
    if (database_is_resolving(batch->database))
        batch->deadline_ms = now_ms + batch->timeout_ms;
    if (ready || now_ms >= database_due_ms(batch->database))
        error = database_step(batch->database);
    if (error == ERROR_PENDING && now_ms >= batch->deadline_ms) {
        database_give_up(batch->database);
        error = ERROR_DATABASE_AWAY;
    }
    if (error != ERROR_PENDING)
        batch->running = false;
    return error;
}

int64_t query_batch_due_ms(const struct query_batch *batch)
{
    return clock_min(batch->deadline_ms, database_due_ms(batch->database));
}

void query_batch_end(struct query_batch *batch)
{
    for (int i = 0; i < batch->count; i++) {
        PQclear(batch->results[i]);
        batch->results[i] = NULL;
        statement_release(&batch->statements[i]);
    }
    batch->count = 0;
    batch->running = false;
}
