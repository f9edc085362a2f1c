#include "shared/access_memory.h"

#include "shared/racy_read.h"

#include <stdatomic.h>
#include <string.h>
#include <sys/random.h>

enum { WAYS = 16 };

struct entry {
    _Atomic uint32_t version; /* odd while the entry is being written */
    _Atomic int64_t due_ms, expires_ms;
    struct keyed_hash hash;
    char value[];
};

struct access_memory {
    int entry_count;
    size_t value_size, entry_size;
    unsigned char key[KEYED_HASH_KEY_SIZE];
    _Alignas(struct entry) char entries[];
};

static size_t entry_size(size_t value_size)
{
    const size_t unit = _Alignof(struct entry);

    return (sizeof(struct entry) + value_size + unit - 1) / unit * unit;
}

size_t access_memory_size(int entry_count, size_t value_size)
{
    return sizeof(struct access_memory) + (size_t)entry_count * entry_size(value_size);
}

bool access_memory_init(struct access_memory *memory, int entry_count, size_t value_size)
{
    memory->entry_count = entry_count;
    memory->value_size = value_size;
    memory->entry_size = entry_size(value_size);
    return getrandom(memory->key, sizeof memory->key, 0) == sizeof memory->key;
}

int access_memory_count(const struct access_memory *memory)
{
    return memory->entry_count;
}

struct keyed_hash access_memory_hash(const struct access_memory *memory, const char *text, size_t length)
{
    return keyed_hash(memory->key, text, length);
}

struct keyed_hash access_memory_hash_topic(struct keyed_hash user, const char *topic, size_t length)
{
    unsigned char key[KEYED_HASH_KEY_SIZE];

    memcpy(key, user.words, sizeof key);
    return keyed_hash(key, topic, length);
}

/* Returns the entry at one of the WAYS places where an entry with this hash may be. */
static struct entry *entry_at(const struct access_memory *memory, struct keyed_hash hash, int way)
{
    const size_t place = (size_t)((hash.words[0] + (uint64_t)way) % (uint64_t)memory->entry_count);

    return (struct entry *)(void *)(memory->entries + place * memory->entry_size);
}

static bool is_same(struct keyed_hash a, struct keyed_hash b)
{
    return a.words[0] == b.words[0] && a.words[1] == b.words[1];
}

enum access_found access_memory_find(const struct access_memory *memory, struct keyed_hash hash,
                                     int64_t now_ms, void *value)
{
    for (int way = 0; way < WAYS; way++) {
        const struct entry *entry = entry_at(memory, hash, way);
        const uint32_t version = atomic_load_explicit(&entry->version, memory_order_acquire);
        const int64_t expires_ms = atomic_load_explicit(&entry->expires_ms, memory_order_relaxed),
                      due_ms = atomic_load_explicit(&entry->due_ms, memory_order_relaxed);
        struct keyed_hash found;

        if (version % 2 != 0 || now_ms >= expires_ms)
            continue;
        RACY_READ_BEGIN;
        memcpy(&found, &entry->hash, sizeof found);
        if (is_same(found, hash))
            memcpy(value, entry->value, memory->value_size);
        RACY_READ_END;
        atomic_thread_fence(memory_order_acquire);
        if (is_same(found, hash) && atomic_load_explicit(&entry->version, memory_order_relaxed) == version)
            return now_ms >= due_ms ? ACCESS_DUE : ACCESS_KNOWN;
    }
    return ACCESS_UNKNOWN;
}

/*
 * Returns the entry that has this hash, or else, of the entries at its WAYS places, the one that expires
 * first.
 */
static struct entry *choose(const struct access_memory *memory, struct keyed_hash hash)
{
    struct entry *chosen = entry_at(memory, hash, 0);

    for (int way = 0; way < WAYS; way++) {
        struct entry *entry = entry_at(memory, hash, way);

        if (is_same(entry->hash, hash))
            return entry;
        if (atomic_load(&entry->expires_ms) < atomic_load(&chosen->expires_ms))
            chosen = entry;
    }
    return chosen;
}

bool access_memory_put(struct access_memory *memory, struct keyed_hash hash, const void *value, size_t size,
                       int64_t now_ms, int64_t due_ms, int64_t expires_ms)
{
    struct entry *entry = choose(memory, hash);
    const uint32_t version = atomic_load_explicit(&entry->version, memory_order_relaxed);
    const bool forgot = !is_same(entry->hash, hash) && atomic_load(&entry->expires_ms) > now_ms;

    atomic_store_explicit(&entry->version, version + 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
    entry->hash = hash;
    memcpy(entry->value, value, size);
    atomic_store_explicit(&entry->due_ms, due_ms, memory_order_relaxed);
    atomic_store_explicit(&entry->expires_ms, expires_ms, memory_order_relaxed);
    atomic_store_explicit(&entry->version, version + 2, memory_order_release);
    return forgot;
}

void access_memory_defer(struct access_memory *memory, struct keyed_hash hash)
{
    struct entry *entry = choose(memory, hash);

    if (is_same(entry->hash, hash))
        atomic_store_explicit(&entry->due_ms, INT64_MAX, memory_order_relaxed);
}
