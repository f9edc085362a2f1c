/*
 * A pipelined batch of queries with one deadline, run without blocking from an event loop.
 *
 * The module that owns the connection embeds one and uses it again and again: add statements, begin, step
 * until the batch has ended, read the results, end. The owner decides what a failure means and when to retry.
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

/* Starts all zero. Its owner calls query_batch_end() at last, after it has freed the database. */
struct query_batch {
    struct database *database;
    struct statement statements[QUERY_BATCH_MAX_STATEMENTS];
    PGresult *results[QUERY_BATCH_MAX_STATEMENTS]; /* one for each statement, once all have succeeded */
    int count;
    bool running;
    int64_t started_ms, timeout_ms, deadline_ms; /* monotonic times; set while it runs */
};

/*
 * Returns the next statement, initialised with sql; with NULL, the caller initialises it. Texts that it
 * borrows must live until query_batch_end().
 */
struct statement *query_batch_add(struct query_batch *batch, const char *sql);

/*
 * Sends the statements. database is borrowed until query_batch_end(). Returns ERROR_PENDING, ERROR_NONE if
 * there are no statements, or an error of database_begin().
 */
enum error query_batch_begin(struct query_batch *batch, struct database *database, int64_t now_ms,
                             int64_t timeout_ms);

/*
 * Receives results. ready: whether database_pollfd() is ready. Returns ERROR_PENDING while results are
 * missing or nothing was begun, ERROR_NONE when all results are there, or an error of database_step(). At the
 * deadline it closes the connection and returns ERROR_DATABASE_AWAY. The deadline is postponed for as long as
 * a host name is being resolved.
 */
enum error query_batch_step(struct query_batch *batch, bool ready, int64_t now_ms);

/*
 * While the batch runs: returns when query_batch_step() must be called even if the socket is not ready
 * (monotonic).
 */
int64_t query_batch_due_ms(const struct query_batch *batch);

/* Releases the statements and the results. */
void query_batch_end(struct query_batch *batch);

#endif
