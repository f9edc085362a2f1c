#include "shared/topic_table.h"

#include "api/topic.h"
#include "shared/racy_read.h"

#include <stdatomic.h>
#include <string.h>
#include <sys/random.h>

/* A topic is in one of the PROBES entries from its hash on. Entries in between may be free. */
enum { PROBES = 32, NAME_SIZE = TOPIC_MAX_BYTES + 1 };

struct name {
    size_t length;
    char text[NAME_SIZE];
};

struct topic_table {
    int count;
    uint64_t seed;             /* of the hash, so that nobody can choose topics that collide */
    size_t names_at;           /* offset from the table's first byte */
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

static struct name *name_at(const struct topic_table *table, int topic)
{
    return (struct name *)((uintptr_t)table + table->names_at) + topic;
}

struct topic_table *topic_table_init(void *memory, int count)
{
    struct topic_table *table = memory;

    table->count = count;
    table->names_at = offset_of_names(count);
    return getrandom(&table->seed, sizeof table->seed, 0) == sizeof table->seed ? table : NULL;
}

/* FNV-1a that starts with the seed, with a final mix; never 0. */
static uint64_t hash_name(const struct topic_table *table, const char *name, size_t length)
{
    uint64_t hash = table->seed ^ UINT64_C(0xcbf29ce484222325);

    for (size_t i = 0; i < length; i++)
        hash = (hash ^ (unsigned char)name[i]) * UINT64_C(0x100000001b3);
    hash ^= hash >> 32;
    return hash ? hash : 1;
}

static int probe_at(const struct topic_table *table, uint64_t hash, int probe)
{
    return (int)((hash + (uint64_t)probe) % (uint64_t)table->count);
}

/* The next entry from the probe *probe on that has this hash; -1: none. Advances *probe past it. */
static int next_match(const struct topic_table *table, uint64_t hash, int *probe)
{
    while (*probe < PROBES) {
        int topic = probe_at(table, hash, (*probe)++);

        if (atomic_load_explicit(&table->hashes[topic], memory_order_acquire) == hash)
            return topic;
    }
    return -1;
}

/* In a worker the name may change meanwhile; topic_table_find() checks that afterwards. */
static bool is_named(const struct topic_table *table, int topic, const char *name, size_t length)
{
    const struct name *its = name_at(table, topic);
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
    int topic, probe = 0;

    while ((topic = next_match(table, hash, &probe)) >= 0)
        if (is_named(table, topic, name, length))
            return topic;
    probe = 0;
    while (probe < PROBES &&
           atomic_load_explicit(&table->hashes[probe_at(table, hash, probe)], memory_order_relaxed) != 0)
        probe++;
    if (probe == PROBES)
        return -1;
    topic = probe_at(table, hash, probe);
    /* Closing the previous topic of this number comes first for every process that sees the new name. */
    atomic_thread_fence(memory_order_release);
    new = name_at(table, topic);
    new->length = length;
    memcpy(new->text, name, length);
    new->text[length] = '\0';
    atomic_store_explicit(&table->hashes[topic], hash, memory_order_release);
    return topic;
}

void topic_table_remove(struct topic_table *table, int topic)
{
    atomic_store_explicit(&table->hashes[topic], 0, memory_order_release);
}

const char *topic_table_name(const struct topic_table *table, int topic)
{
    return atomic_load_explicit(&table->hashes[topic], memory_order_relaxed) ? name_at(table, topic)->text
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
    int topic, probe = 0;

    while ((topic = next_match(table, hash, &probe)) >= 0)
        /* The comparison counts only if the number stayed open meanwhile. */
        if (ring_find(ring, topic, &found) && is_named(table, topic, name, length) &&
            ring_newest(ring, found, &newest)) {
            *ref = found;
            return true;
        }
    return false;
}
