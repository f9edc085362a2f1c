/*
 * A message source reads messages for a poll, and wakes the poll when there are new ones. There are two kinds
 * of sources, behind one interface: source_shared.h, for a worker that has a manager, and source_direct.h,
 * for a worker with a database connection of its own. The program creates a worker's source, uses it for one
 * poll at a time, and frees it when the worker ends.
 *
 * A poll calls the operations in this order:
 *   0. authenticate(), if the web server has not authenticated the user.
 *   1. read() with SOURCE_AUTHORIZE. If it returns messages or a gap, go on with step 5.
 *   2. read() with SOURCE_SUBSCRIBE. From here on, new messages end wait().
 *   3. wait().
 *   4. read(). If it returns neither messages nor a gap, go back to step 3.
 *   5. end(), after the answer is sent.
 */
#ifndef PGPOLL_MESSAGE_SOURCE_H
#define PGPOLL_MESSAGE_SOURCE_H

#include "api/page.h"
#include "core/error.h"
#include "core/wait.h"

#include <stdbool.h>
#include <stdint.h>

struct poll_request;
struct poll_waiter;

/* The poll that a source works for. All pointers are borrowed until the poll ends. */
struct source_poll {
    const struct poll_request *request;
    const char *remote_user; /* "": the user is not authenticated */
    const char *client;      /* the client's address, for the statistics */
    const struct interrupts *interrupts;
    int64_t started_ms; /* monotonic, as all times in this file */
    int64_t deadline_ms;
    /*
     * A read that waits for its turn calls this when it does not come at once, and again at *due_ms at
     * the latest, which this sets. since_ms: when the wait for the turn began; INT64_MAX: the head must not
     * be sent because of it. A poll that has cursors to answer with sends the head after a while, and then
     * heartbeats. Once the head is sent, sets the client_fd of interrupts, so that the wait ends when the
     * client disconnects. Returns false if the client has disconnected.
     */
    bool (*attend)(struct poll_waiter *waiter, int64_t since_ms, struct interrupts *interrupts,
                   int64_t *due_ms);
    struct poll_waiter *waiter;
};

enum { SOURCE_USER_SIZE = 1024 }; /* maximum size of a user's name, with its NUL */

/*
 * Whether this Authorization header is valid UTF-8 and short enough to ask authenticate() about it. A header
 * that is not usable authenticates nobody.
 */
bool source_is_usable(const char *authorization);

/* What read() does before it reads. The flags may be combined. */
enum source_read {
    SOURCE_READ_ONLY = 0,
    SOURCE_AUTHORIZE = 1, /* check that the user may poll these topics */
    SOURCE_SUBSCRIBE = 2  /* let messages committed after this read end the next wait(); may be repeated */
};

/* The base of both kinds of source. */
struct message_source {
    const struct source_operations *operations;
    int refused_topic; /* after ERROR_DENIED: the index of the topic that can_poll() refuses; -1: unknown */
};

struct source_operations {
    /*
     * Asks pgpoll.authenticate() which user sent this Authorization header ("": there was none), until
     * deadline_ms at the latest. Does not use the remote_user of poll. Sets user to the user's name, or to ""
     * for an anonymous user. Returns ERROR_NONE, ERROR_UNAUTHENTICATED, ERROR_AUTHENTICATE_FAILED,
     * ERROR_AUTHENTICATE_TIMEOUT, ERROR_DATABASE_AWAY, ERROR_SCHEMA or ERROR_MEMORY. Does not end when the
     * client disconnects.
     */
    enum error (*authenticate)(struct message_source *source, const struct source_poll *poll,
                               const char *authorization, char user[static SOURCE_USER_SIZE],
                               int64_t deadline_ms);
    /*
     * Reads one page of messages into a cleared page, until deadline_ms at the latest. If it asks
     * can_poll(), it may take until the poll's deadline, and at least PGPOLL_QUERY_TIMEOUT_S. positions
     * has one position per topic, after which reading starts (CATCH_UP_FROM_NOW: from now on). Once the
     * source knows which position that is, it may replace it, so that the next attempt starts there if this
     * one fails. Returns ERROR_NONE, ERROR_DENIED (refused_topic is set), ERROR_CAN_POLL_FAILED,
     * ERROR_CAN_POLL_TIMEOUT, ERROR_DATABASE_AWAY (the subscription is then lost), ERROR_READERS_BUSY,
     * ERROR_DATABASE_QUERY, ERROR_SCHEMA, ERROR_MEMORY, ERROR_TOO_MANY, ERROR_CLIENT_GONE or ERROR_DRAINED.
     * Before the head is sent, it does not end when the client disconnects, because the client may have
     * closed only its sending side and still need an answer, for which there is no cursor before the first
     * read.
     */
    enum error (*read)(struct message_source *source, const struct source_poll *poll, enum source_read how,
                       int64_t *positions, struct page *page, int64_t deadline_ms);
    /*
     * Sleeps until there may be new messages, and then returns ERROR_NONE. Otherwise returns an error of
     * wait_for_event(), ERROR_DRAINED if the poll must be answered early, or ERROR_DATABASE_AWAY (the
     * subscription is then lost).
     */
    enum error (*wait)(struct message_source *source, const struct interrupts *interrupts,
                       int64_t deadline_ms);
    /* Ends the subscription. Called after the answer is sent, because it may wait for the database. */
    void (*end)(struct message_source *source);
    /* Returns the text of the last error, or "" if there was none. Borrowed until the next call. */
    const char *(*error)(const struct message_source *source);
    /*
     * Called when the worker has been idle for a while, to write statistics that were not written yet. NULL:
     * there are none.
     */
    void (*rest)(struct message_source *source);
    /* Ends the subscription, if there still is one, and frees the source. Accepts NULL. */
    void (*free)(struct message_source *source);
};

#endif
