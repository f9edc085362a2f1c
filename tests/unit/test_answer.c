#include "worker/answer.h"

#include "expect.h"
#include "fake_poll.h"
#include "suites.h"

#include <json-c/json.h>
#include <string.h>

#define READS .call = FAKE_READ, .how = SOURCE_AUTHORIZE

/* The body of a request that does not wait and has these members. */
#define BODY(members) "{\"timeout\":0," members "}"

/* Returns the answer, parsed into a new tree, which EXPECT_JSON takes over. */
static struct json_object *answer_of(const struct fake_poll *poll)
{
    struct printbuf *answer = printbuf_new();
    struct json_object *parsed = NULL;

    if (EXPECT(answer_messages(answer, &poll->waiter), "out of memory"))
        parsed = json_tokener_parse(answer->buf);
    printbuf_free(answer);
    return parsed;
}

static void shows_messages_as_the_api_does(void)
{
    static const struct fake_step script[] = { { READS, .topics = { { .start = 1 }, { .start = 2 } },
                                                 .messages = { { 1, 3 }, { 0, 4 } }, .has_more = true } };
    struct fake_poll poll;

    fake_poll_init(&poll, BODY("\"topics\":[\"a\",\"é\\\"/\"],\"since\":{\"a\":" ID(1) "}"));
    FAKE_POLL_RUN(&poll, script);
    EXPECT_JSON(answer_of(&poll),
                "{\"messages\":["
                "{\"topic\":\"é\\\"/\",\"message_id\":" ID(
                    3) ",\"payload\":1,\"timestamp\":\"2000-01-01T00:00:00.000000\","
                       "\"metadata\":{},\"stream_id\":\"0-3\"},"
                       "{\"topic\":\"a\",\"message_id\":" ID(
                           4) ",\"payload\":1,\"timestamp\":\"2000-01-01T00:00:00.000000\","
                              "\"metadata\":{},\"stream_id\":\"0-4\"}],"
                              "\"has_more\":true,\"next_since\":{\"a\":" ID(4) ",\"é\\\"/\":" ID(3) "}}");
    fake_poll_release(&poll);
}

static void an_empty_answer_has_a_cursor_for_every_topic(void)
{
    static const struct fake_step script[] = {
        { READS, .topics = { { .start = 7 }, { .start = 0 }, { .start = 9 } } }
    };
    struct fake_poll poll;

    fake_poll_init(&poll,
                   BODY("\"topics\":[\"a\",\"b\",\"c\"],\"since\":{\"c\":" ID(9) ",\"other\":" ID(5) "}"));
    FAKE_POLL_RUN(&poll, script);
    EXPECT_JSON(answer_of(&poll), "{\"messages\":[],\"has_more\":false,\"next_since\":{\"a\":" ID(
                                      7) ",\"b\":" ID(0) ",\"c\":" ID(9) "}}");
    fake_poll_release(&poll);
}

static void a_topic_without_messages_keeps_its_cursor(void)
{
    static const struct fake_step script[] = { { READS, .topics = { { .start = 1 }, { .start = 2 } },
                                                 .messages = { { 0, 3 }, { 0, 5 } } } };
    struct fake_poll poll;

    fake_poll_init(&poll, BODY("\"topics\":[\"a\",\"b\"]"));
    FAKE_POLL_RUN(&poll, script);
    EXPECT_ANSWER(&poll, "next_since", "{\"a\":" ID(5) ",\"b\":" ID(2) "}");
    EXPECT_ANSWER(&poll, "has_more", "false");
    fake_poll_release(&poll);
}

static void gaps_are_told_with_reason_and_cursor(void)
{
    static const struct fake_step script[] = { { READS,
                                                 .topics = { { .start = 4, .gap = GAP_EXPIRED, .oldest = 5 },
                                                             { .start = 6, .gap = GAP_AHEAD, .oldest = -1 },
                                                             { .start = 0, .oldest = 3 } } } };
    struct fake_poll poll;

    fake_poll_init(&poll, BODY("\"topics\":[\"a\",\"b\",\"c\"],\"since\":{\"a\":\"0-1\",\"b\":" ID(
                              9) ",\"c\":\"msg_abc\\u0000\"}"));
    FAKE_POLL_RUN(&poll, script);
    EXPECT_ANSWER(
        &poll, "gaps",
        "{\"a\":{\"reason\":\"expired\",\"requested\":\"0-1\",\"oldest\":" ID(
            5) "},"
               "\"b\":{\"reason\":\"ahead\",\"requested\":" ID(
                   9) ",\"oldest\":null},"
                      "\"c\":{\"reason\":\"unknown\",\"requested\":\"msg_abc\\u0000\",\"oldest\":" ID(
                          3) "}}");
    EXPECT_ANSWER(&poll, "next_since", "{\"a\":" ID(4) ",\"b\":" ID(6) ",\"c\":" ID(0) "}");
    fake_poll_release(&poll);
}

static void every_error_has_its_status_and_detail(void)
{
    static const struct {
        enum error error;
        int status;
        const char *body;
    } rows[] = {
        { ERROR_NO_TOPIC, 400, "{\"detail\":\"At least one topic required\"}" },
        { ERROR_DENIED, 403, "{\"detail\":\"Access denied to one or more requested topics\"}" },
        { ERROR_NOT_FOUND, 404, "{\"detail\":\"Not Found\"}" },
        { ERROR_METHOD, 405, "{\"detail\":\"Method Not Allowed\"}" },
        { ERROR_TOO_LARGE, 413, "{\"detail\":\"Request body too large\"}" },
        { ERROR_READERS_BUSY, 503, "{\"detail\":\"Service Unavailable\"}" },
        { ERROR_DATABASE_AWAY, 503, "{\"detail\":\"Service Unavailable\"}" },
        { ERROR_DATABASE_QUERY, 503, "{\"detail\":\"Service Unavailable\"}" },
        { ERROR_SCHEMA, 503, "{\"detail\":\"Service Unavailable\"}" },
        { ERROR_MEMORY, 503, "{\"detail\":\"Service Unavailable\"}" },
    };

    for (size_t i = 0; i < COUNT(rows); i++) {
        EXPECT(error_http_status(rows[i].error) == rows[i].status, "%s: %d", error_name(rows[i].error),
               error_http_status(rows[i].error));
        EXPECT_JSON(answer_error(rows[i].error, NULL), rows[i].body);
    }
}

static void a_wait_that_ended_is_no_error(void)
{
    static const enum error ends[] = { ERROR_NONE, ERROR_TIMEOUT, ERROR_CLIENT_GONE, ERROR_DRAINED };

    for (size_t i = 0; i < COUNT(ends); i++)
        EXPECT(error_http_status(ends[i]) == 200, "%s", error_name(ends[i]));
}

static void a_validation_error_carries_its_list(void)
{
    struct json_object *detail =
        json_tokener_parse("[{\"loc\":[\"body\"],\"msg\":\"no\",\"type\":\"value_error\"}]");

    CU_ASSERT_EQUAL(error_http_status(ERROR_INVALID), 422);
    EXPECT_JSON(answer_error(ERROR_INVALID, detail),
                "{\"detail\":[{\"loc\":[\"body\"],\"msg\":\"no\",\"type\":\"value_error\"}]}");
}

static void every_error_has_a_name_of_its_own(void)
{
    for (enum error error = ERROR_NONE; error < ERROR_COUNT; error++)
        for (enum error other = ERROR_NONE; other < error; other++)
            EXPECT(strcmp(error_name(error), error_name(other)) != 0, "%s", error_name(error));
}

CU_TestInfo answer_tests[] = {
    { "shows messages as the API does", shows_messages_as_the_api_does },
    { "an empty answer has a cursor for every topic", an_empty_answer_has_a_cursor_for_every_topic },
    { "a topic without messages keeps its cursor", a_topic_without_messages_keeps_its_cursor },
    { "gaps are told with reason and cursor", gaps_are_told_with_reason_and_cursor },
    { "every error has its status and detail", every_error_has_its_status_and_detail },
    { "a wait that ended is no error", a_wait_that_ended_is_no_error },
    { "a validation error carries its list", a_validation_error_carries_its_list },
    { "every error has a name of its own", every_error_has_a_name_of_its_own },
    CU_TEST_INFO_NULL,
};
