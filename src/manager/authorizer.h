/*
 * Calls pgpoll.can_poll() and pgpoll.authenticate() for the workers, and remembers the answers for all of
 * them (access_memory.h). The functions belong to the operator and may be slow, hang or fail, so they have
 * sessions of their own, up to PGPOLL_ACCESS_CONNECTIONS. Each session calls for one question at a time, so
 * that an answer waits for no other. A session more than one is opened when a question has waited for some
 * time, and closed when it was idle.
 *
 * So that nobody keeps all sessions from the others, questions of an asker (a user, a token, or an anonymous
 * poll's topics) whose last call did not end in time, or who has calls under way in half of the sessions, go
 * to the slow lane. At most half of the sessions serve it.
 *
 * Part of the manager, which creates, drives and frees it. Never blocks. Logs its errors itself, never a
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

/* config and scoreboard are borrowed until authorizer_free(). NULL: out of memory. */
struct authorizer *authorizer_new(const struct config *config, struct scoreboard *scoreboard);
void authorizer_free(struct authorizer *authorizer);

/*
 * Takes the question of this worker, which question_take() has copied, and answers it with question_answer():
 * ERROR_NONE, ERROR_DENIED, ERROR_UNAUTHENTICATED, or why there is no answer. At the question's deadline the
 * answer is ERROR_CAN_POLL_TIMEOUT, ERROR_AUTHENTICATE_TIMEOUT or, if there is no connection,
 * ERROR_DATABASE_AWAY.
 */
void authorizer_ask(struct authorizer *authorizer, int worker);

/* Takes over a question that nobody waits for: brings the memory up to date, if there is an answer in it. */
void authorizer_refresh(struct authorizer *authorizer, struct question *question);

/* The worker has died: call this before the scoreboard forgets its question. */
void authorizer_forget_worker(struct authorizer *authorizer, int worker);

/*
 * What to wait for before the next authorizer_step(): descriptors as for poll(2), and a time (monotonic ms).
 * Returns how many descriptors there are, always the same number.
 */
int authorizer_pollfds(const struct authorizer *authorizer,
                       struct pollfd fds[static AUTHORIZER_MAX_SESSIONS]);
int64_t authorizer_due_ms(const struct authorizer *authorizer);

/* Does what is due. fds: those of authorizer_pollfds() after poll(2), each with its revents. */
void authorizer_step(struct authorizer *authorizer, const struct pollfd *fds);

#endif
