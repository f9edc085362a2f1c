#include "core/keyed_hash.h"

#include <endian.h>
#include <string.h>

enum { BLOCK_ROUNDS = 2, LAST_ROUNDS = 4, BLOCK = 8 };

static uint64_t rotate(uint64_t word, int bits)
{
    return word << bits | word >> (64 - bits);
}

static uint64_t load(const unsigned char *bytes)
{
    uint64_t word;

    memcpy(&word, bytes, sizeof word);
    return le64toh(word);
}

static void mix(uint64_t v[4], int rounds)
{
    for (int i = 0; i < rounds; i++) {
        v[0] += v[1];
        v[1] = rotate(v[1], 13) ^ v[0];
        v[0] = rotate(v[0], 32);
        v[2] += v[3];
        v[3] = rotate(v[3], 16) ^ v[2];
        v[0] += v[3];
        v[3] = rotate(v[3], 21) ^ v[0];
        v[2] += v[1];
        v[1] = rotate(v[1], 17) ^ v[2];
        v[2] = rotate(v[2], 32);
    }
}

static void absorb(uint64_t v[4], uint64_t word)
{
    v[3] ^= word;
    mix(v, BLOCK_ROUNDS);
    v[0] ^= word;
}

static uint64_t squeeze(uint64_t v[4])
{
    mix(v, LAST_ROUNDS);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

struct keyed_hash keyed_hash(const unsigned char key[static KEYED_HASH_KEY_SIZE], const void *data,
                             size_t size)
{
    const uint64_t k0 = load(key), k1 = load(key + BLOCK);
    uint64_t v[4] = { k0 ^ UINT64_C(0x736f6d6570736575), k1 ^ UINT64_C(0x646f72616e646f6d) ^ 0xee,
                      k0 ^ UINT64_C(0x6c7967656e657261), k1 ^ UINT64_C(0x7465646279746573) };
    const unsigned char *at = data;
    unsigned char last[BLOCK] = { [BLOCK - 1] = (unsigned char)size };
    struct keyed_hash hash;

    for (size_t left = size; left >= BLOCK; left -= BLOCK, at += BLOCK)
        absorb(v, load(at));
    if (size % BLOCK > 0)
        memcpy(last, at, size % BLOCK);
    absorb(v, load(last));
    v[2] ^= 0xee;
    hash.words[0] = squeeze(v);
    v[1] ^= 0xdd;
    hash.words[1] = squeeze(v);
    return hash;
}
