#include "nursery.h"

#include "clock.h"
#include "log.h"
#include "scoreboard.h"

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

enum nursery_asked {
    NOT_ASKED,
    ASKED,
    FORKED_AND_DIED /* before the answer was read */
};

/* What the nursery says of a worker. */
struct answer {
    int number;
    int error; /* 0, or errno of the fork */
};

bool nursery_init(struct nursery *nursery, struct scoreboard *scoreboard)
{
    *nursery = (struct nursery){ .scoreboard = scoreboard, .socket = NO_SOCKET, .due_ms = INT64_MAX };
    nursery->asked = calloc((size_t)scoreboard->worker_count, sizeof *nursery->asked);
    return nursery->asked && child_find(&nursery->child, "pgpoll-worker") == 0;
}

static void hang_up(struct nursery *nursery)
{
    if (nursery->socket != NO_SOCKET)
        (void)close(nursery->socket);
    nursery->socket = NO_SOCKET;
    nursery->due_ms = INT64_MAX;
}

void nursery_release(struct nursery *nursery)
{
    hang_up(nursery);
    nursery->pid = 0;
    free(nursery->asked);
    nursery->asked = NULL;
}

void nursery_kill(struct nursery *nursery)
{
    if (nursery->socket == NO_SOCKET)
        return;
    hang_up(nursery);
    (void)kill(nursery->pid, SIGKILL);
}

bool nursery_was(struct nursery *nursery, pid_t pid)
{
    if (pid != nursery->pid)
        return false;
    hang_up(nursery);
    nursery->pid = 0;
    nursery->is_lost = nursery->asked_count > 0;
    return true;
}

void nursery_end(struct nursery *nursery)
{
    const pid_t pid = nursery->pid;

    nursery_kill(nursery);
    if (pid > 0 && waitpid(pid, NULL, 0) == pid)
        (void)nursery_was(nursery, pid);
}

static bool start(struct nursery *nursery, const sigset_t *mask)
{
    int pair[2], descriptors[CHILD_DESCRIPTORS];
    pid_t pid;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
        return false;
    scoreboard_descriptors(nursery->scoreboard, descriptors);
    descriptors[SCOREBOARD_DESCRIPTORS] = pair[1];
    pid = child_start(&nursery->child, descriptors, CHILD_WITHOUT_DATABASE, mask);
    (void)close(pair[1]);
    if (pid < 0) {
        (void)close(pair[0]);
        return false;
    }
    nursery->pid = pid;
    nursery->socket = pair[0];
    return true;
}

bool nursery_is_ready(const struct nursery *nursery)
{
    const bool is_killed = nursery->asked_count > 0 && nursery->due_ms == INT64_MAX;

    return nursery->asked_count < MOST_ASKED && !nursery->is_lost && !is_killed;
}

bool nursery_ask(struct nursery *nursery, int number, const sigset_t *mask)
{
    if (nursery->socket == NO_SOCKET && !start(nursery, mask))
        return false;
    if (send(nursery->socket, &number, sizeof number, MSG_DONTWAIT | MSG_NOSIGNAL) != sizeof number) {
        if (errno == EPIPE) /* it is dead, and about to be waited for */
            errno = ECHILD;
        return false;
    }
    if (nursery->asked_count++ == 0)
        nursery->due_ms = clock_monotonic_ms() + ANSWER_MS;
    nursery->asked[number] = ASKED;
    return true;
}

bool nursery_was_asked(const struct nursery *nursery, int number)
{
    return nursery->asked[number] != NOT_ASKED;
}

void nursery_forget_worker(struct nursery *nursery, int number)
{
    if (nursery->asked[number] == ASKED)
        nursery->asked[number] = FORKED_AND_DIED;
}

struct pollfd nursery_pollfd(const struct nursery *nursery)
{
    return (struct pollfd){ .fd = nursery->socket, .events = nursery->asked_count > 0 ? POLLIN : 0 };
}

int64_t nursery_due_ms(const struct nursery *nursery)
{
    return nursery->is_lost ? 0 : nursery->due_ms;
}

/* A worker whose answer will never come. The nursery is gone; the slot tells whether it had forked the worker. */
static struct answer take_lost(const struct nursery *nursery)
{
    struct answer answer = { 0, 0 };

    while (nursery->asked[answer.number] == NOT_ASKED)
        answer.number++;
    if (nursery->asked[answer.number] == ASKED && scoreboard_pid(nursery->scoreboard, answer.number) == 0)
        answer.error = ECHILD;
    return answer;
}

/* Its death then tells the rest. */
static void kill_overdue(struct nursery *nursery)
{
    log_write(LOG_LEVEL_WARNING, "nursery %d has not started a worker within %d ms: killed", (int)nursery->pid,
              ANSWER_MS);
    (void)kill(nursery->pid, SIGKILL);
    nursery->due_ms = INT64_MAX;
}

bool nursery_take(struct nursery *nursery, int *number, int *error)
{
    struct answer answer;

    if (nursery->asked_count == 0)
        return false;
    if (nursery->is_lost) {
        answer = take_lost(nursery);
    } else if (recv(nursery->socket, &answer, sizeof answer, MSG_DONTWAIT) != sizeof answer) {
        if (clock_monotonic_ms() >= nursery->due_ms)
            kill_overdue(nursery);
        return false;
    }
    if (answer.number < 0 || answer.number >= nursery->scoreboard->worker_count ||
        nursery->asked[answer.number] == NOT_ASKED) {
        (void)kill(nursery->pid, SIGKILL); /* it talks nonsense */
        return false;
    }
    nursery->asked[answer.number] = NOT_ASKED;
    nursery->asked_count--;
    nursery->is_lost = nursery->is_lost && nursery->asked_count > 0;
    nursery->due_ms = nursery->is_lost || nursery->asked_count == 0 ? INT64_MAX : clock_monotonic_ms() + ANSWER_MS;
    *number = answer.number;
    *error = answer.error;
    return true;
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
        struct answer answer = { number, pid < 0 ? errno : 0 };

        if (pid == 0) {
            (void)close(socket);
            _exit(live(context, number));
        }
        (void)send(socket, &answer, sizeof answer, MSG_NOSIGNAL);
    }
}
