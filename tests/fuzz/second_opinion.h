/* Parses JSON text with another library, jansson, to compare with a request that was parsed with json-c. */
#ifndef PGPOLL_SECOND_OPINION_H
#define PGPOLL_SECOND_OPINION_H

#include <stdbool.h>
#include <stddef.h>

struct opinion;

enum verdict {
    VERDICT_JSON,
    VERDICT_NOT_JSON,
    VERDICT_UNSURE /* a number or a depth that jansson does not support */
};

/* Parses length bytes: any JSON value, optionally after a byte order mark. opinion_free() ends it. */
struct opinion *opinion_new(const char *text, size_t length, enum verdict *verdict);
void opinion_free(struct opinion *opinion);

/* Returns the number of items in the object's member "topics"; 0 if that is not an array. */
size_t opinion_topic_count(const struct opinion *opinion);

/* Returns the text of a topic, or NULL if the item is missing or not a string. Borrowed. */
const char *opinion_topic(const struct opinion *opinion, size_t index, size_t *length);

/* Returns the text that "since" has for a topic, or NULL. Borrowed. */
const char *opinion_since(const struct opinion *opinion, const char *topic, size_t *length);

/* Stores the object's member of that name. Returns false if it is not a number. */
bool opinion_number(const struct opinion *opinion, const char *name, double *number);

/* Whether the whole text is this string. */
bool opinion_is_string(const struct opinion *opinion, const char *text, size_t length);

#endif
