#include "core/utf8.h"

#include "expect.h"
#include "suites.h"

#include <string.h>

static void decodes_every_length(void)
{
    static const struct {
        const char *text;
        uint32_t character;
    } rows[] = {
        { "\x01", 0x01 },
        { "\x7f", 0x7f },
        { "\xc2\x80", 0x80 },
        { "\xdf\xbf", 0x7ff },
        { "\xe0\xa0\x80", 0x800 },
        { "\xed\x9f\xbf", 0xd7ff },
        { "\xee\x80\x80", 0xe000 },
        { "\xef\xbf\xbf", 0xffff },
        { "\xf0\x90\x80\x80", 0x10000 },
        { "\xf4\x8f\xbf\xbf", 0x10ffff },
    };

    for (size_t i = 0; i < COUNT(rows); i++) {
        uint32_t character = 0;
        size_t length = strlen(rows[i].text), size = utf8_decode(rows[i].text, length, &character);
        EXPECT(size == length && character == rows[i].character, "U+%04X: %zu bytes, U+%04X",
               (unsigned)rows[i].character, size, (unsigned)character);
    }
}

static void encodes_every_character(void)
{
    for (uint32_t character = 0; character <= 0x10ffff; character++) {
        char encoded[UTF8_MAX_BYTES];
        uint32_t decoded = 0;
        size_t size;

        if (character == 0xd800)
            character = 0xe000;
        size = utf8_encode(character, encoded);
        if (utf8_decode(encoded, size, &decoded) != size || decoded != character)
            (void)EXPECT(false, "U+%04X", (unsigned)character);
    }
}

static void refuses_what_postgresql_refuses(void)
{
    static const char *const rows[] = {
        "\x80",
        "\xbf",
        "\xc0\x80",
        "\xc1\xbf",
        "\xe0\x80\x80",
        "\xe0\x9f\xbf",
        "\xf0\x80\x80\x80",
        "\xf0\x8f\xbf\xbf", /* overlong */
        "\xed\xa0\x80",
        "\xed\xbf\xbf",
        "\xed\xa0\x80\xed\xb0\x80", /* surrogates */
        "\xf4\x90\x80\x80",
        "\xf5\x80\x80\x80",
        "\xf8\x88\x80\x80\x80",
        "\xfe",
        "\xff", /* above U+10FFFF */
        "\xc2",
        "\xe2\x82",
        "\xf0\x9f\x90",
        "\xc2\x41",
        "\xe2\x82\x41",
        "\xe2\x41\x82",
        "\xf0\x9f\x90\x41", /* truncated */
    };

    for (size_t i = 0; i < COUNT(rows); i++) {
        uint32_t character = 77;
        EXPECT(utf8_decode(rows[i], strlen(rows[i]), &character) == 0, "row %zu", i);
        EXPECT(character == 77, "row %zu: the output was touched", i);
    }
}

static void valid_length_ends_at_the_first_fault(void)
{
    static const struct {
        const char *text;
        size_t valid;
    } rows[] = { { "", 0 },
                 { "abc", 3 },
                 { "a€b", 5 },
                 { "a€\xff", 4 },
                 { "\xff"
                   "abc",
                   0 },
                 { "ab\xe2\x82", 2 },
                 { "a\xc0\x80z", 1 } };

    for (size_t i = 0; i < COUNT(rows); i++) {
        size_t valid = utf8_valid_length(rows[i].text, strlen(rows[i].text));
        EXPECT(valid == rows[i].valid, "row %zu: %zu", i, valid);
    }
    EXPECT(utf8_valid_length("a\0b", 3) == 3, "a NUL is a character");
}

CU_TestInfo utf8_tests[] = {
    { "decodes every length", decodes_every_length },
    { "encodes every character", encodes_every_character },
    { "refuses what PostgreSQL refuses", refuses_what_postgresql_refuses },
    { "the valid length ends at the first fault", valid_length_ends_at_the_first_fault },
    CU_TEST_INFO_NULL,
};
