/*
 * The result of one read for a poll: messages, ready to be sent, and the position up to which each topic has
 * been read. The poll waiter initialises and releases the page. The code that reads the table or the message
 * ring fills it.
 */
#ifndef PGPOLL_PAGE_H
#define PGPOLL_PAGE_H

#include "api/message.h"

#include <stdbool.h>
#include <stdint.h>

struct poll_topic;

/*
 * Why a client may have missed messages of a topic (docs/poll.md, "Gaps"). GAP_EXPIRED: messages after the
 * cursor were deleted. GAP_UNKNOWN: the cursor is not one of pgpoll. GAP_AHEAD: the cursor is beyond the
 * newest message, so the database was restored to an earlier state.
 */
enum gap { GAP_NONE, GAP_EXPIRED, GAP_UNKNOWN, GAP_AHEAD, GAP_COUNT };

/* Returns the name of a gap in answers and metrics; "none" for GAP_NONE. */
const char *gap_name(enum gap gap);

struct page_topic {
    int64_t start;  /* the read began after this position */
    int64_t next;   /* the position of the topic's last message in the page; if it has none, start */
    int64_t oldest; /* with a gap: the position of the oldest retained message of the topic; -1: none */
    enum gap gap;
};

struct page {
    struct page_topic *topics; /* in the order of the request's topics */
    int topic_count;
    struct printbuf *messages; /* JSON objects, separated by commas */
    int message_count;
    int64_t first; /* the position of the first message, if there is one */
    bool has_more; /* there are messages of the topics after those of this page */
    bool backlog;  /* committed messages exist that have no position yet (a backlog) */
};

/* Initialises an empty page. Returns false if out of memory; the page then needs no release. */
bool page_init(struct page *page, int topic_count);
void page_release(struct page *page);

/* Empties the page, which is then as page_init() leaves it. */
void page_clear(struct page *page);

/*
 * Appends a message of the topic with this index. The caller adds messages in ascending order of positions.
 * Returns false if out of memory; the page must then be cleared.
 */
bool page_add(struct page *page, int topic_index, const struct poll_topic *topic,
              const struct message *message);

/* Does what page_add() does, for a message that is already written as JSON. */
bool page_add_json(struct page *page, int topic_index, int64_t position, const char *json, size_t length);

#endif
