#include "api/poll_request.h"

#include "api/json_text.h"
#include "api/topic.h"
#include "core/json_build.h"

#include <json-c/json.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TIMEOUT_MAX_S = 60, TIMEOUT_DEFAULT_S = 30, LIMIT_MAX = 1000, LIMIT_DEFAULT = 100 };

enum {
    ESCAPED_CHARACTER_BYTES = 12, /* a surrogate pair: two escapes of six bytes */
    CURSOR_BYTES = 280, /* per topic: a cursor with every character escaped, punctuation and white space */
    OTHER_BYTES = 64 * 1024
};

size_t poll_request_max_bytes(int max_topics)
{
    return OTHER_BYTES +
           (size_t)max_topics * (2 * TOPIC_MAX_CHARACTERS * ESCAPED_CHARACTER_BYTES + CURSOR_BYTES);
}

/* ---- the list of faults, in the form of FastAPI's validation errors (deploy/openapi.json) */

/* The location of a fault in the body: a member's name, then a name or an index in that member. */
struct location {
    const char *field; /* NULL: the body itself */
    const char *key;   /* NULL: none */
    int64_t index;     /* negative: none */
};

static const struct location BODY = { NULL, NULL, -1 };

static struct location location_of(const char *field)
{
    return (struct location){ field, NULL, -1 };
}

struct faults {
    struct json_object *list; /* an array of entries, which the first fault creates; NULL: no faults */
    bool out_of_memory;
};

static struct json_object *location_json(struct location location)
{
    struct json_object *path = json_object_new_array();

    if (!json_build_add_item(path, json_object_new_string("body")) ||
        (location.field && !json_build_add_item(path, json_object_new_string(location.field))) ||
        (location.key && !json_build_add_item(path, json_object_new_string(location.key))) ||
        (location.index >= 0 && !json_build_add_item(path, json_object_new_int64(location.index)))) {
        json_object_put(path);
        return NULL;
    }
    return path;
}

static void fault_add(struct faults *faults, struct location location, const char *message, const char *type)
{
    struct json_object *entry = json_object_new_object();

    if (!faults->list)
        faults->list = json_object_new_array();
    if (!json_build_add_member(entry, "loc", location_json(location)) ||
        !json_build_add_member(entry, "msg", json_object_new_string(message)) ||
        !json_build_add_member(entry, "type", json_object_new_string(type)) ||
        !json_build_add_item(faults->list, json_object_get(entry)))
        faults->out_of_memory = true;
    json_object_put(entry);
}

/* ---- parsing the JSON text */

static void fault_add_malformed(struct faults *faults, struct json_text_fault fault)
{
    fault_add(faults, (struct location){ NULL, NULL, (int64_t)fault.offset }, fault.message,
              "value_error.jsondecode");
}

/* Parses an object that json_text_rewrite() wrote. Returns a new object, or NULL if out of memory. */
static struct json_object *parse_json(const char *json, size_t length)
{
    struct json_tokener *tokener = json_tokener_new();
    struct json_object *value = tokener ? json_tokener_parse_ex(tokener, json, (int)length) : NULL;

    if (tokener)
        json_tokener_free(tokener);
    return value;
}

/* Returns the body as a new object. Returns NULL if a fault was added or out_of_memory was set. */
static struct json_object *parse_object(const char *body, size_t length, struct faults *faults)
{
    static const char *const members[] = { "\"topics\"", "\"since\"", "\"timeout\"", "\"limit\"", NULL };
    struct json_text_fault fault;
    struct json_object *value = NULL;
    char *json = malloc(length + 1);
    size_t written;

    if (!json) {
        faults->out_of_memory = true;
    } else if (!json_text_rewrite(body, length, members, json, &written, &fault)) {
        fault_add_malformed(faults, fault);
    } else if (json[0] != '{') {
        fault_add(faults, BODY, "value is not a valid dict", "type_error.dict");
    } else {
        value = parse_json(json, written);
        faults->out_of_memory = !value;
    }
    free(json);
    return value;
}

/* ---- the fields */

/* Reads an integer, which may be written as 30.0. If it is absent or null, *value keeps the default. */
static void read_integer(struct json_object *body, const char *field, int least, int most, int *value,
                         struct faults *faults)
{
    struct json_object *given = json_object_object_get(body, field);
    double number;
    char message[80];

    if (!given)
        return;
    if (!json_object_is_type(given, json_type_int) && !json_object_is_type(given, json_type_double)) {
        fault_add(faults, location_of(field), "value is not a valid integer", "type_error.integer");
        return;
    }
    number = json_object_get_double(given);
    if (number > INT_MIN && number < INT_MAX && number != (int)number) {
        fault_add(faults, location_of(field), "value is not a valid integer", "type_error.integer");
    } else if (number < least) {
        (void)snprintf(message, sizeof message, "ensure this value is greater than or equal to %d", least);
        fault_add(faults, location_of(field), message, "value_error.number.not_ge");
    } else if (number > most) {
        (void)snprintf(message, sizeof message, "ensure this value is less than or equal to %d", most);
        fault_add(faults, location_of(field), message, "value_error.number.not_le");
    } else {
        *value = (int)number;
    }
}

static bool is_blank(struct json_object *item)
{
    return json_object_is_type(item, json_type_string) &&
           topic_check(json_object_get_string(item), (size_t)json_object_get_string_len(item)) == TOPIC_BLANK;
}

/* Checks one item of "topics". */
static void check_topic(struct json_object *item, size_t index, struct faults *faults)
{
    struct location location = { "topics", NULL, (int64_t)index };

    if (!json_object_is_type(item, json_type_string)) {
        fault_add(faults, location, "str type expected", "type_error.str");
        return;
    }
    switch (topic_check(json_object_get_string(item), (size_t)json_object_get_string_len(item))) {
    case TOPIC_OK:
        break;
    case TOPIC_BLANK:
        fault_add(faults, location, "ensure this value is not blank", "value_error");
        break;
    case TOPIC_TOO_LONG:
        fault_add(faults, location, "ensure this value has at most 255 characters",
                  "value_error.any_str.max_length");
        break;
    case TOPIC_CONTROL:
        fault_add(faults, location, "control characters are not allowed", "value_error");
        break;
    }
}

/*
 * Checks "topics" and every name in it. Sets *all_blank if there are names and all of them are blank; this
 * case has an error code of its own (ERROR_NO_TOPIC) and adds no fault.
 */
static void check_topics(struct json_object *body, int max_topics, bool *all_blank, struct faults *faults)
{
    struct json_object *topics;
    const struct location location = location_of("topics");
    size_t count;
    char message[80];

    *all_blank = false;
    if (!json_object_object_get_ex(body, "topics", &topics)) {
        fault_add(faults, location, "field required", "value_error.missing");
    } else if (!topics) {
        fault_add(faults, location, "none is not an allowed value", "type_error.none.not_allowed");
    } else if (!json_object_is_type(topics, json_type_array)) {
        fault_add(faults, location, "value is not a valid list", "type_error.list");
    } else if ((count = json_object_array_length(topics)) == 0) {
        fault_add(faults, location, "ensure this value has at least 1 items", "value_error");
    } else if (count > (size_t)max_topics) {
        (void)snprintf(message, sizeof message, "ensure this value has at most %d items", max_topics);
        fault_add(faults, location, message, "value_error.list.max_items");
    } else {
        *all_blank = true;
        for (size_t i = 0; i < count && *all_blank; i++)
            *all_blank = is_blank(json_object_array_get_idx(topics, i));
        for (size_t i = 0; i < count && !*all_blank; i++)
            check_topic(json_object_array_get_idx(topics, i), i, faults);
    }
}

/* If "since" has an entry for the topic, sets the topic's cursor from it and copies the entry to kept. */
static void read_cursor(struct json_object *since, struct poll_topic *topic, struct json_object *kept,
                        struct faults *faults)
{
    struct json_object *given = json_object_object_get(since, topic->name);

    if (!given)
        return;
    if (!json_build_add_member(kept, topic->name, json_object_get(given)))
        faults->out_of_memory = true;
    if (!json_object_is_type(given, json_type_string)) {
        fault_add(faults, (struct location){ "since", topic->name, -1 }, "str type expected",
                  "type_error.str");
        return;
    }
    topic->since = json_object_to_json_string_ext(given, JSON_C_TO_STRING_NOSLASHESCAPE);
    faults->out_of_memory = faults->out_of_memory || !topic->since;
    topic->cursor = cursor_parse(json_object_get_string(given), (size_t)json_object_get_string_len(given));
}

/*
 * Sets all cursors from "since". Drops entries for topics that the poll does not name, because they might
 * take megabytes of memory for as long as the poll waits. Accepts an empty array, which PHP sends instead of
 * an empty object.
 */
static void read_since(struct poll_request *request, struct faults *faults)
{
    struct json_object *since = json_object_object_get(request->body, "since"), *kept;

    if (json_object_is_type(since, json_type_object)) {
        kept = json_object_new_object();
        for (int i = 0; kept && i < request->topic_count; i++)
            read_cursor(since, &request->topics[i], kept, faults);
        if (!json_build_add_member(request->body, "since", kept))
            faults->out_of_memory = true;
    } else if (since &&
               !(json_object_is_type(since, json_type_array) && json_object_array_length(since) == 0)) {
        fault_add(faults, location_of("since"), "value is not a valid dict", "type_error.dict");
    }
}

/*
 * Sets the request's topics, without repetitions, from an array that check_topics() has checked. Returns
 * false if out of memory.
 */
static bool read_topics(struct poll_request *request, struct json_object *names)
{
    size_t count = json_object_array_length(names);

    request->topics = calloc(count, sizeof *request->topics);
    if (!request->topics)
        return false;
    for (size_t i = 0; i < count; i++) {
        struct json_object *item = json_object_array_get_idx(names, i);
        struct poll_topic topic = { .name = json_object_get_string(item),
                                    .length = (size_t)json_object_get_string_len(item),
                                    .quoted =
                                        json_object_to_json_string_ext(item, JSON_C_TO_STRING_NOSLASHESCAPE),
                                    .cursor = { CURSOR_NOW, 0 } };
        int known = 0;

        if (!json_object_is_type(item, json_type_string))
            continue; /* check_topics() has added a fault; go on, to check the cursors of the other topics */
        if (!topic.quoted)
            return false;
        while (known < request->topic_count && strcmp(request->topics[known].name, topic.name) != 0)
            known++;
        if (known == request->topic_count)
            request->topics[request->topic_count++] = topic;
    }
    return true;
}

enum error poll_request_parse(struct poll_request *request, const char *body, size_t length, int max_topics,
                              struct json_object **detail)
{
    struct poll_request made = { .timeout_s = TIMEOUT_DEFAULT_S, .limit = LIMIT_DEFAULT };
    struct faults faults = { NULL, false };
    struct json_object *names;
    enum error error = ERROR_NONE;
    bool all_blank = false;

    made.body = parse_object(body, length, &faults);
    if (made.body) {
        check_topics(made.body, max_topics, &all_blank, &faults);
        names = json_object_object_get(made.body, "topics");
        if (json_object_is_type(names, json_type_array) &&
            json_object_array_length(names) <= (size_t)max_topics && json_object_array_length(names) > 0 &&
            !read_topics(&made, names))
            faults.out_of_memory = true;
        read_since(&made, &faults);
        read_integer(made.body, "timeout", 0, TIMEOUT_MAX_S, &made.timeout_s, &faults);
        read_integer(made.body, "limit", 1, LIMIT_MAX, &made.limit, &faults);
    }

    if (faults.out_of_memory)
        error = ERROR_MEMORY;
    else if (faults.list)
        error = ERROR_INVALID;
    else if (all_blank)
        error = ERROR_NO_TOPIC;
    if (error == ERROR_INVALID) {
        *detail = faults.list;
        faults.list = NULL;
    } else if (error == ERROR_NONE) {
        *request = made;
        made = (struct poll_request){ 0 };
    }
    json_object_put(faults.list);
    poll_request_release(&made);
    return error;
}

void poll_request_release(struct poll_request *request)
{
    free(request->topics);
    json_object_put(request->body);
    *request = (struct poll_request){ 0 };
}
