#include "exchange.h"

#include "clock.h"
#include "database.h"

struct statement *exchange_add(struct exchange *exchange, const char *sql)
{
    struct statement *statement = &exchange->statements[exchange->count++];

    statement_init(statement, sql);
    return statement;
}

enum error exchange_begin(struct exchange *exchange, struct database *database, int64_t now_ms, int64_t timeout_ms)
{
    enum error error = ERROR_NONE;

    exchange->database = database;
    exchange->started_ms = now_ms;
    exchange->timeout_ms = timeout_ms;
    exchange->due_ms = now_ms + timeout_ms;
    if (exchange->count > 0)
        error = database_begin(database, exchange->statements, exchange->count, exchange->results);
    exchange->running = error == ERROR_PENDING;
    return error;
}

enum error exchange_step(struct exchange *exchange, bool ready, int64_t now_ms)
{
    enum error error = ERROR_PENDING;

    if (!exchange->running)
        return ERROR_PENDING;
    if (database_is_resolving(exchange->database))
        exchange->due_ms = now_ms + exchange->timeout_ms;
    if (ready || now_ms >= database_due_ms(exchange->database))
        error = database_step(exchange->database);
    if (error == ERROR_PENDING && now_ms >= exchange->due_ms) {
        database_give_up(exchange->database);
        error = ERROR_DATABASE_AWAY;
    }
    if (error != ERROR_PENDING)
        exchange->running = false;
    return error;
}

int64_t exchange_due_ms(const struct exchange *exchange)
{
    return clock_min(exchange->due_ms, database_due_ms(exchange->database));
}

void exchange_end(struct exchange *exchange)
{
    for (int i = 0; i < exchange->count; i++) {
        PQclear(exchange->results[i]);
        exchange->results[i] = NULL;
        statement_release(&exchange->statements[i]);
    }
    exchange->count = 0;
    exchange->running = false;
}
