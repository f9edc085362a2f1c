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
#include <sys/wait.h>
#include <unistd.h>

enum {
    ANSWER_MS = 5000, /* a fork takes less than 1 ms; the program's start takes longer on a busy machine */
    MOST_ASKED = 64,  /* the socket's buffer holds more */
    NO_SOCKET = -1
};

enum fork_server_asked {
    NOT_ASKED,
    ASKED,
    FORKED_AND_DIED /* before the answer was read */
};

/* What the fork server says of a worker. */
struct answer {
    int number;
    int error; /* 0, or errno of the fork */
};

bool fork_server_init(struct fork_server *fork_server, struct scoreboard *scoreboard)
{
    *fork_server = (struct fork_server){ .scoreboard = scoreboard, .socket = NO_SOCKET, .due_ms = INT64_MAX };
    fork_server->asked = calloc((size_t)scoreboard->worker_count, sizeof *fork_server->asked);
    return fork_server->asked && subprocess_find(&fork_server->subprocess, "pgpoll-worker") == 0;
}

static void hang_up(struct fork_server *fork_server)
{
    if (fork_server->socket != NO_SOCKET)
        (void)close(fork_server->socket);
    fork_server->socket = NO_SOCKET;
    fork_server->due_ms = INT64_MAX;
}

void fork_server_release(struct fork_server *fork_server)
{
    hang_up(fork_server);
    fork_server->pid = 0;
    free(fork_server->asked);
    fork_server->asked = NULL;
}

void fork_server_kill(struct fork_server *fork_server)
{
    if (fork_server->socket == NO_SOCKET)
        return;
    hang_up(fork_server);
    (void)kill(fork_server->pid, SIGKILL);
}

bool fork_server_was(struct fork_server *fork_server, pid_t pid)
{
    if (pid != fork_server->pid)
        return false;
    hang_up(fork_server);
    fork_server->pid = 0;
    fork_server->is_lost = fork_server->asked_count > 0;
    return true;
}

void fork_server_end(struct fork_server *fork_server)
{
    const pid_t pid = fork_server->pid;

    fork_server_kill(fork_server);
    if (pid > 0 && waitpid(pid, NULL, 0) == pid)
        (void)fork_server_was(fork_server, pid);
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

bool fork_server_is_ready(const struct fork_server *fork_server)
{
    const bool is_killed = fork_server->asked_count > 0 && fork_server->due_ms == INT64_MAX;

    return fork_server->asked_count < MOST_ASKED && !fork_server->is_lost && !is_killed;
}

bool fork_server_ask(struct fork_server *fork_server, int number, const sigset_t *mask)
{
    if (fork_server->socket == NO_SOCKET && !start(fork_server, mask))
        return false;
    if (send(fork_server->socket, &number, sizeof number, MSG_DONTWAIT | MSG_NOSIGNAL) != sizeof number) {
        if (errno == EPIPE) /* it is dead, and about to be waited for */
            errno = ECHILD;
        return false;
    }
    if (fork_server->asked_count++ == 0)
        fork_server->due_ms = clock_monotonic_ms() + ANSWER_MS;
    fork_server->asked[number] = ASKED;
    return true;
}

bool fork_server_was_asked(const struct fork_server *fork_server, int number)
{
    return fork_server->asked[number] != NOT_ASKED;
}

void fork_server_forget_worker(struct fork_server *fork_server, int number)
{
    if (fork_server->asked[number] == ASKED)
        fork_server->asked[number] = FORKED_AND_DIED;
}

struct pollfd fork_server_pollfd(const struct fork_server *fork_server)
{
    return (struct pollfd){ .fd = fork_server->socket, .events = fork_server->asked_count > 0 ? POLLIN : 0 };
}

int64_t fork_server_due_ms(const struct fork_server *fork_server)
{
    return fork_server->is_lost ? 0 : fork_server->due_ms;
}

/* A worker whose answer will never come. The fork server is gone; the slot tells whether it had forked the worker. */
static struct answer take_lost(const struct fork_server *fork_server)
{
    struct answer answer = { 0, 0 };

    while (fork_server->asked[answer.number] == NOT_ASKED)
        answer.number++;
    if (fork_server->asked[answer.number] == ASKED &&
        scoreboard_pid(fork_server->scoreboard, answer.number) == 0)
        answer.error = ECHILD;
    return answer;
}

/* Its death then tells the rest. */
static void kill_overdue(struct fork_server *fork_server)
{
    log_write(LOG_LEVEL_WARNING, "fork server %d has not started a worker within %d ms: killed",
              (int)fork_server->pid, ANSWER_MS);
    (void)kill(fork_server->pid, SIGKILL);
    fork_server->due_ms = INT64_MAX;
}

bool fork_server_take(struct fork_server *fork_server, int *number, int *error)
{
    struct answer answer;

    if (fork_server->asked_count == 0)
        return false;
    if (fork_server->is_lost) {
        answer = take_lost(fork_server);
    } else if (recv(fork_server->socket, &answer, sizeof answer, MSG_DONTWAIT) != sizeof answer) {
        if (clock_monotonic_ms() >= fork_server->due_ms)
            kill_overdue(fork_server);
        return false;
    }
    if (answer.number < 0 || answer.number >= fork_server->scoreboard->worker_count ||
        fork_server->asked[answer.number] == NOT_ASKED) {
        (void)kill(fork_server->pid, SIGKILL); /* it talks nonsense */
        return false;
    }
    fork_server->asked[answer.number] = NOT_ASKED;
    fork_server->asked_count--;
    fork_server->is_lost = fork_server->is_lost && fork_server->asked_count > 0;
    fork_server->due_ms =
        fork_server->is_lost || fork_server->asked_count == 0 ? INT64_MAX : clock_monotonic_ms() + ANSWER_MS;
    *number = answer.number;
    *error = answer.error;
    return true;
}

/* ---- in the fork server */

/*
 * Forks a child of the manager, which no library function can do. The kernel writes the process id to the shared memory before the
 * worker runs, and so before it can have died.
 */
static pid_t fork_for_parent(_Atomic int *pid)
{
    return (pid_t)syscall(SYS_clone, CLONE_PARENT | CLONE_PARENT_SETTID | SIGCHLD, NULL, pid, NULL, 0);
}

void fork_server_run(struct scoreboard *scoreboard, int socket, int (*live)(void *context, int number),
                     void *context)
{
    int number;

    (void)prctl(PR_SET_NAME, "pgpoll-forker");
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* the socket tells, too, but not one that was stopped */
    while (recv(socket, &number, sizeof number, 0) == sizeof number) {
        pid_t pid = fork_for_parent(&scoreboard->forked[number]);
        struct answer answer = { number, pid < 0 ? errno : 0 };

        if (pid == 0) {
            (void)close(socket);
            _exit(live(context, number));
        }
        (void)send(socket, &answer, sizeof answer, MSG_NOSIGNAL);
    }
}
