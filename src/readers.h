/*
 * The manager's side of the readers (reader.h): starts one at once, more when more pages are asked for together, up to the
 * configured number, and others in the place of those that died.
 */
#ifndef PGPOLL_READERS_H
#define PGPOLL_READERS_H

#include "child.h"

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct scoreboard;

struct readers {
    struct child child;
    struct scoreboard *scoreboard;
    int queue;   /* their end */
    pid_t *pids; /* as many as scoreboard->readers */
    int64_t started_ms, pause_ms;
};

/* Finds the program and makes the queue, for both sides. scoreboard: borrowed. false: errno says why. */
bool readers_init(struct readers *readers, struct scoreboard *scoreboard);

/* Lets them end when the workers have ended too. readers_had() still knows them. */
void readers_close(struct readers *readers);

/* The same, and forgets them. */
void readers_release(struct readers *readers);

/* Starts those that are needed. mask: their signals. */
void readers_keep(struct readers *readers, const sigset_t *mask);

/* When readers_keep() has something to do again; monotonic ms. */
int64_t readers_due_ms(const struct readers *readers);

/* Whether this was a reader's id; it has died and been waited for. */
bool readers_had(struct readers *readers, pid_t pid);

#endif
