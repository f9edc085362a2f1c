#include "api/poll_request.h"

#include "core/utf8.h"
#include "expect.h"
#include "suites.h"

#include <inttypes.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_TOPICS = 3 };

static enum error parse(struct poll_request *request, const char *body, struct json_object **detail)
{
    *detail = NULL;
    return poll_request_parse(request, body, strlen(body), MAX_TOPICS, detail);
}

/* Parses a body that must be valid. */
static struct poll_request good(const char *body)
{
    struct poll_request request = { 0 };
    struct json_object *detail;
    enum error error = parse(&request, body, &detail);

    EXPECT(error == ERROR_NONE && !detail, "%s: %s, %s", body, error_name(error),
           json_object_to_json_string(detail));
    json_object_put(detail);
    return request;
}

static void defaults(void)
{
    struct poll_request request = good("{\"topics\":[\"orders\"]}");

    CU_ASSERT_EQUAL_FATAL(request.topic_count, 1);
    EXPECT_TEXT(request.topics[0].name, "orders");
    CU_ASSERT_EQUAL(request.topics[0].cursor.kind, CURSOR_NOW);
    CU_ASSERT_PTR_NULL(request.topics[0].since);
    CU_ASSERT_EQUAL(request.timeout_s, 30);
    CU_ASSERT_EQUAL(request.limit, 100);
    poll_request_release(&request);
    CU_ASSERT_PTR_NULL(request.topics);
    poll_request_release(&request);
}

static void integers_in_every_notation(void)
{
    static const struct {
        const char *members;
        int timeout_s, limit;
    } rows[] = {
        { "\"timeout\":0", 0, 100 },
        { "\"timeout\":60", 60, 100 },
        { "\"timeout\":30.0", 30, 100 },
        { "\"timeout\":1e1", 10, 100 },
        { "\"timeout\":-0", 0, 100 },
        { "\"timeout\":0.0", 0, 100 },
        { "\"timeout\":1E+01", 10, 100 },
        { "\"timeout\":100e-01", 10, 100 },
        { "\"timeout\":0e00", 0, 100 },
        { "\"x\":[0,-0,0.001,1.0001,\"00.\",\"-01\"]", 30, 100 },
        { "\"timeout\":null", 30, 100 },
        { "\"limit\":1", 30, 1 },
        { "\"limit\":1000", 30, 1000 },
        { "\"limit\":7,\"timeout\":5", 5, 7 },
        { "\"more\":[{\"x\":null}],\"Timeout\":99", 30, 100 },
        { "\"x\":[18446744073709551616,-9223372036854775809,1e400,-1e400]", 30, 100 },
        { "\"timeout\":50000000000000000000000e-21,\"limit\":20000000000000000000e-19", 50, 2 },
    };
    char body[200];

    for (size_t i = 0; i < COUNT(rows); i++) {
        (void)snprintf(body, sizeof body, "{\"topics\":[\"a\"],%s}", rows[i].members);
        struct poll_request request = good(body);
        EXPECT(request.timeout_s == rows[i].timeout_s && request.limit == rows[i].limit, "%s: %d, %d", body,
               request.timeout_s, request.limit);
        poll_request_release(&request);
    }
}

static void topics_keep_their_order_and_repetitions_are_dropped(void)
{
    struct poll_request request = good(" {\"topics\" : [\"b\", \"a\\u00e9\\/\\\"\", \"b\"]}\r\n");

    CU_ASSERT_EQUAL_FATAL(request.topic_count, 2);
    EXPECT_TEXT(request.topics[0].name, "b");
    EXPECT_TEXT(request.topics[1].name, "aé/\"");
    CU_ASSERT_EQUAL(request.topics[1].length, 5);
    EXPECT_JSON(json_tokener_parse(request.topics[1].quoted), "\"aé/\\\"\"");
    poll_request_release(&request);
    request = good("{\"topics\":[\"\\uD83D\\uDE00\",\"\\ud83d\\ude00\",\"\\\\ud83d\"],\"x\":\"\\u0000\"}");
    CU_ASSERT_EQUAL_FATAL(request.topic_count, 2);
    EXPECT_TEXT(request.topics[0].name, "😀");
    EXPECT_TEXT(request.topics[1].name, "\\ud83d");
    poll_request_release(&request);
}

/* Expects that a topic of one character that is sent as this surrogate pair is accepted. */
static void expect_pair(unsigned high, unsigned low)
{
    const uint32_t character = 0x10000 + (high - 0xd800) * 0x400 + (low - 0xdc00);
    uint32_t decoded = 0;
    char body[200];

    (void)snprintf(body, sizeof body,
                   "{\"topics\":[\"\\u%04x\\u%04x\"],\"since\":{\"\\u%04X\\u%04X\":\"0\"}}", high, low, high,
                   low);
    struct poll_request request = good(body);
    if (!request.topics)
        return;
    (void)EXPECT(utf8_decode(request.topics[0].name, request.topics[0].length, &decoded) == 4 &&
                     request.topics[0].length == 4 && decoded == character &&
                     request.topics[0].cursor.kind == CURSOR_ALL,
                 "%s: U+%04X", body, (unsigned)decoded);
    poll_request_release(&request);
}

static void every_surrogate_pair_decodes_to_its_character(void)
{
    for (unsigned high = 0xd800; high <= 0xdbff; high++) {
        expect_pair(high, 0xdc00);
        expect_pair(high, 0xde00);
        expect_pair(high, 0xdf12);
        expect_pair(high, 0xdfff);
    }
    for (unsigned low = 0xdc00; low <= 0xdfff; low++)
        expect_pair(0xd836, low);
}

static void raw_characters_are_kept(void)
{
    struct poll_request request =
        good("{\"topics\":[\"café\",\"日本\",\"😀\"],\"since\":{\"日本\":\"0\"},\"größe\":\"ß\"}");

    CU_ASSERT_EQUAL_FATAL(request.topic_count, 3);
    EXPECT_TEXT(request.topics[0].name, "café");
    EXPECT_TEXT(request.topics[1].name, "日本");
    EXPECT_TEXT(request.topics[2].name, "😀");
    EXPECT_TEXT(request.topics[1].quoted, "\"日本\"");
    CU_ASSERT_EQUAL(request.topics[1].cursor.kind, CURSOR_ALL);
    poll_request_release(&request);
    request = good("{\"topics\":[\"\\\\\\\"\\u0022\\u005c\"]}");
    CU_ASSERT_EQUAL_FATAL(request.topic_count, 1);
    EXPECT_TEXT(request.topics[0].name, "\\\"\"\\");
    poll_request_release(&request);
}

static void a_byte_order_mark_is_skipped(void)
{
    struct poll_request request = good("\xef\xbb\xbf{\"topics\":[\"\xef\xbb\xbf\"]}");

    CU_ASSERT_EQUAL_FATAL(request.topic_count, 1);
    EXPECT_TEXT(request.topics[0].name, "\xef\xbb\xbf");
    poll_request_release(&request);
}

static void each_topic_gets_its_cursor(void)
{
    static const char *const none[] = { "{\"topics\":[\"a\"],\"since\":null}",
                                        "{\"topics\":[\"a\"],\"since\":{}}",
                                        "{\"topics\":[\"a\"],\"since\":[ ]}" };
    struct poll_request request =
        good("{\"topics\":[\"a\",\"b\",\"c\"],\"since\":{\"b\":\"msg_000000000000002a\","
             "\"other\":5,\"c\":null,\"a\":\"what\\u0000?\"}}");

    CU_ASSERT_EQUAL_FATAL(request.topic_count, 3);
    CU_ASSERT_EQUAL(request.topics[0].cursor.kind, CURSOR_UNKNOWN);
    EXPECT_TEXT(request.topics[0].since, "\"what\\u0000?\"");
    EXPECT_JSON(
        json_object_get(json_object_object_get(request.body, "since")), /* only the needed entries are kept */
        "{\"b\":\"msg_000000000000002a\",\"a\":\"what\\u0000?\"}");
    CU_ASSERT_EQUAL(request.topics[1].cursor.kind, CURSOR_MESSAGE);
    CU_ASSERT_EQUAL(request.topics[1].cursor.position, 42);
    CU_ASSERT_EQUAL(request.topics[2].cursor.kind, CURSOR_NOW);
    CU_ASSERT_PTR_NULL(request.topics[2].since);
    poll_request_release(&request);
    for (size_t i = 0; i < COUNT(none); i++) {
        request = good(none[i]);
        CU_ASSERT_EQUAL_FATAL(request.topic_count, 1);
        CU_ASSERT_EQUAL(request.topics[0].cursor.kind, CURSOR_NOW);
        CU_ASSERT_PTR_NULL(request.topics[0].since);
        poll_request_release(&request);
    }
}

/* Each body is a JSON object but not a valid request. The client must get exactly these entries. */
static void every_fault_has_an_entry_with_its_location(void)
{
    static const struct {
        const char *body, *detail;
    } rows[] = {
        { "{\"topics\":[]}", "[{\"loc\":[\"body\",\"topics\"],\"msg\":\"ensure this value has at least 1 "
                             "items\",\"type\":\"value_error\"}]" },
        { "{}",
          "[{\"loc\":[\"body\",\"topics\"],\"msg\":\"field required\",\"type\":\"value_error.missing\"}]" },
        { "{\"topics\":null}", "[{\"loc\":[\"body\",\"topics\"],\"msg\":\"none is not an allowed "
                               "value\",\"type\":\"type_error.none.not_allowed\"}]" },
        { "{\"topics\":[\"a\",5]}",
          "[{\"loc\":[\"body\",\"topics\",1],\"msg\":\"str type expected\",\"type\":\"type_error.str\"}]" },
        { "{\"topics\":[\"orders\"],\"since\":{\"orders\":5}}",
          "[{\"loc\":[\"body\",\"since\",\"orders\"],\"msg\":\"str type "
          "expected\",\"type\":\"type_error.str\"}]" },
        { "[]", "[{\"loc\":[\"body\"],\"msg\":\"value is not a valid dict\",\"type\":\"type_error.dict\"}]" },
        { "{\"topics\":[null,\"\"],\"since\":[{}],\"timeout\":61,\"limit\":\"5\"}",
          "[{\"loc\":[\"body\",\"topics\",0],\"msg\":\"str type expected\",\"type\":\"type_error.str\"},"
          "{\"loc\":[\"body\",\"topics\",1],\"msg\":\"ensure this value is not "
          "blank\",\"type\":\"value_error\"},"
          "{\"loc\":[\"body\",\"since\"],\"msg\":\"value is not a valid dict\",\"type\":\"type_error.dict\"},"
          "{\"loc\":[\"body\",\"timeout\"],\"msg\":\"ensure this value is less than or equal to 60\","
          "\"type\":\"value_error.number.not_le\"},"
          "{\"loc\":[\"body\",\"limit\"],\"msg\":\"value is not a valid "
          "integer\",\"type\":\"type_error.integer\"}]" },
    };

    for (size_t i = 0; i < COUNT(rows); i++) {
        struct poll_request request;
        struct json_object *detail;
        enum error error = parse(&request, rows[i].body, &detail);
        if (EXPECT(error == ERROR_INVALID, "%s: %s", rows[i].body, error_name(error)))
            EXPECT_JSON(detail, rows[i].detail);
    }
}

/* Expects ERROR_INVALID with one entry, whose location is "body" followed by loc. */
static void expect_refused(const char *body, size_t length, const char *loc)
{
    struct poll_request request, before;
    struct json_object *detail = NULL, *entry_loc = NULL;
    char wanted[80];

    memset(&before, 0x5a, sizeof before);
    memcpy(&request, &before, sizeof request);
    enum error error = poll_request_parse(&request, body, length, MAX_TOPICS, &detail);
    if (EXPECT(error == ERROR_INVALID && json_object_array_length(detail) == 1, "%s: %s", body,
               error_name(error))) {
        (void)snprintf(wanted, sizeof wanted, "[\"body\"%s%s]", *loc ? "," : "", loc);
        (void)json_object_object_get_ex(json_object_array_get_idx(detail, 0), "loc", &entry_loc);
        EXPECT_JSON(json_object_get(entry_loc), wanted);
    }
    EXPECT(memcmp(&request, &before, sizeof request) == 0, "%s: *request was touched", body);
    json_object_put(detail);
}

static void refuses_wrong_values(void)
{
    static const struct {
        const char *members, *loc;
    } rows[] = {
        { "\"topics\":\"a\"", "\"topics\"" },
        { "\"topics\":{\"a\":1}", "\"topics\"" },
        { "\"topics\":[\"a\",\"b\",\"c\",\"d\"]", "\"topics\"" },
        { "\"topics\":[\"a\",\" \"]", "\"topics\",1" },
        { "\"topics\":[\"a\\u0000\"]", "\"topics\",0" },
        { "\"topics\":[\"a\\n\"]", "\"topics\",0" },
        { "\"topics\":[[\"a\"]]", "\"topics\",0" },
        { "\"topics\":[\"a\"],\"since\":\"0\"", "\"since\"" },
        { "\"topics\":[\"a\"],\"since\":false", "\"since\"" },
        { "\"topics\":[\"a\"],\"since\":{\"a\":{}}", "\"since\",\"a\"" },
        { "\"topics\":[\"a\"],\"timeout\":-1", "\"timeout\"" },
        { "\"topics\":[\"a\"],\"timeout\":2.5", "\"timeout\"" },
        { "\"topics\":[\"a\"],\"timeout\":\"30\"", "\"timeout\"" },
        { "\"topics\":[\"a\"],\"timeout\":true", "\"timeout\"" },
        { "\"topics\":[\"a\"],\"timeout\":60.5", "\"timeout\"" },
        { "\"topics\":[\"a\"],\"timeout\":1e400", "\"timeout\"" },
        { "\"topics\":[\"a\"],\"timeout\":-1e400", "\"timeout\"" },
        { "\"topics\":[\"a\"],\"timeout\":4294967296", "\"timeout\"" },
        { "\"topics\":[\"a\"],\"timeout\":18446744073709551616", "\"timeout\"" },
        { "\"topics\":[\"a\"],\"timeout\":-9223372036854775809", "\"timeout\"" },
        { "\"topics\":[\"a\"],\"timeout\":123456789012345678901234567890.5e10", "\"timeout\"" },
        { "\"topics\":[\"a\"],\"since\":[\"a\"]", "\"since\"" },
        { "\"topics\":[\"a\"],\"limit\":18446744073709551615", "\"limit\"" },
        { "\"topics\":[\"a\"],\"limit\":18446744073709551616", "\"limit\"" },
        { "\"topics\":[\"a\"],\"limit\":-18446744073709551616", "\"limit\"" },
        { "\"topics\":[\"a\"],\"limit\":-9223372036854775809", "\"limit\"" },
        { "\"topics\":[\"a\"],\"limit\":1e400", "\"limit\"" },
        { "\"topics\":[\"a\"],\"limit\":-1e400", "\"limit\"" },
        { "\"topics\":[\"a\"],\"limit\":1e-400", "\"limit\"" },
        { "\"topics\":[18446744073709551616]", "\"topics\",0" },
        { "\"topics\":[\"a\"],\"since\":{\"a\":18446744073709551616}", "\"since\",\"a\"" },
        { "\"topics\":[\"a\"],\"limit\":0", "\"limit\"" },
        { "\"topics\":[\"a\"],\"limit\":1001", "\"limit\"" },
        { "\"topics\":[\"a\"],\"limit\":[]", "\"limit\"" },
    };
    char body[200];

    for (size_t i = 0; i < COUNT(rows); i++) {
        (void)snprintf(body, sizeof body, "{%s}", rows[i].members);
        expect_refused(body, strlen(body), rows[i].loc);
    }
}

/* Texts that are not JSON but that a lenient parser might accept, with the offset of the fault. */
static const struct {
    const char *body;
    int offset; /* -1: it is not checked */
} not_json[] = {
    { "", 0 },
    { " ", 1 },
    { "{", 1 },
    { "{\"topics\":[\"a\"]", 15 },
    { "{\"topics\":[\"a\"]}x", 16 },
    { "nul", 3 },
    { "{\"topics\":['a']}", 11 },
    { "{topics:[\"a\"]}", 1 },
    { "{\"topics\":[\"a\",]}", -1 },
    { "{\"topics\":[\"a\"],}", -1 },
    { "{\"topics\":[\"a\"]}{}", -1 },
    { "{\"topics\":[\"a\"]},", -1 },
    { "{\"topics\":[\"a\"]} //", -1 },
    { "{\"topics\":[\"a\"],\"timeout\":NaN}", 26 },
    { "{\"topics\":[\"a\"],\"timeout\":Infinity}", 26 },
    { "{\"topics\":[\"a\"],\"timeout\":1.}", 27 },
    { "{\"topics\":[\"a\"],\"timeout\":.5}", -1 },
    { "{\"topics\":[\"a\"],\"timeout\":-.5}", -1 },
    { "{\"topics\":[\"a\"],\"timeout\":+1}", -1 },
    { "{\"topics\":[\"a\"],\"timeout\":01}", -1 },
    { "{\"topics\":[\"a\"],\"timeout\":-01}", -1 },
    { "{\"topics\":[\"a\"],\"timeout\":00}", -1 },
    { "{\"topics\":[\"a\"],\"timeout\":00.5}", -1 },
    { "{\"topics\":[\"a\"],\"timeout\":1.2.3}", -1 },
    { "{\"topics\":[\"a\"],\"timeout\":1e5e5}", -1 },
    { "{\"topics\":[\"a\"],\"timeout\":- 1}", -1 },
    { "{\"topics\":[\"a\"],\"timeout\":--1}", -1 },
    { "{\"topics\":[\"a\"],\"timeout\":5-}", -1 },
    { "{\"topics\":[\"a\"],\"timeout\":1+1}", -1 },
    { "{\"topics\":[\"a\"],\"timeout\":1e}", -1 },
    { "{\"topics\":[\"a\"],\"timeout\":1e+}", -1 },
    { "{\"topics\":[\"a\"],\"timeout\":1.e5}", 27 },
    { "{\"topics\":[\"a\"],\"timeout\":-}", -1 },
    { "{\"topics\":[\"a\"],\"timeout\":1-2}", -1 },
    { "{\"topics\":[\"a\"],\"timeout\":1 2}", -1 },
    { "{\"topics\":[\"a\"],\"timeout\":True}", 26 },
    { "{\"topics\":[\"a\n\"]}", 13 },
    { "{\"topics\":[\"a\t\"]}", 13 },
    { "{\"topics\":[\"\\x41\"]}", -1 },
    { "{\"topics\":[\"\\u12\"]}", -1 },
    { "{\"topics\":[\"\\\"]}", -1 },
    { "{\"topics\":[\"\\ud83d\"]}", 12 },
    { "{\"topics\":[\"\\ude00\"]}", 12 },
    { "{\"topics\":[\"\\ude00\\ud83d\"]}", 12 },
    { "{\"topics\":[\"\\ud83d\\n\"]}", 12 },
    { "{\"topics\":[\"\\ud83d\\u0041\"]}", 12 },
    { "{\"topics\":[\"\\ud83d\\ud83d\\ude00\"]}", 12 },
    { "{\"topics\":[\"\\ud83d\\ude0", 12 },
    { "{\"topics\":[\"a\"],\"x\":\"\\ud83d\"}", 21 },
    { "{\"topics\":[\"a\"],\"since\\u0000\":5}", 22 },
    { "{\"topics\":[\"a\"],\"since\":{\"a\\u0000\" : 5}}", 27 },
    { "{\"topics\":[\"\xff\"]}", 12 },
    { "{\"topics\":[\"\xc0\x80\"]}", 12 },
    { "{\"topics\":[\"\xed\xa0\x80\"]}", 12 },
    { "\xef\xbb\xbf", 3 },
    { "\xef\xbb\xbf{\"topics\":[\"a\",]}", 18 },
    { " \xef\xbb\xbf{\"topics\":[\"a\"]}", 1 },
    { "{\"topics\" [\"a\"]}", -1 },
    { "{\"topics\":[\"a\" \"b\"]}", -1 },
    { "{\"topics\":[\"a\"]]", -1 },
    { "{1:2}", -1 },
    { "\v{\"topics\":[\"a\"]}", 0 },
    { "{\"topics\":[\"a\"]}\f", 16 },
};

static void refuses_text_that_is_not_json(void)
{
    for (size_t i = 0; i < COUNT(not_json); i++) {
        struct poll_request request;
        struct json_object *detail, *entry, *type = NULL, *loc = NULL;
        enum error error = parse(&request, not_json[i].body, &detail);
        if (!EXPECT(error == ERROR_INVALID && json_object_array_length(detail) == 1, "%s: %s",
                    not_json[i].body, error_name(error))) {
            if (!error)
                poll_request_release(&request);
            continue;
        }
        entry = json_object_array_get_idx(detail, 0);
        (void)json_object_object_get_ex(entry, "type", &type);
        (void)json_object_object_get_ex(entry, "loc", &loc);
        EXPECT(strcmp(json_object_get_string(type), "value_error.jsondecode") == 0, "%s: %s",
               not_json[i].body, json_object_get_string(type));
        EXPECT(not_json[i].offset < 0 ||
                   json_object_get_int(json_object_array_get_idx(loc, 1)) == not_json[i].offset,
               "%s: %s", not_json[i].body, json_object_to_json_string(loc));
        EXPECT(json_object_array_length(loc) == 2, "%s: %s", not_json[i].body,
               json_object_to_json_string(loc));
        json_object_put(detail);
    }
}

static void other_json_values_are_not_requests(void)
{
    static const char *const bodies[] = { "null",   "true",       "false ",       "1",
                                          "-1.5e3", "\"topics\"", "[\"topics\"]", " [] " };
    static const char with_nul[] = "{\"topics\":[\"a\"]}\0";

    for (size_t i = 0; i < COUNT(bodies); i++)
        expect_refused(bodies[i], strlen(bodies[i]), "");
    expect_refused(with_nul, sizeof with_nul - 1, "16");
}

static void a_poll_with_only_blank_topics_has_an_error_of_its_own(void)
{
    static const char *const bodies[] = { "{\"topics\":[\"\"]}", "{\"topics\":[\"  \"]}",
                                          "{\"topics\":[\"\",\"\\t\\n\",\"\\u3000\"]}" };

    for (size_t i = 0; i < COUNT(bodies); i++) {
        struct poll_request request;
        struct json_object *detail;
        enum error error = parse(&request, bodies[i], &detail);
        EXPECT(error == ERROR_NO_TOPIC && !detail, "%s: %s", bodies[i], error_name(error));
        json_object_put(detail);
    }
    expect_refused("{\"topics\":[\"\"],\"timeout\":-1}", 28, "\"timeout\"");
}

/* Parses a body with an ignored member that has this many nested arrays. */
static enum error parse_nested(int depth)
{
    static const char begin[] = "{\"topics\":[\"a\"],\"x\":";
    struct poll_request request;
    struct json_object *detail = NULL;
    char body[200] = "";
    enum error error;

    (void)snprintf(body, sizeof body, "%s", begin);
    memset(body + sizeof begin - 1, '[', (size_t)depth);
    memset(body + sizeof begin - 1 + depth, ']', (size_t)depth);
    body[sizeof begin - 1 + 2 * (size_t)depth] = '}';
    error = poll_request_parse(&request, body, strlen(body), MAX_TOPICS, &detail);
    if (error == ERROR_NONE)
        poll_request_release(&request);
    json_object_put(detail);
    return error;
}

static void accepts_32_levels_of_nesting(void)
{
    CU_ASSERT_EQUAL(parse_nested(1), ERROR_NONE);
    CU_ASSERT_EQUAL(parse_nested(31), ERROR_NONE);
    CU_ASSERT_EQUAL(parse_nested(32), ERROR_INVALID);
    CU_ASSERT_EQUAL(parse_nested(80), ERROR_INVALID);
}

static void deep_and_large_bodies_do_no_harm(void)
{
    const size_t length = poll_request_max_bytes(MAX_TOPICS);
    char *body = malloc(length);
    struct poll_request request;
    struct json_object *detail = NULL;

    CU_ASSERT_PTR_NOT_NULL_FATAL(body);
    memset(body, '[', length);
    CU_ASSERT_EQUAL(poll_request_parse(&request, body, length, MAX_TOPICS, &detail), ERROR_INVALID);
    json_object_put(detail);
    memset(body, ' ', length);
    memcpy(body, "{\"topics\":[\"a\"]}", 16);
    CU_ASSERT_EQUAL(poll_request_parse(&request, body, length, MAX_TOPICS, &detail), ERROR_NONE);
    poll_request_release(&request);
    free(body);
}

CU_TestInfo poll_request_tests[] = {
    { "defaults", defaults },
    { "integers in every notation", integers_in_every_notation },
    { "topics keep their order and repetitions are dropped",
      topics_keep_their_order_and_repetitions_are_dropped },
    { "every surrogate pair decodes to its character", every_surrogate_pair_decodes_to_its_character },
    { "raw characters are kept", raw_characters_are_kept },
    { "a byte order mark is skipped", a_byte_order_mark_is_skipped },
    { "each topic gets its cursor", each_topic_gets_its_cursor },
    { "every fault has an entry with its location", every_fault_has_an_entry_with_its_location },
    { "refuses wrong values", refuses_wrong_values },
    { "refuses text that is not JSON", refuses_text_that_is_not_json },
    { "other JSON values are not requests", other_json_values_are_not_requests },
    { "a poll with only blank topics has an error of its own",
      a_poll_with_only_blank_topics_has_an_error_of_its_own },
    { "accepts 32 levels of nesting", accepts_32_levels_of_nesting },
    { "deep and large bodies do no harm", deep_and_large_bodies_do_no_harm },
    CU_TEST_INFO_NULL,
};
