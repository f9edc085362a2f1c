#include "api/message.h"

#include "expect.h"
#include "suites.h"

#include <json-c/json.h>
#include <json-c/printbuf.h>
#include <string.h>

/* Returns the message's JSON, which the caller frees. payload and metadata may be NULL. */
static struct printbuf *written(int64_t created_at_us, const char *payload, const char *metadata)
{
    struct printbuf *out = printbuf_new();
    struct message message = {
        (INT64_C(1764000000000) << 16) + 1, created_at_us, payload, strlen(payload), metadata,
        metadata ? strlen(metadata) : 0
    };

    EXPECT(message_append(out, "\"orders\"", &message), "message_append");
    return out;
}

static void a_message_is_an_object_with_the_documented_members(void)
{
    struct printbuf *out = written(790252200000000, "{\"order_id\":\"12345\"}", "{\"source\":\"api\"}");

    EXPECT_JSON(
        json_tokener_parse(out->buf),
        "{\"topic\":\"orders\",\"message_id\":\"msg_019ab697e8000001\",\"payload\":{\"order_id\":\"12345\"},"
        "\"timestamp\":\"2025-01-15T10:30:00.000000\",\"metadata\":{\"source\":\"api\"},"
        "\"stream_id\":\"1764000000000-1\"}");
    printbuf_free(out);
}

static void payload_and_metadata_are_sent_as_stored(void)
{
    static const char *const texts[] = {
        "null",
        "true",
        "\"\"",
        "0",
        "[]",
        "{}",
        "  [ 1 , 2 ]\n",
        "{\"a\":1,\"a\":2}",
        "\"\\u00e9é\\/\"",
        "1e400",
        "123456789012345678901234567890.123456789012345678901234567890",
        "-0.0",
        "{\"big\":18446744073709551617}",
    };
    char wanted[200];

    for (size_t i = 0; i < COUNT(texts); i++) {
        struct printbuf *out = written(0, texts[i], "{\"m\": 1.0}");
        (void)snprintf(wanted, sizeof wanted, "\"payload\":%s,", texts[i]);
        EXPECT(strstr(out->buf, wanted) && strstr(out->buf, "{\"m\": 1.0}"), "%s in %s", wanted, out->buf);
        printbuf_free(out);
    }
}

static void missing_metadata_is_an_empty_object(void)
{
    static const char *const none[] = { NULL, "null", " null\n", "\tnull" };
    static const char *const some[] = { "\"null\"", "[null]", "{}", "0", "nul" };

    for (size_t i = 0; i < COUNT(none); i++) {
        struct printbuf *out = written(0, "1", none[i]);
        EXPECT(strstr(out->buf, "\"metadata\":{}"), "%s", out->buf);
        printbuf_free(out);
    }
    for (size_t i = 0; i < COUNT(some); i++) {
        struct printbuf *out = written(0, "1", some[i]);
        const char *at = strstr(out->buf, "\"metadata\":");
        EXPECT(at && strncmp(at + 11, some[i], strlen(some[i])) == 0, "%s: %s", some[i], out->buf);
        printbuf_free(out);
    }
}

static void timestamps_are_utc_with_microseconds(void)
{
    static const struct {
        int64_t us;
        const char *text;
    } rows[] = {
        { 0, "2000-01-01T00:00:00.000000" },
        { 1, "2000-01-01T00:00:00.000001" },
        { -1, "1999-12-31T23:59:59.999999" },
        { -1000000, "1999-12-31T23:59:59.000000" },
        { 762525045123456, "2024-02-29T12:30:45.123456" },
        { 252455615999999999, "9999-12-31T23:59:59.999999" },
        { -946684800000000, "1970-01-01T00:00:00.000000" },
        { -946684800000001, "1969-12-31T23:59:59.999999" },
        /* the first and the last that PostgreSQL has */
        { -211813488000000000, "-4713-11-24T00:00:00.000000" },
        { 9223371331199999999, "294276-12-31T23:59:59.999999" },
    };
    char wanted[80];

    for (size_t i = 0; i < COUNT(rows); i++) {
        struct printbuf *out = written(rows[i].us, "1", NULL);
        (void)snprintf(wanted, sizeof wanted, "\"timestamp\":\"%s\"", rows[i].text);
        EXPECT(strstr(out->buf, wanted), "%s in %s", wanted, out->buf);
        printbuf_free(out);
    }
}

static void texts_need_no_nul(void)
{
    struct printbuf *out = printbuf_new();
    struct message message = { 1, 0, "12345", 2, "{}{}", 2 };

    EXPECT(message_append(out, "\"a\"", &message), "message_append");
    EXPECT_JSON(json_tokener_parse(out->buf),
                "{\"topic\":\"a\",\"message_id\":\"msg_0000000000000001\",\"payload\":12,"
                "\"timestamp\":\"2000-01-01T00:00:00.000000\",\"metadata\":{},"
                "\"stream_id\":\"0-1\"}");
    printbuf_free(out);
}

CU_TestInfo message_tests[] = {
    { "a message is an object with the documented members",
      a_message_is_an_object_with_the_documented_members },
    { "payload and metadata are sent as stored", payload_and_metadata_are_sent_as_stored },
    { "missing metadata is an empty object", missing_metadata_is_an_empty_object },
    { "timestamps are UTC with microseconds", timestamps_are_utc_with_microseconds },
    { "texts need no NUL", texts_need_no_nul },
    CU_TEST_INFO_NULL,
};
