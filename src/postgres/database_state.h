/*
 * The parts of struct database, for the four modules that work on it: database.c (what callers see), connect.c (up to a usable
 * session), pipeline.c (statements and their results) and session_end.c (giving a session up). Nobody else includes this.
 */
#ifndef PGPOLL_DATABASE_STATE_H
#define PGPOLL_DATABASE_STATE_H

#include "core/error.h"
#include "postgres/statement.h"

#include <libpq-fe.h>
#include <stdbool.h>
#include <stdint.h>

struct addresses;
struct background;

enum state {
    CLOSED,
    ENDING,    /* an earlier session's backend may still live */
    RESOLVING, /* host names */
    CONNECTING,
    CHECKING,  /* connected, asking for the schema's version */
    REPLACING, /* terminating an earlier session's backend */
    IDLE,
    RUNNING
};

enum {
    ENDED_MAX = 2, /* sessions that were given up and may still have a backend */
    EXIT_MS = 500  /* after which a backend does not exit by itself */
};

/* Statements under way and what came of them. */
struct pipeline {
    const struct statement *statements;
    int count;
    PGresult **results;
    int received;
    enum error outcome; /* the first error */
};

/* By which a session is known to others: process ids are used again. */
struct backend {
    int32_t pid; /* 0: not known, or a pooler's */
    int64_t started_us;
};

/* A session that was given up. */
struct ended {
    int fd; /* its socket */
    struct backend backend;
    int64_t since_ms;
};

struct database {
    int64_t query_timeout_ms;
    bool bookkeeping;
    PGconn *connection; /* NULL up to CONNECTING; non-blocking and in pipeline mode from CHECKING on */
    enum state state;
    PostgresPollingStatusType polling; /* while CONNECTING */
    struct addresses *addresses; /* from RESOLVING on, until they are used; the resolver's while it runs */
    struct background *resolver;
    struct backend backend;
    struct ended ended[ENDED_MAX]; /* oldest first */
    int ended_count;
    int64_t look_ms; /* at them, while ENDING */
    struct background *canceller;
    struct pipeline asked; /* by the caller */
    struct pipeline check; /* by us */
    struct statement check_statement;
    PGresult *check_result;
    char error[512];
};

/* session_end.c: notes an error's first line for database_error() and returns the error; closes a connection that is of no use. */
enum error database_fail(struct database *database, enum error error, const char *text);
enum error database_lose(struct database *database);
void session_forget(struct database *database, int number);
bool session_may_connect(struct database *database);

/* pipeline.c */
enum error pipeline_start(struct database *database, struct pipeline *pipeline);
enum error pipeline_start_asked(struct database *database);
enum error pipeline_step(struct database *database, struct pipeline *pipeline);
void pipeline_clear(struct pipeline *pipeline);

/* connect.c: a step in each state. */
enum error connect_step_ending(struct database *database);
enum error connect_step_resolving(struct database *database);
enum error connect_step_connecting(struct database *database);
enum error connect_step_checking(struct database *database);
enum error connect_step_replacing(struct database *database);
void connect_drop_addresses(struct database *database);

#endif
