/*
 * A message source: where a poll reads its messages, and what wakes it when there are new ones. There are two
 * kinds, behind one interface: source_shared.h, for a worker that has a manager, and source_direct.h, for a
 * worker with a connection of its own. The program creates a worker's source, uses it for one poll at a time,
 * and frees it when the worker ends.
 *
 * A poll calls it in this order:
 *   0. authenticate(), if the web server has authenticated nobody.
 *   1. read() with SOURCE_AUTHORIZE. If that gives messages or a gap, go on with step 5.
 *   2. read() with SOURCE_SUBSCRIBE. From here on, new messages end wait().
 *   3. wait().
 *   4. read(). If it gives nothing, go back to step 3.
 *   5. end(), once the answer is out.
 */
#ifndef PGPOLL_MESSAGE_SOURCE_H
#define PGPOLL_MESSAGE_SOURCE_H

#include "api/page.h"
#include "core/error.h"
#include "core/wait.h"

#include <stdbool.h>
#include <stdint.h>

struct poll_request;

/*
 * The poll that a source works for: who polls, and until when. All pointers are borrowed for the length of
 * the poll.
 */
struct source_poll {
    const struct poll_request *request;
    const char *remote_user; /* "": nobody is authenticated */
    const char *client;      /* the client's address, for the statistics */
    const struct interrupts *interrupts;
    int64_t started_ms; /* monotonic, as all times here */
    int64_t deadline_ms;
};

enum { SOURCE_USER_SIZE = 1024 }; /* of a user's name, with its NUL */

/*
 * Whether authenticate() may be asked about this Authorization header: it is text, and not too long. One that
 * is not usable authenticates nobody.
 */
bool source_is_usable(const char *authorization);

/* What read() does before it reads. The flags may be combined. */
enum source_read {
    SOURCE_READ_ONLY = 0,
    SOURCE_AUTHORIZE = 1, /* check that the user may poll these topics */
    SOURCE_SUBSCRIBE = 2  /* have everything committed after this read end the next wait(); may be repeated */
};

/* The base of both kinds of source. */
struct message_source {
    const struct source_operations *operations;
    int refused_topic; /* after ERROR_DENIED: the index of the topic that can_poll() refuses; -1: unknown */
};

struct source_operations {
    /*
     * Asks pgpoll.authenticate() who sent this Authorization header ("": there was none), until deadline_ms
     * at the latest. poll's remote_user is not used. Sets user to the name, "" for an anonymous one. Returns
     * ERROR_NONE, ERROR_UNAUTHENTICATED, ERROR_AUTHENTICATE_FAILED, ERROR_AUTHENTICATE_TIMEOUT,
     * ERROR_DATABASE_AWAY, ERROR_SCHEMA or ERROR_MEMORY. Does not notice that the client disconnects.
     */
    enum error (*authenticate)(struct message_source *source, const struct source_poll *poll,
                               const char *authorization, char user[static SOURCE_USER_SIZE],
                               int64_t deadline_ms);
    /*
     * Reads one page of messages after positions (CATCH_UP_FROM_NOW: from now on) into a cleared page, until
     * deadline_ms at the latest; to ask can_poll() it may take until the poll's deadline, and at least
     * PGPOLL_QUERY_TIMEOUT_S. positions: one per topic. Returns ERROR_NONE, ERROR_DENIED (refused_topic is
     * set), ERROR_CAN_POLL_FAILED, ERROR_CAN_POLL_TIMEOUT, ERROR_DATABASE_AWAY (the subscription is lost),
     * ERROR_DATABASE_QUERY, ERROR_SCHEMA, ERROR_MEMORY, ERROR_TOO_MANY or ERROR_DRAINED. Does not notice that
     * the client disconnects: a client may close only its sending side, and before the first read there is no
     * cursor to answer it with.
     */
    enum error (*read)(struct message_source *source, const struct source_poll *poll, enum source_read how,
                       const int64_t *positions, struct page *page, int64_t deadline_ms);
    /*
     * Sleeps until there may be new messages: ERROR_NONE. Otherwise returns what wait_for_event() returns,
     * ERROR_DRAINED if the poll is to be answered early, or ERROR_DATABASE_AWAY (the subscription is lost).
     */
    enum error (*wait)(struct message_source *source, const struct interrupts *interrupts,
                       int64_t deadline_ms);
    /* Ends the subscription. Called after the answer is out, as it may wait for the database. */
    void (*end)(struct message_source *source);
    /* The text of the last error; "" if there was none. Borrowed until the next call. */
    const char *(*error)(const struct message_source *source);
    /* Called when the worker has been idle for a while. NULL: the source has nothing to do then. */
    void (*rest)(struct message_source *source);
    /* Ends what is left of a subscription and frees the source. NULL is allowed. */
    void (*free)(struct message_source *source);
};

#endif
