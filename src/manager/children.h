/*
 * Functions that the manager uses for all kinds of child processes: workers, readers, the fork server, and
 * (after a reload) old managers with their workers. Holds no state.
 */
#ifndef PGPOLL_CHILDREN_H
#define PGPOLL_CHILDREN_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct config;

/*
 * If a child dies within this time after its start, its successor may die just as soon. So the manager delays
 * the successor's start.
 */
enum { CHILDREN_QUICK_DEATH_MS = 1000 };

/*
 * Returns how many milliseconds a child may take to end after SIGTERM. A child that takes longer is killed.
 */
int64_t children_end_ms(const struct config *config);

/* Sends signal_number to each of these processes. Logs each process that it sends SIGKILL to. */
void children_signal(const pid_t *pids, int count, int signal_number);

enum children_state {
    CHILDREN_RUNS,
    CHILDREN_STOPPED, /* by SIGSTOP */
    CHILDREN_DEAD     /* and waitpid(2) has not been called for it yet */
};

/*
 * Returns the state of a process, which may be the child of another one: an old manager's workers are
 * children of the new one.
 */
enum children_state children_find_state(pid_t pid);

/*
 * Logs a child's death, unless it was expected: exit status 0 or death by SIGTERM. what: the kind of process,
 * as a word for the log. status: as returned by waitpid(2).
 */
void children_log_death(const char *what, pid_t pid, int status);

#endif
