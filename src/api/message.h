/*
 * A message as it is read from the database, and how it is written as a JSON object of an answer
 * (ARCHITECTURE.md, "The life of a message").
 */
#ifndef PGPOLL_MESSAGE_H
#define PGPOLL_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct printbuf;

/* The texts are borrowed and need no NUL. */
struct message {
    int64_t position;
    /* microseconds since 2000-01-01 UTC, as in PostgreSQL: since 1970, its last years would overflow */
    int64_t created_at_us;
    const char *payload; /* any JSON value */
    size_t payload_length;
    const char *metadata; /* JSON; NULL and the JSON null are sent as {} */
    size_t metadata_length;
};

/*
 * Appends the message's JSON object to out. quoted_topic is a JSON string. Payload and metadata are sent byte
 * for byte as they are stored. Returns false if out of memory; out may then end with an incomplete object.
 */
bool message_append(struct printbuf *out, const char *quoted_topic, const struct message *message);

#endif
