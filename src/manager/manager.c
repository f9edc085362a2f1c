#include "manager/manager.h"

#include "core/clock.h"
#include "core/config.h"
#include "core/log.h"
#include "manager/authorizer.h"
#include "manager/children.h"
#include "manager/fork_server.h"
#include "manager/open_to_all.h"
#include "manager/reader_pool.h"
#include "manager/reexec.h"
#include "manager/relay.h"
#include "manager/spare_workers.h"
#include "manager/stats_writer.h"
#include "shared/scoreboard.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    COUNT_MS = 1000,
    LONGEST_SLEEP_MS = 60 * 1000,
    BEGIN_MS = 10 * 1000,  /* a worker takes to begin, at most */
    QUICK_DEATH_MS = 1000, /* a worker that lived less long may be followed by one that does not, either */
    FIRST_PAUSE_MS = 100,
    LAST_PAUSE_MS = 5000,
    MESSAGE_BYTES = 256 /* of window for an entry, on average */
};

struct manager {
    const struct config *config;
    struct scoreboard *scoreboard;
    struct relay *relay;
    struct authorizer *authorizer;
    struct stats_writer *stats_writer;
    struct fork_server fork_server;
    struct reader_pool readers;
    struct reexec reexec;
    struct spare_workers spare_workers;
    sigset_t usual_mask;
    int signal_fd;
    int running; /* workers, and those that the fork server was asked for */
    int64_t *spawned_ms;
    bool stopping, reloads; /* as soon as it can */
    bool recount;           /* idle workers are to be counted, whether or not there was a poll */
    uint64_t polls;         /* when they were counted last */
    int64_t count_ms, spawn_ms, spawn_pause_ms;
    int64_t end_ms; /* while stopping: children that are left are killed then */
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

static void spawn_missing(struct manager *manager)
{
    const bool rolls = manager->reexec.manager_count > 0;
    const int enough =
        rolls ? manager->running + reexec_step_size(manager->scoreboard) : manager->scoreboard->worker_count;

    if (rolls)
        manager->spawn_ms = clock_monotonic_ms() + REEXEC_STEP_MS;
    for (int i = 0; i < manager->scoreboard->worker_count; i++) {
        if (manager->running == enough || !fork_server_is_ready(&manager->fork_server))
            return;
        if (!is_missing(manager, i))
            continue;
        scoreboard_forget_worker(manager->scoreboard,
                                 i); /* again: a broken worker may have written there since */
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
    scoreboard_forget_worker(manager->scoreboard, number);
    scoreboard_wake_stats_writer(manager->scoreboard);
}

/* A child has died and was waited for. Returns whether it was a worker that has lived for a moment only. */
static bool bury(struct manager *manager, pid_t pid, int status)
{
    const bool fork_server = fork_server_was(&manager->fork_server, pid),
               reader = readers_had(&manager->readers, pid);
    const bool old_manager = reexec_forget(&manager->reexec, pid);
    const int number = number_of(manager, pid);

    if (!fork_server || !manager->stopping)
        children_log_death(fork_server   ? "nursery"
                           : reader      ? "reader"
                           : old_manager ? "old manager"
                                         : "worker",
                           pid, status);
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

    for (int i = manager->reexec.manager_count - 1; i >= 0; i--)
        (void)reap_one(manager, manager->reexec.managers[i]);
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
    bool died_young = manager->reexec.manager_count > 0 && reap_new(manager);
    int status;
    pid_t pid;

    while (manager->reexec.manager_count == 0 && (pid = waitpid(-1, &status, WNOHANG)) > 0)
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

/* ---- broken workers */

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
    if (now_ms < count_due_ms(manager))
        return;
    manager->count_ms = now_ms + COUNT_MS;
    manager->recount = false;
    manager->polls = atomic_load(&manager->scoreboard->workers->polls);
    for (int i = 0; i < manager->scoreboard->worker_count; i++)
        if (!scoreboard_is_sound(manager->scoreboard, i) || has_not_begun(manager, i, now_ms))
            kill_broken(manager, i);
    spare_workers_count(manager->scoreboard);
    scoreboard_mend_reads(manager->scoreboard);
}

/* ---- the loop */

static void stop(struct manager *manager)
{
    if (manager->stopping)
        return;
    manager->stopping = true;
    if (manager->reexec.is_old)
        return;
    signal_workers(manager, SIGTERM);
    manager->end_ms = clock_monotonic_ms() + children_end_ms(manager->config);
}

static bool has_children(const struct manager *manager)
{
    return manager->running > 0 || reexec_has_children(&manager->reexec) ||
           atomic_load(&manager->scoreboard->manager->readers) > 0 || manager->fork_server.pid > 0;
}

static bool has_ended(const struct manager *manager)
{
    return manager->stopping &&
           (manager->reexec.is_old ? reexec_has_drained(&manager->reexec, clock_monotonic_ms())
                                   : !has_children(manager));
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

        children_signal(&pid, pid > 0, SIGKILL);
    }
    children_signal(manager->readers.pids, atomic_load(&manager->scoreboard->manager->readers), SIGKILL);
    manager->end_ms = INT64_MAX;
}

static void take_signals(struct manager *manager)
{
    struct signalfd_siginfo signal;

    while (read(manager->signal_fd, &signal, sizeof signal) == sizeof signal) {
        if (signal.ssi_signo == SIGCHLD) {
            reap(manager);
        } else if (signal.ssi_signo == SIGHUP) {
            manager->reloads = !manager->reexec.is_old;
        } else {
            stop(manager);
        }
    }
}

/* A question goes to the authorizer first if it has to, then to the relay. */
static void take_question(struct manager *manager, int number)
{
    const enum question_taken taken = scoreboard_take_question(manager->scoreboard, number);

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

    while ((number = scoreboard_next_asker(manager->scoreboard, number + 1)) >= 0)
        take_question(manager, number);
}

static void take_permissions(struct manager *manager)
{
    enum error answer;
    int number;

    while ((number = authorizer_take(manager->authorizer, &answer)) >= 0) {
        if (answer == ERROR_DENIED)
            open_to_all_deny(manager->scoreboard);
        if (answer)
            scoreboard_answer(manager->scoreboard, number, answer);
        else
            relay_ask(manager->relay, number);
    }
}

/* When to look after the workers. */
static int64_t workers_due_ms(const struct manager *manager)
{
    int64_t due_ms = clock_min(spare_workers_due_ms(&manager->spare_workers), count_due_ms(manager));

    if (!manager->reexec.is_old && manager->running < manager->scoreboard->worker_count &&
        fork_server_is_ready(&manager->fork_server))
        due_ms = clock_min(due_ms, manager->spawn_ms);
    return due_ms;
}

static int64_t children_due_ms(const struct manager *manager)
{
    int64_t due_ms;

    if (manager->reexec.is_old)
        return manager->stopping ? reexec_drain_due_ms(&manager->reexec) : workers_due_ms(manager);
    due_ms = manager->stopping ? manager->end_ms : workers_due_ms(manager);
    due_ms = clock_min(due_ms,
                       clock_min(fork_server_due_ms(&manager->fork_server), reexec_due_ms(&manager->reexec)));
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
    reexec_end_old(&manager->reexec, manager->stopping, now_ms);
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
    if (manager->reloads && !manager->stopping && reexec_may_begin(&manager->reexec)) {
        manager->reloads = false;
        reexec_begin(&manager->reexec, &manager->fork_server, &manager->readers);
    }
    if (ready > 0 && fds[1].revents)
        (void)eventfd_read(manager->scoreboard->latch, &rung);
    take_questions(manager);
    authorizer_step(manager->authorizer, ready > 0 && fds[4].revents);
    take_permissions(manager);
    relay_step(manager->relay, ready > 0 && fds[2].revents);
    stats_writer_step(manager->stats_writer, ready > 0 && fds[3].revents);
    if (!manager->reexec.is_old)
        keep_children(manager, now_ms);
    else if (manager->stopping)
        reexec_drain(&manager->reexec, now_ms);
    log_report_lost();
    if (manager->stopping)
        return;
    count_idle(manager, now_ms);
    spare_workers_keep(&manager->spare_workers, now_ms);
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

static bool set_up(struct manager *manager, const struct config *config, char **argv)
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
    manager->end_ms = INT64_MAX;
    spare_workers_init(&manager->spare_workers, manager->scoreboard);
    return manager->relay && manager->authorizer && manager->stats_writer && manager->spawned_ms &&
           readers_init(&manager->readers, manager->scoreboard) &&
           fork_server_init(&manager->fork_server, manager->scoreboard) &&
           reexec_init(&manager->reexec, config, argv, manager->scoreboard) && catch_signals(manager);
}

int manager_run(const struct config *config, char **argv)
{
    struct manager manager = { .config = config,
                               .fork_server = { .socket = -1 },
                               .readers = { .queue = -1 } };
    int status = EXIT_FAILURE;

    if (set_up(&manager, config, argv)) {
        log_write(LOG_LEVEL_INFO, "starting %d workers", manager.scoreboard->worker_count);
        while (!has_ended(&manager))
            turn(&manager);
        log_write(LOG_LEVEL_INFO, "all workers have ended");
        stats_writer_finish(manager.stats_writer, clock_monotonic_ms() + REEXEC_LAST_WRITE_MS);
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
    reexec_release(&manager.reexec);
    return status;
}
