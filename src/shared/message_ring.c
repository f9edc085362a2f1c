#include "shared/message_ring.h"

#include "shared/racy_read.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/*
 * Entries are numbered from 1 on, and no number is used twice; 0 means no entry. Entry n has the index n %
 * capacity.
 */
struct entry {
    _Atomic int64_t position;
    _Atomic uint64_t next;   /* number of the topic's next entry */
    _Atomic uint64_t data;   /* offset of the JSON, counting all bytes ever appended */
    _Atomic uint32_t length; /* size of the JSON; 0: the JSON is not here, read the table */
    _Atomic uint32_t bytes;  /* as in struct ring_message */
    _Atomic uint32_t generation;
    _Atomic int32_t topic;
};

struct ring_topic {
    _Atomic uint32_t generation;   /* odd: the topic is open */
    _Atomic int64_t complete_from; /* the ring has every message of the topic after this position */
    _Atomic int64_t newest;
    _Atomic uint64_t first, last; /* numbers of the topic's first and last entry; 0: none */
};

/* The head of the memory, followed by the topics, the entries and the JSON. */
struct message_ring {
    uint64_t capacity;           /* maximum number of entries */
    uint64_t size;               /* maximum number of bytes of JSON */
    uint64_t data_end;           /* where the next JSON goes; only the writer uses it */
    int64_t last_position;       /* position of the entry appended last; only the writer uses it */
    _Atomic uint64_t tail, head; /* the ring holds the entries tail to head - 1 */
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
    return align(sizeof(struct message_ring)) + align((size_t)topics * sizeof(struct ring_topic));
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

    ring->capacity = messages;
    ring->size = bytes;
    ring->entries_at = offset_of_entries(topics);
    ring->data_at = offset_of_data(topics, messages);
    set(ring->tail, 1); /* 0 means no entry */
    set(ring->head, 1);
    return ring;
}

static struct ring_topic *topic_at(const struct message_ring *ring, int topic)
{
    return (struct ring_topic *)((uintptr_t)ring + align(sizeof *ring)) + topic;
}

static struct entry *entry_at(const struct message_ring *ring, uint64_t number)
{
    return (struct entry *)((uintptr_t)ring + ring->entries_at) + number % ring->capacity;
}

/* offset: less than ring->size. */
static char *data_at(const struct message_ring *ring, uint64_t offset)
{
    return (char *)((uintptr_t)ring + ring->data_at + offset);
}

/* ---- the writer */

void ring_open(struct message_ring *ring, int topic, int64_t position)
{
    struct ring_topic *state = topic_at(ring, topic);
    uint32_t generation = get(state->generation);

    set(state->generation, (generation | 1) + 1); /* even, so the topic is closed; and never used before */
    atomic_thread_fence(memory_order_release);
    set(state->complete_from, position);
    set(state->newest, position);
    set(state->first, 0);
    set(state->last, 0);
    atomic_store_explicit(&state->generation, (generation | 1) + 2, memory_order_release);
}

void ring_close(struct message_ring *ring, int topic)
{
    struct ring_topic *state = topic_at(ring, topic);

    atomic_store_explicit(&state->generation, (get(state->generation) | 1) + 1, memory_order_release);
}

/*
 * Skips messages of a topic: the ring lacks those up to position, so it is complete for the topic only after
 * position.
 */
static void skip(struct message_ring *ring, int topic, int64_t position)
{
    struct ring_topic *state = topic_at(ring, topic);

    set(state->complete_from, position);
    atomic_store_explicit(&state->newest, position, memory_order_release);
}

/*
 * Drops the oldest entry. complete_from and first of its topic are moved past the entry before tail is,
 * because the entry may be overwritten as soon as tail is past it.
 */
static void drop_oldest(struct message_ring *ring)
{
    uint64_t tail = get(ring->tail);
    struct entry *entry = entry_at(ring, tail);
    struct ring_topic *state = topic_at(ring, get(entry->topic));

    if (get(state->generation) == get(entry->generation)) {
        if (get(state->complete_from) < get(entry->position))
            set(state->complete_from, get(entry->position));
        atomic_store_explicit(&state->first, get(entry->next),
                              memory_order_release); /* stored after complete_from */
        if (get(state->last) == tail)
            set(state->last, 0);
    }
    atomic_store_explicit(&ring->tail, tail + 1, memory_order_release); /* stored after complete_from */
}

/*
 * Drops entries until there is room for one more entry, with length contiguous bytes of JSON. Returns the
 * offset of these bytes.
 */
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

static void append(struct message_ring *ring, int topic, const struct ring_message *message)
{
    struct ring_topic *state = topic_at(ring, topic);
    size_t length =
        message->length <= ring->size / 4 ? message->length : 0; /* 0: readers take it from the table */
    uint64_t data = make_room(ring, length), new = get(ring->head);
    struct entry *entry = entry_at(ring, new);

    if (length > 0)
        memcpy(data_at(ring, data % ring->size), message->json, length);
    set(entry->position, message->position);
    set(entry->next, 0);
    set(entry->data, data);
    set(entry->length, (uint32_t)length);
    set(entry->bytes, (uint32_t)message->bytes);
    set(entry->generation, get(state->generation));
    set(entry->topic, topic);
    if (get(state->last))
        set(entry_at(ring, get(state->last))->next, new);
    else
        set(state->first, new);
    set(state->last, new);
    atomic_store_explicit(&ring->head, new + 1, memory_order_release);
    /*
     * newest is set last: a worker that saw the new position before the message was in the ring would miss
     * the message and sleep.
     */
    atomic_store_explicit(&state->newest, message->position, memory_order_release);
}

void ring_append(struct message_ring *ring, int topic, const struct ring_message *message)
{
    if (message->position <= ring->last_position) {
        /*
         * The positions of entries must rise, because readers search by position. The relay appends in that
         * order, so this happens only if it makes a mistake. The message is read from the table then.
         */
        skip(ring, topic, message->position);
    } else {
        ring->last_position = message->position;
        append(ring, topic, message);
    }
}

void ring_reset(struct message_ring *ring)
{
    ring->last_position = 0;
    while (get(ring->tail) < get(ring->head))
        drop_oldest(ring);
}

/* ---- readers */

bool ring_find(const struct message_ring *ring, int topic, struct ring_topic_ref *ref)
{
    uint32_t generation = atomic_load_explicit(&topic_at(ring, topic)->generation, memory_order_acquire);

    if (!(generation & 1))
        return false;
    *ref = (struct ring_topic_ref){ topic, generation };
    return true;
}

static bool is_current(const struct message_ring *ring, struct ring_topic_ref ref)
{
    atomic_thread_fence(memory_order_acquire);
    return get(topic_at(ring, ref.topic)->generation) == ref.generation;
}

bool ring_newest(const struct message_ring *ring, struct ring_topic_ref ref, int64_t *position)
{
    int64_t newest = atomic_load_explicit(&topic_at(ring, ref.topic)->newest, memory_order_acquire);

    if (!is_current(ring, ref))
        return false;
    *position = newest;
    return true;
}

/*
 * Binary search. Returns the first entry from tail on with a position greater than this one, or head if there
 * is none.
 */
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
    return get(entry->topic) == ref.topic && get(entry->generation) == ref.generation;
}

/*
 * Returns the topic's first entry after position, or 0 if there is none. Lowers *oldest_used to the oldest
 * entry on which the result relies.
 */
static uint64_t find_start(const struct message_ring *ring, struct ring_topic_ref ref, int64_t position,
                           uint64_t head, uint64_t *oldest_used)
{
    const struct ring_topic *state = topic_at(ring, ref.topic);
    uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_acquire), at;
    uint64_t first = atomic_load_explicit(&state->first, memory_order_acquire);
    bool is_newer;

    if (get(state->newest) <= position || first == 0 || first >= head)
        return 0;
    is_newer = get(entry_at(ring, first)->position) > position;
    atomic_thread_fence(memory_order_acquire);
    /*
     * If the entry first was dropped meanwhile, the position that was read may be that of another message. If
     * it is dropped later, complete_from is raised above position; so *oldest_used need not count it.
     */
    if (is_newer && get(ring->tail) <= first)
        return first;
    at = search(ring, tail, head, position);
    /* Usually position is that of the topic's previous message, whose entry links to the next one. */
    if (at > tail && get(entry_at(ring, at - 1)->position) == position &&
        belongs(entry_at(ring, at - 1), ref)) {
        *oldest_used = at - 1 < *oldest_used ? at - 1 : *oldest_used;
        return get(entry_at(ring, at - 1)->next);
    }
    *oldest_used = at < *oldest_used ? at : *oldest_used;
    /* The position lies between two messages of the topic: a client may have sent a time. */
    while (at < head && !belongs(entry_at(ring, at), ref))
        at++;
    return at < head ? at : 0;
}

/*
 * Returns the index of the topic whose next entry has the lowest position, or -1 if no topic has a next
 * entry.
 */
static int next_topic(const struct message_ring *ring, const uint64_t *at, int count, uint64_t head)
{
    int lowest = -1;

    for (int i = 0; i < count; i++)
        if (at[i] != 0 && at[i] < head &&
            (lowest < 0 || get(entry_at(ring, at[i])->position) < get(entry_at(ring, at[lowest])->position)))
            lowest = i;
    return lowest;
}

/*
 * Copies JSON that the writer may be overwriting. ring_read() discards the page unless the entry is still
 * there afterwards.
 */
static bool copy_json(struct page *page, int topic_index, int64_t position, const char *json, size_t length)
{
    bool copied;

    RACY_READ_BEGIN;
    copied = page_add_json(page, topic_index, position, json, length);
    RACY_READ_END;
    return copied;
}

/* Copies messages in order of position. Returns false if the ring lacks one or memory ran out. */
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
        /* The values of an entry that is being overwritten may be garbage. */
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
        if (get(topic_at(ring, refs[i].topic)->generation) != refs[i].generation ||
            get(topic_at(ring, refs[i].topic)->complete_from) > positions[i])
            return false;
    return true;
}

/*
 * Whether the ring proves that positions up to this one have been given. The topic's newest position does not
 * suffice, because append() sets it after head; so the newest entry counts as well. Returns false if this is
 * unknown; then only the table can tell.
 */
static bool was_given(const struct message_ring *ring, struct ring_topic_ref ref, int64_t position,
                      uint64_t head, uint64_t *oldest_used)
{
    if (position <= get(topic_at(ring, ref.topic)->newest))
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
    bool read;

    if (!at)
        return false;
    read = is_still_there(ring, refs, positions, page->topic_count, oldest_used);
    for (int i = 0; read && i < page->topic_count; i++) {
        uint64_t first = get(topic_at(ring, refs[i].topic)->first);

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
