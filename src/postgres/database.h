/*
 * A connection to PostgreSQL. It opens when it is first used, and opens again when it is used after a loss.
 * The program creates and frees it, and one process uses it. It never retries a statement; the caller decides
 * whether to retry.
 *
 * Callers either block, with database_run(), or run statements from an event loop: they call
 * database_begin(), then database_step() whenever the socket is ready or database_due_ms() has come, until
 * the result is no longer ERROR_PENDING. Steps never block: one thread resolves host names (addresses.h), and
 * another one sends cancel requests.
 *
 * Reconnecting must not use up the server's connections. PQfinish() alone would leave a backend behind that
 * is stuck in a statement or a COMMIT, and each reconnect would add another one. Therefore:
 *  1. Each session sets its lock_timeout and statement_timeout a little below the time after which the client
 *     gives the session up.
 *  2. A session that is given up is cancelled, and its socket stays open until the server closes it. A
 *     backend closes its socket only by exiting (socket_close() in PostgreSQL's pqcomm.c). Until then, no
 *     other connection to this server is opened.
 *  3. If the backend does not exit soon (it does not react, or the network drops packets), one more
 *     connection is opened. This connection terminates the first session's backend, and is not used until
 *     that backend has exited. There is never a third connection.
 *
 * Source: PostgreSQL 15 manual, chapter 34, "Pipeline Mode", "Asynchronous Command Processing" and
 * "Notification".
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
 * Returns a new handle without a connection, or NULL if out of memory. query_timeout_ms is the longest time
 * for which the owner waits for results; the sessions' lock_timeout and statement_timeout derive from it.
 */
struct database *database_new(int64_t query_timeout_ms);
void database_free(struct database *database);

/*
 * Makes the sessions commit without waiting for the disk or for standbys (synchronous_commit = off), for data
 * that may get lost in a crash. Call it before the first use.
 */
void database_set_asynchronous_commit(struct database *database);

/*
 * Makes the sessions those of this libpq service (borrowed), which may be a standby of the other sessions'
 * server, or a pooler before it. A standby whose identity the role may not read is not used. Call it before
 * the first use, while the process has one thread. Returns false if it fails.
 */
bool database_use_service(struct database *database, const char *service);

/*
 * Sends count statements in one network write and waits for all results until deadline_ms (monotonic). The
 * server runs them one after the other, each in a transaction of its own. If there is no connection, connects
 * first and checks the version of the schema. results: count pointers, which are set to new results in binary
 * format; the caller clears them. Returns ERROR_NONE, ERROR_DATABASE_AWAY (the connection is closed),
 * ERROR_DATABASE_QUERY, ERROR_SCHEMA or ERROR_MEMORY; on errors there are no results.
 */
enum error database_run(struct database *database, const struct statement *statements, int count,
                        PGresult **results, int64_t deadline_ms);

/* Connects, if there is no connection, and finds out what database_is_primary() returns. Errors as above. */
enum error database_probe(struct database *database, int64_t deadline_ms);

/*
 * Do the same as database_run() without blocking. database_begin() returns ERROR_PENDING or an error.
 * database_step() returns ERROR_PENDING until all results have arrived, and then what database_run() returns.
 * statements and results are borrowed until then.
 */
enum error database_begin(struct database *database, const struct statement *statements, int count,
                          PGresult **results);
enum error database_step(struct database *database);

/*
 * Returns the descriptor and events to wait for before the next step or, if no statements are running, before
 * database_consume(). The descriptor may change with every step. It is -1 if there is none.
 */
struct pollfd database_pollfd(const struct database *database);

/*
 * Returns when database_step() must be called even if the descriptor is not ready (monotonic ms), or
 * INT64_MAX if only the descriptor counts.
 */
int64_t database_due_ms(const struct database *database);

/*
 * Whether the connection waits for a host name to be resolved. Callers do not count that time against their
 * deadline.
 */
bool database_is_resolving(const struct database *database);

/* Reads notifications that have arrived on an idle connection. Returns ERROR_NONE or ERROR_DATABASE_AWAY. */
enum error database_consume(struct database *database);

/*
 * Returns the next notification that was read, or NULL if there is none. The caller frees it with
 * PQfreemem().
 */
PGnotify *database_notification(struct database *database);

/* Decode a value in binary format that is not NULL. */
bool database_bool(const PGresult *result, int row, int column);
int32_t database_int4(const PGresult *result, int row, int column);
int64_t database_int8(const PGresult *result, int row, int column);

/* Whether the result is a single row whose first column is true. */
bool database_is_true(const PGresult *result);

/*
 * Waits for a notification on any channel on which this connection LISTENs, and drops all that have arrived.
 * Returns ERROR_NONE, ERROR_DATABASE_AWAY or an error of wait_for_event().
 */
enum error database_wait_news(struct database *database, const struct interrupts *interrupts,
                              int64_t deadline_ms);

/* Whether there is a connection, as far as the client knows. */
bool database_is_connected(const struct database *database);

/*
 * Whether there is a pooler between this process and the server, so that each transaction may run in another
 * session.
 */
bool database_is_pooled(const struct database *database);

/*
 * Whether the last transaction ran on a primary: when it began, the server was not in recovery. False if
 * there is no connection.
 */
bool database_is_primary(const struct database *database);

/*
 * Closes the connection, if there is one. This ends its LISTENs and the statements that were begun. text
 * becomes the text of database_error(); if text is NULL, that text remains.
 */
void database_close(struct database *database, const char *text);

/*
 * Closes the connection because the caller's deadline has passed; database_error() says what it was waiting
 * for.
 */
void database_give_up(struct database *database);

/*
 * Return the host (name, address or directory of the socket) and port of the connection, or "" without one.
 * Borrowed until the next call.
 */
const char *database_host(const struct database *database);
const char *database_port(const struct database *database);

/* Returns the last error message, in one line, or "". Borrowed until the next call. */
const char *database_error(const struct database *database);

/*
 * These functions describe the last call that failed. database_failed() returns the index of the first
 * statement that failed or was not answered in time, or -1 if it was the connection. database_sqlstate()
 * returns the server's SQLSTATE, or "" if the error did not come from the server.
 */
int database_failed(const struct database *database);
const char *database_sqlstate(const struct database *database);

/*
 * Names error, with which a call of an operator's function has failed. Returns timed_out if the server said
 * that the call took too long, because statement_timeout or lock_timeout expired or somebody cancelled it;
 * failed after any other SQL error; otherwise error: a server that does not answer is away.
 */
enum error database_name_error(const struct database *database, enum error error, enum error failed,
                               enum error timed_out);

/*
 * Logs that the database has become read-only, or writable again. *noted: whether it was read-only at the
 * last call, initially false. A read-only database still serves the messages that have positions.
 */
void database_note_read_only(bool *noted, bool read_only);

#endif
