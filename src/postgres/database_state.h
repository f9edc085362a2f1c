/*
 * The inside of struct database, shared by the five modules that implement database.h: database.c (the public
 * functions), connect.c (everything up to a usable session), identify.c (which server that is), pipeline.c
 * (statements and their results) and session_end.c (sessions that are given up). No other module includes
 * this header.
 */
#ifndef PGPOLL_DATABASE_STATE_H
#define PGPOLL_DATABASE_STATE_H

#include "core/error.h"
#include "postgres/statement.h"
#include "postgres/timeline.h"

#include <libpq-fe.h>
#include <stdbool.h>
#include <stdint.h>

struct addresses;
struct background;

/*
 * An attempt to connect passes the states from RESOLVING to REPLACING in this order, and then runs the
 * caller's statements. It skips RESOLVING if there is no name to resolve, ENDING and REPLACING if no session
 * at this server was given up. When an address fails, the attempt goes on with the next one, at ENDING
 * (connect_go_on()). When the last one fails, the state is CLOSED.
 */
enum state {
    CLOSED,
    RESOLVING,   /* waiting for host names to be resolved */
    ENDING,      /* waiting for the backend of an earlier session at the same server to exit */
    CONNECTING,  /* libpq connects to one address */
    CHECKING,    /* connected, reading the version of the schema */
    IDENTIFYING, /* reading which server this is */
    REPLACING,   /* terminating the backend of an earlier session */
    RUNNING,     /* running the caller's statements */
    IDLE         /* connected, without statements */
};

enum {
    ENDED_MAX = 8, /* maximum number of given-up sessions that are remembered: two for each of four servers */
    EXIT_MS = 500  /* a backend that has not exited this long after its session was given up is terminated */
};

/* Statements that were sent, and their results. */
struct pipeline {
    const struct statement *statements;
    int count;
    PGresult **results;
    int received;       /* how many statements have all their results */
    int64_t since_ms;   /* since when the server has had the current statement to answer (monotonic) */
    bool identified;    /* the result of identify_again() has arrived for the current statement */
    enum error outcome; /* the first error */
};

/* Identifies a backend. The start time is needed because process ids are reused. */
struct backend {
    int32_t pid; /* 0: unknown, or the backend of a connection pooler */
    int64_t started_us;
};

/* A session that was given up and whose backend may still live. */
struct ended {
    int fd; /* its socket, which the server closes when the backend exits */
    uint64_t server;
    struct backend backend;
    int64_t since_ms;
};

struct database {
    int64_t query_timeout_ms;
    bool asynchronous_commit;
    const char *service;       /* NULL: none, the environment says to which server */
    PQconninfoOption *options; /* the connection parameters, with those of service; NULL: without service */
    PGconn *connection; /* NULL before CONNECTING; non-blocking and in pipeline mode from CHECKING on */
    enum state state;
    PostgresPollingStatusType polling; /* while CONNECTING */
    /* while CONNECTING: when the server has accepted the connection or last gone on with it; 0: not yet */
    int64_t accepted_ms;
    /* what PGHOST resolves to, kept from RESOLVING to the first RUNNING; while resolver runs, it owns them */
    struct addresses *addresses;
    struct background *resolver;
    int first, tried; /* the index of the address that the attempt began with; how many have failed since */
    /* when to try the next address (monotonic); INT64_MAX: not before this one has failed */
    int64_t host_due_ms;
    /* the address of the connection or attempt: its list, its server, its id, and the id of the next one */
    uint64_t list, server, address, next_address;
    struct backend backend;
    bool pooled;                   /* behind a pooler, which may run each transaction on another server */
    struct server reached;         /* where the last transaction ran */
    bool hides_cluster;            /* the role may not ask for the cluster and the timeline */
    struct ended ended[ENDED_MAX]; /* oldest first */
    int ended_count;
    /* while ENDING: when to check again whether the given-up sessions have ended (monotonic) */
    int64_t look_ms;
    struct background *canceller;
    struct pipeline asked; /* the caller's statements */
    struct pipeline check; /* the connection's own statement, while CHECKING, IDENTIFYING or REPLACING */
    struct statement check_statement;
    PGresult *check_result;
    char error[512];
    /* SQLSTATE of the error in the caller's statements; "": the error did not come from the server */
    char sqlstate[6];
    int failed;     /* index of the caller's statement that failed or was not answered; -1: none */
    bool timed_out; /* the server said that this statement took too long */
};

/* ---- session_end.c */

/* Stores the first line of text for database_error(). Returns error. */
enum error database_fail(struct database *database, enum error error, const char *text);

/* Closes a broken connection; libpq's message becomes database_error(). Returns ERROR_DATABASE_AWAY. */
enum error database_lose(struct database *database);

/* Adds the first line of text to what database_error() says. */
void session_add_reason(struct database *database, const char *text);

/* Closes the connection, if there is one. The caller's statements remain to be sent over another one. */
void session_end(struct database *database);

/* Closes the socket of a given-up session and removes it from the list. */
void session_forget(struct database *database, struct ended *ended);

/*
 * Whether a connection may be opened: all given-up sessions at this server have ended, or only one is left
 * and has not ended within EXIT_MS. In the second case the new connection must terminate that session's
 * backend.
 */
bool session_may_connect(struct database *database);

/* Returns the given-up session at this server that was given up first or last, or NULL if there is none. */
struct ended *session_oldest_ended(struct database *database);
const struct ended *session_newest_ended(const struct database *database);

/* ---- pipeline.c */

/*
 * pipeline_start() sends the statements of this pipeline. pipeline_start_asked() sends the caller's and makes
 * the state RUNNING. Both return ERROR_PENDING or an error. After ERROR_DATABASE_AWAY the connection is
 * closed if the statements are the caller's; if not, connect_go_on() closes it.
 */
enum error pipeline_start(struct database *database, struct pipeline *pipeline);
enum error pipeline_start_asked(struct database *database);

/*
 * Collects the results that have arrived. Returns ERROR_PENDING while some are missing, else ERROR_NONE or an
 * error, as above.
 */
enum error pipeline_step(struct database *database, struct pipeline *pipeline);

/* Drops all results. */
void pipeline_clear(struct pipeline *pipeline);

/* ---- identify.c */

/* Starts to ask which server this is, in the state IDENTIFYING. Returns ERROR_PENDING or an error. */
enum error identify_start(struct database *database);
enum error connect_step_identifying(struct database *database);

/*
 * For a session behind a pooler, or to a standby, which may be promoted: identify_again() sends the question
 * again, before a statement and in its transaction, and identify_take() takes the answer. identify_take()
 * returns ERROR_DATABASE_AWAY if the server must not be used.
 */
bool identify_again(struct database *database);
enum error identify_take(struct database *database, const PGresult *result);

/*
 * For a session that has been idle: closes it if its server must no longer be used, and returns
 * ERROR_DATABASE_AWAY. Otherwise returns ERROR_NONE.
 */
enum error identify_check(struct database *database);

/* ---- connect.c: what database_step() does in each of these states; return values as there */

enum error connect_step_ending(struct database *database);
enum error connect_step_resolving(struct database *database);
enum error connect_step_connecting(struct database *database);
enum error connect_step_checking(struct database *database);
enum error connect_step_replacing(struct database *database);

/* Sends check_statement, in this state. Returns ERROR_PENDING or an error. */
enum error connect_check_start(struct database *database, enum state state);

/* Goes on after the server was identified. Returns as database_step() does. */
enum error connect_replace_start(struct database *database);

/* Begins an attempt to connect. Returns as the steps do. */
enum error connect_begin(struct database *database);

/*
 * Call this when the time of an attempt is over and the server that it tries has not answered. The next
 * attempt begins with the address after that server's. But if this attempt began with another address, the
 * server had only a part of the time, so the next attempt begins with the server itself.
 */
void connect_run_out(const struct database *database);

/*
 * Writes to text that the server has accepted the connection, but does not go on with it. Returns false if
 * the server has not even accepted it. Only while CONNECTING.
 */
bool connect_name_silence(const struct database *database, char *text, size_t size);

/*
 * Takes the result of the address that is tried, up to the caller's statements. If that is
 * ERROR_DATABASE_AWAY, gives the address up, and goes on with the next ones. Returns as the steps do:
 * ERROR_PENDING, or the result of the last address, after which the connection is closed.
 */
enum error connect_go_on(struct database *database, enum error error);

/* Gives this address up, for this reason, and goes on with the next one. Returns as the steps do. */
enum error connect_try_next(struct database *database, const char *reason);

/*
 * The server has answered the caller's statements. If these are the session's first ones, later attempts
 * begin with its address.
 */
void connect_remember(struct database *database);

/* Frees the addresses. If the resolver still runs, leaves them to it. */
void connect_drop_addresses(struct database *database);

#endif
