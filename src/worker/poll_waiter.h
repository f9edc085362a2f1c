/*
 * One poll, from a checked request to a page to answer with: read, and if that gives nothing, wait for news, the timeout, the
 * client's leaving or our own release. A database that goes away meanwhile costs time, not the poll.
 *
 * Initialised by the program for each request, run once, ended once after the answer is out. Sends nothing itself: it tells
 * its client when the wait begins.
 */
#ifndef PGPOLL_POLL_WAITER_H
#define PGPOLL_POLL_WAITER_H

#include "worker/message_source.h"

#include <stdbool.h>
#include <stdint.h>

struct config;

/* What the poll asks of the connection it serves; borrowed. false: the client has left. */
struct poll_client {
    bool (*begin_wait)(
        struct poll_client *client); /* send the head of a 200 now; afterwards no other status is possible */
    bool (*heartbeat)(struct poll_client *client); /* send a byte of white space */
};

/* Where a topic stands for this client. */
struct poll_state {
    int64_t position; /* reading starts after it; CATCH_UP_FROM_NOW until the first read */
    int64_t oldest;   /* -1: none, or not known */
    enum gap gap;
};

struct poll_waiter {
    const struct config *config;
    struct message_source *source;
    const struct interrupts *interrupts;
    struct poll_client *client;
    struct source_poll who;
    struct poll_state *states; /* in the order of the request's topics */
    int64_t *positions;        /* the states' positions, as a read wants them */
    struct page page;
    bool began_wait;
    int64_t waits_since_ms; /* when there was nothing to answer with; 0: there was at once */
    int64_t heartbeat_ms;   /* when the next one is due; INT64_MAX: none are sent */
};

/*
 * Prepares a poll that starts now. Everything is borrowed until poll_waiter_release(). ERROR_MEMORY: nothing to end.
 */
enum error poll_waiter_init(struct poll_waiter *waiter, const struct config *config,
                            struct message_source *source, const struct interrupts *interrupts,
                            struct poll_client *client, const struct poll_request *request,
                            const char *remote_user, const char *client_address);

/*
 * Runs it. With ERROR_NONE, ERROR_TIMEOUT, ERROR_CLIENT_GONE and ERROR_DRAINED the page and the states are the answer; so they
 * are (empty) after any error once began_wait is set. Otherwise the error is the answer.
 */
enum error poll_waiter_run(struct poll_waiter *waiter);

/* Frees the poll and ends its subscription. Call it when the answer is out: it may have to wait for the database. */
void poll_waiter_release(struct poll_waiter *waiter);

#endif
