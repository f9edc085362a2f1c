#include "manager/worker_queue.h"

#include <stdlib.h>

bool worker_queue_init(struct worker_queue *queue, int capacity)
{
    *queue = (struct worker_queue){ .workers = calloc((size_t)capacity, sizeof *queue->workers),
                                    .capacity = capacity };
    return queue->workers != NULL;
}

void worker_queue_release(struct worker_queue *queue)
{
    free(queue->workers);
    *queue = (struct worker_queue){ 0 };
}

/*
 * Returns where the circular buffer holds the worker with this index, counted from the queue's first worker.
 */
static int *place(const struct worker_queue *queue, int index)
{
    return &queue->workers[(queue->first + index) % queue->capacity];
}

void worker_queue_add(struct worker_queue *queue, int worker)
{
    *place(queue, queue->count++) = worker;
}

int worker_queue_first(const struct worker_queue *queue)
{
    return queue->count > 0 ? *place(queue, 0) : WORKER_QUEUE_NONE;
}

int worker_queue_take(struct worker_queue *queue)
{
    const int worker = worker_queue_first(queue);

    if (worker == WORKER_QUEUE_NONE)
        return worker;
    queue->first = (queue->first + 1) % queue->capacity;
    queue->count--;
    return worker;
}

void worker_queue_put_back(struct worker_queue *queue, const int *workers, int count)
{
    for (int i = count - 1; i >= 0; i--) {
        if (workers[i] == WORKER_QUEUE_NONE)
            continue;
        queue->first = (queue->first + queue->capacity - 1) % queue->capacity;
        queue->count++;
        *place(queue, 0) = workers[i];
    }
}

void worker_queue_remove(struct worker_queue *queue, int worker)
{
    int kept = 0;

    for (int i = 0; i < queue->count; i++)
        if (*place(queue, i) != worker)
            *place(queue, kept++) = *place(queue, i);
    queue->count = kept;
}
