/*
 * What one read of the feed gave: some messages, ready to be sent, and where each topic's reading now stands.
 * Initialised and released by the poll; filled by whoever reads, from the table or elsewhere.
 */
#ifndef PGPOLL_PAGE_H
#define PGPOLL_PAGE_H

#include "api/message.h"

#include <stdbool.h>
#include <stdint.h>

struct poll_topic;

/* Why a client may have missed messages (docs/poll.md, "Gaps"). */
enum gap { GAP_NONE, GAP_EXPIRED, GAP_UNKNOWN, GAP_AHEAD, GAP_COUNT };

/* As clients and metrics know it; of GAP_NONE: "none". */
const char *gap_name(enum gap gap);

struct page_topic {
    int64_t start;  /* reading started after this position */
    int64_t next;   /* the last message's position, or start */
    int64_t oldest; /* the first one retained, where gap is set and there is one; else -1 */
    enum gap gap;
};

struct page {
    struct page_topic *topics; /* in the order of the request's */
    int topic_count;
    struct printbuf *messages; /* JSON objects, a comma between them */
    int message_count;
    int64_t first; /* the first message's position, if there is one */
    bool has_more;
    bool backlog; /* more messages are committed, and wait for their positions */
};

/* false: out of memory; the page then needs no release. */
bool page_init(struct page *page, int topic_count);
void page_release(struct page *page);

/* Back to how page_init() left it. */
void page_clear(struct page *page);

/* Appends a message of the topic with this index. Positions must grow. false: out of memory; clear the page. */
bool page_add(struct page *page, int topic_index, const struct poll_topic *topic,
              const struct message *message);

/* The same for a message that is JSON already. */
bool page_add_json(struct page *page, int topic_index, int64_t position, const char *json, size_t length);

#endif
