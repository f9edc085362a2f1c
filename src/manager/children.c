#include "manager/children.h"

#include "core/config.h"
#include "core/log.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

/*
 * How long a child may take to end, in addition to PGPOLL_QUERY_TIMEOUT_S. A worker that gets SIGTERM answers
 * its poll at once. If the poll has no cursor yet, the worker must read the table first: a query may take
 * PGPOLL_QUERY_TIMEOUT_S, and the worker retries for 3 s (LAST_TRIES_MS in poll_waiter.c). A process that
 * takes even longer hangs, and is killed.
 */
enum { END_MS = 5000 };

void children_log_death(const char *what, pid_t pid, int status)
{
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM)
        return; /* expected: systemd, for example, sends SIGTERM to all processes of a service */
    if (WIFSIGNALED(status))
        log_write(LOG_LEVEL_WARNING, "%s %d was killed by signal %d", what, (int)pid, WTERMSIG(status));
    else if (WEXITSTATUS(status) != 0)
        log_write(LOG_LEVEL_WARNING, "%s %d exited with status %d", what, (int)pid, WEXITSTATUS(status));
}

void children_signal(const pid_t *pids, int count, int signal_number)
{
    for (int i = 0; i < count; i++) {
        if (signal_number == SIGKILL)
            log_write(LOG_LEVEL_WARNING, "process %d did not end in time: killed", (int)pids[i]);
        (void)kill(pids[i], signal_number);
    }
}

enum children_state children_find_state(pid_t pid)
{
    char path[32], stat[64] = ""; /* "23 (pgpoll-worker) T ...": see proc(5) */
    const char *name_end;
    FILE *file;

    (void)snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    file = fopen(path, "re");
    if (!file)
        return CHILDREN_RUNS;
    if (!fgets(stat, sizeof stat, file))
        stat[0] = '\0';
    (void)fclose(file);
    name_end = strrchr(stat, ')');
    if (name_end && strncmp(name_end, ") T", 3) == 0)
        return CHILDREN_STOPPED;
    return name_end && strncmp(name_end, ") Z", 3) == 0 ? CHILDREN_DEAD : CHILDREN_RUNS;
}

int64_t children_end_ms(const struct config *config)
{
    return config->query_timeout_s * 1000 + END_MS;
}
