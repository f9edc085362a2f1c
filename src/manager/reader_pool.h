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
bool reader_pool_init(struct reader_pool *pool, struct scoreboard *scoreboard);

/* Lets them end when the workers have ended too. reader_pool_forget_process() still knows them. */
void reader_pool_close(struct reader_pool *pool);

/* The same, and forgets them. */
void reader_pool_release(struct reader_pool *pool);

/* Starts those that are needed. mask: their signals. */
void reader_pool_keep(struct reader_pool *pool, const sigset_t *mask);

/* When reader_pool_keep() has something to do again; monotonic ms. */
int64_t reader_pool_due_ms(const struct reader_pool *pool);

/* Whether this was a reader's id; it has died and been waited for. */
bool reader_pool_forget_process(struct reader_pool *pool, pid_t pid);

#endif
