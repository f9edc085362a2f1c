/*
 * One connection to PostgreSQL, opened when first used and opened again when it was lost. Made and freed by the program,
 * used by one process. Never waits longer than it is told; never retries: who asked decides whether to ask again.
 *
 * Source: PostgreSQL 15 manual, chapter 34, "Pipeline Mode" and "Asynchronous Notification".
 */
#ifndef PGPOLL_DATABASE_H
#define PGPOLL_DATABASE_H

#include "error.h"
#include "interrupts.h"

#include <libpq-fe.h>
#include <stdbool.h>
#include <stdint.h>

struct database;
struct statement;

/* The version of the pgpoll schema that this program works with. */
enum { DATABASE_SCHEMA_VERSION = 1 };

/* A new unconnected handle, NULL when out of memory. */
struct database *database_new(void);
void database_free(struct database *database);

/*
 * Runs statements one after the other in one network write, each in a transaction of its own, and waits for all results
 * until deadline_ms (monotonic). Connects first where there is no connection, and checks the schema's version then.
 * results: count pointers, filled with new results in binary format, which the caller clears.
 * ERROR_DATABASE_AWAY (the connection is closed), ERROR_DATABASE_QUERY, ERROR_SCHEMA; no results then.
 */
enum error database_run(struct database *database, const struct statement *statements, int count, PGresult **results,
                        int64_t deadline_ms);

/*
 * Waits for a notification on any channel this connection LISTENs on, and takes all that are there.
 * Also ERROR_DATABASE_AWAY and what interrupts_wait() returns.
 */
enum error database_wait_news(struct database *database, const struct interrupts *interrupts, int64_t deadline_ms);

/* Whether there is a connection, as far as is known. */
bool database_is_connected(const struct database *database);

/* Closes the connection, if there is one; with it go its LISTENs. */
void database_close(struct database *database);

/* What went wrong last, in one line; "" when nothing did. Borrowed until the next call. */
const char *database_error(const struct database *database);

#endif
