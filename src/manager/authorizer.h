/*
 * The manager's connection for authorisation: calls pgpoll.can_poll() for the workers, many questions in one
 * batch. The function belongs to the operator and may be slow or fail; on a connection of its own it delays
 * nothing else. Part of the manager, which creates, drives and frees it. Never blocks. Logs its errors
 * itself.
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

/* config and scoreboard are borrowed until authorizer_free(). NULL: out of memory. */
struct authorizer *authorizer_new(const struct config *config, struct scoreboard *scoreboard);
void authorizer_free(struct authorizer *authorizer);

/*
 * Takes the question of this worker, which question_take() has copied: may its user poll its
 * topics? authorizer_take() returns the answer.
 */
void authorizer_ask(struct authorizer *authorizer, int worker);

/*
 * Takes the next answer. Returns the worker that asked; -1: there is no answer now. answer: ERROR_NONE if the
 * user may poll, ERROR_DENIED if not, otherwise why can_poll() could not be called.
 */
int authorizer_take(struct authorizer *authorizer, enum error *answer);

/* Drops the question of a worker that has died. */
void authorizer_forget_worker(struct authorizer *authorizer, int worker);

/*
 * What to wait for before the next authorizer_step(): a descriptor as for poll(2), and a time (monotonic ms).
 */
struct pollfd authorizer_pollfd(const struct authorizer *authorizer);
int64_t authorizer_due_ms(const struct authorizer *authorizer);

/* Does what is due. ready: poll(2) has reported the descriptor. */
void authorizer_step(struct authorizer *authorizer, bool ready);

#endif
