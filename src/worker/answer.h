/* The bodies of our answers. */
#ifndef PGPOLL_ANSWER_H
#define PGPOLL_ANSWER_H

#include "core/error.h"

#include <stdbool.h>

struct json_object;
struct poll_waiter;
struct printbuf;

/* Appends the answer of a poll that ran: {"messages", "has_more", "next_since", "gaps"}. false: out of memory. */
bool answer_messages(struct printbuf *out, const struct poll_waiter *waiter);

/*
 * {"detail"}: the given detail, which is taken over, or with NULL the error's own text. A new tree, owned by the caller; NULL: out of
 * memory.
 */
struct json_object *answer_error(enum error error, struct json_object *detail);

#endif
