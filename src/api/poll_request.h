/*
 * What a client asked for: the body of POST /messages/poll, read and checked.
 * Filled by poll_request_parse(), ended by poll_request_release(); nothing changes it in between.
 */
#ifndef PGPOLL_POLL_REQUEST_H
#define PGPOLL_POLL_REQUEST_H

#include "api/cursor.h"
#include "core/error.h"

#include <stddef.h>

struct json_object;

struct poll_topic {
    const char *name;   /* UTF-8, NUL-terminated, without a NUL inside */
    size_t length;      /* bytes */
    const char *quoted; /* the name as a JSON string */
    struct cursor cursor;
    const char *since; /* the cursor as it was sent, as a JSON string; NULL when none was */
};

struct poll_request {
    struct poll_topic *topics; /* distinct, in the order they were sent */
    int topic_count;
    int timeout_s;
    int limit;                /* messages in one answer */
    struct json_object *body; /* owns every borrowed pointer above */
};

/*
 * The longest body that is accepted. It has room for max_topics of the longest names, each character escaped,
 * and for the same names once more with their cursors in "since", so that a client can always send its poll
 * again with the answer's next_since; and for 64 KiB of anything else.
 */
size_t poll_request_max_bytes(int max_topics);

/*
 * Reads a body of length bytes. max_topics: how many names one request may hold.
 * ERROR_INVALID: *detail is a new array of the API's validation entries, owned by the caller.
 * ERROR_NO_TOPIC, ERROR_MEMORY: nothing more to say. On any error *request is untouched and needs no release.
 */
enum error poll_request_parse(struct poll_request *request, const char *body, size_t length, int max_topics,
                              struct json_object **detail);

/* Frees what parse made; an all-zero request is fine. */
void poll_request_release(struct poll_request *request);

#endif
