#include "manager/worker_queue.h"

#include "suites.h"

#include <stdlib.h>

static void oldest_first_through_wraps_and_removals(void)
{
    enum { CAPACITY = 5 };
    struct worker_queue queue;

    CU_ASSERT_FATAL(worker_queue_init(&queue, CAPACITY));
    CU_ASSERT_EQUAL(worker_queue_take(&queue), WORKER_QUEUE_NONE);
    for (int turn = 0; turn < CAPACITY; turn++) { /* each turn begins at another place in the buffer */
        int taken[3];

        for (int worker = 0; worker < CAPACITY; worker++)
            worker_queue_add(&queue, worker);
        worker_queue_remove(&queue, 3);
        worker_queue_remove(&queue, 3);
        for (int i = 0; i < 3; i++)
            CU_ASSERT_EQUAL(taken[i] = worker_queue_take(&queue), i);
        taken[1] = WORKER_QUEUE_NONE;
        worker_queue_add(&queue, 1); /* the worker that replaced the dead one */
        worker_queue_put_back(&queue, taken, 3);
        CU_ASSERT_EQUAL(worker_queue_take(&queue), 0);
        CU_ASSERT_EQUAL(worker_queue_take(&queue), 2);
        CU_ASSERT_EQUAL(worker_queue_take(&queue), 4);
        CU_ASSERT_EQUAL(worker_queue_take(&queue), 1);
        CU_ASSERT_EQUAL(worker_queue_take(&queue), WORKER_QUEUE_NONE);
    }
    worker_queue_release(&queue);
}

CU_TestInfo worker_queue_tests[] = {
    { "oldest first, through wraps and removals", oldest_first_through_wraps_and_removals }, CU_TEST_INFO_NULL
};
