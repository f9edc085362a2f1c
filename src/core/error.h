/*
 * The one closed set of errors, and what each means to a client and to the log.
 *
 * Functions that can fail return one of these and leave their outputs untouched. Who returns one does not log it: whoever knows the
 * context (a request, the start-up, whose connection it is) does, once.
 */
#ifndef PGPOLL_ERROR_H
#define PGPOLL_ERROR_H

#include "core/log_level.h"
#include "core/platform.h"

enum error {
    ERROR_NONE,
    ERROR_PENDING, /* begun and not yet done; never an outcome */
    /* Why a wait ended. */
    ERROR_TIMEOUT,
    ERROR_CLIENT_GONE,
    ERROR_RELEASED, /* the process was asked to answer what waits: drain or reload */
    /* What the client did wrong. */
    ERROR_NO_TOPIC,
    ERROR_INVALID,
    ERROR_DENIED,
    ERROR_NOT_FOUND,
    ERROR_METHOD,
    ERROR_TOO_LARGE,
    ERROR_TOO_MANY, /* polls of one client at a time */
    /* What went wrong here. */
    ERROR_DATABASE_AWAY,  /* no connection, or it was lost or cancelled: worth another try */
    ERROR_DATABASE_QUERY, /* PostgreSQL refused the statement: not worth another try */
    ERROR_SCHEMA,         /* the pgpoll schema is missing or of another version */
    ERROR_MEMORY,
    ERROR_COUNT
};

/* A short name for the log, such as "client_gone". */
const char *error_name(enum error error);

/* The HTTP status of an answer that tells of this error; 200 for those that do not keep a poll from being answered. */
int error_http_status(enum error error);

/* The API's "detail" text. */
const char *error_detail(enum error error);

/* At which level the program logs a poll that ended so. */
enum log_level error_log_level(enum error error);

#endif
