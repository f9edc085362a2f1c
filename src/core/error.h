/*
 * The closed set of error codes, each with its name, its HTTP answer and its log level.
 *
 * Functions that can fail return one of these and leave their outputs untouched. A function that returns an
 * error does not log it. The caller that knows the context (the request, the start-up, the purpose of a
 * connection) logs it once.
 */
#ifndef PGPOLL_ERROR_H
#define PGPOLL_ERROR_H

#include "core/log_level.h"
#include "core/platform.h"

enum error {
    ERROR_NONE,
    ERROR_PENDING, /* the operation is still running; never the outcome of a poll */
    /* Reasons why a wait ended; the poll is answered normally. */
    ERROR_TIMEOUT,
    ERROR_CLIENT_GONE,
    ERROR_DRAINED, /* the poll must be answered now: shutdown, reload, or room is needed for other polls */
    /* Errors of the client. */
    ERROR_NO_TOPIC,
    ERROR_INVALID,
    ERROR_UNAUTHENTICATED, /* authenticate() refused the Authorization header */
    ERROR_DENIED,
    ERROR_NOT_FOUND,
    ERROR_METHOD,
    ERROR_TOO_LARGE,
    ERROR_TOO_MANY, /* the client has more polls at the same time than its quota allows */
    /* Errors of the server. */
    ERROR_AUTHENTICATE_FAILED, /* authenticate() raised an error */
    ERROR_AUTHENTICATE_TIMEOUT,
    ERROR_CAN_POLL_FAILED, /* can_poll() raised an error */
    ERROR_CAN_POLL_TIMEOUT,
    ERROR_READERS_BUSY,   /* so many polls read the table that this one did not get its turn */
    ERROR_DATABASE_AWAY,  /* no connection, a lost connection or a cancelled query; a retry may succeed */
    ERROR_DATABASE_QUERY, /* PostgreSQL rejected the statement; a retry would fail again */
    ERROR_SCHEMA,         /* the pgpoll schema is missing or of another version */
    ERROR_MEMORY,
    ERROR_COUNT
};

/* Returns a short name for the log and for metrics, such as "client_gone". */
const char *error_name(enum error error);

/* Returns the HTTP status of the answer; 200 for ERROR_NONE and for the reasons why a wait ended. */
int error_http_status(enum error error);

/* Returns the text of the answer's "detail" field. */
const char *error_detail(enum error error);

/* Returns the level at which a poll that ended with this error is logged. */
enum log_level error_log_level(enum error error);

#endif
