/*
 * Access memory: the answers that can_poll() or authenticate() gave a moment ago, for all workers of a host.
 * It is part of the manager's memory: the manager writes it, and workers read it without asking anybody. It
 * holds a keyed hash of each question, never a user's name with a topic, and never a token.
 *
 * The number of entries is fixed. An entry may be at any of WAYS places, which follow from its hash. If all
 * these places are taken, the entry that would expire first makes room.
 *
 * Each entry is a seqlock: the writer makes the entry's version odd, writes, and makes the version even
 * again. A reader copies the entry, and uses the copy only if the version was even before and is the same
 * afterwards.
 */
#ifndef PGPOLL_ACCESS_MEMORY_H
#define PGPOLL_ACCESS_MEMORY_H

#include "core/keyed_hash.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct access_memory;

/* Longer tokens (Authorization headers) are refused without asking authenticate(). */
enum { ACCESS_TOKEN_MAX_BYTES = 8192 };

enum access_found {
    ACCESS_UNKNOWN,
    ACCESS_KNOWN,
    ACCESS_DUE /* the answer is known, and it is time to ask again */
};

/*
 * Returns the size in bytes of a memory with this number of entries, each with a value of at most value_size
 * bytes.
 */
size_t access_memory_size(int entry_count, size_t value_size);

/* For the manager: initialises zeroed memory, with a random key. Returns false if getrandom(2) failed. */
bool access_memory_init(struct access_memory *memory, int entry_count, size_t value_size);

/* Returns how many entries the memory has. */
int access_memory_count(const struct access_memory *memory);

/* Returns the hash of a token or of a user. */
struct keyed_hash access_memory_hash(const struct access_memory *memory, const char *text, size_t length);

/* Returns the hash of the question whether this user may poll this topic. user: the user's hash. */
struct keyed_hash access_memory_hash_topic(struct keyed_hash user, const char *topic, size_t length);

/*
 * Looks up the answer to the question with this hash, and copies it into value, which must have room for
 * value_size bytes. For any process.
 */
enum access_found access_memory_find(const struct access_memory *memory, struct keyed_hash hash,
                                     int64_t now_ms, void *value);

/*
 * For the manager: remembers an answer of size bytes until expires_ms. From due_ms on, access_memory_find()
 * returns ACCESS_DUE. Returns whether another answer was forgotten before its time to make room.
 */
bool access_memory_put(struct access_memory *memory, struct keyed_hash hash, const void *value, size_t size,
                       int64_t now_ms, int64_t due_ms, int64_t expires_ms);

/*
 * For the manager, which now asks the question with this hash again: access_memory_find() returns
 * ACCESS_KNOWN instead of ACCESS_DUE until the answer expires or is replaced.
 */
void access_memory_defer(struct access_memory *memory, struct keyed_hash hash);

#endif
