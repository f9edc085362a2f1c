/*
 * Inspects the workers, once a second while polls begin, workers die, or permits are taken or missing: kills
 * those that have damaged their shared memory or do not begin, frees the permits to read the table of those
 * that are stopped, and corrects what killed workers may have left wrong: the count of idle workers and the
 * permits. Part of the manager, which embeds it and forks workers in place of those that die, and of an old
 * manager. Goes on while the workers end, because their last polls may have to read the table. Holds no
 * resources. Never blocks.
 */
#ifndef PGPOLL_INSPECTION_H
#define PGPOLL_INSPECTION_H

#include <stdbool.h>
#include <stdint.h>

struct scoreboard;

struct inspection {
    struct scoreboard *scoreboard;
    const int64_t *spawned_ms; /* by worker: when the fork server was asked for it */
    bool requested;            /* inspect the workers even if no poll has begun */
    uint64_t polls;            /* how many polls had begun at the last inspection */
    int next;                  /* the worker at which the current inspection goes on; 0: none is going on */
    int64_t begin_ms;          /* when to inspect the workers next, if that is needed */
};

/* scoreboard and spawned_ms are borrowed. */
void inspection_init(struct inspection *inspection, struct scoreboard *scoreboard, const int64_t *spawned_ms);

/* Makes the next inspection due even if no poll has begun since the last one: after a worker's death. */
void inspection_request(struct inspection *inspection);

/* Returns when inspection_step() is due; INT64_MAX: not before a poll begins. */
int64_t inspection_due_ms(const struct inspection *inspection);

/* Does what is due. One call does a part of an inspection, so that messages do not wait for all of it. */
void inspection_step(struct inspection *inspection, int64_t now_ms);

/*
 * Kills a worker whose slot holds what no sound worker writes. A broken worker may write anything, so it must
 * be replaced.
 */
void inspection_kill_broken(const struct scoreboard *scoreboard, int worker);

#endif
