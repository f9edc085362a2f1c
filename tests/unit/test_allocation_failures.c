/*
 * Makes each allocation fail once, in pgpoll's code and in its libraries. The result must be an error or
 * correct; there must be no crash and no leak.
 */
#include "allocation.h"
#include "api/cursor.h"
#include "expect.h"
#include "fake_poll.h"
#include "manager/subscriptions.h"
#include "postgres/catch_up.h"
#include "postgres/statement.h"
#include "suites.h"
#include "worker/answer.h"

#include <dlfcn.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * Excludes two parts of json-c (0.16, Debian 12) that do not check their allocations: its parser, which calls
 * strlen(NULL), and its serializers, which omit what they could not append. If an allocation fails there, the
 * workers exit (fcgi/oom.h), which tests/fault/test_memory.py tests. The definitions here take precedence
 * over the library's. What the manager serializes is not excluded: it calls
 * json_object_to_json_string_length().
 */
struct json_object *json_tokener_parse_ex(struct json_tokener *tokener, const char *text, int length)
{
    static struct json_object *(*real)(struct json_tokener *, const char *, int);
    long nth = allocation_fail(0);
    struct json_object *value;

    if (!real)
        *(void **)(void *)&real = dlsym(RTLD_NEXT, "json_tokener_parse_ex");
    value = real(tokener, text, length);
    (void)allocation_fail(nth);
    return value;
}

const char *json_object_to_json_string_ext(struct json_object *object, int flags)
{
    long nth = allocation_fail(0);
    const char *text = json_object_to_json_string_length(object, flags, NULL);

    (void)allocation_fail(nth);
    return text;
}

enum outcome { RIGHT, OUT_OF_MEMORY, WRONG };

/*
 * Runs scenario with its 1st, 2nd, ... allocation failing, until it makes fewer allocations. Checks that
 * nothing leaks.
 */
static void sweep(const char *name, enum outcome (*scenario)(void))
{
    static const char *const outcomes[] = { "right", "out of memory", "wrong" };
    bool failed = true;

    EXPECT(scenario() == RIGHT, "%s: not even with enough memory", name);
    for (long nth = 1; failed && nth < 10000; nth++) {
        long left = -allocation_live();
        enum outcome outcome;

        (void)allocation_fail(nth);
        outcome = scenario();
        failed = allocation_fail(0) < 0;
        left += allocation_live();
        EXPECT(outcome == RIGHT || (failed && outcome == OUT_OF_MEMORY), "%s: allocation %ld fails: %s", name,
               nth, outcomes[outcome]);
        EXPECT(left == 0, "%s: allocation %ld fails: %ld leaked", name, nth, left);
    }
    EXPECT(!failed, "%s: no end of allocations", name);
}

#define SINCE "\"since\":{\"b\":\"msg_0000000000000005\",\"c\":\"what?\"}"
static const char good_body[] =
    "{\"topics\":[\"a\",\"b\",\"\\u00e9/\\\"\",\"a\"],\"timeout\":0.0,\"limit\":7," SINCE
    ",\"x\":[null,true,1e3]}";
static const char bad_body[] = "{\"topics\":[\"a\",5],\"since\":[0],\"timeout\":-1}";
static const char broken_body[] = "{\"topics\":[\"a\",}";

static bool is_good_request(const struct poll_request *request)
{
    return request->topic_count == 3 && strcmp(request->topics[2].name, "é/\"") == 0 &&
           strcmp(request->topics[2].quoted, "\"é/\\\"\"") == 0 &&
           request->topics[0].cursor.kind == CURSOR_NOW && request->topics[1].cursor.position == 5 &&
           request->timeout_s == 0 && request->limit == 7;
}

static enum outcome parse_good(void)
{
    struct poll_request request;
    struct json_object *detail = NULL;
    enum error error = poll_request_parse(&request, good_body, strlen(good_body), 4, &detail);
    enum outcome outcome = error == ERROR_MEMORY ? OUT_OF_MEMORY : WRONG;

    if (error == ERROR_NONE) {
        outcome = is_good_request(&request) ? RIGHT : WRONG;
        poll_request_release(&request);
    }
    json_object_put(detail);
    return outcome;
}

/*
 * Builds the answer for an error as http_send_error() does. It may fail: http_send_error() then sends a
 * constant text.
 */
static enum outcome refuse(const char *body, const char *wanted)
{
    struct poll_request request;
    struct json_object *detail = NULL, *answer;
    const char *text;
    enum error error = poll_request_parse(&request, body, strlen(body), 3, &detail);
    enum outcome outcome;

    if (error == ERROR_NONE)
        poll_request_release(&request);
    if (error != ERROR_INVALID)
        return error == ERROR_MEMORY && !detail ? OUT_OF_MEMORY : WRONG;
    answer = answer_error(error, detail);
    text = answer ? json_object_to_json_string_ext(answer, JSON_C_TO_STRING_NOSLASHESCAPE) : NULL;
    outcome = !text ? OUT_OF_MEMORY : strcmp(text, wanted) == 0 ? RIGHT : WRONG;
    json_object_put(answer);
    return outcome;
}

static enum outcome refuse_bad(void)
{
    return refuse(
        bad_body,
        "{\"detail\":[{\"loc\":[\"body\",\"topics\",1],\"msg\":\"str type "
        "expected\",\"type\":\"type_error.str\"},"
        "{\"loc\":[\"body\",\"since\"],\"msg\":\"value is not a valid dict\",\"type\":\"type_error.dict\"},"
        "{\"loc\":[\"body\",\"timeout\"],\"msg\":\"ensure this value is greater than or equal to 0\","
        "\"type\":\"value_error.number.not_ge\"}]}");
}

static enum outcome refuse_broken(void)
{
    return refuse(broken_body, "{\"detail\":[{\"loc\":[\"body\",15],\"msg\":\"unexpected "
                               "character\",\"type\":\"value_error.jsondecode\"}]}");
}

static enum outcome answer_an_error(void)
{
    struct json_object *answer = answer_error(ERROR_DENIED, NULL);
    const char *text = answer ? json_object_to_json_string_ext(answer, JSON_C_TO_STRING_NOSLASHESCAPE) : NULL;
    enum outcome outcome = !text ? OUT_OF_MEMORY : strstr(text, error_detail(ERROR_DENIED)) ? RIGHT : WRONG;

    json_object_put(answer);
    return outcome;
}

static enum outcome quote_a_topic(void)
{
    static const char name[] = "\"a topic\" whose name is longer than what json-c allocates at first: \\ \"";
    static const char quoted[] =
        "\"\\\"a topic\\\" whose name is longer than what json-c allocates at first: \\\\ \\\"\"";
    struct subscription subscription = { 0 };
    struct subscriptions subscriptions = { .by_topic = &subscription };
    const bool made = subscriptions_quote(&subscriptions, 0, name, strlen(name));
    const enum outcome outcome = !made                                      ? OUT_OF_MEMORY
                                 : strcmp(subscription.quoted, quoted) == 0 ? RIGHT
                                                                            : WRONG;

    free(subscription.quoted);
    return outcome;
}

static struct fake_poll poll; /* a poll whose request was parsed with enough memory */

static enum outcome make_statement(void)
{
    static const int64_t positions[] = { 1, 2, CATCH_UP_FROM_NOW };
    struct statement statement;
    bool made = catch_up_statement(&statement, &poll.request, positions, 1000);
    enum outcome outcome = !made ? OUT_OF_MEMORY : statement.count == 4 ? RIGHT : WRONG;

    statement_release(&statement);
    return outcome;
}

/* Compares the answer with the one that was built with enough memory. */
static enum outcome compare_answer(void)
{
    static char wanted[4096];
    struct printbuf *answer = printbuf_new();
    enum outcome outcome = OUT_OF_MEMORY;

    if (answer && answer_messages(answer, &poll.waiter)) {
        if (!*wanted)
            (void)snprintf(wanted, sizeof wanted, "%s", answer->buf);
        outcome = strcmp(answer->buf, wanted) == 0 ? RIGHT : WRONG;
    }
    printbuf_free(answer);
    return outcome;
}

static enum outcome poll_and_answer(void)
{
    static const struct fake_step script[] = {
        { .call = FAKE_READ,
          .how = SOURCE_AUTHORIZE,
          .topics = { { .start = 3 }, { .start = 6, .gap = GAP_EXPIRED, .oldest = 7 } },
          .messages = { { 0, 7 }, { 1, 8 }, { 2, 9 } } }
    };
    enum outcome outcome = OUT_OF_MEMORY;
    enum error error;

    poll.script = script;
    poll.steps = 1;
    poll.step = poll.call_count = 0;
    error = poll_waiter_init(&poll.waiter, &poll.config, &poll.source, &poll.interrupts, &poll.client,
                             &poll.request, "", "");
    if (error)
        return error == ERROR_MEMORY ? OUT_OF_MEMORY : WRONG;
    error = poll_waiter_run(&poll.waiter);
    if (!error)
        outcome = compare_answer();
    else if (error != ERROR_MEMORY || poll.waiter.page.message_count)
        outcome = WRONG;
    poll_waiter_release(&poll.waiter);
    return outcome;
}

static void parsing(void)
{
    sweep("a good request", parse_good);
    sweep("a bad request", refuse_bad);
    sweep("a broken request", refuse_broken);
}

static void answering(void)
{
    long live = allocation_live();

    fake_poll_init(&poll, "{\"topics\":[\"a\",\"b\",\"\\u00e9/\\\"\"],\"timeout\":0," SINCE "}");
    sweep("an error's answer", answer_an_error);
    sweep("a statement", make_statement);
    sweep("a poll's answer", poll_and_answer);
    poll_request_release(&poll.request);
    EXPECT(allocation_live() == live, "%ld leaked", allocation_live() - live);
}

static void delivering(void)
{
    sweep("a topic's name", quote_a_topic);
}

CU_TestInfo allocation_failures_tests[] = {
    { "parsing", parsing },
    { "answering", answering },
    { "delivering", delivering },
    CU_TEST_INFO_NULL,
};
