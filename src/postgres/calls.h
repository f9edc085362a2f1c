/*
 * Builds the statements that call the schema's functions, for the manager, for workers without a manager and
 * for pgpoll.fcgi --check. Together with the other modules of this folder, it is the only code that contains
 * SQL. (catch_up.h builds the statements that read messages.)
 *
 * Each function initialises a statement, which the caller releases, and borrows its texts. Functions that
 * return bool return false if out of memory.
 */
#ifndef PGPOLL_CALLS_H
#define PGPOLL_CALLS_H

#include <stdbool.h>
#include <stdint.h>

struct poll_topic;
struct statement;

/* ---- access */

/*
 * Asks which of these topics can_poll() refuses to remote_user ("": not authenticated). The result is the
 * number of the first refused topic, counted from 1, or 0 if none is refused.
 */
bool call_refused_topic(struct statement *statement, const char *remote_user, const struct poll_topic *topics,
                        int count);

/* Asks for the user of an Authorization header. The result is the name, "" for an anonymous user, or NULL. */
void call_authenticate(struct statement *statement, const char *authorization);

/* Asks whether authenticate() has been replaced. */
void call_has_authenticate(struct statement *statement);

/*
 * Asks whether the access functions are as installed. Columns: can_poll() allows everything; authenticate()
 * authenticates nobody.
 */
void call_is_open_to_all(struct statement *statement);

/* ---- statistics */

/* Writes a report (stats_report.h) of this host. The result is false if the database is read-only. */
void call_write_statistics(struct statement *statement, const char *host, const char *report);

/* The same as call_write_statistics(), after a LISTEN to these topics. */
bool call_begin_wait(struct statement *statement, const struct poll_topic *topics, int count,
                     const char *host, const char *report);

/* Deletes stale rows of pgpoll.waiters. */
void call_sweep_waiters(struct statement *statement);

/* ---- notifications */

/* LISTENs to the channel on which batches are announced. */
void call_listen_to_batches(struct statement *statement);

/* Ends all LISTENs of the session. */
void call_unlisten(struct statement *statement);

/*
 * LISTENs to the channel of a topic. Column 1 is a text that identifies the server, its start and the table
 * of messages.
 */
bool call_listen_to_topic(struct statement *statement, const struct poll_topic *topic);

/* Sends an empty notification to the channel of a topic. */
void call_notify_topic(struct statement *statement, const char *topic);

/*
 * Sets, for the rest of the session, what the functions of the schema set for themselves, so that the session
 * may run a statement on views as they run theirs: rows that a policy hides cause an error, and the plan does
 * not depend on statistics.
 */
void call_set_plans(struct statement *statement);

/* Tries to become the manager that leads, until the session ends. The result says whether it does. */
void call_lead(struct statement *statement);

/* Asks publishers not to NOTIFY for so many milliseconds. */
bool call_mute_doorbell(struct statement *statement, int32_t ms);

/* Ends what call_mute_doorbell() began. The result says whether all publishers NOTIFY again. */
void call_unmute_doorbell(struct statement *statement);

/* ---- pgpoll.fcgi --check */

/*
 * Describes the connection. Columns: database, address of the server, role, version of PostgreSQL, 'yes' if
 * the role is a superuser, time in milliseconds since 1970 (bigint).
 */
void call_connection(struct statement *statement);

/*
 * Lists the functions that a worker calls and this role may not call. Columns: their names, '' if there are
 * none; the role as an SQL identifier.
 */
void call_missing_rights(struct statement *statement);

/*
 * Lists problems of the installation: rows of severity, message and whether the problem blocks numbering and
 * LISTEN. connections: of the manager without its authorizer; access_connections: of the authorizer, which
 * has one as long as the access functions are as installed.
 */
bool call_problems(struct statement *statement, const char *host, int32_t workers, int32_t connections,
                   int32_t access_connections);

/* Asks whether an unauthenticated client may poll topic 'pgpoll check'. */
void call_can_poll(struct statement *statement);

/* Publishes a message, gives it a position and takes it back. The result is NULL, or says what is wrong. */
void call_try_position(struct statement *statement);

#endif
