/*
 * A pipelined batch of queries with one deadline, run without blocking from an event loop.
 *
 * The module that owns the connection embeds one struct query_batch and uses it again and again: add
 * statements, begin, step until the batch has ended, read the results, end. The owner decides what a failure
 * means and when to retry.
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

/*
 * Begins all zero. When the owner needs it no longer, it frees the database and then calls query_batch_end().
 */
struct query_batch {
    struct database *database;
    struct statement statements[QUERY_BATCH_MAX_STATEMENTS];
    /* one for each statement; set when all statements have succeeded */
    PGresult *results[QUERY_BATCH_MAX_STATEMENTS];
    int count;
    bool running;
    int64_t started_ms, timeout_ms, deadline_ms; /* monotonic; set while the batch runs */
};

/*
 * Adds a statement, which the caller initialises, and returns it. Texts that the statement borrows must live
 * until query_batch_end().
 */
struct statement *query_batch_add(struct query_batch *batch);

/*
 * Sends the statements. database is borrowed until query_batch_end(). Returns ERROR_PENDING if results will
 * follow, ERROR_NONE if there are no statements, or an error of database_begin().
 */
enum error query_batch_begin(struct query_batch *batch, struct database *database, int64_t now_ms,
                             int64_t timeout_ms);

/*
 * Receives results. ready: whether poll(2) has reported the descriptor of database_pollfd(). Returns
 * ERROR_PENDING while results are missing or no batch runs, ERROR_NONE when all results are there, or an
 * error of database_step(). At the deadline, closes the connection and returns ERROR_DATABASE_AWAY. As long
 * as a host name is being resolved, the deadline is postponed.
 */
enum error query_batch_step(struct query_batch *batch, bool ready, int64_t now_ms);

/*
 * Returns when query_batch_step() must be called even if the socket is not ready (monotonic ms). Only for a
 * batch that runs.
 */
int64_t query_batch_due_ms(const struct query_batch *batch);

/* Releases the statements and the results. The batch can then be used again. */
void query_batch_end(struct query_batch *batch);

#endif
