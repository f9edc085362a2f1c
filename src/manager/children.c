#include "manager/children.h"

#include "core/config.h"
#include "core/log.h"

#include <signal.h>
#include <sys/wait.h>

/*
 * A worker that is told to end answers its poll at once. If the poll has no cursor yet, the worker
 * reads the table, which may take PGPOLL_QUERY_TIMEOUT_S, and tries again for 3 s (LAST_TRIES_MS in
 * poll_waiter.c). A process that takes this much longer than a query may take hangs, and is killed.
 */
enum { END_MS = 5000 };

void children_log_death(const char *who, pid_t pid, int status)
{
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM)
        return; /* asked to end, as systemd asks everybody at once */
    if (WIFSIGNALED(status))
        log_write(LOG_LEVEL_WARNING, "%s %d was killed by signal %d", who, (int)pid, WTERMSIG(status));
    else if (WEXITSTATUS(status) != 0)
        log_write(LOG_LEVEL_WARNING, "%s %d exited with status %d", who, (int)pid, WEXITSTATUS(status));
}

void children_signal(const pid_t *pids, int count, int number)
{
    for (int i = 0; i < count; i++) {
        if (number == SIGKILL)
            log_write(LOG_LEVEL_WARNING, "process %d did not end in time: killed", (int)pids[i]);
        (void)kill(pids[i], number);
    }
}

int64_t children_end_ms(const struct config *config)
{
    return config->query_timeout_s * 1000 + END_MS;
}
