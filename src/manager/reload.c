#include "manager/reload.h"

#include "core/clock.h"
#include "core/config.h"
#include "core/log.h"
#include "shared/host_state.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
    STATE_CHECK_MS = 20, /* time between two reads of the manager's state */
    /*
     * how long to wait for that: the manager first ends the reload before, which may take 15 s, and then
     * waits 10 s at most for its new workers
     */
    WAIT_MS = 60 * 1000
};

/* Reads the state of this manager. Returns false if there is none, or it is of another version. */
static bool read_state(const char *path, pid_t manager, struct host_values *values)
{
    return host_state_read(path, values) && values->of[HOST_PID] == manager;
}

/*
 * Waits until the manager's state is that of a program that was started after the state before, and whose
 * workers have begun. Returns NULL, or what went wrong.
 */
static const char *wait_for_new_workers(const char *path, pid_t manager, const struct host_values *before)
{
    const int64_t deadline_ms = clock_monotonic_ms() + WAIT_MS;
    struct host_values now = *before;

    while (clock_monotonic_ms() < deadline_ms) {
        if (kill(manager, 0) != 0 && errno == ESRCH)
            return "the manager has ended";
        if (read_state(path, manager, &now)) {
            if (now.of[HOST_STAGE] == HOST_DRAINING || now.of[HOST_STAGE] == HOST_ENDING)
                return "the manager is ending";
            if (now.of[HOST_RELOAD_FAILURES] > before->of[HOST_RELOAD_FAILURES])
                return "the manager cannot execute its program";
            if (now.of[HOST_STARTED_MS] != before->of[HOST_STARTED_MS] && now.of[HOST_HAS_BEGUN])
                return NULL;
        }
        (void)poll(NULL, 0, STATE_CHECK_MS);
    }
    if (!read_state(path, manager, &now))
        return "no state of it can be read (see PGPOLL_STATE_DIR)";
    return host_state_is_fresh(&now, clock_monotonic_ms()) ? "the new workers have not started in a minute"
                                                           : "the manager hangs";
}

/* Whether the process was started with --workers. */
static bool has_workers(pid_t process)
{
    static const char OPTION[] = "--workers";
    char path[32], command[4096];
    ssize_t size;
    int fd;

    (void)snprintf(path, sizeof path, "/proc/%d/cmdline", (int)process);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    size = fd < 0 ? 0 : read(fd, command, sizeof command);
    if (fd >= 0)
        (void)close(fd);
    return size > 0 && memmem(command, (size_t)size, OPTION, sizeof OPTION - 1) != NULL;
}

bool reload_run(const struct config *config, pid_t manager)
{
    char path[HOST_STATE_PATH_SIZE];
    struct host_values before = { 0 };
    const bool has_place = host_state_path(config->state_dir, STDIN_FILENO, path);
    /*
     * If the state is of another version, or the old program writes none, all values stay 0, and any
     * state that can be read is a new one.
     */
    const bool has_state = has_place && read_state(path, manager, &before);
    /* A worker without a manager writes no state. */
    const bool is_followed = has_state || config->workers > 0 || has_workers(manager);
    const char *wrong = NULL;

    if (kill(manager, SIGHUP) != 0)
        wrong = strerror(errno);
    else if (has_place && is_followed)
        wrong = wait_for_new_workers(path, manager, &before);
    else if (is_followed)
        log_write(LOG_LEVEL_WARNING,
                  "process %d reloads, but when its new workers serve is not known: set its PGPOLL_STATE_DIR",
                  (int)manager);
    if (wrong)
        log_write(LOG_LEVEL_ERROR, "cannot reload process %d: %s", (int)manager, wrong);
    return !wrong;
}
