/* Calls no function whose name jansson and json-c share, such as json_object_get(). */
#include "second_opinion.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

struct opinion {
    json_t *value; /* NULL: none */
};

struct opinion *opinion_new(const char *text, size_t length, enum verdict *verdict)
{
    struct opinion *opinion = calloc(1, sizeof *opinion);
    json_error_t error;

    if (!opinion)
        abort();
    if (length >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) {
        text += 3;
        length -= 3;
    }
    opinion->value = json_loadb(length ? text : "", length,
                                JSON_DECODE_ANY | JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, &error);
    *verdict = VERDICT_JSON;
    if (length > 0 && memchr(text, '\0', length)) /* jansson may overlook a NUL between tokens */
        *verdict = VERDICT_NOT_JSON;
    else if (!opinion->value)
        *verdict = json_error_code(&error) == json_error_numeric_overflow ||
                           json_error_code(&error) == json_error_stack_overflow
                       ? VERDICT_UNSURE
                       : VERDICT_NOT_JSON;
    return opinion;
}

void opinion_free(struct opinion *opinion)
{
    if (opinion)
        json_decref(opinion->value);
    free(opinion);
}

static json_t *topics_of(const struct opinion *opinion)
{
    json_t *topics = NULL;

    return opinion->value && json_unpack(opinion->value, "{s:o}", "topics", &topics) == 0 ? topics : NULL;
}

size_t opinion_topic_count(const struct opinion *opinion)
{
    return json_array_size(topics_of(opinion));
}

static const char *text_of(const json_t *string, size_t *length)
{
    *length = json_string_length(string);
    return json_string_value(string);
}

const char *opinion_topic(const struct opinion *opinion, size_t index, size_t *length)
{
    return text_of(json_array_get(topics_of(opinion), index), length);
}

const char *opinion_since(const struct opinion *opinion, const char *topic, size_t *length)
{
    json_t *cursor = NULL;

    if (!opinion->value || json_unpack(opinion->value, "{s:{s:o}}", "since", topic, &cursor) != 0)
        return NULL;
    return text_of(cursor, length);
}

bool opinion_number(const struct opinion *opinion, const char *name, double *number)
{
    json_t *value = NULL;

    if (!opinion->value || json_unpack(opinion->value, "{s:o}", name, &value) != 0 || !json_is_number(value))
        return false;
    *number = json_number_value(value);
    return true;
}

bool opinion_is_string(const struct opinion *opinion, const char *text, size_t length)
{
    return json_is_string(opinion->value) && json_string_length(opinion->value) == length &&
           memcmp(json_string_value(opinion->value), text, length) == 0;
}
