/* The bodies of our answers, as JSON trees that the caller owns. NULL: out of memory. */
#ifndef PGPOLL_ANSWER_H
#define PGPOLL_ANSWER_H

#include "error.h"

struct json_object;
struct poll_waiter;

/* A poll that ran: {"messages", "has_more", "next_since", "gaps"}. Borrows the poll's page: serialise it before poll_waiter_release(). */
struct json_object *answer_messages(const struct poll_waiter *waiter);

/* {"detail"}: the given detail, which is taken over, or with NULL the error's own text. */
struct json_object *answer_error(enum error error, struct json_object *detail);

#endif
