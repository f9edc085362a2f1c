#include "manager/manager.h"

#include "core/clock.h"
#include "core/config.h"
#include "core/log.h"
#include "manager/authorizer.h"
#include "manager/fork_server.h"
#include "manager/reader_pool.h"
#include "manager/relay.h"
#include "manager/stats_writer.h"
#include "shared/latch.h"
#include "shared/question.h"
#include "shared/read_permits.h"
#include "shared/scoreboard.h"
#include "shared/slot_reset.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    RELEASE_AGAIN_MS = 20,
    COUNT_MS = 1000,
    LONGEST_SLEEP_MS = 60 * 1000,
    BEGIN_MS = 10 * 1000,  /* a worker takes to begin, at most */
    QUICK_DEATH_MS = 1000, /* a worker that lived less long may be followed by one that does not, either */
    FIRST_PAUSE_MS = 100,
    LAST_PAUSE_MS = 5000,
    REPLACE_MS = 10 * 1000, /* the old workers are told to end at the latest so long after a reload */
    /*
     * A worker that is told to end answers its poll at once. If the poll has no cursor yet, the worker
     * reads the table, which may take PGPOLL_QUERY_TIMEOUT_S, and tries again for 3 s (LAST_TRIES_MS in
     * poll_waiter.c). A process that takes this much longer than a query may take hangs, and is killed.
     */
    END_MS = 5000,
    /*
     * In a reload the new workers start and the old ones end in so many steps, at least ROLL_LEAST in each.
     * All at once they would take the processor from the messages that are to be delivered meanwhile.
     */
    ROLL_STEP_MS = 10,
    ROLL_STEPS = 200,
    ROLL_LEAST = 4,
    LAST_POLLS_MS = 1000, /* an old manager waits so long for its workers' last polls ... */
    LAST_WRITE_MS = 1000, /* ... and every manager that ends so long for its last statistics to be written */
    OLD_MANAGER_MS = ROLL_STEP_MS * ROLL_STEPS + LAST_POLLS_MS + LAST_WRITE_MS + 2000, /* then it hangs */
    MESSAGE_BYTES = 256 /* of window for an entry, on average */
};

/*
 * The protocol of a reload. P is the process that systemd or a pid file knows, S the scoreboard that it shares
 * with its workers.
 *
 *  1. P ends the fork server, so that it knows all workers of S, and forks the old manager M. M has a copy of
 *     everything that P has: S, the database connections, what is under way.
 *  2. P executes the new program and so keeps its process id. The new program finds the process ids of M and of
 *     all other children in a file; the environment (OLD_CHILDREN) has its descriptor and the number of old
 *     managers in it. If P cannot execute the program, it tells M, which exits, and goes on as before.
 *  3. M serves the workers of S as P did: it answers questions, fills the message ring, wakes polls, and asks the polls
 *     that wait longest to answer when few workers are free. It starts no process. Its workers still accept.
 *  4. P makes a scoreboard, workers and database connections of its own. It never looks into S, whose layout may
 *     be that of another version.
 *  5. P sends M SIGTERM when all new workers have begun, or after REPLACE_MS, or when P itself is told to end.
 *  6. M sends its workers SIGTERM, a few at a time, and serves the others meanwhile. Then it writes what they have
 *     counted, deletes its rows of the statistics, and exits.
 *  7. P sends SIGTERM to the old children that are left, and SIGKILL to those that do not end in time.
 *
 * M signals its workers by process id, but they are P's children. Therefore P waits for none of them before M has
 * exited: until then no other process can get their ids. M and all workers die with P (PR_SET_PDEATHSIG).
 */
static const char OLD_CHILDREN[] = CONFIG_OLD_WORKERS; /* version 0.1.0 reads the descriptor there, too */

/* Processes of the programs that ran in this process before. */
struct old {
    pid_t *managers, *others; /* one array, managers first */
    int manager_count, other_count;
    enum { OLD_SERVE, OLD_MANAGERS_END, OLD_OTHERS_END } stage;
    int64_t due_ms; /* of the stage; INT64_MAX: only their death ends it */
};

struct manager {
    const struct config *config;
    struct scoreboard *scoreboard;
    struct relay *relay;
    struct authorizer *authorizer;
    struct stats_writer *stats_writer;
    struct fork_server fork_server;
    struct reader_pool readers;
    char **argv;
    sigset_t usual_mask;
    int signal_fd;
    struct old old;
    bool is_old; /* this is an old manager */
    int drained; /* workers that it has told to end */
    int running; /* workers, and those that the fork server was asked for */
    int64_t *spawned_ms;
    bool stopping, reloads; /* as soon as it can */
    bool recount;           /* idle workers are to be counted, whether or not there was a poll */
    uint64_t polls;         /* when they were counted last */
    int64_t count_ms, spawn_ms, spawn_pause_ms, release_ms;
    int64_t end_ms;   /* while stopping: children that are left are killed then; an old manager: it ends */
    int64_t drain_ms; /* an old manager that stops: the next step */
};

/* ---- workers */

static void pause_spawning(struct manager *manager)
{
    manager->spawn_pause_ms = manager->spawn_pause_ms ? manager->spawn_pause_ms * 2 : FIRST_PAUSE_MS;
    if (manager->spawn_pause_ms > LAST_PAUSE_MS)
        manager->spawn_pause_ms = LAST_PAUSE_MS;
    manager->spawn_ms = clock_monotonic_ms() + manager->spawn_pause_ms;
}

static void fail_spawning(struct manager *manager, int error)
{
    log_write(LOG_LEVEL_ERROR, "cannot start a worker: %s", strerror(error));
    pause_spawning(manager);
}

static bool is_missing(const struct manager *manager, int number)
{
    return scoreboard_pid(manager->scoreboard, number) == 0 &&
           !fork_server_was_asked(&manager->fork_server, number);
}

/* How many workers are started or ended in one step of a reload. */
static int roll_step(const struct manager *manager)
{
    return manager->scoreboard->worker_count / ROLL_STEPS + ROLL_LEAST;
}

static void spawn_missing(struct manager *manager)
{
    const bool rolls = manager->old.manager_count > 0;
    const int enough = rolls ? manager->running + roll_step(manager) : manager->scoreboard->worker_count;

    if (rolls)
        manager->spawn_ms = clock_monotonic_ms() + ROLL_STEP_MS;
    for (int i = 0; i < manager->scoreboard->worker_count; i++) {
        if (manager->running == enough || !fork_server_is_ready(&manager->fork_server))
            return;
        if (!is_missing(manager, i))
            continue;
        slot_reset(manager->scoreboard, i); /* again: a broken worker may have written there since */
        if (!fork_server_ask(&manager->fork_server, i, &manager->usual_mask)) {
            fail_spawning(manager, errno);
            return;
        }
        manager->spawned_ms[i] = clock_monotonic_ms();
        manager->running++;
    }
}

/* Learns which workers were started. Those that started after stop() get their SIGTERM now. */
static void take_spawned(struct manager *manager)
{
    int number, error, failed = 0;

    while (fork_server_take(&manager->fork_server, &number, &error)) {
        const int pid = scoreboard_pid(manager->scoreboard, number);

        if (error) {
            manager->running--;
            failed = error;
        } else if (manager->stopping && pid > 0) {
            (void)kill(pid, SIGTERM);
        }
    }
    if (failed)
        fail_spawning(manager, failed);
}

static int number_of(const struct manager *manager, pid_t pid)
{
    for (int i = 0; i < manager->scoreboard->worker_count; i++)
        if (scoreboard_pid(manager->scoreboard, i) == pid)
            return i;
    return -1;
}

/* Undoes whatever the dead worker had in hand. */
static void clear_slot(struct manager *manager, int number)
{
    fork_server_forget_worker(&manager->fork_server, number);
    authorizer_forget_worker(manager->authorizer, number);
    relay_forget_worker(manager->relay, number);
    slot_reset(manager->scoreboard, number);
    latch_wake_stats_writer(manager->scoreboard);
}

static void log_death(const char *who, pid_t pid, int status)
{
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM)
        return; /* asked to end, as systemd asks everybody at once */
    if (WIFSIGNALED(status))
        log_write(LOG_LEVEL_WARNING, "%s %d was killed by signal %d", who, (int)pid, WTERMSIG(status));
    else if (WEXITSTATUS(status) != 0)
        log_write(LOG_LEVEL_WARNING, "%s %d exited with status %d", who, (int)pid, WEXITSTATUS(status));
}

static bool remove_pid(pid_t *pids, int *count, pid_t pid)
{
    for (int i = 0; i < *count; i++)
        if (pids[i] == pid) {
            pids[i] = pids[--*count];
            return true;
        }
    return false;
}

/* A child has died and was waited for. Returns whether it was a worker that has lived for a moment only. */
static bool bury(struct manager *manager, pid_t pid, int status)
{
    const bool fork_server = fork_server_was(&manager->fork_server, pid),
               reader = readers_had(&manager->readers, pid);
    const bool old_manager = remove_pid(manager->old.managers, &manager->old.manager_count, pid);
    const int number = number_of(manager, pid);

    if (!fork_server || !manager->stopping)
        log_death(fork_server   ? "nursery"
                  : reader      ? "reader"
                  : old_manager ? "old manager"
                                : "worker",
                  pid, status);
    (void)remove_pid(manager->old.others, &manager->old.other_count, pid);
    if (number < 0)
        return false;
    manager->running--;
    manager->recount = true;
    clear_slot(manager, number);
    if (clock_monotonic_ms() - manager->spawned_ms[number] < QUICK_DEATH_MS)
        return true;
    manager->spawn_pause_ms = 0;
    return false;
}

static bool reap_one(struct manager *manager, pid_t pid)
{
    int status;

    return pid > 0 && waitpid(pid, &status, WNOHANG) == pid && bury(manager, pid, status);
}

/* Waits for dead children, except old workers: old managers use their ids. Returns whether a worker died young. */
static bool reap_new(struct manager *manager)
{
    bool died_young = false;

    for (int i = manager->old.manager_count - 1; i >= 0; i--)
        (void)reap_one(manager, manager->old.managers[i]);
    (void)reap_one(manager, manager->fork_server.pid);
    for (int i = atomic_load(&manager->scoreboard->manager->readers) - 1; i >= 0; i--)
        (void)reap_one(manager, manager->readers.pids[i]);
    for (int i = 0; i < manager->scoreboard->worker_count; i++)
        if (reap_one(manager, scoreboard_pid(manager->scoreboard, i)))
            died_young = true;
    return died_young;
}

static void reap(struct manager *manager)
{
    bool died_young = manager->old.manager_count > 0 && reap_new(manager);
    int status;
    pid_t pid;

    while (manager->old.manager_count == 0 && (pid = waitpid(-1, &status, WNOHANG)) > 0)
        if (bury(manager, pid, status))
            died_young = true;
    if (died_young && !manager->stopping) { /* once for all who died together */
        pause_spawning(manager);
        log_write(LOG_LEVEL_ERROR, "a worker died as soon as it was started: the next one in %" PRId64 " ms",
                  manager->spawn_pause_ms);
    }
}

static void signal_workers(const struct manager *manager, int number)
{
    for (int i = 0; i < manager->scoreboard->worker_count; i++) {
        int pid = scoreboard_pid(manager->scoreboard, i);

        if (pid > 0)
            (void)kill(pid, number);
    }
}

/* What is in its slot no worker writes, so it may write anything anywhere. Another one comes in its place. */
static void kill_broken(const struct manager *manager, int number)
{
    int pid = scoreboard_pid(manager->scoreboard, number);

    if (pid <= 0)
        return;
    log_write(LOG_LEVEL_ERROR,
              "worker %d has damaged its shared memory and is killed; another one replaces it", pid);
    (void)kill(pid, SIGKILL);
}

/* ---- free workers */

/* The number of the longest waiting poll that was not asked yet; -1: none has waited long enough. */
static int longest_waiting(const struct scoreboard *scoreboard, int64_t now_ms)
{
    int longest = -1;
    int64_t since_ms = now_ms - SCOREBOARD_SHORTEST_WAIT_MS;

    for (int i = 0; i < scoreboard->worker_count; i++) {
        const struct slot *slot = scoreboard_slot(scoreboard, i);

        if (atomic_load(&slot->state) == SLOT_WAITING && !atomic_load(&slot->drain) &&
            atomic_load(&slot->since_ms) <= since_ms) {
            longest = i;
            since_ms = atomic_load(&slot->since_ms);
        }
    }
    return longest;
}

/* Full is not an error: who has waited longest answers now, and polls again. */
static void keep_reserve(struct manager *manager, int64_t now_ms)
{
    struct scoreboard *scoreboard = manager->scoreboard;
    int wanted = scoreboard->reserve - scoreboard_idle(scoreboard), number;

    if (wanted <= 0)
        manager->release_ms = INT64_MAX;
    if (wanted <= 0 || (manager->release_ms != INT64_MAX && now_ms < manager->release_ms))
        return;
    manager->release_ms =
        now_ms + RELEASE_AGAIN_MS; /* those released meanwhile have become free, or are about to */
    while (wanted-- > 0 && (number = longest_waiting(scoreboard, now_ms)) >= 0)
        latch_drain(scoreboard, number);
}

static int64_t count_due_ms(const struct manager *manager)
{
    const bool due = manager->recount || atomic_load(&manager->scoreboard->workers->polls) != manager->polls;

    return due ? manager->count_ms : INT64_MAX;
}

/* Whether a worker says, long after it was started, that it is none. */
static bool has_not_begun(const struct manager *manager, int number, int64_t now_ms)
{
    return atomic_load(&scoreboard_slot(manager->scoreboard, number)->state) == SLOT_EMPTY &&
           now_ms - manager->spawned_ms[number] > BEGIN_MS;
}

/* Counts idle workers now and then: one that was killed may have been counted twice, or not at all; one may be broken. */
static void count_idle(struct manager *manager, int64_t now_ms)
{
    int idle = 0;

    if (now_ms < count_due_ms(manager))
        return;
    manager->count_ms = now_ms + COUNT_MS;
    manager->recount = false;
    manager->polls = atomic_load(&manager->scoreboard->workers->polls);
    for (int i = 0; i < manager->scoreboard->worker_count; i++) {
        if (!scoreboard_is_sound(manager->scoreboard, i) || has_not_begun(manager, i, now_ms))
            kill_broken(manager, i);
        idle += atomic_load(&scoreboard_slot(manager->scoreboard, i)->state) == SLOT_IDLE;
    }
    atomic_store(&manager->scoreboard->workers->idle, idle);
    read_permits_mend(manager->scoreboard);
}

/* ---- a reload */

static void leave_word(int fd, int pid)
{
    if (pid > 0 && write(fd, &pid, sizeof pid) != sizeof pid)
        log_write(LOG_LEVEL_ERROR, "cannot pass on process id %d: %s", pid, strerror(errno));
}

/* Writes down all children, old managers first, for the program that is executed next. */
static bool leave_children(const struct manager *manager, int fd, pid_t old_manager)
{
    char text[32];

    leave_word(fd, old_manager);
    for (int i = 0; i < manager->old.manager_count; i++) /* the last reload is not long ago */
        leave_word(fd, manager->old.managers[i]);
    for (int i = 0; i < manager->old.other_count; i++)
        leave_word(fd, manager->old.others[i]);
    for (int i = 0; i < manager->scoreboard->worker_count; i++)
        leave_word(fd, scoreboard_pid(manager->scoreboard, i));
    for (int i = 0; i < atomic_load(&manager->scoreboard->manager->readers); i++)
        leave_word(fd, manager->readers.pids[i]);
    (void)snprintf(text, sizeof text, "%d %d", fd, manager->old.manager_count + 1);
    return setenv(OLD_CHILDREN, text, 1) == 0;
}

/*
 * In the process just forked: waits until the other process has executed the new program, which closes its end of
 * the pipe, and goes on as the old manager. The children are not its own.
 */
static void become_old(struct manager *manager, int executed)
{
    char failed;

    (void)prctl(PR_SET_NAME, "pgpoll-old");
    if (prctl(PR_SET_PDEATHSIG, SIGTERM) != 0 || read(executed, &failed, 1) != 0 ||
        getppid() != manager->scoreboard->manager_pid)
        _exit(EXIT_SUCCESS); /* not by exit(): the connections are the other process's */
    (void)close(executed);
    fork_server_release(&manager->fork_server);
    readers_release(&manager->readers);
    manager->old.manager_count = manager->old.other_count = 0;
    manager->is_old = true;
}

/* Returns in the old manager or, if the program could not be executed, in the process that stays as it is. */
static void reload(struct manager *manager)
{
    int fd = memfd_create("pgpoll-old-children", 0), ends[2] = { -1, -1 };
    pid_t pid = -1;

    manager->reloads = false;
    fork_server_end(&manager->fork_server);
    if (fd >= 0 && pipe2(ends, O_CLOEXEC) == 0)
        pid = fork();
    if (pid == 0) {
        (void)close(ends[1]);
        (void)close(fd);
        become_old(manager, ends[0]);
        return;
    }
    if (pid > 0 && leave_children(manager, fd, pid)) {
        log_write(LOG_LEVEL_INFO, "reloading: process %d serves the polls that wait now", (int)pid);
        /* Our signals stay blocked: one that comes before the new program looks for it must not end it. */
        (void)execvp(manager->argv[0], manager->argv);
    }
    log_write(LOG_LEVEL_ERROR, "cannot reload, staying as it is: %s: %s", manager->argv[0], strerror(errno));
    if (pid > 0 && write(ends[1], "", 1) != 1)
        (void)kill(pid, SIGKILL);
    (void)unsetenv(OLD_CHILDREN);
    (void)close(ends[0]);
    (void)close(ends[1]);
    (void)close(fd);
}

/* Learns of the old children. */
static bool take_over(struct manager *manager)
{
    struct old *old = &manager->old;
    const char *text = getenv(OLD_CHILDREN);
    char *end = NULL;
    int fd = text ? (int)strtol(text, &end, 10) : -1, count = 0;
    long manager_count = text ? strtol(end, NULL, 10) : 0;
    off_t size = fd >= 0 ? lseek(fd, 0, SEEK_END) : 0;
    bool taken = true;

    if (size > 0) {
        old->managers = malloc((size_t)size);
        taken = old->managers && pread(fd, old->managers, (size_t)size, 0) == size;
        count = taken ? (int)((size_t)size / sizeof *old->managers) : 0;
    }
    if (count > 0) {
        old->manager_count = manager_count < count ? (int)manager_count : count;
        old->others = old->managers + old->manager_count;
        old->other_count = count - old->manager_count;
    }
    if (fd >= 0)
        (void)close(fd);
    (void)unsetenv(OLD_CHILDREN);
    old->due_ms = clock_monotonic_ms() + REPLACE_MS;
    return taken;
}

/* How many workers have begun to accept requests; they may be busy already. */
static int begun_count(const struct scoreboard *scoreboard)
{
    int begun = 0;

    for (int i = 0; i < scoreboard->worker_count; i++)
        begun += atomic_load(&scoreboard_slot(scoreboard, i)->state) != SLOT_EMPTY;
    return begun;
}

/*
 * Each old manager has its database connections, so one reload waits for the end of another. It does not wait for
 * a program whose workers do not begin: it may be there to replace that.
 */
static bool may_reload(const struct manager *manager)
{
    return manager->old.manager_count == 0 ||
           (manager->old.manager_count == 1 && begun_count(manager->scoreboard) == 0);
}

static void signal_all(const pid_t *pids, int count, int number)
{
    for (int i = 0; i < count; i++) {
        if (number == SIGKILL)
            log_write(LOG_LEVEL_WARNING, "process %d did not end in time: killed", (int)pids[i]);
        (void)kill(pids[i], number);
    }
}

static int64_t end_due_ms(const struct manager *manager)
{
    return clock_monotonic_ms() + manager->config->query_timeout_s * 1000 + END_MS;
}

/* Steps 5 and 7 of a reload. */
static void end_old(struct manager *manager, int64_t now_ms)
{
    struct old *old = &manager->old;

    if (old->manager_count + old->other_count == 0)
        return;
    if (old->stage == OLD_SERVE && (now_ms >= old->due_ms || manager->stopping ||
                                    begun_count(manager->scoreboard) == manager->scoreboard->worker_count)) {
        signal_all(old->managers, old->manager_count, SIGTERM);
        old->stage = OLD_MANAGERS_END;
        old->due_ms = now_ms + OLD_MANAGER_MS;
    }
    if (old->stage == OLD_MANAGERS_END && old->manager_count == 0) {
        signal_all(old->others, old->other_count, SIGTERM);
        old->stage = OLD_OTHERS_END;
        old->due_ms = end_due_ms(manager);
    }
    if (old->stage != OLD_SERVE && now_ms >= old->due_ms) {
        signal_all(old->managers, old->manager_count, SIGKILL);
        if (old->stage == OLD_OTHERS_END)
            signal_all(old->others, old->other_count, SIGKILL);
        old->due_ms = INT64_MAX;
    }
}

/* When end_old() has something to do. */
static int64_t old_due_ms(const struct manager *manager)
{
    const struct old *old = &manager->old;

    if (old->manager_count + old->other_count == 0)
        return INT64_MAX;
    return old->stage == OLD_SERVE ? clock_min(old->due_ms, clock_monotonic_ms() + RELEASE_AGAIN_MS)
                                   : old->due_ms;
}

/* ---- an old manager */

/* Step 6 of a reload: tells a few more workers to end. */
static void drain(struct manager *manager, int64_t now_ms)
{
    const int count = manager->scoreboard->worker_count;
    const int end = (int)clock_min(manager->drained + roll_step(manager), count);

    if (now_ms < manager->drain_ms)
        return;
    for (; manager->drained < end; manager->drained++) {
        const int pid = scoreboard_pid(manager->scoreboard, manager->drained);

        if (pid > 0)
            (void)kill(pid, SIGTERM);
    }
    manager->drain_ms = now_ms + ROLL_STEP_MS;
    if (manager->drained == count && manager->end_ms == INT64_MAX)
        manager->end_ms = now_ms + LAST_POLLS_MS;
}

/* Whether its workers have answered their last polls, as far as they do in time. */
static bool has_drained(const struct manager *manager, int64_t now_ms)
{
    if (manager->drained < manager->scoreboard->worker_count)
        return false;
    for (int i = 0; i < manager->scoreboard->worker_count; i++)
        if (atomic_load(&scoreboard_slot(manager->scoreboard, i)->state) > SLOT_IDLE)
            return now_ms >= manager->end_ms;
    return true;
}

/* ---- the loop */

static void stop(struct manager *manager)
{
    if (manager->stopping)
        return;
    manager->stopping = true;
    if (manager->is_old)
        return;
    signal_workers(manager, SIGTERM);
    manager->end_ms = end_due_ms(manager);
}

static bool has_children(const struct manager *manager)
{
    return manager->running > 0 || manager->old.manager_count + manager->old.other_count > 0 ||
           atomic_load(&manager->scoreboard->manager->readers) > 0 || manager->fork_server.pid > 0;
}

static bool has_ended(const struct manager *manager)
{
    return manager->stopping &&
           (manager->is_old ? has_drained(manager, clock_monotonic_ms()) : !has_children(manager));
}

/* Told to end: lets the readers end after the last worker, and kills what has not ended in time. */
static void end_children(struct manager *manager, int64_t now_ms)
{
    if (manager->running == 0) {
        fork_server_kill(&manager->fork_server);
        readers_close(&manager->readers);
    }
    if (now_ms < manager->end_ms)
        return;
    for (int i = 0; i < manager->scoreboard->worker_count; i++) {
        const pid_t pid = scoreboard_pid(manager->scoreboard, i);

        signal_all(&pid, pid > 0, SIGKILL);
    }
    signal_all(manager->readers.pids, atomic_load(&manager->scoreboard->manager->readers), SIGKILL);
    manager->end_ms = INT64_MAX;
}

static void take_signals(struct manager *manager)
{
    struct signalfd_siginfo signal;

    while (read(manager->signal_fd, &signal, sizeof signal) == sizeof signal) {
        if (signal.ssi_signo == SIGCHLD) {
            reap(manager);
        } else if (signal.ssi_signo == SIGHUP) {
            manager->reloads = !manager->is_old;
        } else {
            stop(manager);
        }
    }
}

/* A question goes to the authorizer first if it has to, then to the relay. */
static void take_question(struct manager *manager, int number)
{
    const enum question_taken taken = question_take(manager->scoreboard, number);

    if (taken == QUESTION_BROKEN)
        kill_broken(manager, number);
    else if (taken == QUESTION_TAKEN && scoreboard_question(manager->scoreboard, number)->authorize)
        authorizer_ask(manager->authorizer, number);
    else if (taken == QUESTION_TAKEN)
        relay_ask(manager->relay, number);
}

static void take_questions(struct manager *manager)
{
    int number = -1;

    while ((number = question_next_asker(manager->scoreboard, number + 1)) >= 0)
        take_question(manager, number);
}

static void take_permissions(struct manager *manager)
{
    enum error answer;
    int number;

    while ((number = authorizer_take(manager->authorizer, &answer)) >= 0) {
        if (answer == ERROR_DENIED) /* so it does not allow everything any more */
            atomic_store(&manager->scoreboard->manager->open_until_ms, 0);
        if (answer)
            question_answer(manager->scoreboard, number, answer);
        else
            relay_ask(manager->relay, number);
    }
}

/* When to look after the workers. */
static int64_t workers_due_ms(const struct manager *manager)
{
    int64_t due_ms = clock_min(manager->release_ms, count_due_ms(manager));

    if (!manager->is_old && manager->running < manager->scoreboard->worker_count &&
        fork_server_is_ready(&manager->fork_server))
        due_ms = clock_min(due_ms, manager->spawn_ms);
    return due_ms;
}

static int64_t children_due_ms(const struct manager *manager)
{
    int64_t due_ms = manager->stopping ? manager->end_ms : workers_due_ms(manager);

    if (manager->is_old)
        return manager->stopping ? clock_min(due_ms, manager->drain_ms) : due_ms;
    due_ms = clock_min(due_ms, clock_min(fork_server_due_ms(&manager->fork_server), old_due_ms(manager)));
    return manager->stopping && manager->running == 0 ? due_ms
                                                      : clock_min(due_ms, readers_due_ms(&manager->readers));
}

static int sleep_ms(const struct manager *manager)
{
    int64_t due_ms = clock_min(children_due_ms(manager), authorizer_due_ms(manager->authorizer)), left_ms;

    due_ms = clock_min(due_ms,
                       clock_min(relay_due_ms(manager->relay), stats_writer_due_ms(manager->stats_writer)));
    left_ms = due_ms - clock_monotonic_ms();
    return left_ms <= 0 ? 0 : (int)clock_min(left_ms, LONGEST_SLEEP_MS);
}

static void keep_children(struct manager *manager, int64_t now_ms)
{
    take_spawned(manager);
    end_old(manager, now_ms);
    if (manager->stopping)
        end_children(manager, now_ms);
    else if (manager->running < manager->scoreboard->worker_count && now_ms >= manager->spawn_ms)
        spawn_missing(manager);
    if (!manager->stopping || manager->running > 0)
        readers_keep(&manager->readers, &manager->usual_mask);
}

static void turn(struct manager *manager)
{
    struct pollfd fds[] = { { .fd = manager->signal_fd, .events = POLLIN },
                            { .fd = manager->scoreboard->latch, .events = POLLIN },
                            relay_pollfd(manager->relay),
                            stats_writer_pollfd(manager->stats_writer),
                            authorizer_pollfd(manager->authorizer),
                            fork_server_pollfd(&manager->fork_server) };
    int ready = poll(fds, sizeof fds / sizeof *fds, sleep_ms(manager));
    int64_t now_ms = clock_monotonic_ms();
    eventfd_t rung;

    if (ready > 0 && fds[0].revents)
        take_signals(manager);
    if (manager->reloads && !manager->stopping && may_reload(manager))
        reload(manager);
    if (ready > 0 && fds[1].revents)
        (void)eventfd_read(manager->scoreboard->latch, &rung);
    take_questions(manager);
    authorizer_step(manager->authorizer, ready > 0 && fds[4].revents);
    take_permissions(manager);
    relay_step(manager->relay, ready > 0 && fds[2].revents);
    stats_writer_step(manager->stats_writer, ready > 0 && fds[3].revents);
    if (!manager->is_old)
        keep_children(manager, now_ms);
    else if (manager->stopping)
        drain(manager, now_ms);
    log_report_lost();
    if (manager->stopping)
        return;
    count_idle(manager, now_ms);
    keep_reserve(manager, now_ms);
}

static bool catch_signals(struct manager *manager)
{
    static const int signals[] = { SIGCHLD, SIGTERM, SIGINT, SIGUSR1, SIGHUP };
    sigset_t ours;

    /* If whoever started us ignores it, so do we, and are told of no death (sigaction(2)). */
    (void)signal(SIGCHLD, SIG_DFL);
    (void)signal(SIGPIPE, SIG_IGN); /* of a log that nobody reads any more */
    (void)sigemptyset(&ours);
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        (void)sigaddset(&ours, signals[i]);
    manager->signal_fd = signalfd(-1, &ours, SFD_NONBLOCK | SFD_CLOEXEC);
    return manager->signal_fd >= 0 && sigprocmask(SIG_BLOCK, &ours, &manager->usual_mask) == 0;
}

/* So many topics may be listened to: some for each worker, within reason. */
static int topic_room(int64_t workers)
{
    int64_t room = workers * 4;

    return (int)(room < 4096 ? 4096 : room > 65536 ? 65536 : room);
}

static bool set_up(struct manager *manager, const struct config *config)
{
    manager->scoreboard = scoreboard_new(
        (int)config->workers, (int)config->max_topics, topic_room(config->workers),
        (size_t)config->window_bytes / MESSAGE_BYTES, (size_t)config->window_bytes, (int)config->connections);
    if (!manager->scoreboard)
        return false;
    manager->relay = relay_new(config, manager->scoreboard);
    manager->authorizer = authorizer_new(config, manager->scoreboard);
    manager->stats_writer = stats_writer_new(config, manager->scoreboard);
    manager->spawned_ms = calloc((size_t)manager->scoreboard->worker_count, sizeof *manager->spawned_ms);
    manager->release_ms = manager->end_ms = INT64_MAX;
    return manager->relay && manager->authorizer && manager->stats_writer && manager->spawned_ms &&
           readers_init(&manager->readers, manager->scoreboard) &&
           fork_server_init(&manager->fork_server, manager->scoreboard) && take_over(manager) &&
           catch_signals(manager);
}

int manager_run(const struct config *config, char **argv)
{
    struct manager manager = {
        .config = config, .argv = argv, .fork_server = { .socket = -1 }, .readers = { .queue = -1 }
    };
    int status = EXIT_FAILURE;

    if (set_up(&manager, config)) {
        log_write(LOG_LEVEL_INFO, "starting %d workers", manager.scoreboard->worker_count);
        while (!has_ended(&manager))
            turn(&manager);
        log_write(LOG_LEVEL_INFO, "all workers have ended");
        stats_writer_finish(manager.stats_writer, clock_monotonic_ms() + LAST_WRITE_MS);
        status = EXIT_SUCCESS;
    } else {
        log_write(LOG_LEVEL_ERROR, "cannot set up the manager: %s", strerror(errno));
    }
    relay_free(manager.relay);
    authorizer_free(manager.authorizer);
    stats_writer_free(manager.stats_writer);
    fork_server_release(&manager.fork_server);
    readers_release(&manager.readers);
    scoreboard_free(manager.scoreboard);
    free(manager.spawned_ms);
    free(manager.old.managers);
    return status;
}
