/*
 * A call that blocks, made in a thread of its own, so that a loop need not wait for it. A thread cannot be stopped: who is no longer
 * interested leaves, and what the call used is released when it returns.
 */
#ifndef PGPOLL_BACKGROUND_H
#define PGPOLL_BACKGROUND_H

#include <stdbool.h>
#include <stdint.h>

struct background;

/*
 * Starts call(context). release(context) follows when the call has returned and background_leave() was called, whichever is later.
 * NULL: not started, errno says why, and context is still the caller's.
 */
struct background *background_start(void (*call)(void *context), void (*release)(void *context),
                                    void *context);

/* Whether the call has returned; what it wrote may be read then. false for NULL. */
bool background_is_done(const struct background *background);

/* Readable once the call has returned. */
int background_fd(const struct background *background);

/* Waits for the call to return, until deadline_ms (monotonic). */
void background_wait(const struct background *background, int64_t deadline_ms);

/* The caller needs it no more. Takes NULL. */
void background_leave(struct background *background);

#endif
