/*
 * The reader processes (reader.h), as the manager sees them. One always runs; more are started when workers
 * ask for more pages at the same time, up to PGPOLL_CONNECTIONS; those that die are replaced. Part of the
 * manager, which creates, drives and releases it.
 */
#ifndef PGPOLL_READER_POOL_H
#define PGPOLL_READER_POOL_H

#include "core/backoff.h"
#include "core/subprocess.h"

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct scoreboard;

struct reader_pool {
    struct subprocess subprocess;
    struct scoreboard *scoreboard;
    int queue;              /* the readers' end of the queue of questions; -1: closed */
    pid_t *pids;            /* as many as scoreboard->manager->readers */
    int64_t started_ms;     /* when the last one was started */
    struct backoff backoff; /* no reader is started before its due_ms */
};

/*
 * Finds the program and creates the queue, whose other end scoreboard->read_queue is. scoreboard is borrowed.
 * false: errno says why; call reader_pool_release() all the same.
 */
bool reader_pool_init(struct reader_pool *pool, struct scoreboard *scoreboard);

/*
 * Closes the queue: the readers end after the last worker. reader_pool_forget_process() still knows their
 * ids.
 */
void reader_pool_close(struct reader_pool *pool);

/* Closes the queue and frees what the pool has. */
void reader_pool_release(struct reader_pool *pool);

/* Starts the readers that are needed. mask: their signal mask. */
void reader_pool_keep(struct reader_pool *pool, const sigset_t *mask);

/* When reader_pool_keep() must be called next; monotonic ms, INT64_MAX: enough readers run. */
int64_t reader_pool_due_ms(const struct reader_pool *pool);

/* Removes a child that was waited for. Returns whether it was a reader. */
bool reader_pool_forget_process(struct reader_pool *pool, pid_t pid);

#endif
