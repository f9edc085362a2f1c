/*
 * The manager's connection for authorisation: asks pgpoll.can_poll() on behalf of the workers, many questions at a time. It is the
 * operator's function and may be slow or fail, so it has this connection to itself, and its own trouble. Driven by the manager's
 * loop; never blocks.
 */
#ifndef PGPOLL_GATE_H
#define PGPOLL_GATE_H

#include "error.h"

#include <stdbool.h>
#include <stdint.h>

struct config;
struct gate;
struct hive;

/* config and hive are borrowed for its life. NULL: out of memory. */
struct gate *gate_new(const struct config *config, struct hive *hive);
void gate_free(struct gate *gate);

/* The worker with this number asks, in its cell, whether its user may poll its topics. */
void gate_ask(struct gate *gate, int number);

/* Takes one whose question was answered: its number, or -1 when there is none. ERROR_NONE: it may; otherwise it is to be told. */
int gate_take(struct gate *gate, enum error *answer);

/* The worker with this number is dead: what it asked is dropped. */
void gate_forget_worker(struct gate *gate, int number);

/* What to wait for before the next step: poll(2)'s descriptor (-1: none) and events, and until when (monotonic ms). */
int gate_socket(const struct gate *gate);
short gate_events(const struct gate *gate);
int64_t gate_due_ms(const struct gate *gate);

/* Does what there is to do. ready: the socket is. */
void gate_step(struct gate *gate, bool ready);

#endif
