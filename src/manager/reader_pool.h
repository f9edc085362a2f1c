/*
 * The manager's side of the reader processes (reader.h). One reader always runs. When workers ask for more
 * pages at the same time, more readers are started, up to PGPOLL_CONNECTIONS. Readers that die are replaced.
 * Readers that hang, or that somebody has stopped, are killed first (reader_state.h). If a worker has shut
 * the queue down, the pool asks the manager to reload, since only new workers can get another queue. Part of
 * the manager, which creates, drives and releases it.
 */
#ifndef PGPOLL_READER_POOL_H
#define PGPOLL_READER_POOL_H

#include "core/backoff.h"
#include "core/subprocess.h"

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct reader_state;
struct scoreboard;

struct pool_reader {
    pid_t pid;
    struct reader_state *state;
};

struct reader_pool {
    struct subprocess subprocess;
    struct scoreboard *scoreboard;
    int queue;                   /* the readers' end of the queue of questions; -1: closed */
    struct pool_reader *readers; /* there are scoreboard->manager->readers of them */
    int64_t started_ms;          /* when the last reader was started */
    struct backoff backoff;      /* no reader is started before backoff.due_ms */
    int64_t check_ms;            /* when to check next for readers that hang */
    /* how many checks in a row found that a question waits and that none was taken since the last check */
    int unread_checks;
    uint64_t taken; /* how many questions the readers had taken at the last check */
    int64_t created_ms;
    int64_t reload_ms; /* when to ask for a reload; INT64_MAX: the queue works */
};

/*
 * Finds the program pgpoll-reader, and creates the queue of questions. The pool keeps the readers' end of the
 * queue; scoreboard->read_queue becomes the workers' end. scoreboard is borrowed. Returns false if this fails
 * (errno says why); call reader_pool_release() even then.
 */
bool reader_pool_init(struct reader_pool *pool, struct scoreboard *scoreboard);

/*
 * Closes the manager's ends of the queue, so that the readers end when the last worker has ended.
 * reader_pool_forget_process() still recognizes the readers' process ids.
 */
void reader_pool_close(struct reader_pool *pool);

/* Closes everything that is open, and frees the pool's memory. */
void reader_pool_release(struct reader_pool *pool);

/*
 * Starts a reader if one is missing; the caller's loop goes on between two of them, because a fork takes
 * time. Kills readers that hang. mask: the signal mask that readers get.
 */
void reader_pool_keep(struct reader_pool *pool, const sigset_t *mask);

/*
 * Whether the manager should reload now, because a worker has shut the queue down. Asks for that at most
 * once in 10 s, and not earlier after the start, so that a worker that does it again and again costs no more.
 */
bool reader_pool_wants_reload(struct reader_pool *pool);

/*
 * Returns when reader_pool_keep() or reader_pool_wants_reload() must be called next (monotonic ms), or
 * INT64_MAX if they need not be.
 */
int64_t reader_pool_due_ms(const struct reader_pool *pool);

/*
 * Tells this module that waitpid(2) has reported the death of a child. Returns whether the child was a
 * reader.
 */
bool reader_pool_forget_process(struct reader_pool *pool, pid_t pid);

#endif
