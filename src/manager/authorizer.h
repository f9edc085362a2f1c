/*
 * Calls pgpoll.can_poll() and pgpoll.authenticate() for the workers, and remembers the answers for all of
 * them (access_memory.h). The functions belong to the operator and may be slow, hang or fail. Therefore they
 * have sessions of their own, up to PGPOLL_ACCESS_CONNECTIONS, and each session calls a function for one
 * question at a time, so that no answer waits for another one. All sessions but the first are opened only
 * when a question has waited for some time, and closed when they have been idle for some time.
 *
 * No asker may keep all sessions from the others. An asker is a user, a token, or the first topic of an
 * anonymous poll. If an asker's last call did not end in time, or its calls occupy half of the sessions, its
 * questions go to the slow lane. At most half of the sessions serve the slow lane.
 *
 * Part of the manager, which creates, drives and frees it. Never blocks. Logs its errors itself, but never a
 * token and never a message of authenticate(), which may quote one.
 */
#ifndef PGPOLL_AUTHORIZER_H
#define PGPOLL_AUTHORIZER_H

#include <poll.h>
#include <stdint.h>

enum { AUTHORIZER_MAX_SESSIONS = 100 }; /* the limit of PGPOLL_ACCESS_CONNECTIONS */

struct authorizer;
struct config;
struct question;
struct scoreboard;

/* config and scoreboard are borrowed until authorizer_free(). Returns NULL if out of memory. */
struct authorizer *authorizer_new(const struct config *config, struct scoreboard *scoreboard);
void authorizer_free(struct authorizer *authorizer);

/*
 * Takes the question of this worker, which question_take() has copied, and later answers it with
 * question_answer(): ERROR_NONE, ERROR_DENIED, ERROR_UNAUTHENTICATED, or why there is no answer. At the
 * question's deadline the answer is ERROR_CAN_POLL_TIMEOUT, ERROR_AUTHENTICATE_TIMEOUT or, if there is no
 * connection, ERROR_DATABASE_AWAY.
 */
void authorizer_ask(struct authorizer *authorizer, int worker);

/*
 * Takes a question from question_take_over(), and frees it later. If the remembered answers to the question
 * are due to be renewed, asks again for these answers.
 */
void authorizer_refresh(struct authorizer *authorizer, struct question *question);

/* Notes that a worker has died. Call this before the scoreboard forgets the worker's question. */
void authorizer_forget_worker(struct authorizer *authorizer, int worker);

/*
 * The next authorizer_step() is due when poll(2) reports one of these descriptors, or at this time (monotonic
 * ms). authorizer_pollfds() returns how many descriptors there are, which never changes.
 */
int authorizer_pollfds(const struct authorizer *authorizer,
                       struct pollfd fds[static AUTHORIZER_MAX_SESSIONS]);
int64_t authorizer_due_ms(const struct authorizer *authorizer);

/* Does what is due. fds: the descriptors from authorizer_pollfds() after poll(2), each with its revents. */
void authorizer_step(struct authorizer *authorizer, const struct pollfd *fds);

#endif
