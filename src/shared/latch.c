#include "shared/latch.h"

#include <signal.h>
#include <sys/eventfd.h>

void latch_set(const struct scoreboard *scoreboard)
{
    /* This fails only if the eventfd's counter is at its maximum, and then the latch is set anyway. */
    (void)eventfd_write(scoreboard->latch, 1);
}

void latch_wake_stats_writer(struct scoreboard *scoreboard)
{
    struct workers_memory *workers = scoreboard->workers;

    if (atomic_load(&workers->stats_writer_sleeps) && atomic_exchange(&workers->stats_writer_sleeps, 0))
        latch_set(scoreboard);
}

void latch_wake(struct scoreboard *scoreboard, int worker)
{
    int pid = scoreboard_pid(scoreboard, worker);

    /*
     * One signal is enough until the worker clears woken. In the manager, which has not called waitpid(2) for
     * this child yet, the process id cannot belong to another process. In a worker it may, for a moment after
     * the other one's death; then that process gets a signal too many.
     */
    if (pid > 0 && atomic_exchange(&scoreboard_slot(scoreboard, worker)->woken, 1) == 0)
        (void)kill(pid, SIGUSR2);
}

void latch_drain(struct scoreboard *scoreboard, int worker, int shortest_ms)
{
    atomic_store(&scoreboard_slot(scoreboard, worker)->drain, shortest_ms);
    latch_wake(scoreboard, worker);
}
