/* Makes the JSON bodies of answers to a poll. The program calls it and sends the bodies. */
#ifndef PGPOLL_ANSWER_H
#define PGPOLL_ANSWER_H

#include "core/error.h"

#include <stdbool.h>

struct json_object;
struct poll_waiter;
struct printbuf;

/*
 * Appends the answer of a poll that has run: {"messages", "has_more", "next_since", "gaps"}. Returns false if
 * out of memory.
 */
bool answer_messages(struct printbuf *out, const struct poll_waiter *waiter);

/*
 * Builds the body of an error, {"detail"}. Takes over detail; if detail is NULL, uses the error's own text.
 * Returns a new tree, owned by the caller, or NULL if out of memory.
 */
struct json_object *answer_error(enum error error, struct json_object *detail);

#endif
