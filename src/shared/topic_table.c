#include "shared/topic_table.h"

#include "api/topic.h"
#include "shared/racy_read.h"

#include <stdatomic.h>
#include <string.h>
#include <sys/random.h>

/* A topic stands within so many places from where its hash points; some may be empty in between. */
enum { PROBES = 32, NAME_SIZE = TOPIC_MAX_BYTES + 1 };

struct name {
    size_t length;
    char text[NAME_SIZE];
};

struct topic_table {
    int count;
    uint64_t seed;   /* so that nobody can choose topics that crowd one place */
    size_t names_at; /* offset from the table's first byte: there are no pointers in shared memory */
    _Atomic uint64_t hashes[]; /* 0: free */
};

static size_t offset_of_names(int count)
{
    return sizeof(struct topic_table) + (size_t)count * sizeof(uint64_t);
}

size_t topic_table_memory(int count)
{
    return offset_of_names(count) + (size_t)count * sizeof(struct name);
}

static struct name *name_at(const struct topic_table *table, int number)
{
    return (struct name *)((uintptr_t)table + table->names_at) + number;
}

struct topic_table *topic_table_init(void *memory, int count)
{
    struct topic_table *table = memory;

    table->count = count;
    table->names_at = offset_of_names(count);
    return getrandom(&table->seed, sizeof table->seed, 0) == sizeof table->seed ? table : NULL;
}

/* FNV-1a, begun with the seed and stirred at the end; never 0. */
static uint64_t hash_name(const struct topic_table *table, const char *name, size_t length)
{
    uint64_t hash = table->seed ^ UINT64_C(0xcbf29ce484222325);

    for (size_t i = 0; i < length; i++)
        hash = (hash ^ (unsigned char)name[i]) * UINT64_C(0x100000001b3);
    hash ^= hash >> 32;
    return hash ? hash : 1;
}

static int place(const struct topic_table *table, uint64_t hash, int probe)
{
    return (int)((hash + (uint64_t)probe) % (uint64_t)table->count);
}

/* The next place from *probe on where this hash stands; -1: none. */
static int next_match(const struct topic_table *table, uint64_t hash, int *probe)
{
    while (*probe < PROBES) {
        int number = place(table, hash, (*probe)++);

        if (atomic_load_explicit(&table->hashes[number], memory_order_acquire) == hash)
            return number;
    }
    return -1;
}

/* A worker's caller looks afterwards whether the name was still this topic's. */
static bool is_named(const struct topic_table *table, int number, const char *name, size_t length)
{
    const struct name *its = name_at(table, number);
    bool same;

    RACY_READ_BEGIN;
    same = its->length == length && memcmp(its->text, name, length) == 0;
    RACY_READ_END;
    return same;
}

int topic_table_add(struct topic_table *table, const char *name, size_t length)
{
    uint64_t hash = hash_name(table, name, length);
    struct name *new;
    int number, probe = 0;

    while ((number = next_match(table, hash, &probe)) >= 0)
        if (is_named(table, number, name, length))
            return number;
    probe = 0;
    while (probe < PROBES &&
           atomic_load_explicit(&table->hashes[place(table, hash, probe)], memory_order_relaxed) != 0)
        probe++;
    if (probe == PROBES)
        return -1;
    number = place(table, hash, probe);
    /* Who sees the new name also sees that the number's topic before was closed. */
    atomic_thread_fence(memory_order_release);
    new = name_at(table, number);
    new->length = length;
    memcpy(new->text, name, length);
    new->text[length] = '\0';
    atomic_store_explicit(&table->hashes[number], hash, memory_order_release);
    return number;
}

void topic_table_remove(struct topic_table *table, int number)
{
    atomic_store_explicit(&table->hashes[number], 0, memory_order_release);
}

const char *topic_table_name(const struct topic_table *table, int number)
{
    return atomic_load_explicit(&table->hashes[number], memory_order_relaxed) ? name_at(table, number)->text
                                                                              : NULL;
}

int topic_table_size(const struct topic_table *table)
{
    return table->count;
}

bool topic_table_find(const struct topic_table *table, const struct message_ring *ring, const char *name,
                      size_t length, struct ring_topic_ref *ref)
{
    uint64_t hash = hash_name(table, name, length);
    struct ring_topic_ref found;
    int64_t newest;
    int number, probe = 0;

    while ((number = next_match(table, hash, &probe)) >= 0)
        /* The name is this topic's only if the number stayed open while it was compared. */
        if (ring_find(ring, number, &found) && is_named(table, number, name, length) &&
            ring_newest(ring, found, &newest)) {
            *ref = found;
            return true;
        }
    return false;
}
