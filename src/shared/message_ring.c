#include "shared/message_ring.h"

#include "shared/racy_read.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* Entries are numbered from 1 on and never again; 0 is none. Number n stands at n % capacity. */
struct entry {
    _Atomic int64_t position;
    _Atomic uint64_t next; /* number of the topic's next entry */
    _Atomic uint64_t data; /* offset of the JSON, counted from the beginning of time */
    _Atomic uint32_t length;
    _Atomic uint32_t bytes;
    _Atomic uint32_t generation;
    _Atomic int32_t topic;
};

struct topic {
    _Atomic uint32_t generation; /* odd: open */
    _Atomic int64_t complete_from;
    _Atomic int64_t newest;
    _Atomic uint64_t first, last; /* entries */
};

/* Followed by the topics, the entries and the JSON. It holds no pointers: each process maps it where it likes. */
struct message_ring {
    int topic_count;
    uint64_t capacity;           /* entries */
    uint64_t size;               /* bytes of JSON */
    uint64_t data_end;           /* the writer's: where the next JSON goes */
    int64_t last_position;       /* the writer's: of the entry appended last */
    _Atomic uint64_t tail, head; /* the entries tail..head-1 are there */
    size_t entries_at, data_at;  /* offsets from the message ring's first byte */
};

#define get(object) atomic_load_explicit(&(object), memory_order_relaxed)
#define set(object, value) atomic_store_explicit(&(object), (value), memory_order_relaxed)

static size_t align(size_t size)
{
    return (size + 63) & ~(size_t)63;
}

static size_t offset_of_entries(int topics)
{
    return align(sizeof(struct message_ring)) + align((size_t)topics * sizeof(struct topic));
}

static size_t offset_of_data(int topics, size_t messages)
{
    return offset_of_entries(topics) + align(messages * sizeof(struct entry));
}

size_t ring_memory(int topics, size_t messages, size_t bytes)
{
    return offset_of_data(topics, messages) + bytes;
}

struct message_ring *ring_init(void *memory, int topics, size_t messages, size_t bytes)
{
    struct message_ring *ring = memory;

    ring->topic_count = topics;
    ring->capacity = messages;
    ring->size = bytes;
    ring->entries_at = offset_of_entries(topics);
    ring->data_at = offset_of_data(topics, messages);
    set(ring->tail, 1); /* 0 is no entry */
    set(ring->head, 1);
    return ring;
}

static struct topic *topic_at(const struct message_ring *ring, int number)
{
    return (struct topic *)((uintptr_t)ring + align(sizeof *ring)) + number;
}

static struct entry *entry_at(const struct message_ring *ring, uint64_t number)
{
    return (struct entry *)((uintptr_t)ring + ring->entries_at) + number % ring->capacity;
}

/* offset: within the message ring's size. */
static char *data_at(const struct message_ring *ring, uint64_t offset)
{
    return (char *)((uintptr_t)ring + ring->data_at + offset);
}

/* ---- the writer */

void ring_open(struct message_ring *ring, int number, int64_t position)
{
    struct topic *topic = topic_at(ring, number);
    uint32_t generation = get(topic->generation);

    set(topic->generation, (generation | 1) + 1); /* closed, and unlike any generation before */
    atomic_thread_fence(memory_order_release);
    set(topic->complete_from, position);
    set(topic->newest, position);
    set(topic->first, 0);
    set(topic->last, 0);
    atomic_store_explicit(&topic->generation, (generation | 1) + 2, memory_order_release);
}

void ring_close(struct message_ring *ring, int number)
{
    struct topic *topic = topic_at(ring, number);

    atomic_store_explicit(&topic->generation, (get(topic->generation) | 1) + 1, memory_order_release);
}

void ring_skip(struct message_ring *ring, int number, int64_t position)
{
    struct topic *topic = topic_at(ring, number);

    set(topic->complete_from, position);
    atomic_store_explicit(&topic->newest, position, memory_order_release);
}

/* Lets the oldest entry go: first its topic says so, then its place may be written over. */
static void drop_oldest(struct message_ring *ring)
{
    uint64_t tail = get(ring->tail);
    struct entry *entry = entry_at(ring, tail);
    struct topic *topic = topic_at(ring, get(entry->topic));

    if (get(topic->generation) == get(entry->generation)) {
        if (get(topic->complete_from) < get(entry->position))
            set(topic->complete_from, get(entry->position));
        atomic_store_explicit(&topic->first, get(entry->next),
                              memory_order_release); /* after complete_from */
        if (get(topic->last) == tail)
            set(topic->last, 0);
    }
    atomic_store_explicit(&ring->tail, tail + 1, memory_order_release); /* after complete_from */
}

/* Finds length bytes in one piece, dropping what stands there; the offset. */
static uint64_t make_room(struct message_ring *ring, size_t length)
{
    uint64_t start = ring->data_end;

    if (start % ring->size + length > ring->size)
        start += ring->size - start % ring->size;
    while (get(ring->tail) < get(ring->head) &&
           (get(ring->head) - get(ring->tail) >= ring->capacity ||
            get(entry_at(ring, get(ring->tail))->data) + ring->size < start + length))
        drop_oldest(ring);
    ring->data_end = start + length;
    atomic_thread_fence(memory_order_release);
    return start;
}

static void append(struct message_ring *ring, int number, const struct ring_message *message)
{
    struct topic *topic = topic_at(ring, number);
    size_t length =
        message->length <= ring->size / 4 ? message->length : 0; /* 0: to be read from the table */
    uint64_t data = make_room(ring, length), new = get(ring->head);
    struct entry *entry = entry_at(ring, new);

    if (length > 0)
        memcpy(data_at(ring, data % ring->size), message->json, length);
    set(entry->position, message->position);
    set(entry->next, 0);
    set(entry->data, data);
    set(entry->length, (uint32_t)length);
    set(entry->bytes, (uint32_t)message->bytes);
    set(entry->generation, get(topic->generation));
    set(entry->topic, number);
    if (get(topic->last))
        set(entry_at(ring, get(topic->last))->next, new);
    else
        set(topic->first, new);
    set(topic->last, new);
    atomic_store_explicit(&ring->head, new + 1, memory_order_release);
    /* Last, so that who sees it also finds the message; a worker that saw it before would sleep on it. */
    atomic_store_explicit(&topic->newest, message->position, memory_order_release);
}

void ring_append(struct message_ring *ring, int number, const struct ring_message *message)
{
    /* Out of order, for a notification was lost: readers search by position, so this one is the table's to give. */
    if (message->position <= ring->last_position) {
        ring_skip(ring, number, message->position);
    } else {
        ring->last_position = message->position;
        append(ring, number, message);
    }
}

void ring_reset(struct message_ring *ring)
{
    ring->last_position = 0;
    while (get(ring->tail) < get(ring->head))
        drop_oldest(ring);
    for (int i = 0; i < ring->topic_count; i++)
        if (get(topic_at(ring, i)->generation) & 1)
            ring_open(ring, i, get(topic_at(ring, i)->newest));
}

/* ---- readers */

bool ring_find(const struct message_ring *ring, int number, struct ring_topic_ref *ref)
{
    uint32_t generation = atomic_load_explicit(&topic_at(ring, number)->generation, memory_order_acquire);

    if (!(generation & 1))
        return false;
    *ref = (struct ring_topic_ref){ number, generation };
    return true;
}

static bool is_current(const struct message_ring *ring, struct ring_topic_ref ref)
{
    atomic_thread_fence(memory_order_acquire);
    return get(topic_at(ring, ref.number)->generation) == ref.generation;
}

bool ring_newest(const struct message_ring *ring, struct ring_topic_ref ref, int64_t *position)
{
    int64_t newest = atomic_load_explicit(&topic_at(ring, ref.number)->newest, memory_order_acquire);

    if (!is_current(ring, ref))
        return false;
    *position = newest;
    return true;
}

/* The first entry from tail on with a greater position; head when there is none. */
static uint64_t search(const struct message_ring *ring, uint64_t tail, uint64_t head, int64_t position)
{
    while (tail < head) {
        uint64_t middle = tail + (head - tail) / 2;

        if (get(entry_at(ring, middle)->position) > position)
            head = middle;
        else
            tail = middle + 1;
    }
    return tail;
}

static bool belongs(const struct entry *entry, struct ring_topic_ref ref)
{
    return get(entry->topic) == ref.number && get(entry->generation) == ref.generation;
}

/* The topic's first entry after position, 0 for none; *oldest_used is lowered to what the result relies on. */
static uint64_t find_start(const struct message_ring *ring, struct ring_topic_ref ref, int64_t position,
                           uint64_t head, uint64_t *oldest_used)
{
    const struct topic *topic = topic_at(ring, ref.number);
    uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_acquire), at;
    uint64_t first = atomic_load_explicit(&topic->first, memory_order_acquire);
    bool is_newer;

    if (get(topic->newest) <= position || first == 0 || first >= head)
        return 0;
    is_newer = get(entry_at(ring, first)->position) > position;
    atomic_thread_fence(memory_order_acquire);
    /* If it was written over meanwhile, that was another message's position. */
    if (is_newer && get(ring->tail) <= first)
        return first;
    at = search(ring, tail, head, position);
    /* Most cursors are the topic's own last message, which knows the next one. */
    if (at > tail && get(entry_at(ring, at - 1)->position) == position &&
        belongs(entry_at(ring, at - 1), ref)) {
        *oldest_used = at - 1 < *oldest_used ? at - 1 : *oldest_used;
        return get(entry_at(ring, at - 1)->next);
    }
    *oldest_used = at < *oldest_used ? at : *oldest_used;
    while (at < head && !belongs(entry_at(ring, at), ref))
        at++;
    return at < head ? at : 0;
}

/* The topic whose next entry has the lowest position; -1: none has one. */
static int next_topic(const struct message_ring *ring, const uint64_t *at, int count, uint64_t head)
{
    int lowest = -1;

    for (int i = 0; i < count; i++)
        if (at[i] != 0 && at[i] < head &&
            (lowest < 0 || get(entry_at(ring, at[i])->position) < get(entry_at(ring, at[lowest])->position)))
            lowest = i;
    return lowest;
}

/* window_read() uses no page before it has seen that the entries were still there. */
static bool copy_json(struct page *page, int topic_index, int64_t position, const char *json, size_t length)
{
    bool copied;

    RACY_READ_BEGIN;
    copied = page_add_json(page, topic_index, position, json, length);
    RACY_READ_END;
    return copied;
}

/* Copies messages in order; false: one must be read from the table, or memory ran out. */
static bool copy_messages(const struct message_ring *ring, uint64_t *at, uint64_t head, int limit,
                          int64_t page_bytes, struct page *page)
{
    int64_t total = 0;
    int i;

    while ((i = next_topic(ring, at, page->topic_count, head)) >= 0) {
        const struct entry *entry = entry_at(ring, at[i]);
        uint64_t offset = get(entry->data) % ring->size;
        uint32_t length = get(entry->length);

        total += get(entry->bytes);
        page->has_more = page->message_count == limit || (page->message_count > 0 && total > page_bytes);
        if (page->has_more)
            return true;
        /* An entry that is being written over may lead anywhere. */
        if (length == 0 || offset + length > ring->size ||
            !copy_json(page, i, get(entry->position), data_at(ring, offset), length))
            return false;
        at[i] = get(entry->next);
    }
    return true;
}

static bool is_still_there(const struct message_ring *ring, const struct ring_topic_ref *refs,
                           const int64_t *positions, int count, uint64_t oldest_used)
{
    atomic_thread_fence(memory_order_acquire);
    if (get(ring->tail) > oldest_used)
        return false;
    for (int i = 0; i < count; i++)
        if (get(topic_at(ring, refs[i].number)->generation) != refs[i].generation ||
            get(topic_at(ring, refs[i].number)->complete_from) > positions[i])
            return false;
    return true;
}

/* Whether a position was ever given, as far as the message ring can tell; a topic's newest lags behind the head for a moment. */
static bool was_given(const struct message_ring *ring, struct ring_topic_ref ref, int64_t position,
                      uint64_t head, uint64_t *oldest_used)
{
    if (position <= get(topic_at(ring, ref.number)->newest))
        return true;
    if (position > get(entry_at(ring, head - 1)->position))
        return false;
    *oldest_used = head - 1 < *oldest_used ? head - 1 : *oldest_used;
    return true;
}

bool ring_read(const struct message_ring *ring, const struct ring_topic_ref *refs, const int64_t *positions,
               int limit, int64_t page_bytes, struct page *page)
{
    uint64_t head = atomic_load_explicit(&ring->head, memory_order_acquire), oldest_used = UINT64_MAX;
    uint64_t *at = calloc((size_t)page->topic_count, sizeof *at);
    bool read = at && is_still_there(ring, refs, positions, page->topic_count, oldest_used);

    for (int i = 0; read && i < page->topic_count; i++) {
        uint64_t first = get(topic_at(ring, refs[i].number)->first);

        /* If not, only the table can tell. */
        read = was_given(ring, refs[i], positions[i], head, &oldest_used);
        at[i] = find_start(ring, refs[i], positions[i], head, &oldest_used);
        page->topics[i] = (struct page_topic){ positions[i], positions[i], -1, GAP_NONE };
        if (positions[i] == 0 && first != 0 && first < head)
            page->topics[i].oldest = get(entry_at(ring, first)->position);
    }
    read = read && copy_messages(ring, at, head, limit, page_bytes, page) &&
           is_still_there(ring, refs, positions, page->topic_count, oldest_used);
    if (!read)
        page_clear(page);
    free(at);
    return read;
}
