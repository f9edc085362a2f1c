#include "shared/topic_table.h"

#include "core/fnv1a.h"
#include "shared/racy_read.h"

#include <stdatomic.h>
#include <string.h>
#include <sys/random.h>

enum {
    NO_BLOCK = -1,
    BLOCK_TEXT = 60,
    BLOCKS_PER_NAME = (TOPIC_MAX_BYTES + BLOCK_TEXT - 1) / BLOCK_TEXT,
    FIRST_BITS = 10 /* size of the first index, as a power of two; each further index has one bit more */
};

/* What the table holds for each number. */
struct entry {
    _Atomic uint64_t hash;   /* the name's hash; 0: the number is free */
    _Atomic int32_t block;   /* the name's first block; if the number is free: the next free number, or -1 */
    _Atomic uint32_t length; /* length of the name in bytes */
};

/* A part of a name. */
struct block {
    _Atomic int32_t next; /* the block with the next part of the name; NO_BLOCK: there is none */
    char text[BLOCK_TEXT];
};

/*
 * The head of the memory, followed by the entries, the blocks and the indexes. Each index is twice as large
 * as the one before, and only the last one counts. An element of an index holds a topic's number + 1, or 0 if
 * it is free. A topic's element is the one that its hash selects or, if others took that one, a later one
 * without a free element in between.
 */
struct topic_table {
    int count;
    uint64_t seed;                /* seed of the hash, so that nobody can choose topics that collide */
    size_t blocks_at, indexes_at; /* offsets from the table's first byte */
    _Atomic int bits;             /* size of the index that counts, as a power of two */
    /* Only the manager uses the rest. */
    int used;
    /*
     * free_number: the first in the list of free numbers, -1: none; next_number: the lowest one that was
     * never used
     */
    int free_number, next_number;
    int free_block, next_block; /* the same for blocks */
};

static size_t offset_of_blocks(int count)
{
    return (sizeof(struct topic_table) + (size_t)count * sizeof(struct entry) + 63) & ~(size_t)63;
}

static size_t offset_of_indexes(int count)
{
    return offset_of_blocks(count) + (size_t)count * BLOCKS_PER_NAME * sizeof(struct block);
}

/*
 * Returns the size of the largest index, as a power of two. When the table is full, this index is half full.
 */
static int last_bits(int count)
{
    int bits = FIRST_BITS;

    while ((INT64_C(1) << bits) < (int64_t)count * 2)
        bits++;
    return bits;
}

/* Returns how many elements all smaller indexes have together. */
static size_t index_offset(int bits)
{
    return ((size_t)1 << bits) - ((size_t)1 << FIRST_BITS);
}

size_t topic_table_memory(int count)
{
    return offset_of_indexes(count) + index_offset(last_bits(count) + 1) * sizeof(int32_t);
}

static struct entry *entry_at(const struct topic_table *table, int topic)
{
    return (struct entry *)((uintptr_t)table + sizeof *table) + topic;
}

static struct block *block_at(const struct topic_table *table, int block)
{
    return (struct block *)((uintptr_t)table + table->blocks_at) + block;
}

/*
 * Whether this is the number of a block. A worker that the manager overtakes may read garbage, so a number is
 * checked before it is used.
 */
static bool is_block(const struct topic_table *table, int block)
{
    return block >= 0 && block < table->count * BLOCKS_PER_NAME;
}

static _Atomic int32_t *index_at(const struct topic_table *table, int bits)
{
    return (_Atomic int32_t *)((uintptr_t)table + table->indexes_at) + index_offset(bits);
}

struct topic_table *topic_table_init(void *memory, int count)
{
    struct topic_table *table = memory;

    table->count = count;
    table->blocks_at = offset_of_blocks(count);
    table->indexes_at = offset_of_indexes(count);
    table->bits = FIRST_BITS;
    table->free_number = -1;
    table->free_block = NO_BLOCK;
    return getrandom(&table->seed, sizeof table->seed, 0) == sizeof table->seed ? table : NULL;
}

/* Returns the hash of a name: FNV-1a that starts with the seed, with a final mix. Never 0. */
static uint64_t hash_name(const struct topic_table *table, const char *name, size_t length)
{
    uint64_t hash = fnv1a(table->seed ^ FNV1A_BASIS, name, length);

    hash ^= hash >> 32;
    return hash ? hash : 1;
}

/*
 * Whether the topic has this name. In a worker the name may change meanwhile, which topic_table_find() checks
 * afterwards.
 */
static bool is_named(const struct topic_table *table, int topic, const char *name, size_t length)
{
    int block = atomic_load_explicit(&entry_at(table, topic)->block, memory_order_relaxed);
    bool same = atomic_load_explicit(&entry_at(table, topic)->length, memory_order_relaxed) == length;

    for (size_t at = 0; same && at < length; at += BLOCK_TEXT) {
        if (!is_block(table, block))
            return false;
        RACY_READ_BEGIN;
        same = memcmp(block_at(table, block)->text, name + at,
                      length - at < BLOCK_TEXT ? length - at : BLOCK_TEXT) == 0;
        RACY_READ_END;
        block = atomic_load_explicit(&block_at(table, block)->next, memory_order_relaxed);
    }
    return same;
}

/* A search along the elements of an index that may hold a topic with a certain hash. */
struct probe {
    const _Atomic int32_t *index;
    uint64_t at, left, mask;
};

static struct probe begin_probe(const struct topic_table *table, uint64_t hash)
{
    const int bits = atomic_load_explicit(&table->bits, memory_order_acquire);
    const uint64_t size = UINT64_C(1) << bits;

    return (struct probe){ index_at(table, bits), hash & (size - 1), size, size - 1 };
}

/* Returns the next topic with this hash, or -1 if there is none. */
static int next_match(const struct topic_table *table, struct probe *probe, uint64_t hash)
{
    for (; probe->left > 0; probe->left--) {
        /* an element is a topic + 1; 0: none. A damaged one may be any number. */
        const int32_t element = atomic_load_explicit(&probe->index[probe->at], memory_order_acquire);

        probe->at = (probe->at + 1) & probe->mask;
        if (element <= 0 || element > table->count)
            return -1;
        if (atomic_load_explicit(&entry_at(table, element - 1)->hash, memory_order_acquire) == hash)
            return element - 1;
    }
    return -1;
}

/* ---- the manager */

int topic_table_number(const struct topic_table *table, const char *name, size_t length)
{
    const uint64_t hash = hash_name(table, name, length);
    struct probe probe = begin_probe(table, hash);
    int topic;

    while ((topic = next_match(table, &probe, hash)) >= 0)
        if (is_named(table, topic, name, length))
            return topic;
    return -1;
}

static int32_t get(const _Atomic int32_t *object)
{
    return atomic_load_explicit(object, memory_order_relaxed);
}

/* Puts a topic into an index. The index has a free element, because it is at most half full. */
static void put(const struct topic_table *table, int bits, int topic)
{
    const uint64_t mask = (UINT64_C(1) << bits) - 1;
    _Atomic int32_t *index = index_at(table, bits);
    uint64_t at = atomic_load_explicit(&entry_at(table, topic)->hash, memory_order_relaxed) & mask;

    while (get(&index[at]) != 0)
        at = (at + 1) & mask;
    atomic_store_explicit(&index[at], topic + 1, memory_order_release);
}

static void double_index(struct topic_table *table)
{
    const int bits = atomic_load_explicit(&table->bits, memory_order_relaxed);

    for (int topic = 0; topic < table->next_number; topic++)
        if (atomic_load_explicit(&entry_at(table, topic)->hash, memory_order_relaxed) != 0)
            put(table, bits + 1, topic);
    atomic_store_explicit(&table->bits, bits + 1, memory_order_release);
}

/*
 * Takes a topic out of the index, which leaves a gap. An element behind the gap moves into it if its hash
 * says that it belongs there or before, so that a search may end at the first free element.
 */
static void take_out(const struct topic_table *table, int topic)
{
    const int bits = atomic_load_explicit(&table->bits, memory_order_relaxed);
    const uint64_t mask = (UINT64_C(1) << bits) - 1;
    _Atomic int32_t *index = index_at(table, bits);
    uint64_t free_at = atomic_load_explicit(&entry_at(table, topic)->hash, memory_order_relaxed) & mask, at;

    while (get(&index[free_at]) != topic + 1)
        free_at = (free_at + 1) & mask;
    for (at = (free_at + 1) & mask; get(&index[at]) != 0; at = (at + 1) & mask) {
        const struct entry *entry = entry_at(table, get(&index[at]) - 1);
        const uint64_t wanted_at = atomic_load_explicit(&entry->hash, memory_order_relaxed) & mask;

        if (((at - wanted_at) & mask) >= ((at - free_at) & mask)) {
            atomic_store_explicit(&index[free_at], get(&index[at]), memory_order_release);
            free_at = at;
        }
    }
    atomic_store_explicit(&index[free_at], 0, memory_order_release);
}

static int take_number(struct topic_table *table)
{
    const int topic = table->free_number;

    if (topic < 0)
        return table->next_number < table->count ? table->next_number++ : -1;
    table->free_number = get(&entry_at(table, topic)->block);
    return topic;
}

/*
 * Returns a free block. There is one, because the memory has enough blocks for as many names of the greatest
 * length as there are numbers.
 */
static int take_block(struct topic_table *table)
{
    const int block = table->free_block;

    if (block == NO_BLOCK)
        return table->next_block++;
    table->free_block = get(&block_at(table, block)->next);
    return block;
}

/* Stores a name in blocks, from its end to its beginning. Returns the first block. */
static int store_name(struct topic_table *table, const char *name, size_t length)
{
    int next = NO_BLOCK;

    for (size_t end = length; end > 0;) {
        const size_t at = (end - 1) / BLOCK_TEXT * BLOCK_TEXT;
        const int block = take_block(table);

        memcpy(block_at(table, block)->text, name + at, end - at);
        atomic_store_explicit(&block_at(table, block)->next, next, memory_order_relaxed);
        next = block;
        end = at;
    }
    return next;
}

int topic_table_add(struct topic_table *table, const char *name, size_t length)
{
    int topic = topic_table_number(table, name, length), bits = atomic_load(&table->bits);
    struct entry *entry;

    if (topic >= 0)
        return topic;
    topic = take_number(table);
    if (topic < 0)
        return -1;
    if (bits < last_bits(table->count) && table->used >= 1 << (bits - 1))
        double_index(table);
    table->used++;
    entry = entry_at(table, topic);
    /*
     * The fence lets every process that sees the new name also see that the previous topic of this number was
     * closed.
     */
    atomic_thread_fence(memory_order_release);
    atomic_store_explicit(&entry->block, store_name(table, name, length), memory_order_relaxed);
    atomic_store_explicit(&entry->length, (uint32_t)length, memory_order_relaxed);
    atomic_store_explicit(&entry->hash, hash_name(table, name, length), memory_order_release);
    put(table, atomic_load_explicit(&table->bits, memory_order_relaxed), topic);
    return topic;
}

void topic_table_remove(struct topic_table *table, int topic)
{
    struct entry *entry = entry_at(table, topic);
    int block = get(&entry->block);

    take_out(table, topic);
    atomic_store_explicit(&entry->hash, 0, memory_order_release);
    while (block != NO_BLOCK) {
        const int next = get(&block_at(table, block)->next);

        atomic_store_explicit(&block_at(table, block)->next, table->free_block, memory_order_relaxed);
        table->free_block = block;
        block = next;
    }
    atomic_store_explicit(&entry->block, table->free_number, memory_order_relaxed);
    table->free_number = topic;
    table->used--;
}

size_t topic_table_name(const struct topic_table *table, int topic, char name[static TOPIC_TABLE_NAME_SIZE])
{
    const struct entry *entry = entry_at(table, topic);
    size_t length = atomic_load_explicit(&entry->length, memory_order_relaxed);
    int block = get(&entry->block);

    if (atomic_load_explicit(&entry->hash, memory_order_relaxed) == 0)
        length = 0;
    for (size_t at = 0; at < length; at += BLOCK_TEXT) {
        memcpy(name + at, block_at(table, block)->text, length - at < BLOCK_TEXT ? length - at : BLOCK_TEXT);
        block = get(&block_at(table, block)->next);
    }
    name[length] = '\0';
    return length;
}

int topic_table_size(const struct topic_table *table)
{
    return table->count;
}

/* ---- workers */

bool topic_table_find(const struct topic_table *table, const struct message_ring *ring, const char *name,
                      size_t length, struct ring_topic_ref *ref)
{
    const uint64_t hash = hash_name(table, name, length);
    struct probe probe = begin_probe(table, hash);
    struct ring_topic_ref found;
    int64_t newest;
    int topic;

    while ((topic = next_match(table, &probe, hash)) >= 0)
        /* The comparison counts only if the topic with this number stayed open meanwhile. */
        if (ring_find(ring, topic, &found) && is_named(table, topic, name, length) &&
            ring_newest(ring, found, &newest)) {
            *ref = found;
            return true;
        }
    return false;
}
