/*
 * Statements that go to the database together, and what it answers, without waiting and within a time. Used again and again: add
 * statements, begin, step until it has ended, look at the results, end. Part of whoever drives a connection from a loop; what a
 * failure means, and when to try again, is theirs to say.
 */
#ifndef PGPOLL_QUERY_BATCH_H
#define PGPOLL_QUERY_BATCH_H

#include "core/error.h"
#include "postgres/statement.h"

#include <libpq-fe.h>
#include <stdbool.h>
#include <stdint.h>

enum { QUERY_BATCH_MAX_STATEMENTS = 32 };

struct database;

/* Zeroed. To be ended when its owner ends, after the database. */
struct query_batch {
    struct database *database;
    struct statement statements[QUERY_BATCH_MAX_STATEMENTS];
    PGresult *results[QUERY_BATCH_MAX_STATEMENTS]; /* of each statement, once all have succeeded */
    int count;
    bool running;
    int64_t started_ms, timeout_ms, due_ms; /* monotonic; while it runs, time is up at due_ms */
};

/* Starts the next statement, as statement_init() does. NULL: something else does that. What it borrows is borrowed until the end. */
struct statement *query_batch_add(struct query_batch *batch, const char *sql);

/* Sends them. database: borrowed until the end. ERROR_PENDING; ERROR_NONE, as there are none; or the errors of database_begin(). */
enum error query_batch_begin(struct query_batch *batch, struct database *database, int64_t now_ms,
                             int64_t timeout_ms);

/*
 * Takes what has arrived, if the database's socket is ready. ERROR_PENDING: not all yet, or nothing was begun. ERROR_NONE: the results
 * are there. Otherwise the errors of database_step(); ERROR_DATABASE_AWAY, with the connection closed, also when time is up,
 * which does not pass while a host name is resolved.
 */
enum error query_batch_step(struct query_batch *batch, bool ready, int64_t now_ms);

/* While it runs: when exchange_step() has something to do even if the socket is not ready. */
int64_t query_batch_due_ms(const struct query_batch *batch);

/* Clears the statements and the results. */
void query_batch_end(struct query_batch *batch);

#endif
