#include "api/cursor.h"

#include "expect.h"
#include "suites.h"

#include <inttypes.h>
#include <string.h>

static void parses_every_kind(void)
{
    static const struct {
        const char *text;
        enum cursor_kind kind;
        int64_t position;
    } rows[] = {
        { "$", CURSOR_NOW, 0 },
        { "0", CURSOR_ALL, 0 },
        { "msg_0000000000000000", CURSOR_MESSAGE, 0 },
        { "msg_000000000000002a", CURSOR_MESSAGE, 42 },
        { "msg_7fffffffffffffff", CURSOR_MESSAGE, INT64_MAX },
        { "0-0", CURSOR_TIME, 0 },
        { "1-2", CURSOR_TIME, 65538 },
        { "1764000000000-0", CURSOR_TIME, INT64_C(1764000000000) * 65536 },
        { "1764000000000-65535", CURSOR_TIME, INT64_C(1764000000000) * 65536 + 65535 },
        { "140737488355327-65535", CURSOR_TIME, INT64_MAX },
        { "-1", CURSOR_LAST, -1 },
        { "-50", CURSOR_LAST, -50 },
        { "-1000", CURSOR_LAST, -1000 },
    };

    for (size_t i = 0; i < COUNT(rows); i++) {
        struct cursor cursor = cursor_parse(rows[i].text, strlen(rows[i].text));
        EXPECT(cursor.kind == rows[i].kind && cursor.position == rows[i].position,
               "%s: kind %d, position %" PRId64, rows[i].text, (int)cursor.kind, cursor.position);
    }
}

static void other_text_is_an_unknown_cursor(void)
{
    static const char *const rows[] = {
        "",
        " ",
        "00",
        "1",
        "$ ",
        "-",
        "--",
        "-0",
        "-01",
        "--1",
        "-+1",
        "- 1",
        "-1 ",
        " -1",
        "-1.0",
        "-1e2",
        "-1001",
        "-99999999999999999999999",
        "1-",
        "-1-1",
        "+1-1",
        " 1-1",
        "1-1 ",
        "1-1-1",
        "01-1",
        "1-01",
        "0x1-0",
        "1-65536",
        "140737488355328-0",
        "99999999999999999999999-0",
        "1-99999999999999999999999",
        "msg_",
        "msg_abc123",
        "msg_00000000000002a",
        "msg_0000000000000002a",
        "msg_000000000000002A",
        "msg_000000000000002g",
        "msg_-00000000000002a",
        "msg_8000000000000000",
        "msg_ffffffffffffffff",
        "MSG_000000000000002a",
        "msg-000000000000002a",
        "null",
    };
    static const char with_nul[] = "1-1\0", last_with_nul[] = "-1\0";

    for (size_t i = 0; i < COUNT(rows); i++)
        EXPECT(cursor_parse(rows[i], strlen(rows[i])).kind == CURSOR_UNKNOWN, "%s", rows[i]);
    EXPECT(cursor_parse(with_nul, sizeof with_nul - 1).kind == CURSOR_UNKNOWN, "1-1 and a NUL");
    EXPECT(cursor_parse(last_with_nul, sizeof last_with_nul - 1).kind == CURSOR_UNKNOWN, "-1 and a NUL");
}

static void ids_parse_back_to_the_position(void)
{
    static const int64_t positions[] = {
        0, 1, 65535, 65536, INT64_C(115605504000065535), INT64_MAX - 1, INT64_MAX
    };
    char message_id[CURSOR_MESSAGE_ID_SIZE], stream_id[CURSOR_STREAM_ID_SIZE];

    for (size_t i = 0; i < COUNT(positions); i++) {
        cursor_message_id(positions[i], message_id);
        cursor_stream_id(positions[i], stream_id);
        EXPECT(cursor_parse(message_id, strlen(message_id)).position == positions[i], "%s", message_id);
        EXPECT(cursor_parse(message_id, strlen(message_id)).kind == CURSOR_MESSAGE, "%s", message_id);
        EXPECT(cursor_parse(stream_id, strlen(stream_id)).position == positions[i], "%s", stream_id);
        EXPECT(cursor_parse(stream_id, strlen(stream_id)).kind == CURSOR_TIME, "%s", stream_id);
    }
}

static void ids_have_the_documented_form(void)
{
    const int64_t position = INT64_C(1764000000000) * 65536 + 7;
    char message_id[CURSOR_MESSAGE_ID_SIZE], stream_id[CURSOR_STREAM_ID_SIZE];

    cursor_message_id(position, message_id);
    cursor_stream_id(position, stream_id);
    EXPECT_TEXT(message_id, "msg_019ab697e8000007");
    EXPECT_TEXT(stream_id, "1764000000000-7");
    EXPECT(cursor_position_ms(position) == INT64_C(1764000000000), "%" PRId64, cursor_position_ms(position));
}

static void message_ids_sort_like_positions(void)
{
    static const int64_t positions[] = {
        0, 9, 10, 15, 16, 255, 256, INT64_C(1) << 32, INT64_C(1764000000000) << 16, INT64_MAX
    };
    char one[CURSOR_MESSAGE_ID_SIZE], next[CURSOR_MESSAGE_ID_SIZE];

    for (size_t i = 1; i < COUNT(positions); i++) {
        cursor_message_id(positions[i - 1], one);
        cursor_message_id(positions[i], next);
        EXPECT(strcmp(one, next) < 0, "%s, %s", one, next);
    }
}

CU_TestInfo cursor_tests[] = {
    { "parses every kind", parses_every_kind },
    { "other text is an unknown cursor", other_text_is_an_unknown_cursor },
    { "ids parse back to the position", ids_parse_back_to_the_position },
    { "ids have the documented form", ids_have_the_documented_form },
    { "message ids sort like positions", message_ids_sort_like_positions },
    CU_TEST_INFO_NULL,
};
