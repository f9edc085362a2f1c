#include "api/topic.h"

#include "expect.h"
#include "suites.h"

#include <string.h>

/* A text and its length, which is needed because the text may contain a NUL. */
#define TEXT(literal) literal, sizeof(literal) - 1

static void accepts_and_refuses_names(void)
{
    static const struct {
        const char *name;
        size_t length;
        enum topic_fault fault;
    } rows[] = {
        { TEXT("orders"), TOPIC_OK },
        { TEXT("a"), TOPIC_OK },
        { TEXT("0"), TOPIC_OK },
        { TEXT(" a "), TOPIC_OK },
        { TEXT("%s'\"\\/{}*$; --"), TOPIC_OK },
        { TEXT("заказы"), TOPIC_OK },
        { TEXT("🐘"), TOPIC_OK },
        { TEXT("a\u0300"), TOPIC_OK },
        { TEXT("\u200b"), TOPIC_OK }, /* a zero-width space is not white space in Unicode */
        { TEXT(""), TOPIC_BLANK },
        { TEXT(" "), TOPIC_BLANK },
        { TEXT("  \t\r\n\v\f "), TOPIC_BLANK },
        { TEXT("\u00a0\u1680\u2000\u200a\u2028\u2029\u202f\u205f\u3000"), TOPIC_BLANK },
        { TEXT("\xc2\x85"), TOPIC_BLANK }, /* NEL */
        { TEXT("a\0b"), TOPIC_CONTROL },
        { TEXT("\0"), TOPIC_CONTROL },
        { TEXT("a\n"), TOPIC_CONTROL },
        { TEXT("\ta"), TOPIC_CONTROL },
        { TEXT("a\x1f"), TOPIC_CONTROL },
        { TEXT("a\x7f"), TOPIC_CONTROL },
        { TEXT("a\xc2\x80"), TOPIC_CONTROL },
        { TEXT("a\xc2\x9f"), TOPIC_CONTROL },
        { TEXT("a\xc2\xa0"), TOPIC_OK },
    };

    for (size_t i = 0; i < COUNT(rows); i++) {
        enum topic_fault fault = topic_check(rows[i].name, rows[i].length);
        EXPECT(fault == rows[i].fault, "row %zu: %d instead of %d", i, (int)fault, (int)rows[i].fault);
    }
}

static void counts_characters_not_bytes(void)
{
    static const char *const characters[] = { "a", "é", "€", "🐘" };
    char name[4 * (TOPIC_MAX_CHARACTERS + 1)];

    for (size_t i = 0; i < COUNT(characters); i++) {
        size_t size = strlen(characters[i]);
        for (size_t n = 0; n <= TOPIC_MAX_CHARACTERS; n++)
            memcpy(name + n * size, characters[i], size);
        EXPECT(topic_check(name, 255 * size) == TOPIC_OK, "255 x %s", characters[i]);
        EXPECT(topic_check(name, 256 * size) == TOPIC_TOO_LONG, "256 x %s", characters[i]);
    }
}

CU_TestInfo topic_tests[] = {
    { "accepts and refuses names", accepts_and_refuses_names },
    { "counts characters, not bytes", counts_characters_not_bytes },
    CU_TEST_INFO_NULL,
};
