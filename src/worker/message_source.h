/*
 * A message source reads messages for a poll, and wakes the poll when there are new ones. There are two kinds
 * of sources, behind one interface: source_shared.h, for a worker that has a manager, and source_direct.h,
 * for a worker with a database connection of its own. The program creates a worker's source, uses it for one
 * poll at a time, and frees it when the worker ends.
 *
 * A poll calls the operations in this order:
 *   1. read() with SOURCE_AUTHORIZE. If it returns messages or a gap, go on with step 5. 2. read() with
 *   SOURCE_SUBSCRIBE. From here on, new messages end wait(). 3. wait(). 4. read(). If it returns neither
 *   messages nor a gap, go back to step 3. 5. end(), once the answer is out.
 */
#ifndef PGPOLL_MESSAGE_SOURCE_H
#define PGPOLL_MESSAGE_SOURCE_H

#include "api/page.h"
#include "core/error.h"
#include "core/wait.h"

#include <stdint.h>

struct poll_request;

/* The poll that a source works for. All pointers are borrowed until the poll ends. */
struct source_poll {
    const struct poll_request *request;
    const char *remote_user; /* "": the user is not authenticated */
    const char *client;      /* the client's address, for the statistics */
    const struct interrupts *interrupts;
    int64_t started_ms; /* monotonic, as all times in this file */
    int64_t deadline_ms;
};

/* What read() does before it reads. The flags may be combined. */
enum source_read {
    SOURCE_READ_ONLY = 0,
    SOURCE_AUTHORIZE = 1, /* check that the user may poll these topics */
    SOURCE_SUBSCRIBE = 2  /* let messages committed after this read end the next wait(); may be repeated */
};

/* The base of both kinds of source. */
struct message_source {
    const struct source_operations *operations;
};

struct source_operations {
    /*
     * Reads one page of messages into a cleared page, until deadline_ms at the latest. positions has one
     * position per topic, after which reading starts (CATCH_UP_FROM_NOW: from now on). Returns ERROR_NONE,
     * ERROR_DENIED, ERROR_DATABASE_AWAY (the subscription is then lost), ERROR_DATABASE_QUERY, ERROR_SCHEMA,
     * ERROR_MEMORY, ERROR_TOO_MANY or ERROR_DRAINED. Does not end when the client disconnects, because the
     * client may have closed only its sending side and still need an answer, for which there is no cursor
     * before the first read.
     */
    enum error (*read)(struct message_source *source, const struct source_poll *poll, enum source_read how,
                       const int64_t *positions, struct page *page, int64_t deadline_ms);
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
     * Called when the worker has been idle for a while, to free what it does not need. NULL: there is nothing
     * to free.
     */
    void (*rest)(struct message_source *source);
    /* Ends the subscription, if there still is one, and frees the source. Accepts NULL. */
    void (*free)(struct message_source *source);
};

#endif
