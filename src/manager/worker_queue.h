/*
 * A queue of workers whose questions wait for a database session of the manager, oldest first. A worker is in
 * it at most once, because it asks one question at a time. The part of the manager that answers the questions
 * embeds one.
 */
#ifndef PGPOLL_WORKER_QUEUE_H
#define PGPOLL_WORKER_QUEUE_H

#include <stdbool.h>

enum { WORKER_QUEUE_NONE = -1 }; /* instead of a worker: one that has died, or none */

struct worker_queue {
    int *workers; /* a circular buffer */
    int capacity, first, count;
};

/* capacity: of the scoreboard's workers. false: out of memory; call worker_queue_release() all the same. */
bool worker_queue_init(struct worker_queue *queue, int capacity);
void worker_queue_release(struct worker_queue *queue);

/* Adds a worker at the end. */
void worker_queue_add(struct worker_queue *queue, int worker);

/* The oldest worker. WORKER_QUEUE_NONE: the queue is empty. */
int worker_queue_first(const struct worker_queue *queue);

/* Takes the oldest worker. WORKER_QUEUE_NONE: the queue is empty. */
int worker_queue_take(struct worker_queue *queue);

/*
 * Puts workers that were taken back to the front, in the same order. Skips those that are WORKER_QUEUE_NONE.
 */
void worker_queue_put_back(struct worker_queue *queue, const int *workers, int count);

/* Removes a worker that has died, wherever it is. */
void worker_queue_remove(struct worker_queue *queue, int worker);

#endif
