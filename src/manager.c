#include "manager.h"

#include "authorizer.h"
#include "clock.h"
#include "config.h"
#include "feeder.h"
#include "log.h"
#include "nursery.h"
#include "readers.h"
#include "scoreboard.h"
#include "stats_writer.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    RELEASE_AGAIN_MS = 20,
    SPAWN_BATCH = 64,
    COUNT_MS = 1000,
    LONGEST_SLEEP_MS = 60 * 1000,
    BEGIN_MS = 10 * 1000,  /* a worker takes to begin, at most */
    QUICK_DEATH_MS = 1000, /* a worker that lived less long may be followed by one that does not, either */
    FIRST_PAUSE_MS = 100,
    LAST_PAUSE_MS = 5000,
    REPLACE_MS = 10 * 1000, /* old workers end at the latest so long after a restart */
    MESSAGE_BYTES = 256     /* of window for an entry, on average */
};

/* A descriptor that holds the old workers' process ids, left by the program that ran in this process before. */
static const char OLD_WORKERS[] = CONFIG_OLD_WORKERS;

struct manager {
    const struct config *config;
    struct scoreboard *scoreboard;
    struct feeder *feeder;
    struct authorizer *authorizer;
    struct stats_writer *stats_writer;
    struct nursery nursery;
    struct readers readers;
    char **argv;
    sigset_t usual_mask;
    int signal_fd;
    int *old_pids; /* workers of the program before */
    int old_count;
    int running; /* workers */
    int64_t *spawned_ms;
    bool stopping;
    bool recount;   /* idle workers are to be counted, whether or not there was a poll */
    uint64_t polls; /* when they were counted last */
    int64_t count_ms, spawn_ms, spawn_pause_ms, release_ms, replace_ms;
};

/* ---- workers */

static bool spawn(struct manager *manager, int number)
{
    if (!nursery_fork(&manager->nursery, number, &manager->usual_mask)) {
        log_write(LOG_LEVEL_ERROR, "cannot start a worker: %s", strerror(errno));
        return false;
    }
    manager->spawned_ms[number] = clock_monotonic_ms();
    manager->running++;
    return true;
}

static void pause_spawning(struct manager *manager)
{
    manager->spawn_pause_ms = manager->spawn_pause_ms ? manager->spawn_pause_ms * 2 : FIRST_PAUSE_MS;
    if (manager->spawn_pause_ms > LAST_PAUSE_MS)
        manager->spawn_pause_ms = LAST_PAUSE_MS;
    manager->spawn_ms = clock_monotonic_ms() + manager->spawn_pause_ms;
}

/* A few at a time: those that are there already have questions. */
static void spawn_missing(struct manager *manager)
{
    const int enough = manager->running + SPAWN_BATCH;

    for (int i = 0; i < manager->scoreboard->worker_count && manager->running < enough; i++)
        if (scoreboard_pid(manager->scoreboard, i) == 0 && !spawn(manager, i)) {
            pause_spawning(manager);
            return;
        }
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
    authorizer_forget_worker(manager->authorizer, number);
    feeder_forget_worker(manager->feeder, number);
    scoreboard_forget_worker(manager->scoreboard, number);
    scoreboard_wake_stats_writer(manager->scoreboard);
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

static void reap(struct manager *manager)
{
    bool died_young = false;
    int status;
    pid_t pid;

    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        const bool nursery = nursery_was(&manager->nursery, pid), reader = readers_had(&manager->readers, pid);
        int number = number_of(manager, pid);

        log_death(nursery ? "nursery" : reader ? "reader" : "worker", pid, status);
        for (int i = 0; i < manager->old_count; i++)
            if (manager->old_pids[i] == pid)
                manager->old_pids[i--] = manager->old_pids[--manager->old_count];
        if (number < 0)
            continue;
        manager->running--;
        manager->recount = true;
        if (clock_monotonic_ms() - manager->spawned_ms[number] < QUICK_DEATH_MS)
            died_young = true;
        else
            manager->spawn_pause_ms = 0;
        clear_slot(manager, number);
    }
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
    log_write(LOG_LEVEL_ERROR, "worker %d has damaged its shared memory and is killed; another one replaces it", pid);
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

        if (atomic_load(&slot->state) == SLOT_WAITING && !atomic_load(&slot->released) &&
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
    manager->release_ms = now_ms + RELEASE_AGAIN_MS; /* those released meanwhile have become free, or are about to */
    while (wanted-- > 0 && (number = longest_waiting(scoreboard, now_ms)) >= 0)
        scoreboard_release(scoreboard, number);
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
    scoreboard_mend_reads(manager->scoreboard);
}

/* ---- a new program in the old one's place */

static void leave_word(int fd, int pid)
{
    if (fd >= 0 && pid > 0 && write(fd, &pid, sizeof pid) != sizeof pid)
        log_write(LOG_LEVEL_ERROR, "cannot leave word of worker %d: %s", pid, strerror(errno));
}

static void run_anew(struct manager *manager)
{
    int fd = memfd_create("pgpoll-old-workers", 0);
    char text[16];

    for (int i = 0; i < manager->scoreboard->worker_count; i++)
        leave_word(fd, scoreboard_pid(manager->scoreboard, i));
    for (int i = 0; i < manager->old_count; i++) /* the last time is not long ago */
        leave_word(fd, manager->old_pids[i]);
    (void)snprintf(text, sizeof text, "%d", fd);
    if (fd < 0 || setenv(OLD_WORKERS, text, 1) != 0) {
        log_write(LOG_LEVEL_ERROR, "cannot run anew: %s", strerror(errno));
        return;
    }
    log_write(LOG_LEVEL_INFO, "running anew");
    /*
     * Nobody answers old workers' questions from now on. Those that wait for messages go on and end after their poll. The others end
     * at once, or read the table for a poll that they have just taken. Further requests wait for new workers.
     */
    atomic_store(&manager->scoreboard->manager->left, 1);
    for (int i = 0; i < manager->scoreboard->worker_count; i++) {
        int pid = scoreboard_pid(manager->scoreboard, i);

        if (atomic_load(&scoreboard_slot(manager->scoreboard, i)->state) != SLOT_WAITING && pid > 0)
            (void)kill(pid, SIGTERM);
    }
    /* Our signals stay blocked: one that comes before the new program looks for it must not end it. */
    (void)execvp(manager->argv[0], manager->argv);
    log_write(LOG_LEVEL_ERROR, "cannot run %s anew, staying as it is: %s", manager->argv[0], strerror(errno));
    atomic_store(&manager->scoreboard->manager->left, 0);
    (void)unsetenv(OLD_WORKERS);
    (void)close(fd);
}

/* Learns of the old workers; they go on until new ones are there. */
static bool take_over(struct manager *manager)
{
    const char *text = getenv(OLD_WORKERS);
    int fd = text ? (int)strtol(text, NULL, 10) : -1;
    off_t size = fd >= 0 ? lseek(fd, 0, SEEK_END) : 0;
    bool taken = true;

    if (size > 0) {
        manager->old_pids = malloc((size_t)size);
        taken = manager->old_pids && pread(fd, manager->old_pids, (size_t)size, 0) == size;
        manager->old_count = taken ? (int)((size_t)size / sizeof *manager->old_pids) : 0;
    }
    if (fd >= 0)
        (void)close(fd);
    (void)unsetenv(OLD_WORKERS);
    manager->replace_ms = clock_monotonic_ms() + REPLACE_MS;
    return taken;
}

/* Whether every worker has begun its work, at which it may be busy already. */
static bool all_have_begun(const struct scoreboard *scoreboard)
{
    for (int i = 0; i < scoreboard->worker_count; i++)
        if (atomic_load(&scoreboard_slot(scoreboard, i)->state) == SLOT_EMPTY)
            return false;
    return true;
}

/* Not a moment later than need be: the old workers have no manager now, so nothing wakes their polls. */
static void end_old_workers(struct manager *manager, int64_t now_ms)
{
    if (manager->replace_ms == INT64_MAX ||
        (!all_have_begun(manager->scoreboard) && now_ms < manager->replace_ms && !manager->stopping))
        return;
    manager->replace_ms = INT64_MAX;
    for (int i = 0; i < manager->old_count; i++)
        (void)kill(manager->old_pids[i], SIGTERM);
}

/* ---- the loop */

static void take_signals(struct manager *manager)
{
    struct signalfd_siginfo signal;

    while (read(manager->signal_fd, &signal, sizeof signal) == sizeof signal) {
        if (signal.ssi_signo == SIGCHLD) {
            reap(manager);
        } else if (signal.ssi_signo == SIGHUP) {
            if (!manager->stopping)
                run_anew(manager);
        } else {
            manager->stopping = true;
            signal_workers(manager, SIGTERM);
        }
    }
}

/* A question goes to the authorizer first if it has to, then to the feeder. */
static void take_question(struct manager *manager, int number)
{
    const enum question_taken taken = scoreboard_take_question(manager->scoreboard, number);

    if (taken == QUESTION_BROKEN)
        kill_broken(manager, number);
    else if (taken == QUESTION_TAKEN && scoreboard_question(manager->scoreboard, number)->authorize)
        authorizer_ask(manager->authorizer, number);
    else if (taken == QUESTION_TAKEN)
        feeder_ask(manager->feeder, number);
}

static void take_questions(struct manager *manager)
{
    int number = -1;

    while ((number = scoreboard_next_asker(manager->scoreboard, number + 1)) >= 0)
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
            scoreboard_answer(manager->scoreboard, number, answer);
        else
            feeder_ask(manager->feeder, number);
    }
}

/* When to look after the workers. */
static int64_t workers_due_ms(const struct manager *manager)
{
    int64_t due_ms = clock_min(manager->release_ms, count_due_ms(manager));

    if (manager->running < manager->scoreboard->worker_count)
        due_ms = clock_min(due_ms, manager->spawn_ms);
    if (manager->replace_ms != INT64_MAX)
        due_ms = clock_min(due_ms, clock_monotonic_ms() + RELEASE_AGAIN_MS);
    return due_ms;
}

static int sleep_ms(const struct manager *manager)
{
    int64_t due_ms = manager->stopping ? INT64_MAX : workers_due_ms(manager), left_ms;

    due_ms = clock_min(due_ms, clock_min(feeder_due_ms(manager->feeder), stats_writer_due_ms(manager->stats_writer)));
    due_ms = clock_min(due_ms, clock_min(authorizer_due_ms(manager->authorizer), readers_due_ms(&manager->readers)));
    left_ms = due_ms - clock_monotonic_ms();
    return left_ms <= 0 ? 0 : (int)clock_min(left_ms, LONGEST_SLEEP_MS);
}

static void turn(struct manager *manager)
{
    struct pollfd fds[] = { { .fd = manager->signal_fd, .events = POLLIN },
                            { .fd = manager->scoreboard->doorbell, .events = POLLIN },
                            feeder_pollfd(manager->feeder),
                            stats_writer_pollfd(manager->stats_writer),
                            authorizer_pollfd(manager->authorizer) };
    int ready = poll(fds, 5, sleep_ms(manager));
    int64_t now_ms = clock_monotonic_ms();
    eventfd_t rung;

    if (ready > 0 && fds[0].revents)
        take_signals(manager);
    if (ready > 0 && fds[1].revents)
        (void)eventfd_read(manager->scoreboard->doorbell, &rung);
    take_questions(manager);
    authorizer_step(manager->authorizer, ready > 0 && fds[4].revents);
    take_permissions(manager);
    feeder_step(manager->feeder, ready > 0 && fds[2].revents);
    stats_writer_step(manager->stats_writer, ready > 0 && fds[3].revents);
    readers_keep(&manager->readers, &manager->usual_mask);
    end_old_workers(manager, now_ms);
    log_report_lost();
    if (manager->stopping)
        return;
    if (manager->running < manager->scoreboard->worker_count && now_ms >= manager->spawn_ms)
        spawn_missing(manager);
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
    manager->scoreboard = scoreboard_new((int)config->workers, (int)config->max_topics, topic_room(config->workers),
                                         (size_t)config->window_bytes / MESSAGE_BYTES, (size_t)config->window_bytes,
                                         (int)config->connections);
    if (!manager->scoreboard)
        return false;
    manager->feeder = feeder_new(config, manager->scoreboard);
    manager->authorizer = authorizer_new(config, manager->scoreboard);
    manager->stats_writer = stats_writer_new(config, manager->scoreboard);
    manager->spawned_ms = calloc((size_t)manager->scoreboard->worker_count, sizeof *manager->spawned_ms);
    manager->release_ms = INT64_MAX;
    return manager->feeder && manager->authorizer && manager->stats_writer && manager->spawned_ms &&
           readers_init(&manager->readers, manager->scoreboard) &&
           nursery_init(&manager->nursery, manager->scoreboard) && take_over(manager) && catch_signals(manager);
}

int manager_run(const struct config *config, char **argv)
{
    struct manager manager = {
        .config = config, .argv = argv, .nursery = { .socket = -1 }, .readers = { .queue = -1 }
    };
    int status = EXIT_FAILURE;

    if (set_up(&manager, config)) {
        log_write(LOG_LEVEL_INFO, "starting %d workers", manager.scoreboard->worker_count);
        while (!manager.stopping || manager.running > 0 || manager.old_count > 0)
            turn(&manager);
        log_write(LOG_LEVEL_INFO, "all workers have ended");
        status = EXIT_SUCCESS;
    } else {
        log_write(LOG_LEVEL_ERROR, "cannot set up the manager: %s", strerror(errno));
    }
    feeder_free(manager.feeder);
    authorizer_free(manager.authorizer);
    stats_writer_free(manager.stats_writer);
    nursery_release(&manager.nursery);
    readers_release(&manager.readers);
    scoreboard_free(manager.scoreboard);
    free(manager.spawned_ms);
    free(manager.old_pids);
    return status;
}
