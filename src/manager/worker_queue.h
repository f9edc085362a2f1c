/*
 * A queue of workers whose questions (question.h) wait for a database session of the manager; the oldest
 * question comes first. A worker is in one of the manager's queues at most, and there once, because it asks
 * one question at a time.
 */
#ifndef PGPOLL_WORKER_QUEUE_H
#define PGPOLL_WORKER_QUEUE_H

#include <stdbool.h>

/* in place of a worker's number: the worker has died, or the queue is empty */
enum { WORKER_QUEUE_NONE = -1 };

struct worker_queue {
    int *workers; /* a circular buffer */
    int capacity, first, count;
};

/*
 * capacity: how many workers the scoreboard has. Returns false if out of memory; call worker_queue_release()
 * even then.
 */
bool worker_queue_init(struct worker_queue *queue, int capacity);
void worker_queue_release(struct worker_queue *queue);

/* Adds a worker at the end. */
void worker_queue_add(struct worker_queue *queue, int worker);

/* Returns the first worker, or WORKER_QUEUE_NONE if the queue is empty. */
int worker_queue_first(const struct worker_queue *queue);

/* Removes and returns the first worker, or returns WORKER_QUEUE_NONE if the queue is empty. */
int worker_queue_take(struct worker_queue *queue);

/*
 * Undoes calls of worker_queue_take(): puts the workers, in the order in which they were taken, before all
 * others in the queue. Skips entries that are WORKER_QUEUE_NONE.
 */
void worker_queue_put_back(struct worker_queue *queue, const int *workers, int count);

/* Removes a worker that has died, if it is in the queue. */
void worker_queue_remove(struct worker_queue *queue, int worker);

#endif
