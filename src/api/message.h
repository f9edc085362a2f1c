/* One message as the database holds it, and as the API shows it (spec, "Response"). */
#ifndef PGPOLL_MESSAGE_H
#define PGPOLL_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct printbuf;

/* Texts are borrowed and need no NUL. */
struct message {
    int64_t position;
    int64_t created_at_us; /* microseconds since 1970-01-01 UTC */
    const char *payload;   /* JSON, any value */
    size_t payload_length;
    const char *metadata; /* JSON; NULL or the JSON null go out as {} */
    size_t metadata_length;
};

/*
 * Appends the message's JSON object. quoted_topic is a JSON string. Payload and metadata go out byte for byte.
 * false: out of memory, and an unfinished object may have been appended.
 */
bool message_append(struct printbuf *out, const char *quoted_topic, const struct message *message);

#endif
