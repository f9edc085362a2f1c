/*
 * A keyed hash of 128 bits (SipHash-2-4-128). Whoever does not know the key can neither predict a hash nor
 * find two inputs with the same one, and a hash does not tell its input.
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

/* Hashes size bytes. key is random, and secret. */
struct keyed_hash keyed_hash(const unsigned char key[static KEYED_HASH_KEY_SIZE], const void *data,
                             size_t size);

#endif
