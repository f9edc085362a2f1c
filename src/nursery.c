#include "nursery.h"

#include "scoreboard.h"

#include <errno.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ANSWER_S = 2, NO_SOCKET = -1 };

bool nursery_init(struct nursery *nursery, struct scoreboard *scoreboard)
{
    nursery->scoreboard = scoreboard;
    nursery->socket = NO_SOCKET;
    nursery->pid = 0;
    return child_find(&nursery->child, "pgpoll-worker") == 0;
}

static void forget(struct nursery *nursery)
{
    (void)close(nursery->socket);
    nursery->socket = NO_SOCKET;
    nursery->pid = 0;
}

void nursery_release(struct nursery *nursery)
{
    if (nursery->socket != NO_SOCKET)
        forget(nursery);
}

bool nursery_was(struct nursery *nursery, pid_t pid)
{
    const bool was = nursery->socket != NO_SOCKET && nursery->pid == pid;

    if (was)
        forget(nursery);
    return was;
}

static bool start(struct nursery *nursery, const sigset_t *mask)
{
    const struct timeval patience = { .tv_sec = ANSWER_S };
    const struct scoreboard *scoreboard = nursery->scoreboard;
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
        return false;
    nursery->pid = child_start(
        &nursery->child, (const int[]){ scoreboard->fd, pair[1], scoreboard->doorbell, scoreboard->read_queue }, mask);
    (void)close(pair[1]);
    nursery->socket = pair[0];
    if (nursery->pid < 0 || setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) != 0) {
        forget(nursery);
        return false;
    }
    return true;
}

bool nursery_fork(struct nursery *nursery, int number, const sigset_t *mask)
{
    int answer = 0;

    if (nursery->socket == NO_SOCKET && !start(nursery, mask))
        return false;
    if (send(nursery->socket, &number, sizeof number, MSG_NOSIGNAL) != sizeof number ||
        recv(nursery->socket, &answer, sizeof answer, 0) != sizeof answer) {
        /* It is dead or hangs. It may have come as far as the fork; only when it is gone for certain, the slot tells. */
        answer = ECHILD;
        (void)kill(nursery->pid, SIGKILL);
        (void)waitpid(nursery->pid, NULL, 0);
        forget(nursery);
    }
    errno = answer;
    return atomic_load(&scoreboard_slot(nursery->scoreboard, number)->pid) != 0;
}

/* ---- in the nursery */

/*
 * The process id is in the slot before the worker runs, and so before it can have died. The manager is its parent, which no
 * library function can say.
 */
static pid_t fork_for_parent(struct slot *slot)
{
    return (pid_t)syscall(SYS_clone, CLONE_PARENT | CLONE_PARENT_SETTID | SIGCHLD, NULL, &slot->pid, NULL, 0);
}

void nursery_run(struct scoreboard *scoreboard, int socket, int (*live)(void *context, int number), void *context)
{
    int number;

    (void)prctl(PR_SET_NAME, "pgpoll-nursery");
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* the socket tells, too, but not one that was stopped */
    while (recv(socket, &number, sizeof number, 0) == sizeof number) {
        pid_t pid = fork_for_parent(scoreboard_slot(scoreboard, number));
        int answer = pid < 0 ? errno : 0;

        if (pid == 0) {
            (void)close(socket);
            _exit(live(context, number));
        }
        (void)send(socket, &answer, sizeof answer, MSG_NOSIGNAL);
    }
}
