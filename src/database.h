/*
 * One connection to PostgreSQL, opened when first used and opened again when it was lost. Made and freed by the program,
 * used by one process. Never retries: who asked decides whether to ask again.
 *
 * Work is done either at once, with database_run(), or step by step beside other things: database_begin(), then
 * database_step() whenever the socket is ready, until it no longer says ERROR_PENDING.
 *
 * Source: PostgreSQL 15 manual, chapter 34, "Pipeline Mode", "Asynchronous Command Processing" and "Notification".
 */
#ifndef PGPOLL_DATABASE_H
#define PGPOLL_DATABASE_H

#include "error.h"
#include "interrupts.h"

#include <libpq-fe.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

struct database;
struct statement;

/* A new unconnected handle, NULL when out of memory. */
struct database *database_new(void);
void database_free(struct database *database);

/* Has connections made to this service of libpq's service file, "" for none; borrowed for good. */
void database_set_service(struct database *database, const char *service);

/*
 * Runs statements one after the other in one network write, each in a transaction of its own, and waits for all results
 * until deadline_ms (monotonic). Connects first where there is no connection, and checks the schema's version then.
 * results: count pointers, filled with new results in binary format, which the caller clears.
 * ERROR_DATABASE_AWAY (the connection is closed), ERROR_DATABASE_QUERY, ERROR_SCHEMA, ERROR_MEMORY; no results then.
 */
enum error database_run(struct database *database, const struct statement *statements, int count, PGresult **results,
                        int64_t deadline_ms);

/* The same without waiting: statements and results are borrowed until database_step() is done. Returns ERROR_PENDING or fails. */
enum error database_begin(struct database *database, const struct statement *statements, int count, PGresult **results);
enum error database_step(struct database *database);

/* What to wait for before the next step or, when idle, for notifications. The socket may change; -1: none. */
struct pollfd database_pollfd(const struct database *database);

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
enum error database_wait_news(struct database *database, const struct interrupts *interrupts, int64_t deadline_ms);

/* Whether there is a connection, as far as is known. */
bool database_is_connected(const struct database *database);

/* Closes the connection, if there is one; with it go its LISTENs and what was begun. text, or NULL: why, for database_error(). */
void database_close(struct database *database, const char *text);

/* What went wrong last, in one line; "" when nothing did. Borrowed until the next call. */
const char *database_error(const struct database *database);

#endif
