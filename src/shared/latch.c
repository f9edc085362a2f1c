#include "shared/latch.h"

#include <signal.h>
#include <sys/eventfd.h>

void latch_set(const struct scoreboard *scoreboard)
{
    /* Fails only when it has been rung 2^64 times and not been heard: it is ringing all the same. */
    (void)eventfd_write(scoreboard->latch, 1);
}

void latch_wake_stats_writer(struct scoreboard *scoreboard)
{
    struct workers_memory *workers = scoreboard->workers;

    if (atomic_load(&workers->stats_writer_sleeps) && atomic_exchange(&workers->stats_writer_sleeps, 0))
        latch_set(scoreboard);
}

void latch_wake(struct scoreboard *scoreboard, int number)
{
    int pid = scoreboard_pid(scoreboard, number);

    /* One signal is enough until it has been heard. The process is a child that was not waited for: its id is its own. */
    if (pid > 0 && atomic_exchange(&scoreboard_slot(scoreboard, number)->woken, 1) == 0)
        (void)kill(pid, SIGUSR2);
}

void latch_drain(struct scoreboard *scoreboard, int number)
{
    atomic_store(&scoreboard_slot(scoreboard, number)->released, 1);
    latch_wake(scoreboard, number);
}
