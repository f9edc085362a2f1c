/*
 * The message ring: the recent messages of the topics that somebody on this host listens to, in shared memory, in the order of
 * delivery. One writer (the manager), any number of readers (the workers), no lock.
 *
 * Messages stand in a ring of entries, in order of position, and each entry leads to the next one of its topic; their JSON
 * stands in a ring of bytes. The writer appends and lets the oldest go. A topic is known by a number; for each the message ring knows
 * after which position it is complete. A reader takes the ring's head once, so that it sees a prefix of the one order; copies;
 * and then looks whether what it used was still there. If not, it reads the table instead.
 *
 * The memory holds offsets and no pointers, so that each process may map it at another address; readers may map it read-only.
 */
#ifndef PGPOLL_MESSAGE_RING_H
#define PGPOLL_MESSAGE_RING_H

#include "api/page.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct message_ring;

/* A topic as a reader found it: the number may be given to another topic, then with another generation. */
struct ring_topic_ref {
    int number;
    uint32_t generation;
};

/* Stands for a topic that is not in the message ring; no topic ever has this generation. */
#define RING_NO_TOPIC ((struct ring_topic_ref){ 0, UINT32_MAX })

static inline bool ring_has_topic(struct ring_topic_ref ref)
{
    return ref.generation != UINT32_MAX;
}

/* What the message ring keeps of a message. */
struct ring_message {
    int64_t position;
    const char *json; /* as message_append() made it; borrowed */
    size_t length;
    int64_t bytes; /* of payload and metadata, for a page's budget */
};

/* The memory that a window for so many topics, messages and bytes of JSON takes. */
size_t ring_memory(int topics, size_t messages, size_t bytes);

/* Makes an empty one in that much memory, which is all zero. Needs no release. */
struct message_ring *ring_init(void *memory, int topics, size_t messages, size_t bytes);

/* ---- the writer */

/* The topic with this number is listened to, and the message ring is complete after position. */
void ring_open(struct message_ring *ring, int number, int64_t position);

/* Nobody listens to the topic any more; the number is free. */
void ring_close(struct message_ring *ring, int number);

/* The messages between the topic's newest and position cannot be had any more: complete after position only. */
void ring_skip(struct message_ring *ring, int number, int64_t position);

/*
 * Appends a message of an open topic, newer than any of that topic. One too big for the message ring is only announced; one that is older
 * than the last appended, of whatever topic, is skipped.
 */
void ring_append(struct message_ring *ring, int number, const struct ring_message *message);

/* Forgets all messages; every open topic is opened anew after its newest position. For when positions may not grow. */
void ring_reset(struct message_ring *ring);

/* ---- readers, and the writer */

/* The topic's present generation; false: it is not open. */
bool ring_find(const struct message_ring *ring, int number, struct ring_topic_ref *ref);

/* The newest position of an open topic; false: it is no longer that topic. */
bool ring_newest(const struct message_ring *ring, struct ring_topic_ref ref, int64_t *position);

/*
 * Reads one page: of each topic the messages after its position, merged in order, at most limit of them and page_bytes bytes, a
 * first one that alone is larger all the same. refs and positions: one a topic, as many as the cleared page has.
 * false: the message ring does not have it all, or memory ran out; the page is clear and the table is to be read.
 */
bool ring_read(const struct message_ring *ring, const struct ring_topic_ref *refs, const int64_t *positions,
               int limit, int64_t page_bytes, struct page *page);

#endif
