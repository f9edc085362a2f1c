#include "api/json_text.h"

#include "expect.h"
#include "suites.h"

#include <stdlib.h>
#include <string.h>

static const char *const members[] = { "\"a\"", "\"b\"", NULL };

/*
 * Rewrites text from memory of its exact size, so that sanitizers notice a read beyond it. out has room for
 * length bytes and a NUL.
 */
static bool rewrite(const char *text, size_t length, char *out, struct json_text_fault *fault)
{
    char *exact = malloc(length), *written = malloc(length);
    size_t size = 0;
    bool good;

    CU_ASSERT_FATAL(length == 0 || (exact && written));
    memcpy(exact, text, length);
    good = json_text_rewrite(exact, length, members, written, &size, fault);
    CU_ASSERT_FATAL(size <= length);
    if (good)
        memcpy(out, written, size);
    out[size] = '\0';
    free(exact);
    free(written);
    return good;
}

static void rewrites_valid_json(void)
{
    static const struct {
        const char *text, *wanted;
    } rows[] = {
        { "0", "0" },
        { " -0.50e+07 ", "-0.50e+07" },
        { "1E5", "1E5" },
        { "123456789012345678901234567890.5e-999", "123456789012345678901234567890.5e-999" },
        { "true", "true" },
        { "\r\n\t false", "false" },
        { "null", "null" },
        { "\"\"", "\"\"" },
        { "\"café 😀 \x7f\"", "\"café 😀 \x7f\"" },
        { "\"\\u0041\\u00e9\\u20AC\\ud83d\\uDE00\\uffff\"", "\"Aé€😀\xef\xbf\xbf\"" },
        { "\"\\ud800\\udc00\\udbff\\udfff\"", "\"\xf0\x90\x80\x80\xf4\x8f\xbf\xbf\"" },
        { "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\\"\\\\/\\b\\f\\n\\r\\t\"" },
        { "\"\\u0022\\u005c\\u005C\\u002f\\u007f\"", "\"\\\"\\\\\\\\/\x7f\"" },
        { "\"\\u0000\\u001f\\u001F\\u0020\"", "\"\\u0000\\u001f\\u001F \"" },
        { "\"\\\\u0041\\\\\"", "\"\\\\u0041\\\\\"" },
        { "[ ]", "[]" },
        { "[ 1 , \"a,]\" , { } ]", "[1,\"a,]\",{}]" },
        { "{ }", "{}" },
        { "{ \"a\" : 1 , \"b\" : [ 2 ] }", "{\"a\":1,\"b\":[2]}" },
        { "{\"a\":1,\"a\":2}", "{\"a\":1,\"a\":2}" },
        /* Members that are not needed. */
        { "{\"x\":1}", "{}" },
        { "{\"x\":[{\"a\":[1]}],\"a\":1,\"y\":\"}\",\"\\u0062\":2,\"z\":{}}", "{\"a\":1,\"b\":2}" },
        { "{\"a\":{\"x\":1,\"\":2}}", "{\"a\":{\"x\":1,\"\":2}}" },
        { "{\"\":0,\"A\":0,\"aa\":0,\"a\\\"\":0,\"a\":0}", "{\"a\":0}" },
        { "[{\"x\":1}]", "[{\"x\":1}]" },
        /* Values that are nested deeper than in a request. */
        { "{\"a\":[[],[[]],{},1,{\"x\":[1]}],\"b\":{\"c\":{\"d\":{}},\"e\":[]}}",
          "{\"a\":[0,0,0,1,0],\"b\":{\"c\":0,\"e\":0}}" },
        { "\xef\xbb\xbf[]", "[]" },
        { "\xef\xbb\xbf \"\xef\xbb\xbf\"", "\"\xef\xbb\xbf\"" },
    };
    struct json_text_fault fault;
    char out[200];

    for (size_t i = 0; i < COUNT(rows); i++) {
        CU_ASSERT_FATAL(strlen(rows[i].text) < sizeof out);
        if (EXPECT(rewrite(rows[i].text, strlen(rows[i].text), out, &fault), "%s: %s at %zu", rows[i].text,
                   fault.message, fault.offset))
            EXPECT_TEXT(out, rows[i].wanted);
    }
}

static void a_fault_has_a_message_and_an_offset(void)
{
    static const char unexpected[] = "unexpected character", end[] = "unexpected end of data";
    static const char control[] = "control character in a string", escape[] = "invalid escape";
    static const char half[] = "half a surrogate pair", utf8[] = "invalid UTF-8", nul[] = "\\u0000 in a name";
    static const struct {
        const char *text;
        size_t offset;
        const char *message;
    } rows[] = {
        { "", 0, end },
        { "\xef\xbb\xbf", 3, end },
        { "\xef\xbb\xbf\xef\xbb\xbf[]", 3, unexpected },
        { " \xef\xbb\xbf[]", 1, unexpected },
        { "\xef\xbb[]", 0, unexpected },
        { "\xef\xbb\xbf[x]", 4, unexpected },
        { "[", 1, end },
        { "[1", 2, end },
        { "[1,", 3, end },
        { "[1,]", 3, unexpected },
        { "[,1]", 1, unexpected },
        { "[1 2]", 3, unexpected },
        { "[1}", 2, unexpected },
        { "[]]", 2, unexpected },
        { "[]\v", 2, unexpected },
        { "{", 1, end },
        { "{a:1}", 1, unexpected },
        { "{1:1}", 1, unexpected },
        { "{\"a\"}", 4, unexpected },
        { "{\"a\":}", 5, unexpected },
        { "{\"a\"=1}", 4, unexpected },
        { "{\"a\":1,}", 7, unexpected },
        { "{,}", 1, unexpected },
        { "{\"x\":1,,}", 7, unexpected },
        { "{\"x\":1]", 6, unexpected },
        { "{}{}", 2, unexpected },
        { "{},", 2, unexpected },
        { "nul", 3, end },
        { "nulx", 3, unexpected },
        { "nulll", 4, unexpected },
        { "True", 0, unexpected },
        { "tRue", 1, unexpected },
        { "NaN", 0, unexpected },
        { "-", 1, end },
        { "-x", 1, unexpected },
        { "--1", 1, unexpected },
        { "- 1", 1, unexpected },
        { "+1", 0, unexpected },
        { ".5", 0, unexpected },
        { "01", 1, unexpected },
        { "-00", 2, unexpected },
        { "1.", 1, unexpected },
        { "1.e5", 1, unexpected },
        { "1.2.3", 3, unexpected },
        { "1e", 1, unexpected },
        { "1e+", 1, unexpected },
        { "[1E-]", 2, unexpected },
        { "1e5.5", 3, unexpected },
        { "1e5e5", 3, unexpected },
        { "0x10", 1, unexpected },
        { "1_000", 1, unexpected },
        { "'a'", 0, unexpected },
        { "\"a", 2, end },
        { "\"a\n\"", 2, control },
        { "\"\x1f\"", 1, control },
        { "\"\\", 1, escape },
        { "\"\\x41\"", 1, escape },
        { "\"\\u12\"", 1, escape },
        { "\"\\u12g4\"", 1, escape },
        { "\"\\u+123\"", 1, escape },
        { "\"\\U0041\"", 1, escape },
        { "\"a\\ud83d\"", 2, half },
        { "\"\\udc00\"", 1, half },
        { "\"\\ud83d\\u0041\"", 1, half },
        { "\"\\ud83d\\ud83d\\ude00\"", 1, half },
        { "\"\\ud83d\\ude0\"", 1, half },
        { "\"\xff\"", 1, utf8 },
        { "\"\xc3", 1, utf8 },
        { "\"\xed\xa0\x80\"", 1, utf8 },
        { "{\"x\\u0000\":1}", 3, nul },
        { "[[{\"\\u0000\":1}]]", 4, nul },
    };
    struct json_text_fault fault;
    char out[200];

    for (size_t i = 0; i < COUNT(rows); i++)
        if (EXPECT(!rewrite(rows[i].text, strlen(rows[i].text), out, &fault), "%s", rows[i].text))
            EXPECT(fault.offset == rows[i].offset && strcmp(fault.message, rows[i].message) == 0,
                   "%s: %s at %zu", rows[i].text, fault.message, fault.offset);
    CU_ASSERT_FALSE(rewrite("[]\0", 3, out, &fault));
    CU_ASSERT_EQUAL(fault.offset, 2);
    CU_ASSERT_FALSE(rewrite("\"\0\"", 3, out, &fault));
    CU_ASSERT_EQUAL(fault.offset, 1);
    CU_ASSERT_FALSE(rewrite("\"\\\0\"", 4, out, &fault));
    CU_ASSERT_EQUAL(fault.offset, 1);
}

static void accepts_32_levels_of_nesting(void)
{
    enum { TOO_DEEP = JSON_TEXT_MAX_DEPTH + 1 };
    char text[2 * TOO_DEEP], out[sizeof text + 1];
    struct json_text_fault fault;

    memset(text, '[', TOO_DEEP);
    memset(text + TOO_DEEP, ']', TOO_DEEP);
    CU_ASSERT_TRUE(rewrite(text + 1, sizeof text - 2, out, &fault));
    EXPECT_TEXT(out, "[[0]]");
    CU_ASSERT_FALSE(rewrite(text, sizeof text, out, &fault));
    EXPECT_TEXT(fault.message, "nesting too deep");
    CU_ASSERT_EQUAL(fault.offset, JSON_TEXT_MAX_DEPTH);
}

CU_TestInfo json_text_tests[] = {
    { "rewrites_valid_json valid JSON", rewrites_valid_json },
    { "a fault has a message and an offset", a_fault_has_a_message_and_an_offset },
    { "accepts 32 levels of nesting", accepts_32_levels_of_nesting },
    CU_TEST_INFO_NULL,
};
