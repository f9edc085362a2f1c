/*
 * A keyed hash of 128 bits (SipHash-2-4-128). Without the key nobody can predict a hash or find two inputs
 * with the same hash, and a hash does not reveal its input.
 *
 * Source: J.-P. Aumasson, D. J. Bernstein, "SipHash: a fast short-input PRF", and its reference
 * implementation.
 */
#ifndef PGPOLL_KEYED_HASH_H
#define PGPOLL_KEYED_HASH_H

#include <stddef.h>
#include <stdint.h>

enum { KEYED_HASH_KEY_SIZE = 16 };

struct keyed_hash {
    uint64_t words[2];
};

/* Returns the hash of size bytes of data. key must be random and secret. */
struct keyed_hash keyed_hash(const unsigned char key[static KEYED_HASH_KEY_SIZE], const void *data,
                             size_t size);

#endif
