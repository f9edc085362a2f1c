/*
 * What can_poll() or authenticate() answered a moment ago, for all workers of a host. It lies in the
 * manager's memory: the manager writes it, workers read it without asking anybody. It holds a keyed hash of
 * what was asked, never a user's name with a topic, and never a token.
 *
 * The number of entries is fixed. An entry may be at any of WAYS places, which follow from its hash. If all
 * of them are taken, the one that would expire first makes room.
 *
 * An entry is a seqlock: the writer makes its version odd, writes, and makes it even again. A reader copies,
 * and uses the copy only if the version was even and is still the same.
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
    ACCESS_DUE /* known, and it is time to ask again */
};

/* The size in bytes of a memory for so many entries, each with a value of at most value_size bytes. */
size_t access_memory_size(int entry_count, size_t value_size);

/* For the manager: initialises zeroed memory, with a random key. false: there is no randomness. */
bool access_memory_init(struct access_memory *memory, int entry_count, size_t value_size);

/* How many entries the memory has. */
int access_memory_count(const struct access_memory *memory);

/* Hashes a question: a token, or a user. */
struct keyed_hash access_memory_hash(const struct access_memory *memory, const char *text, size_t length);

/* Hashes the question whether the user with this hash may poll this topic. */
struct keyed_hash access_memory_hash_topic(struct keyed_hash user, const char *topic, size_t length);

/*
 * Looks a question up and, if it is there, copies the answer into value, which has value_size bytes. For any
 * process.
 */
enum access_found access_memory_find(const struct access_memory *memory, struct keyed_hash hash,
                                     int64_t now_ms, void *value);

/*
 * For the manager: remembers an answer of size bytes until expires_ms. From due_ms on it is to be asked
 * again. Returns whether another answer had to be forgotten before its time.
 */
bool access_memory_put(struct access_memory *memory, struct keyed_hash hash, const void *value, size_t size,
                       int64_t now_ms, int64_t due_ms, int64_t expires_ms);

/* For the manager: the question is asked again now, so ACCESS_DUE becomes ACCESS_KNOWN until it expires. */
void access_memory_defer(struct access_memory *memory, struct keyed_hash hash);

#endif
