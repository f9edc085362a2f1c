#include "shared/access_memory.h"

#include "expect.h"
#include "suites.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The first vectors of the reference implementation (vectors.h, vectors_sip128): key 00..0f, input 00.. */
static void hashes_as_the_reference_does(void)
{
    static const struct {
        size_t size;
        const char *hex;
    } rows[] = { { 0, "a3817f04ba25a8e66df67214c7550293" },
                 { 1, "da87c1d86b99af44347659119b22fc45" },
                 { 15, "5493e99933b0a8117e08ec0f97cfc3d9" },
                 { 16, "6ee2a4ca67b054bbfd3315bf85230577" } };
    unsigned char key[KEYED_HASH_KEY_SIZE], input[16];

    for (unsigned char i = 0; i < 16; i++)
        key[i] = input[i] = i;
    for (size_t i = 0; i < COUNT(rows); i++) {
        const struct keyed_hash hash = keyed_hash(key, input, rows[i].size);
        unsigned char bytes[16];
        char hex[33] = "";

        memcpy(bytes, hash.words, sizeof bytes); /* the tests only run on little-endian machines */
        for (int k = 0; k < 16; k++)
            (void)snprintf(hex + 2 * k, 3, "%02x", bytes[k]);
        EXPECT_TEXT(hex, rows[i].hex);
    }
}

static struct access_memory *new_memory(int entries, size_t value_size)
{
    struct access_memory *memory = calloc(1, access_memory_size(entries, value_size));

    CU_ASSERT_FATAL(memory && access_memory_init(memory, entries, value_size));
    return memory;
}

static void remembers_until_it_expires(void)
{
    struct access_memory *memory = new_memory(64, 8);
    const struct keyed_hash alice = access_memory_hash(memory, "alice", 5);
    const struct keyed_hash hash = access_memory_hash_topic(alice, "orders", 6);
    char value[8];

    CU_ASSERT_EQUAL(access_memory_find(memory, hash, 1000, value), ACCESS_UNKNOWN);
    CU_ASSERT_FALSE(access_memory_put(memory, hash, "yes", 4, 1000, 3500, 6000));
    CU_ASSERT_EQUAL(access_memory_find(memory, hash, 3499, value), ACCESS_KNOWN);
    EXPECT_TEXT(value, "yes");
    CU_ASSERT_EQUAL(access_memory_find(memory, hash, 3500, value), ACCESS_DUE);
    access_memory_defer(memory, hash);
    CU_ASSERT_EQUAL(access_memory_find(memory, hash, 5999, value), ACCESS_KNOWN);
    CU_ASSERT_EQUAL(access_memory_find(memory, hash, 6000, value), ACCESS_UNKNOWN);
    CU_ASSERT_FALSE(access_memory_put(memory, hash, "no", 3, 4000, 6500, 9000));
    CU_ASSERT_EQUAL(access_memory_find(memory, hash, 6000, value), ACCESS_KNOWN);
    EXPECT_TEXT(value, "no");
    /* Another topic, another user, and the user without a topic have no entry. */
    CU_ASSERT_EQUAL(access_memory_find(memory, access_memory_hash_topic(alice, "order", 5), 6000, value),
                    ACCESS_UNKNOWN);
    CU_ASSERT_EQUAL(access_memory_find(
                        memory, access_memory_hash_topic(access_memory_hash(memory, "alic", 4), "eorders", 7),
                        6000, value),
                    ACCESS_UNKNOWN);
    CU_ASSERT_EQUAL(access_memory_find(memory, alice, 6000, value), ACCESS_UNKNOWN);
    free(memory);
}

static void forgets_the_oldest_when_it_is_full(void)
{
    enum { ENTRIES = 64, QUESTIONS = 1000 };
    struct access_memory *memory = new_memory(ENTRIES, sizeof(int));
    int forgotten = 0, known = 0, value;

    for (int i = 0; i < QUESTIONS; i++) {
        const struct keyed_hash hash = access_memory_hash(memory, (const char *)&i, sizeof i);

        forgotten += access_memory_put(memory, hash, &i, sizeof i, 1000 + i, 8000, 9000 + i);
        CU_ASSERT_EQUAL(access_memory_find(memory, hash, 1000 + i, &value), ACCESS_KNOWN);
        CU_ASSERT_EQUAL(value, i);
    }
    for (int i = 0; i < QUESTIONS; i++)
        if (access_memory_find(memory, access_memory_hash(memory, (const char *)&i, sizeof i), 2500,
                               &value) == ACCESS_KNOWN) {
            CU_ASSERT_EQUAL(value, i);
            known++;
        }
    EXPECT(known <= ENTRIES && known >= ENTRIES * 9 / 10, "%d known", known);
    CU_ASSERT_EQUAL(forgotten, QUESTIONS - known);
    CU_ASSERT_EQUAL(access_memory_count(memory), ENTRIES);
    free(memory);
}

CU_TestInfo access_memory_tests[] = {
    { "hashes as the reference does", hashes_as_the_reference_does },
    { "remembers until it expires", remembers_until_it_expires },
    { "forgets the oldest when it is full", forgets_the_oldest_when_it_is_full },
    CU_TEST_INFO_NULL,
};
