/*
 * The window: the recent messages of the topics that somebody on this host listens to, in shared memory, in the order of
 * delivery. One writer (the manager), any number of readers (the workers), no lock.
 *
 * Messages stand in a ring of entries, in order of position, and each entry leads to the next one of its topic; their JSON
 * stands in a ring of bytes. The writer appends and lets the oldest go. A topic is known by a number; for each the window knows
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

struct window;

/* A topic as a reader found it: the number may be given to another topic, then with another generation. */
struct window_topic_ref {
    int number;
    uint32_t generation;
};

/* Stands for a topic that is not in the window; no topic ever has this generation. */
#define WINDOW_NO_TOPIC ((struct window_topic_ref){ 0, UINT32_MAX })

static inline bool window_has_topic(struct window_topic_ref ref)
{
    return ref.generation != UINT32_MAX;
}

/* What the window keeps of a message. */
struct window_message {
    int64_t position;
    const char *json; /* as message_append() made it; borrowed */
    size_t length;
    int64_t bytes; /* of payload and metadata, for a page's budget */
};

/* The memory that a window for so many topics, messages and bytes of JSON takes. */
size_t window_memory(int topics, size_t messages, size_t bytes);

/* Makes an empty one in that much memory, which is all zero. Needs no release. */
struct window *window_init(void *memory, int topics, size_t messages, size_t bytes);

/* ---- the writer */

/* The topic with this number is listened to, and the window is complete after position. */
void window_open(struct window *window, int number, int64_t position);

/* Nobody listens to the topic any more; the number is free. */
void window_close(struct window *window, int number);

/* The messages between the topic's newest and position cannot be had any more: complete after position only. */
void window_skip(struct window *window, int number, int64_t position);

/*
 * Appends a message of an open topic, newer than any of that topic. One too big for the window is only announced; one that is older
 * than the last appended, of whatever topic, is skipped.
 */
void window_append(struct window *window, int number, const struct window_message *message);

/* Forgets all messages; every open topic is opened anew after its newest position. For when positions may not grow. */
void window_reset(struct window *window);

/* ---- readers, and the writer */

/* The topic's present generation; false: it is not open. */
bool window_find(const struct window *window, int number, struct window_topic_ref *ref);

/* The newest position of an open topic; false: it is no longer that topic. */
bool window_newest(const struct window *window, struct window_topic_ref ref, int64_t *position);

/*
 * Reads one page: of each topic the messages after its position, merged in order, at most limit of them and page_bytes bytes, a
 * first one that alone is larger all the same. refs and positions: one a topic, as many as the cleared page has.
 * false: the window does not have it all, or memory ran out; the page is clear and the table is to be read.
 */
bool window_read(const struct window *window, const struct window_topic_ref *refs, const int64_t *positions, int limit,
                 int64_t page_bytes, struct page *page);

#endif
