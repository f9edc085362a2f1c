/*
 * The checked body of POST /messages/poll. poll_request_parse() creates a request and poll_request_release()
 * frees it; nothing changes it in between.
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
    const char *since; /* the cursor as the client sent it, as a JSON string; NULL: none was sent */
};

struct poll_request {
    struct poll_topic *topics; /* without repetitions, in the order in which they were sent */
    int topic_count;
    int timeout_s;
    int limit;                /* maximum number of messages in the answer */
    struct json_object *body; /* owns the texts that the topics point to */
};

/*
 * Returns the maximum length of a body, in bytes. A body of this length has room for max_topics names of the
 * greatest length, each character escaped, for the same names with their cursors in "since", and for 64 KiB
 * of other text. So a client can always repeat its poll with the answer's next_since.
 */
size_t poll_request_max_bytes(int max_topics);

/*
 * Parses and checks a body of length bytes. max_topics limits the number of names in it. Returns ERROR_NONE,
 * ERROR_NO_TOPIC (all names are blank), ERROR_MEMORY or ERROR_INVALID. With ERROR_INVALID, *detail is a new
 * array with an entry for each fault, owned by the caller. On any error *request is untouched and needs no
 * release.
 */
enum error poll_request_parse(struct poll_request *request, const char *body, size_t length, int max_topics,
                              struct json_object **detail);

/* Frees what poll_request_parse() allocated. Accepts an all-zero request. */
void poll_request_release(struct poll_request *request);

#endif
