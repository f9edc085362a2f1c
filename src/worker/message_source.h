/*
 * Where a poll reads, and what wakes it: "there may be news for these topics". A poll does not know which kind it has.
 * Made and freed by the program, used for one poll at a time.
 *
 * A poll goes: read (authorised); while that gives nothing: read (subscribed), wait, read, wait, ...; end.
 */
#ifndef PGPOLL_MESSAGE_SOURCE_H
#define PGPOLL_MESSAGE_SOURCE_H

#include "api/page.h"
#include "core/error.h"
#include "core/wait.h"

#include <stdint.h>

struct poll_request;

/* Who polls, and until when; borrowed for the length of the poll. */
struct source_poll {
    const struct poll_request *request;
    const char *remote_user; /* "" when nobody was authenticated */
    const char *client;      /* address, for the statistics */
    const struct interrupts *interrupts;
    int64_t started_ms;
    int64_t deadline_ms;
};

/* What a read does before it reads; the two may be combined. */
enum source_read {
    SOURCE_READ_ONLY = 0,
    SOURCE_AUTHORIZE = 1, /* ask whether the user may poll these topics */
    SOURCE_SUBSCRIBE = 2  /* whatever is committed after the read ends the next wait; may be repeated */
};

struct message_source {
    const struct source_operations *operations;
};

struct source_operations {
    /*
     * Reads one page after positions (CATCH_UP_FROM_NOW: from now) into a cleared page, until deadline_ms at the latest.
     * ERROR_DENIED, ERROR_DATABASE_AWAY (subscriptions are lost), ERROR_DATABASE_QUERY, ERROR_SCHEMA, ERROR_MEMORY,
     * ERROR_DRAINED. Whether the client is still there does not matter: it may have closed its sending side only, and before
     * the first read there is no cursor to answer it with.
     */
    enum error (*read)(struct message_source *source, const struct source_poll *poll, enum source_read how,
                       const int64_t *positions, struct page *page, int64_t deadline_ms);
    /* Sleeps until there may be news. What interrupts_wait() returns, and ERROR_DATABASE_AWAY (subscriptions are lost). */
    enum error (*wait)(struct message_source *source, const struct interrupts *interrupts,
                       int64_t deadline_ms);
    /* The poll is over and answered: undoes a subscription. */
    void (*end)(struct message_source *source);
    /* What went wrong last; "" when nothing did. Borrowed until the next call. */
    const char *(*error)(const struct message_source *source);
    /* The process has had nothing to do for a while. NULL: of no interest. */
    void (*rest)(struct message_source *source);
    void (*free)(struct message_source *source);
};

#endif
