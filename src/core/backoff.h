/*
 * Exponential backoff: the pauses between attempts at something that keeps failing. Each pause is twice as
 * long as the one before, up to a limit, less a random part of up to one half, so that processes that failed
 * together do not try again together. The owner embeds a struct backoff. When due_ms has come, it makes an
 * attempt and reports the outcome with backoff_fail() or backoff_reset(). These functions do not sleep. The
 * random part comes from random(3), which each program seeds at start.
 */
#ifndef PGPOLL_BACKOFF_H
#define PGPOLL_BACKOFF_H

#include <stdint.h>

struct backoff {
    int64_t first_ms, max_ms; /* the first and the longest pause; set by the owner, above 0 */
    int64_t pause_ms; /* the last pause, before its random part is taken off; 0: the last attempt succeeded */
    int64_t due_ms;   /* when to try again, in monotonic ms; 0: at once */
};

/* Initializers for attempts to reach the database, and for the start of child processes that die at once. */
#define BACKOFF_DATABASE ((struct backoff){ .first_ms = 50, .max_ms = 1000 })
#define BACKOFF_CHILDREN ((struct backoff){ .first_ms = 100, .max_ms = 5000 })

/* The attempt failed: sets due_ms to the end of a pause from now_ms, in monotonic ms. */
void backoff_fail(struct backoff *backoff, int64_t now_ms);

/* The attempt succeeded: the next pause is the first one again. Does not change due_ms. */
void backoff_reset(struct backoff *backoff);

#endif
