/*
 * One connection to PostgreSQL, opened when first used and opened again when it was lost. Made and freed by the program,
 * used by one process. Never retries: who asked decides whether to ask again.
 *
 * Work is done either at once, with database_run(), or step by step beside other things: database_begin(), then
 * database_step() whenever the socket is ready or database_due_ms() has come, until it no longer says ERROR_PENDING. Steps never
 * block: a thread resolves host names (addresses.h), another one sends the cancel request.
 *
 * How it never uses up the server's connections. PQfinish() alone leaves a backend that is stuck in a statement or a COMMIT
 * behind, and each reconnect would add one. Therefore:
 *  1. Each session has its own lock_timeout and statement_timeout, a little shorter than the time after which we give it up.
 *  2. A session that is given up is cancelled, and its socket stays open until the server closes it: a backend closes its socket
 *     only by exiting (socket_close() in PostgreSQL's pqcomm.c). Until then, no other connection is opened.
 *  3. If the backend does not exit soon (it does not react, or the network is silent), one more connection is opened, which
 *     terminates the first session's backend and is not used before that has gone. There is never a third.
 *
 * Source: PostgreSQL 15 manual, chapter 34, "Pipeline Mode", "Asynchronous Command Processing" and "Notification".
 */
#ifndef PGPOLL_DATABASE_H
#define PGPOLL_DATABASE_H

#include "core/error.h"
#include "core/wait.h"

#include <libpq-fe.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

struct database;
struct statement;

/*
 * A new unconnected handle, NULL when out of memory. query_timeout_ms: how long its owner waits for an answer at most, from which the
 * sessions' own timeouts follow.
 */
struct database *database_new(int64_t query_timeout_ms);
void database_free(struct database *database);

/* Has its commits not wait for the disk or for standbys: for what a crash may forget. */
void database_set_bookkeeping(struct database *database);

/*
 * Runs statements one after the other in one network write, each in a transaction of its own, and waits for all results
 * until deadline_ms (monotonic). Connects first where there is no connection, and checks the schema's version then.
 * results: count pointers, filled with new results in binary format, which the caller clears.
 * ERROR_DATABASE_AWAY (the connection is closed), ERROR_DATABASE_QUERY, ERROR_SCHEMA, ERROR_MEMORY; no results then.
 */
enum error database_run(struct database *database, const struct statement *statements, int count,
                        PGresult **results, int64_t deadline_ms);

/* The same without waiting: statements and results are borrowed until database_step() is done. Returns ERROR_PENDING or fails. */
enum error database_begin(struct database *database, const struct statement *statements, int count,
                          PGresult **results);
enum error database_step(struct database *database);

/* What to wait for before the next step or, when idle, for notifications. The socket may change; -1: none. */
struct pollfd database_pollfd(const struct database *database);

/* When the next step is due even if nothing is ready; INT64_MAX: never. */
int64_t database_due_ms(const struct database *database);

/* Whether what was begun waits for a host name to be resolved. Time limits count from after that. */
bool database_is_resolving(const struct database *database);

/* Reads what has arrived on an idle connection. ERROR_DATABASE_AWAY. */
enum error database_consume(struct database *database);

/* The next notification that has arrived, NULL when there is none; the caller frees it with PQfreemem(). */
PGnotify *database_notification(struct database *database);

/* Values that are not NULL, in binary format. */
int32_t database_int4(const PGresult *result, int row, int column);
int64_t database_int8(const PGresult *result, int row, int column);

/* Whether the result of a statement is one row, and that is true. */
bool database_is_true(const PGresult *result);

/*
 * Waits for a notification on any channel this connection LISTENs on, and drops all that are there.
 * Also ERROR_DATABASE_AWAY and what interrupts_wait() returns.
 */
enum error database_wait_news(struct database *database, const struct interrupts *interrupts,
                              int64_t deadline_ms);

/* Whether there is a connection, as far as is known. */
bool database_is_connected(const struct database *database);

/* Closes the connection, if there is one; with it go its LISTENs and what was begun. text, or NULL: why, for database_error(). */
void database_close(struct database *database, const char *text);

/* The same when what was begun takes too long; database_error() says what it waited for. */
void database_give_up(struct database *database);

/* What went wrong last, in one line; "" when nothing did. Borrowed until the next call. */
const char *database_error(const struct database *database);

#endif
