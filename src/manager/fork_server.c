#include "manager/fork_server.h"

#include "core/clock.h"
#include "core/log.h"
#include "shared/scoreboard.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    /*
     * how long a result may take: a fork takes less than 1 ms, but it may include the fork server's start,
     * and the machine may be busy
     */
    RESULT_MS = 5000,
    MAX_ASKED = 64, /* maximum number of outstanding requests; the socket's buffer holds more */
    NO_SOCKET = -1
};

enum fork_server_asked {
    NOT_ASKED,
    ASKED,
    FORKED_AND_DIED /* the worker was forked and died before its result was read */
};

/* The result for one worker, as sent over the socket. */
struct result {
    int worker;
    int error; /* 0, or the errno of the failed fork */
};

bool fork_server_init(struct fork_server *fork_server, struct scoreboard *scoreboard)
{
    *fork_server =
        (struct fork_server){ .scoreboard = scoreboard, .socket = NO_SOCKET, .deadline_ms = INT64_MAX };
    fork_server->asked = calloc((size_t)scoreboard->worker_count, sizeof *fork_server->asked);
    return fork_server->asked && subprocess_find(&fork_server->subprocess, "pgpoll-worker") == 0;
}

static void close_socket(struct fork_server *fork_server)
{
    if (fork_server->socket != NO_SOCKET)
        (void)close(fork_server->socket);
    fork_server->socket = NO_SOCKET;
    fork_server->deadline_ms = INT64_MAX;
}

void fork_server_release(struct fork_server *fork_server)
{
    close_socket(fork_server);
    fork_server->pid = 0;
    free(fork_server->asked);
    fork_server->asked = NULL;
}

void fork_server_kill(struct fork_server *fork_server)
{
    if (fork_server->socket == NO_SOCKET)
        return;
    close_socket(fork_server);
    (void)kill(fork_server->pid, SIGKILL);
}

bool fork_server_has_ended(const struct fork_server *fork_server)
{
    return fork_server->pid == 0;
}

bool fork_server_forget_process(struct fork_server *fork_server, pid_t pid)
{
    if (pid != fork_server->pid)
        return false;
    close_socket(fork_server);
    fork_server->pid = 0;
    fork_server->is_lost = fork_server->asked_count > 0;
    return true;
}

static bool start(struct fork_server *fork_server, const sigset_t *mask)
{
    int pair[2], descriptors[SUBPROCESS_DESCRIPTORS];
    pid_t pid;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
        return false;
    scoreboard_descriptors(fork_server->scoreboard, descriptors);
    descriptors[SCOREBOARD_DESCRIPTORS] = pair[1];
    pid = subprocess_start(&fork_server->subprocess, descriptors, SUBPROCESS_WITHOUT_DATABASE, mask);
    (void)close(pair[1]);
    if (pid < 0) {
        (void)close(pair[0]);
        return false;
    }
    fork_server->pid = pid;
    fork_server->socket = pair[0];
    return true;
}

/* Whether the fork server was killed, and waitpid(2) has not reported its death. */
static bool is_dying(const struct fork_server *fork_server)
{
    return fork_server->pid > 0 && fork_server->socket == NO_SOCKET;
}

bool fork_server_is_ready(const struct fork_server *fork_server)
{
    return fork_server->asked_count < MAX_ASKED && !fork_server->is_lost && !is_dying(fork_server);
}

bool fork_server_ask(struct fork_server *fork_server, int worker, const sigset_t *mask)
{
    if (fork_server->socket == NO_SOCKET && !start(fork_server, mask))
        return false;
    if (send(fork_server->socket, &worker, sizeof worker, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
        if (errno == EPIPE) /* the fork server is dead; waitpid(2) will report it soon */
            errno = ECHILD;
        return false;
    }
    if (fork_server->asked_count++ == 0)
        fork_server->deadline_ms = clock_monotonic_ms() + RESULT_MS;
    fork_server->asked[worker] = ASKED;
    return true;
}

bool fork_server_was_asked(const struct fork_server *fork_server, int worker)
{
    return fork_server->asked[worker] != NOT_ASKED;
}

void fork_server_forget_worker(struct fork_server *fork_server, int worker)
{
    if (fork_server->asked[worker] == ASKED)
        fork_server->asked[worker] = FORKED_AND_DIED;
}

struct pollfd fork_server_pollfd(const struct fork_server *fork_server)
{
    return (struct pollfd){ .fd = fork_server->socket, .events = fork_server->asked_count > 0 ? POLLIN : 0 };
}

int64_t fork_server_due_ms(const struct fork_server *fork_server)
{
    return fork_server->is_lost ? 0 : fork_server->deadline_ms;
}

/*
 * Returns the result for a worker whose request the dead fork server left unanswered. scoreboard_pid() tells
 * whether that worker was forked.
 */
static struct result take_lost(const struct fork_server *fork_server)
{
    struct result result = { 0, 0 };

    while (fork_server->asked[result.worker] == NOT_ASKED)
        result.worker++;
    if (fork_server->asked[result.worker] == ASKED &&
        scoreboard_pid(fork_server->scoreboard, result.worker) == 0)
        result.error = ECHILD;
    return result;
}

/* Kills a fork server that does not answer. Once it is dead, take_lost() settles the outstanding requests. */
static void kill_overdue(struct fork_server *fork_server)
{
    log_write(LOG_LEVEL_WARNING,
              "fork server %d did not start a worker within %d ms: killed, starting another one",
              (int)fork_server->pid, RESULT_MS);
    fork_server_kill(fork_server);
}

bool fork_server_take(struct fork_server *fork_server, int *worker, int *error)
{
    struct result result;

    if (fork_server->asked_count == 0 || is_dying(fork_server))
        return false;
    if (fork_server->is_lost) {
        result = take_lost(fork_server);
    } else if (recv(fork_server->socket, &result, sizeof result, MSG_DONTWAIT) != sizeof result) {
        if (clock_monotonic_ms() >= fork_server->deadline_ms)
            kill_overdue(fork_server);
        return false;
    }
    if (result.worker < 0 || result.worker >= fork_server->scoreboard->worker_count ||
        fork_server->asked[result.worker] == NOT_ASKED) {
        fork_server_kill(fork_server); /* it is broken */
        return false;
    }
    fork_server->asked[result.worker] = NOT_ASKED;
    fork_server->asked_count--;
    fork_server->is_lost = fork_server->is_lost && fork_server->asked_count > 0;
    fork_server->deadline_ms =
        fork_server->is_lost || fork_server->asked_count == 0 ? INT64_MAX : clock_monotonic_ms() + RESULT_MS;
    *worker = result.worker;
    *error = result.error;
    return true;
}

/* ---- in the fork server's process */

/*
 * Forks a child of the manager instead of a child of this process (CLONE_PARENT), for which there is no
 * library function. The kernel writes the process id to *pid, in shared memory, before the child runs. So the
 * id is known even if the child dies at once.
 */
static pid_t fork_for_parent(_Atomic int *pid)
{
    return (pid_t)syscall(SYS_clone, CLONE_PARENT | CLONE_PARENT_SETTID | SIGCHLD, NULL, pid, NULL, 0);
}

void fork_server_run(struct scoreboard *scoreboard, int socket, int (*live)(void *context, int worker),
                     void *context)
{
    int worker;

    (void)prctl(PR_SET_NAME, "pgpoll-forker");
    /*
     * When the manager dies, its socket is closed, which ends this process too, unless SIGSTOP has stopped
     * it. SIGKILL ends it in any case.
     */
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (recv(socket, &worker, sizeof worker, 0) == sizeof worker) {
        pid_t pid = fork_for_parent(&scoreboard->forked[worker]);
        struct result result = { worker, pid < 0 ? errno : 0 };

        if (pid == 0) {
            (void)close(socket);
            _exit(live(context, worker));
        }
        (void)send(socket, &result, sizeof result, MSG_NOSIGNAL);
    }
}
