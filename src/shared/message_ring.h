/*
 * The message ring: the recent messages of the topics that this host's polls ask for, in shared memory, in
 * the order of their positions. The manager writes it, any number of workers read it, and there is no lock.
 * The scoreboard owns the memory.
 *
 * The message ring consists of two circular buffers: one of entries, in which each entry links to the next
 * one of its topic, and one of bytes, which holds the messages' JSON. The writer appends, and drops the
 * oldest entries to make room. Topics are known by their numbers. For each topic the ring knows a position
 * after which it is complete: it has every later message of the topic.
 *
 * The ring is read as a seqlock. A reader takes the ring's head once, so it sees all messages up to some
 * position and none after it. The reader copies what it needs, and then checks whether everything that it
 * used was still there. If not, the caller reads the table instead. ARCHITECTURE.md, "Reading the ring",
 * gives the order of all writes.
 *
 * The memory holds offsets and no pointers, so each process may map it at another address; readers may map it
 * read-only.
 */
#ifndef PGPOLL_MESSAGE_RING_H
#define PGPOLL_MESSAGE_RING_H

#include "api/page.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct message_ring;

/*
 * A reader's reference to a topic. It becomes invalid when the topic's number is given to another topic,
 * because that topic has another generation.
 */
struct ring_topic_ref {
    int topic; /* the topic's number */
    uint32_t generation;
};

/* A message as the ring stores it. */
struct ring_message {
    int64_t position;
    const char *json; /* as message_append() writes it; borrowed */
    size_t length;
    int64_t bytes; /* size of payload and metadata, which counts towards the limit of a page */
};

/* Returns the size in bytes of a message ring for this number of topics, messages and bytes of JSON. */
size_t ring_memory(int topics, size_t messages, size_t bytes);

/*
 * Initialises an empty ring in memory of the size that ring_memory() returns, which must be zeroed. There is
 * nothing to release.
 */
struct message_ring *ring_init(void *memory, int topics, size_t messages, size_t bytes);

/* ---- the writer */

/* Opens a topic: from now on the ring gets its messages, and is complete for it after position. */
void ring_open(struct message_ring *ring, int topic, int64_t position);

/*
 * Closes a topic: the ring gets no more of its messages. References to the topic become invalid, and its
 * number may be given to another topic.
 */
void ring_close(struct message_ring *ring, int topic);

/*
 * Appends a message of an open topic, newer than that topic's others. If the JSON takes more than a quarter
 * of the ring, it is left out, and readers take the message from the table. A message with a lower position
 * than the last one appended, of any topic, is skipped.
 */
void ring_append(struct message_ring *ring, int topic, const struct ring_message *message);

/* Drops all messages. All topics must be closed before. Call this if positions may have gone back. */
void ring_reset(struct message_ring *ring);

/* ---- readers, and the writer */

/* Makes a reference to the topic with this number. Returns false if the topic is not open. */
bool ring_find(const struct message_ring *ring, int topic, struct ring_topic_ref *ref);

/* Reads the newest position of a topic. Returns false if the reference is no longer valid. */
bool ring_newest(const struct message_ring *ring, struct ring_topic_ref ref, int64_t *position);

/*
 * Reads one page: the messages of each topic after its position, merged in order, up to limit messages and
 * page_bytes bytes. A first message that alone is larger than page_bytes is read all the same. page: cleared.
 * refs and positions: one for each topic of the page. Returns false if the ring lacks one of these messages
 * or memory ran out; then the page is cleared, and the caller reads the table.
 */
bool ring_read(const struct message_ring *ring, const struct ring_topic_ref *refs, const int64_t *positions,
               int limit, int64_t page_bytes, struct page *page);

#endif
