/*
 * FNV-1a of 64 bits: a fast hash for what nobody gains from forging, or with a secret seed as the start.
 * keyed_hash.h is for the rest.
 *
 * Source: G. Fowler, L. C. Noll, K.-P. Vo, D. Eastlake, "The FNV Non-Cryptographic Hash Algorithm".
 */
#ifndef PGPOLL_FNV1A_H
#define PGPOLL_FNV1A_H

#include <stddef.h>
#include <stdint.h>

/* The hash of no data. */
#define FNV1A_BASIS UINT64_C(0xcbf29ce484222325)

/* Returns the hash of what hash stands for, followed by size bytes of data. */
uint64_t fnv1a(uint64_t hash, const void *data, size_t size);

#endif
