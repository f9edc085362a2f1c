/*
 * The manager's side of the readers (reader.h): starts one at once, more when more pages are asked for together, up to the
 * configured number, and others in the place of those that died.
 */
#ifndef PGPOLL_READER_POOL_H
#define PGPOLL_READER_POOL_H

#include "core/subprocess.h"

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct scoreboard;

struct reader_pool {
    struct subprocess subprocess;
    struct scoreboard *scoreboard;
    int queue;   /* their end */
    pid_t *pids; /* as many as scoreboard->readers */
    int64_t started_ms, pause_ms;
};

/* Finds the program and makes the queue, for both sides. scoreboard: borrowed. false: errno says why. */
bool readers_init(struct reader_pool *readers, struct scoreboard *scoreboard);

/* Lets them end when the workers have ended too. readers_had() still knows them. */
void readers_close(struct reader_pool *readers);

/* The same, and forgets them. */
void readers_release(struct reader_pool *readers);

/* Starts those that are needed. mask: their signals. */
void readers_keep(struct reader_pool *readers, const sigset_t *mask);

/* When readers_keep() has something to do again; monotonic ms. */
int64_t readers_due_ms(const struct reader_pool *readers);

/* Whether this was a reader's id; it has died and been waited for. */
bool readers_had(struct reader_pool *readers, pid_t pid);

#endif
