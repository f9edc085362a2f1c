/* What another library (jansson) makes of a JSON text: to hold against what json-c, and so a request, makes of it. */
#ifndef PGPOLL_SECOND_OPINION_H
#define PGPOLL_SECOND_OPINION_H

#include <stdbool.h>
#include <stddef.h>

struct opinion;

enum verdict {
    VERDICT_JSON,
    VERDICT_NOT_JSON,
    VERDICT_UNSURE /* a number or a depth beyond what jansson takes */
};

/* Of length bytes; any JSON value will do, also after a byte order mark. Ended by opinion_free(). */
struct opinion *opinion_new(const char *text, size_t length, enum verdict *verdict);
void opinion_free(struct opinion *opinion);

/* How many items the object's member "topics" has; 0 if it is no array. */
size_t opinion_topic_count(const struct opinion *opinion);

/* The text of a topic; NULL: no such item, or no string. Borrowed. */
const char *opinion_topic(const struct opinion *opinion, size_t index, size_t *length);

/* The text that "since" has for a topic; NULL: none. Borrowed. */
const char *opinion_since(const struct opinion *opinion, const char *topic, size_t *length);

/* Stores the object's member of that name. false: it is no number. */
bool opinion_number(const struct opinion *opinion, const char *name, double *number);

/* Whether the whole is this string. */
bool opinion_is_string(const struct opinion *opinion, const char *text, size_t length);

#endif
