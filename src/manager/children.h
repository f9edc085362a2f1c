/*
 * What the manager does in the same way for all kinds of child processes: workers, readers, the fork server,
 * old managers and their workers. Holds no state.
 */
#ifndef PGPOLL_CHILDREN_H
#define PGPOLL_CHILDREN_H

#include <stdint.h>
#include <sys/types.h>

struct config;

/* If a child dies earlier than this after its start, the next one may as well, so its start is delayed. */
enum { CHILDREN_QUICK_DEATH_MS = 1000 };

/* How long a child that was told to end may take before it is killed, in milliseconds. */
int64_t children_end_ms(const struct config *config);

/* Sends a signal to each of these processes. SIGKILL is logged. */
void children_signal(const pid_t *pids, int count, int signal_number);

/*
 * Logs an unexpected death. what: the kind of process, for the log. status: as returned by waitpid(2). Exit
 * status 0 and death by SIGTERM are expected.
 */
void children_log_death(const char *what, pid_t pid, int status);

#endif
