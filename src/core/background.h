/*
 * Runs a blocking call in a thread of its own, so that an event loop does not wait for it.
 *
 * background_start() creates a struct background and background_free() gives it up. A thread cannot be
 * stopped, so after background_free() the call goes on. When it returns, its context is destroyed.
 */
#ifndef PGPOLL_BACKGROUND_H
#define PGPOLL_BACKGROUND_H

#include <stdbool.h>
#include <stdint.h>

struct background;

/*
 * Starts call(context) in a new thread. release(context) is called to destroy the context when the call has
 * returned and background_free() was called; it may run in either thread. Returns NULL if the thread was not
 * started; errno says why, and the caller still owns context.
 */
struct background *background_start(void (*call)(void *context), void (*release)(void *context),
                                    void *context);

/* Whether the call has returned. Only then may the caller read its results in context. false for NULL. */
bool background_is_done(const struct background *background);

/*
 * Whether this process was forked after background_start(): the thread is only in the parent. Then the caller
 * may only call background_free(), which leaves the context as it is.
 */
bool background_is_lost(const struct background *background);

/* A descriptor that becomes readable when the call has returned. Owned by background. */
int background_fd(const struct background *background);

/* Waits until the call has returned, at most until deadline_ms (monotonic). */
void background_wait(const struct background *background, int64_t deadline_ms);

/* Drops the caller's reference. Takes NULL. */
void background_free(struct background *background);

#endif
