/*
 * The message ring: the recent messages of the topics that this host listens to, in shared memory, in the
 * order of their positions. The manager writes it, any number of workers read it, and there is no lock. The
 * scoreboard owns its memory.
 *
 * There are two rings: one of entries, in which each entry links to the next one of its topic, and one of
 * bytes, which holds the messages' JSON. The writer appends, and drops the oldest entries to make room. A
 * topic is known by a number, and the ring knows after which position it is complete for that topic.
 *
 * It is a seqlock. A reader takes the ring's head once, so it sees a prefix of the one order. It copies what
 * it needs, and then checks whether everything that it used was still there. If not, the caller reads the
 * table instead. ARCHITECTURE.md, "Reading the ring", gives the order of all writes.
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
 * A reader's reference to a topic. If the topic's number is given to another topic, the generation differs.
 */
struct ring_topic_ref {
    int topic; /* its number */
    uint32_t generation;
};

/* A message as the ring stores it. */
struct ring_message {
    int64_t position;
    const char *json; /* as message_append() writes it; borrowed */
    size_t length;
    int64_t bytes; /* of payload and metadata, which count towards the limit of a page */
};

/* The size in bytes of a message ring for so many topics, messages and bytes of JSON. */
size_t ring_memory(int topics, size_t messages, size_t bytes);

/* Initialises an empty ring in memory of that size, which must be zeroed. There is nothing to release. */
struct message_ring *ring_init(void *memory, int topics, size_t messages, size_t bytes);

/* ---- the writer */

/* Opens a topic: the host listens to it now, and the ring is complete for it after position. */
void ring_open(struct message_ring *ring, int topic, int64_t position);

/*
 * Closes a topic: the host no longer listens to it. References to it become invalid, and its number may be
 * given to another topic.
 */
void ring_close(struct message_ring *ring, int topic);

/*
 * Skips messages of a topic: the ring lacks those up to position, and is complete for the topic only after
 * it.
 */
void ring_skip(struct message_ring *ring, int topic, int64_t position);

/*
 * Appends a message of an open topic, newer than that topic's others. The JSON of a message that takes more
 * than a quarter of the ring is left out, and readers take it from the table. A message with a lower position
 * than the last one appended, of any topic, is skipped.
 */
void ring_append(struct message_ring *ring, int topic, const struct ring_message *message);

/* Drops all messages, of topics that are closed already. Needed if positions may have gone back. */
void ring_reset(struct message_ring *ring);

/* ---- readers, and the writer */

/* Makes a reference to the topic with this number. false: it is not open. */
bool ring_find(const struct message_ring *ring, int topic, struct ring_topic_ref *ref);

/* Reads the newest position of a topic. false: the reference is no longer valid. */
bool ring_newest(const struct message_ring *ring, struct ring_topic_ref ref, int64_t *position);

/*
 * Reads one page: the messages of each topic after its position, merged in order, up to limit messages and
 * page_bytes bytes. A first message that alone is larger than page_bytes is read all the same. page: cleared;
 * refs and positions: as many as it has topics. false: the ring lacks some of it, or memory ran out; the page
 * is cleared, and the caller reads the table.
 */
bool ring_read(const struct message_ring *ring, const struct ring_topic_ref *refs, const int64_t *positions,
               int limit, int64_t page_bytes, struct page *page);

#endif
