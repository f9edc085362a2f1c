/*
 * Fuzzes the body of a poll: accepted requests agree with another JSON library, and refusals are valid JSON.
 */
#include "api/poll_request.h"
#include "api/topic.h"
#include "core/utf8.h"
#include "fuzz.h"
#include "second_opinion.h"

#include <json-c/json.h>
#include <string.h>

enum { MAX_TOPICS = 5 };

static void check_quoted(const struct poll_topic *topic)
{
    enum verdict verdict;
    struct opinion *quoted = opinion_new(topic->quoted, strlen(topic->quoted), &verdict);

    HOLDS(verdict == VERDICT_JSON && opinion_is_string(quoted, topic->name, topic->length));
    opinion_free(quoted);
}

static void check_cursor(const struct poll_topic *topic, const struct opinion *opinion)
{
    size_t length;
    const char *text = opinion_since(opinion, topic->name, &length);
    const struct cursor cursor = text ? cursor_parse(text, length) : (struct cursor){ CURSOR_NOW, 0 };

    HOLDS((text != NULL) == (topic->since != NULL));
    HOLDS(cursor.kind == topic->cursor.kind && cursor.position == topic->cursor.position);
}

/* Checks that the topics are those of the text, in their order and without repetitions. */
static void check_topics(const struct poll_request *request, const struct opinion *opinion)
{
    const size_t count = opinion_topic_count(opinion);
    int next = 0;

    HOLDS(count >= 1 && count <= MAX_TOPICS);
    for (size_t i = 0; i < count; i++) {
        size_t length;
        const char *name = opinion_topic(opinion, i, &length);
        int known = 0;

        HOLDS(name);
        while (known < request->topic_count && strcmp(request->topics[known].name, name) != 0)
            known++;
        HOLDS(known <= next && known < request->topic_count && request->topics[known].length == length);
        next += known == next;
    }
    HOLDS(next == request->topic_count);
}

/* Checks that the number is that of the text, or the default if the text has none. */
static void check_number(const struct opinion *opinion, const char *name, int number, int otherwise)
{
    double wanted = otherwise;

    (void)opinion_number(opinion, name, &wanted);
    HOLDS(wanted == number);
}

static void check_request(const struct poll_request *request, const struct opinion *opinion,
                          enum verdict verdict)
{
    HOLDS(verdict != VERDICT_NOT_JSON);
    HOLDS(request->topic_count >= 1 && request->topic_count <= MAX_TOPICS);
    HOLDS(request->timeout_s >= 0 && request->timeout_s <= 60 && request->limit >= 1 &&
          request->limit <= 1000);
    for (int i = 0; i < request->topic_count; i++) {
        const struct poll_topic *topic = &request->topics[i];

        HOLDS(strlen(topic->name) == topic->length &&
              utf8_valid_length(topic->name, topic->length) == topic->length);
        HOLDS(topic_check(topic->name, topic->length) == TOPIC_OK);
        check_quoted(topic);
        if (verdict == VERDICT_JSON)
            check_cursor(topic, opinion);
    }
    if (verdict == VERDICT_JSON) {
        check_topics(request, opinion);
        check_number(opinion, "timeout", request->timeout_s, 30);
        check_number(opinion, "limit", request->limit, 100);
    }
}

static const char *member_text(struct json_object *entry, const char *name)
{
    struct json_object *text = json_object_object_get(entry, name);

    HOLDS(json_object_is_type(text, json_type_string));
    return json_object_get_string(text);
}

/* Checks that both libraries agree on malformed text, except for nesting that only jansson accepts. */
static void check_refusal(struct json_object *detail, enum verdict verdict)
{
    const char *text = json_object_to_json_string_ext(detail, JSON_C_TO_STRING_NOSLASHESCAPE);
    enum verdict told;

    HOLDS(json_object_is_type(detail, json_type_array) && json_object_array_length(detail) > 0);
    opinion_free(opinion_new(text, strlen(text), &told));
    HOLDS(told == VERDICT_JSON);
    for (size_t i = 0; i < json_object_array_length(detail); i++) {
        struct json_object *entry = json_object_array_get_idx(detail, i),
                           *place = json_object_object_get(entry, "loc");
        bool malformed = strcmp(member_text(entry, "type"), "value_error.jsondecode") == 0;

        HOLDS(json_object_array_length(place) >= 1);
        HOLDS(strcmp(json_object_get_string(json_object_array_get_idx(place, 0)), "body") == 0);
        HOLDS(!malformed || verdict != VERDICT_JSON ||
              strcmp(member_text(entry, "msg"), "nesting too deep") == 0);
        HOLDS(malformed || verdict != VERDICT_NOT_JSON);
    }
}

/* Checks that there are topics and all of them are white space. */
static void check_blank(const struct opinion *opinion)
{
    HOLDS(opinion_topic_count(opinion) >= 1);
    for (size_t i = 0, length; i < opinion_topic_count(opinion); i++) {
        const char *name = opinion_topic(opinion, i, &length);

        HOLDS(name && topic_check(name, length) == TOPIC_BLANK);
    }
}

/* Checks every surrogate pair, with as many in a body as its topics can hold. */
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    enum { PAIRS = 1024 * 1024, PER_TOPIC = 255 };
    static char body[MAX_TOPICS * (PER_TOPIC * 12 + 3) + 20];
    struct poll_request request;
    struct json_object *detail;

    (void)argc;
    (void)argv;
    for (int pair = 0; pair < PAIRS;) {
        int length = sprintf(body, "{\"topics\":[");

        for (int topic = 0; topic < MAX_TOPICS && pair < PAIRS; topic++) {
            length += sprintf(body + length, topic == 0 ? "\"" : ",\"");
            for (int i = 0; i < PER_TOPIC && pair < PAIRS; i++, pair++)
                length +=
                    sprintf(body + length, "\\u%04x\\u%04x", 0xd800 + pair / 1024, 0xdc00 + pair % 1024);
            length += sprintf(body + length, "\"");
        }
        length += sprintf(body + length, "]}");
        /* It must be accepted; its contents are checked below. */
        HOLDS(poll_request_parse(&request, body, (size_t)length, MAX_TOPICS, &detail) == ERROR_NONE);
        poll_request_release(&request);
        (void)LLVMFuzzerTestOneInput((const uint8_t *)body, (size_t)length);
    }
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct poll_request request;
    struct json_object *detail = NULL;
    enum verdict verdict;
    struct opinion *opinion = opinion_new((const char *)data, size, &verdict);
    enum error error = poll_request_parse(&request, (const char *)data, size, MAX_TOPICS, &detail);

    if (error == ERROR_NONE) {
        check_request(&request, opinion, verdict);
        poll_request_release(&request);
    } else if (error == ERROR_INVALID) {
        check_refusal(detail, verdict);
    } else {
        HOLDS(error == ERROR_NO_TOPIC && !detail);
        if (verdict != VERDICT_UNSURE)
            check_blank(opinion);
    }
    json_object_put(detail);
    opinion_free(opinion);
    return 0;
}
