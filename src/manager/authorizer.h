/*
 * The manager's connection for authorisation: asks pgpoll.can_poll() on behalf of the workers, many questions at a time. It is the
 * operator's function and may be slow or fail, so it has this connection to itself, and its own trouble. Driven by the manager's
 * loop; never blocks.
 */
#ifndef PGPOLL_AUTHORIZER_H
#define PGPOLL_AUTHORIZER_H

#include "core/error.h"

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

struct authorizer;
struct config;
struct scoreboard;

/* config and scoreboard are borrowed for its life. NULL: out of memory. */
struct authorizer *authorizer_new(const struct config *config, struct scoreboard *scoreboard);
void authorizer_free(struct authorizer *authorizer);

/* The worker with this number asks, in its slot, whether its user may poll its topics. */
void authorizer_ask(struct authorizer *authorizer, int number);

/* Takes one whose question was answered: its number, or -1 when there is none. ERROR_NONE: it may; otherwise it is to be told. */
int authorizer_take(struct authorizer *authorizer, enum error *answer);

/* The worker with this number is dead: what it asked is dropped. */
void authorizer_forget_worker(struct authorizer *authorizer, int number);

/* What to wait for before the next step: as of poll(2), and until when (monotonic ms). */
struct pollfd authorizer_pollfd(const struct authorizer *authorizer);
int64_t authorizer_due_ms(const struct authorizer *authorizer);

/* Does what there is to do. ready: the socket is. */
void authorizer_step(struct authorizer *authorizer, bool ready);

#endif
