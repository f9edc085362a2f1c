/* The JSON bodies of answers to a poll. Called by the program, which sends them. */
#ifndef PGPOLL_ANSWER_H
#define PGPOLL_ANSWER_H

#include "core/error.h"

#include <stdbool.h>

struct json_object;
struct poll_waiter;
struct printbuf;

/*
 * Appends the answer of a poll that has run: {"messages", "has_more", "next_since", "gaps"}. false: out of
 * memory.
 */
bool answer_messages(struct printbuf *out, const struct poll_waiter *waiter);

/*
 * Builds the body of an error, {"detail"}. It takes over detail; if detail is NULL, it uses the error's own
 * text. A new tree, owned by the caller; NULL: out of memory.
 */
struct json_object *answer_error(enum error error, struct json_object *detail);

#endif
