/*
 * A poll waiter runs one poll, from a checked request to the page that answers it. It reads, and if there is
 * nothing to answer with, it waits for new messages, the timeout, a disconnect or a drain. If the database
 * goes away meanwhile, it retries until the poll's timeout.
 *
 * The program initialises a poll waiter for each request, runs it once, and releases it after the answer is
 * sent. A poll waiter sends nothing itself; through struct poll_client it makes the program send the head and
 * heartbeats.
 */
#ifndef PGPOLL_POLL_WAITER_H
#define PGPOLL_POLL_WAITER_H

#include "worker/message_source.h"

#include <stdbool.h>
#include <stdint.h>

struct config;

/*
 * The operations with which a poll waiter sends something to its client. The program implements them. Both
 * return false if the client has disconnected.
 */
struct poll_client {
    /* Sends the head of the answer, with status 200. No other status is possible afterwards. */
    bool (*begin_wait)(struct poll_client *client);
    /* Sends a byte of white space. */
    bool (*heartbeat)(struct poll_client *client);
};

/* The gap of a topic to report to the client. */
struct poll_gap {
    enum gap gap;
    int64_t oldest; /* the oldest retained position; -1: there is none, or it is unknown */
};

struct poll_waiter {
    const struct config *config;
    struct message_source *source;
    const struct interrupts *interrupts;
    struct poll_client *client;
    struct source_poll poll;
    /* In the order of the request's topics: */
    int64_t *positions; /* reading starts after them; before the first read they may be negative (cursor.h) */
    struct poll_gap *gaps;
    struct page page;
    char user[SOURCE_USER_SIZE]; /* the name that poll_waiter_authenticate() got */
    bool began_wait;             /* the head has been sent */
    bool can_begin_wait;         /* the present read may send it: the poll has cursors to answer with */
    int64_t waits_since_ms;      /* when the wait began; 0: the poll did not have to wait */
    int64_t heartbeat_ms;        /* when the next heartbeat is due; INT64_MAX: none are sent */
};

/*
 * Initialises a poll that starts now. All pointers are borrowed until poll_waiter_release(). Returns
 * ERROR_NONE, or ERROR_MEMORY; then there is nothing to release.
 */
enum error poll_waiter_init(struct poll_waiter *waiter, const struct config *config,
                            struct message_source *source, const struct interrupts *interrupts,
                            struct poll_client *client, const struct poll_request *request,
                            const char *remote_user, const char *client_address);

/*
 * Asks authenticate() which user sent this Authorization header ("": there was none), and sets
 * poll.remote_user to the user's name. Call it before poll_waiter_run() if the web server has not
 * authenticated the user. If it returns an error, send the client that error.
 */
enum error poll_waiter_authenticate(struct poll_waiter *waiter, const char *authorization);

/*
 * Runs the poll. If it returns ERROR_NONE, ERROR_TIMEOUT, ERROR_CLIENT_GONE or ERROR_DRAINED, or if
 * began_wait is set, make the answer from page, positions and gaps; the page is empty unless the result is
 * ERROR_NONE. Otherwise send the client the error.
 */
enum error poll_waiter_run(struct poll_waiter *waiter);

/*
 * Ends the poll's subscription and frees what the waiter holds. Call it after the answer is sent, because it
 * may wait for the database.
 */
void poll_waiter_release(struct poll_waiter *waiter);

#endif
