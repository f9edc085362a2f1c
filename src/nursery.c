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
    int pair[2], descriptors[CHILD_DESCRIPTORS];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
        return false;
    scoreboard_descriptors(nursery->scoreboard, descriptors);
    descriptors[SCOREBOARD_DESCRIPTORS] = pair[1];
    nursery->pid = child_start(&nursery->child, descriptors, CHILD_WITHOUT_DATABASE, mask);
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
        /* It is dead or hangs. It may have come as far as the fork; only when it is gone for certain, the process id tells. */
        answer = ECHILD;
        (void)kill(nursery->pid, SIGKILL);
        (void)waitpid(nursery->pid, NULL, 0);
        forget(nursery);
    }
    errno = answer;
    return scoreboard_pid(nursery->scoreboard, number) != 0;
}

/* ---- in the nursery */

/*
 * Forks a child of the manager, which no library function can do. The kernel writes the process id to the shared memory before the
 * worker runs, and so before it can have died.
 */
static pid_t fork_for_parent(_Atomic int *pid)
{
    return (pid_t)syscall(SYS_clone, CLONE_PARENT | CLONE_PARENT_SETTID | SIGCHLD, NULL, pid, NULL, 0);
}

void nursery_run(struct scoreboard *scoreboard, int socket, int (*live)(void *context, int number), void *context)
{
    int number;

    (void)prctl(PR_SET_NAME, "pgpoll-nursery");
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* the socket tells, too, but not one that was stopped */
    while (recv(socket, &number, sizeof number, 0) == sizeof number) {
        pid_t pid = fork_for_parent(&scoreboard->forked[number]);
        int answer = pid < 0 ? errno : 0;

        if (pid == 0) {
            (void)close(socket);
            _exit(live(context, number));
        }
        (void)send(socket, &answer, sizeof answer, MSG_NOSIGNAL);
    }
}
