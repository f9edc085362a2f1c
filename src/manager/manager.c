#include "manager/manager.h"

#include "core/backoff.h"
#include "core/clock.h"
#include "core/config.h"
#include "core/log.h"
#include "manager/authorizer.h"
#include "manager/children.h"
#include "manager/fork_server.h"
#include "manager/host_report.h"
#include "manager/inspection.h"
#include "manager/open_to_all.h"
#include "manager/reader_pool.h"
#include "manager/reexec.h"
#include "manager/relay.h"
#include "manager/spare_workers.h"
#include "manager/stats_writer.h"
#include "manager/worker_queue.h"
#include "shared/latch.h"
#include "shared/question.h"
#include "shared/scoreboard.h"
#include "shared/slot_reset.h"

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
    LONGEST_SLEEP_MS = 60 * 1000,
    MESSAGE_BYTES = 256, /* assumed average size of a message in the ring */
    /* maximum number of dead children that one turn of the loop removes: thousands may die at once */
    MOST_REAPED = 64,
    /* while an old manager lives, waitpid(2) is called for each worker; the time between two such rounds */
    REAP_PAUSE_MS = 100
};

struct manager {
    const struct config *config;
    struct scoreboard *scoreboard;
    struct relay *relay;
    struct authorizer *authorizer;
    struct open_to_all open_to_all;
    /* workers whose questions wait until the relay has looked at open_to_all */
    struct worker_queue undecided;
    struct stats_writer *stats_writer;
    struct fork_server fork_server;
    struct reader_pool reader_pool;
    struct reexec reexec;
    struct spare_workers spare_workers;
    struct inspection inspection;
    struct host_report host_report;
    sigset_t usual_mask; /* the signal mask that children get */
    int signal_fd;
    bool has_dead;            /* a child may have died that was not removed yet */
    bool paused_for_dead;     /* while has_dead is set: these deaths have made backoff pause */
    int64_t reap_ms;          /* while an old manager lives: when to look for dead workers at the earliest */
    int running;              /* number of workers that live or that the fork server was asked for */
    int64_t *spawned_ms;      /* by worker: when the fork server was asked for it */
    bool stopping;            /* this process was told to end, and PGPOLL_DRAIN_S has passed */
    int64_t drain_until_ms;   /* if it was told to end: when it stops serving polls; INT64_MAX: it was not */
    int spawn_error;          /* why the last attempt to fork workers failed; 0: it did not */
    int reload_failures;      /* how often this program could not be executed again */
    bool reload_requested;    /* a reload begins when reexec_may_begin() allows it */
    int64_t step_ms;          /* while a reload replaces the workers: when to fork the next few */
    struct backoff backoff;   /* no worker is forked before backoff.due_ms */
    int64_t kill_deadline_ms; /* while stopping: when to kill the children that have not ended */
};

/* ---- workers */

static int64_t spawn_due_ms(const struct manager *manager)
{
    return clock_max(manager->step_ms, manager->backoff.due_ms);
}

static void fail_spawning(struct manager *manager, int error)
{
    log_write(LOG_LEVEL_ERROR, "cannot start a worker: %s", strerror(error));
    manager->spawn_error = error;
    backoff_fail(&manager->backoff, clock_monotonic_ms());
    spare_workers_expect_none(&manager->spare_workers);
}

/* Drops the dead worker's questions and frees everything that it held. */
static void clear_slot(struct manager *manager, int worker)
{
    fork_server_forget_worker(&manager->fork_server, worker);
    worker_queue_remove(&manager->undecided, worker);
    authorizer_forget_worker(manager->authorizer, worker);
    relay_forget_worker(manager->relay, worker);
    slot_reset(manager->scoreboard, worker);
    latch_wake_stats_writer(manager->scoreboard);
}

static bool is_missing(const struct manager *manager, int worker)
{
    return scoreboard_pid(manager->scoreboard, worker) == 0 &&
           !fork_server_was_asked(&manager->fork_server, worker);
}

static void spawn_missing(struct manager *manager)
{
    const bool rolls = manager->reexec.manager_count > 0;
    const int enough =
        rolls ? manager->running + reexec_step_size(manager->scoreboard) : manager->scoreboard->worker_count;

    if (rolls)
        manager->step_ms = clock_monotonic_ms() + REEXEC_STEP_MS;
    for (int i = 0; i < manager->scoreboard->worker_count; i++) {
        if (manager->running == enough || !fork_server_is_ready(&manager->fork_server))
            return;
        if (!is_missing(manager, i))
            continue;
        /*
         * The slot was cleared when its last worker died, but another worker that is broken may have written
         * to it since, even a question.
         */
        clear_slot(manager, i);
        if (!fork_server_ask(&manager->fork_server, i, &manager->usual_mask)) {
            fail_spawning(manager, errno);
            return;
        }
        manager->spawned_ms[i] = clock_monotonic_ms();
        manager->running++;
        spare_workers_expect(&manager->spare_workers, manager->spawned_ms[i]);
    }
}

/*
 * Reads the fork server's results. Sends SIGTERM to workers that were forked after stop() had signalled all
 * workers.
 */
static void read_spawned(struct manager *manager)
{
    int worker, error, failed = 0;

    while (fork_server_take(&manager->fork_server, &worker, &error)) {
        const int pid = scoreboard_pid(manager->scoreboard, worker);

        if (error) {
            manager->running--;
            failed = error;
        } else if (manager->stopping && pid > 0) {
            (void)kill(pid, SIGTERM);
        }
    }
    if (failed)
        fail_spawning(manager, failed);
    else if (manager->running == manager->scoreboard->worker_count)
        manager->spawn_error = 0;
}

/* Returns the worker that has this process id, or -1 if there is none. */
static int worker_of(const struct manager *manager, pid_t pid)
{
    for (int i = 0; i < manager->scoreboard->worker_count; i++)
        if (scoreboard_pid(manager->scoreboard, i) == pid)
            return i;
    return -1;
}

/*
 * Removes a child whose death waitpid(2) has reported. Returns whether it was a worker that died within
 * CHILDREN_QUICK_DEATH_MS of its start.
 */
static bool forget_child(struct manager *manager, pid_t pid, int status)
{
    const bool fork_server = fork_server_forget_process(&manager->fork_server, pid),
               reader = reader_pool_forget_process(&manager->reader_pool, pid);
    const bool old_manager = reexec_forget_process(&manager->reexec, pid);
    const int worker = worker_of(manager, pid);

    /* At the end and for a reload, the manager itself kills the fork server. */
    if (!fork_server || !(manager->stopping || manager->reload_requested))
        children_log_death(fork_server   ? "fork server"
                           : reader      ? "reader"
                           : old_manager ? "old manager"
                           : worker >= 0 ? "worker"
                                         : "old process",
                           pid, status);
    if (worker < 0)
        return false;
    manager->running--;
    inspection_request(&manager->inspection);
    clear_slot(manager, worker);
    if (clock_monotonic_ms() - manager->spawned_ms[worker] < CHILDREN_QUICK_DEATH_MS)
        return true;
    backoff_reset(&manager->backoff);
    return false;
}

static bool reap_one(struct manager *manager, pid_t pid)
{
    int status;

    return pid > 0 && waitpid(pid, &status, WNOHANG) == pid && forget_child(manager, pid, status);
}

/*
 * Calls waitpid(2) for all children except old workers: an old manager signals those by process id, so the
 * kernel must not give their ids to other processes. So it asks about each worker, which takes long if they
 * are thousands, and does that every REAP_PAUSE_MS at most. Returns whether a worker died within
 * CHILDREN_QUICK_DEATH_MS of its start.
 */
static bool reap_new(struct manager *manager, int64_t now_ms)
{
    bool died_young = false;

    for (int i = manager->reexec.manager_count - 1; i >= 0; i--)
        (void)reap_one(manager, manager->reexec.managers[i]);
    (void)reap_one(manager, manager->fork_server.pid);
    for (int i = atomic_load(&manager->scoreboard->manager->readers) - 1; i >= 0; i--)
        (void)reap_one(manager, manager->reader_pool.readers[i].pid);
    if (now_ms < manager->reap_ms)
        return false;
    manager->has_dead = false;
    manager->reap_ms = now_ms + REAP_PAUSE_MS;
    for (int i = 0; i < manager->scoreboard->worker_count; i++)
        if (reap_one(manager, scoreboard_pid(manager->scoreboard, i)))
            died_young = true;
    return died_young;
}

/* Calls waitpid(2) for any children, at most MOST_REAPED of them. Returns as reap_new() does. */
static bool reap_any(struct manager *manager)
{
    bool died_young = false;
    int status;
    pid_t pid;

    for (int i = 0; i < MOST_REAPED; i++) {
        pid = waitpid(-1, &status, WNOHANG);
        manager->has_dead = pid > 0;
        if (!manager->has_dead)
            break;
        if (forget_child(manager, pid, status))
            died_young = true;
    }
    return died_young;
}

/* Delays the start of workers, once for all that died together. */
static void pause_for_dead(struct manager *manager, int64_t now_ms)
{
    if (manager->stopping || manager->paused_for_dead)
        return;
    backoff_fail(&manager->backoff, now_ms);
    spare_workers_expect_none(&manager->spare_workers);
    log_write(LOG_LEVEL_ERROR,
              "a worker died as soon as it was started: starting the next one in %" PRId64 " ms",
              manager->backoff.due_ms - now_ms);
    manager->paused_for_dead = true;
}

/* Removes dead children. Leaves has_dead set if there are more, for the next turn. */
static void reap(struct manager *manager, int64_t now_ms)
{
    bool died_young = manager->reexec.manager_count > 0 && reap_new(manager, now_ms);

    if (manager->reexec.manager_count == 0 && reap_any(manager))
        died_young = true;
    if (died_young)
        pause_for_dead(manager, now_ms);
    if (!manager->has_dead)
        manager->paused_for_dead = false;
}

static int64_t reap_due_ms(const struct manager *manager)
{
    if (!manager->has_dead)
        return INT64_MAX;
    return manager->reexec.manager_count > 0 ? manager->reap_ms : 0;
}

static void signal_workers(const struct manager *manager, int signal_number)
{
    for (int i = 0; i < manager->scoreboard->worker_count; i++) {
        int pid = scoreboard_pid(manager->scoreboard, i);

        if (pid > 0)
            (void)kill(pid, signal_number);
    }
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
    manager->kill_deadline_ms = clock_monotonic_ms() + children_end_ms(manager->config);
}

static bool is_draining(const struct manager *manager)
{
    return manager->drain_until_ms != INT64_MAX;
}

/*
 * Stops, or first serves polls for PGPOLL_DRAIN_S, in which load balancers learn from /messages/poll/health
 * to send them to other hosts.
 */
static void drain(struct manager *manager)
{
    const int64_t drain_ms = manager->config->drain_s * 1000;

    if (drain_ms == 0 || is_draining(manager) || manager->reexec.is_old) {
        stop(manager);
        return;
    }
    log_write(LOG_LEVEL_INFO, "ending in %" PRId64 " s, after load balancers have noticed it",
              manager->config->drain_s);
    manager->drain_until_ms = clock_monotonic_ms() + drain_ms;
    manager->reload_requested = false; /* the new program would not know that it drains */
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

/*
 * While stopping: lets the readers end after the last worker, and kills children that have not ended in time.
 */
static void end_children(struct manager *manager, int64_t now_ms)
{
    if (manager->running == 0) {
        fork_server_kill(&manager->fork_server);
        reader_pool_close(&manager->reader_pool);
    }
    if (now_ms < manager->kill_deadline_ms)
        return;
    for (int i = 0; i < manager->scoreboard->worker_count; i++) {
        const pid_t pid = scoreboard_pid(manager->scoreboard, i);

        children_signal(&pid, pid > 0, SIGKILL);
    }
    for (int i = 0; i < atomic_load(&manager->scoreboard->manager->readers); i++)
        children_signal(&manager->reader_pool.readers[i].pid, 1, SIGKILL);
    manager->kill_deadline_ms = INT64_MAX;
}

static void request_reload(struct manager *manager)
{
    manager->reload_requested = !manager->reexec.is_old && !is_draining(manager);
}

static void read_signals(struct manager *manager)
{
    struct signalfd_siginfo signal;

    while (read(manager->signal_fd, &signal, sizeof signal) == sizeof signal) {
        if (signal.ssi_signo == SIGCHLD) {
            manager->has_dead = true;
        } else if (signal.ssi_signo == SIGHUP) {
            request_reload(manager);
        } else if (signal.ssi_signo == SIGTERM) {
            drain(manager);
        } else {
            stop(manager);
        }
    }
}

/*
 * Answers a question without the authorizer: can_poll() and authenticate() are as installed, so every user
 * may poll and every client is anonymous.
 */
static void answer_open(const struct manager *manager, int worker)
{
    scoreboard_reply(manager->scoreboard, worker)->user[0] = '\0';
    question_answer(manager->scoreboard, worker, ERROR_NONE);
}

/*
 * Takes over a question whose worker does not wait for the answer. Lets the authorizer renew the answer,
 * unless the function that would be called is as installed.
 */
static void refresh(struct manager *manager, int worker, enum open_answer open)
{
    struct question *question = question_take_over(manager->scoreboard, worker);

    if (open == OPEN_NO)
        authorizer_refresh(manager->authorizer, question);
    else
        scoreboard_free_question(question);
}

/*
 * Passes a question on. The relay answers QUESTION_LOCATE. The authorizer answers the others, unless
 * can_poll() and authenticate() are as installed; if that is not known, the question waits in undecided.
 */
static void route_question(struct manager *manager, int worker)
{
    const struct question *question = scoreboard_question(manager->scoreboard, worker);
    enum open_answer open;

    if (question->kind == QUESTION_LOCATE) {
        relay_ask(manager->relay, worker);
        return;
    }
    open = open_to_all_judge(&manager->open_to_all, question);
    if (question->only_refresh)
        refresh(manager, worker, open);
    else if (open == OPEN_YES)
        answer_open(manager, worker);
    else if (open == OPEN_NO)
        authorizer_ask(manager->authorizer, worker);
    else
        worker_queue_add(&manager->undecided, worker);
}

static void take_questions(struct manager *manager)
{
    int worker = -1;

    while ((worker = question_next_asker(manager->scoreboard, worker + 1)) >= 0) {
        const enum question_taken taken = question_take(manager->scoreboard, worker);

        if (taken == QUESTION_BROKEN)
            inspection_kill_broken(manager->scoreboard, worker);
        else if (taken == QUESTION_TAKEN)
            route_question(manager, worker);
    }
}

/* Routes the questions in undecided, once it is known whether the access functions are as installed. */
static void route_undecided(struct manager *manager)
{
    for (int left = manager->open_to_all.wanted ? 0 : manager->undecided.count; left > 0; left--)
        route_question(manager, worker_queue_take(&manager->undecided));
}

/* Returns when to fork, drain or inspect workers next. While they end, only inspections are due. */
static int64_t workers_due_ms(const struct manager *manager)
{
    int64_t due_ms = inspection_due_ms(&manager->inspection);

    if (manager->stopping)
        return due_ms;
    due_ms = clock_min(due_ms, spare_workers_due_ms(&manager->spare_workers));
    if (!manager->reexec.is_old && manager->running < manager->scoreboard->worker_count &&
        fork_server_is_ready(&manager->fork_server))
        due_ms = clock_min(due_ms, spawn_due_ms(manager));
    return due_ms;
}

static int64_t children_due_ms(const struct manager *manager)
{
    int64_t due_ms = workers_due_ms(manager);

    if (manager->reexec.is_old)
        return manager->stopping ? clock_min(due_ms, reexec_drain_due_ms(&manager->reexec)) : due_ms;
    due_ms = clock_min(due_ms, manager->stopping ? manager->kill_deadline_ms : manager->drain_until_ms);
    due_ms = clock_min(due_ms,
                       clock_min(fork_server_due_ms(&manager->fork_server), reexec_due_ms(&manager->reexec)));
    return manager->stopping && manager->running == 0
               ? due_ms
               : clock_min(due_ms, reader_pool_due_ms(&manager->reader_pool));
}

static int sleep_ms(const struct manager *manager)
{
    int64_t due_ms = clock_min(children_due_ms(manager), authorizer_due_ms(manager->authorizer)), left_ms;

    due_ms = clock_min(due_ms,
                       clock_min(relay_due_ms(manager->relay), stats_writer_due_ms(manager->stats_writer)));
    due_ms = clock_min(due_ms, reap_due_ms(manager));
    if (!manager->reexec.is_old)
        due_ms = clock_min(due_ms, host_report_due_ms(&manager->host_report));
    left_ms = due_ms - clock_monotonic_ms();
    return left_ms <= 0 ? 0 : (int)clock_min(left_ms, LONGEST_SLEEP_MS);
}

static void step_children(struct manager *manager, int64_t now_ms)
{
    read_spawned(manager);
    reexec_end_old(&manager->reexec, manager->stopping, now_ms);
    if (manager->stopping)
        end_children(manager, now_ms);
    else if (manager->running < manager->scoreboard->worker_count && now_ms >= spawn_due_ms(manager))
        spawn_missing(manager);
    if (!manager->stopping || manager->running > 0)
        reader_pool_keep(&manager->reader_pool, &manager->usual_mask);
}

/* Begins a reload as soon as the fork server has ended, for which it does not wait here. */
static void reload(struct manager *manager)
{
    fork_server_kill(&manager->fork_server);
    if (!fork_server_has_ended(&manager->fork_server))
        return;
    manager->reload_requested = false;
    reexec_begin(&manager->reexec, &manager->fork_server, &manager->reader_pool);
    manager->reload_failures += !manager->reexec.is_old;
    if (manager->reexec.is_old)
        spare_workers_expect_none(&manager->spare_workers);
}

static struct host_facts host_facts(const struct manager *manager)
{
    return (struct host_facts){
        .ending = manager->stopping,
        .draining = is_draining(manager),
        .has_old_managers = manager->reexec.manager_count > 0,
        .running = manager->running,
        .spawn_error = manager->spawn_error,
        .reload_failures = manager->reload_failures,
        .away_since_ms = relay_away_since_ms(manager->relay),
    };
}

static void report_to_host(struct manager *manager, int64_t now_ms)
{
    const struct host_facts facts = host_facts(manager);

    if (!manager->reexec.is_old)
        host_report_step(&manager->host_report, &facts, now_ms);
}

/* Runs one turn of the loop. Nothing in it blocks except poll(2). */
static void turn(struct manager *manager)
{
    enum { SIGNALS, LATCH, RELAY, STATS_WRITER, FORK_SERVER, AUTHORIZER };
    struct pollfd fds[AUTHORIZER + AUTHORIZER_MAX_SESSIONS] = {
        [SIGNALS] = { .fd = manager->signal_fd, .events = POLLIN },
        [LATCH] = { .fd = manager->scoreboard->latch, .events = POLLIN },
        [RELAY] = relay_pollfd(manager->relay),
        [STATS_WRITER] = stats_writer_pollfd(manager->stats_writer),
        [FORK_SERVER] = fork_server_pollfd(&manager->fork_server),
    };
    const int fd_count = AUTHORIZER + authorizer_pollfds(manager->authorizer, fds + AUTHORIZER);
    int ready = poll(fds, (nfds_t)fd_count, sleep_ms(manager));
    int64_t now_ms = clock_monotonic_ms();
    eventfd_t value;

    if (ready > 0 && fds[SIGNALS].revents)
        read_signals(manager);
    if (manager->has_dead)
        reap(manager, now_ms);
    if (now_ms >= manager->drain_until_ms)
        stop(manager);
    if (reader_pool_wants_reload(&manager->reader_pool))
        request_reload(manager);
    /* The old manager cannot remove children, so all that are dead must have been removed before. */
    if (manager->reload_requested && !manager->stopping && !manager->has_dead &&
        reexec_may_begin(&manager->reexec))
        reload(manager);
    /*
     * The latch is cleared before the set of askers is read, because a worker sets its bit in the set before
     * it sets the latch.
     */
    if (ready > 0 && fds[LATCH].revents)
        (void)eventfd_read(manager->scoreboard->latch, &value);
    take_questions(manager);
    relay_step(manager->relay, ready > 0 && fds[RELAY].revents);
    route_undecided(manager);
    authorizer_step(manager->authorizer, fds + AUTHORIZER);
    stats_writer_step(manager->stats_writer, ready > 0 && fds[STATS_WRITER].revents);
    if (!manager->reexec.is_old)
        step_children(manager, now_ms);
    else if (manager->stopping)
        reexec_drain(&manager->reexec, now_ms);
    log_report_lost();
    report_to_host(manager, now_ms);
    inspection_step(&manager->inspection, now_ms);
    if (!manager->stopping)
        spare_workers_keep(&manager->spare_workers, now_ms);
}

static bool catch_signals(struct manager *manager)
{
    static const int signals[] = { SIGCHLD, SIGTERM, SIGINT, SIGUSR1, SIGHUP };
    sigset_t ours;

    /*
     * If the parent ignores SIGCHLD, this process inherits that through exec, and the kernel reports no
     * deaths (sigaction(2)).
     */
    (void)signal(SIGCHLD, SIG_DFL);
    /* makes a write to a log whose reader has gone fail instead of ending this process */
    (void)signal(SIGPIPE, SIG_IGN);
    (void)sigemptyset(&ours);
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        (void)sigaddset(&ours, signals[i]);
    manager->signal_fd = signalfd(-1, &ours, SFD_NONBLOCK | SFD_CLOEXEC);
    return manager->signal_fd >= 0 && sigprocmask(SIG_BLOCK, &ours, &manager->usual_mask) == 0;
}

static bool set_up(struct manager *manager, const struct config *config, char **argv)
{
    manager->scoreboard = scoreboard_new((int)config->workers, (int)config->max_topics,
                                         (size_t)config->window_bytes / MESSAGE_BYTES,
                                         (size_t)config->window_bytes, (int)config->connections);
    if (!manager->scoreboard)
        return false;
    manager->open_to_all.scoreboard = manager->scoreboard;
    manager->relay = relay_new(config, manager->scoreboard, &manager->open_to_all);
    manager->authorizer = authorizer_new(config, manager->scoreboard);
    manager->stats_writer = stats_writer_new(config, manager->scoreboard);
    manager->spawned_ms = calloc((size_t)manager->scoreboard->worker_count, sizeof *manager->spawned_ms);
    manager->kill_deadline_ms = manager->drain_until_ms = INT64_MAX;
    spare_workers_init(&manager->spare_workers, manager->scoreboard);
    inspection_init(&manager->inspection, manager->scoreboard, manager->spawned_ms);
    return worker_queue_init(&manager->undecided, manager->scoreboard->worker_count) && manager->relay &&
           manager->authorizer && manager->stats_writer && manager->spawned_ms &&
           reader_pool_init(&manager->reader_pool, manager->scoreboard) &&
           fork_server_init(&manager->fork_server, manager->scoreboard) &&
           reexec_init(&manager->reexec, config, argv, manager->scoreboard) && catch_signals(manager);
}

int manager_run(const struct config *config, char **argv)
{
    struct manager manager = { .config = config,
                               .backoff = BACKOFF_CHILDREN,
                               .fork_server = { .socket = -1 },
                               .reader_pool = { .queue = -1 } };
    int status = EXIT_FAILURE;

    if (set_up(&manager, config, argv)) {
        const struct host_facts facts = host_facts(&manager);

        host_report_init(&manager.host_report, config, manager.scoreboard, STDIN_FILENO, &facts);
        log_write(LOG_LEVEL_INFO, "starting %d workers", manager.scoreboard->worker_count);
        manager.has_dead = true; /* old children may have died before catch_signals(), which drops SIGCHLD */
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
    worker_queue_release(&manager.undecided);
    stats_writer_free(manager.stats_writer);
    fork_server_release(&manager.fork_server);
    reader_pool_release(&manager.reader_pool);
    host_report_release(&manager.host_report);
    scoreboard_free(manager.scoreboard);
    free(manager.spawned_ms);
    reexec_release(&manager.reexec);
    return status;
}
