#include "manager/reexec.h"

#include "core/clock.h"
#include "core/config.h"
#include "core/log.h"
#include "core/notify.h"
#include "manager/children.h"
#include "manager/fork_server.h"
#include "manager/reader_pool.h"
#include "postgres/server_memory.h"
#include "shared/scoreboard.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

enum {
    LOOK_AGAIN_MS = 20, /* time between two checks whether all new workers have begun */
    /* the old manager is told to end after this time even if not all new workers have begun */
    REPLACE_MS = 10 * 1000,
    /*
     * New workers start, and old ones end, in ROLL_STEPS steps or fewer, with at least ROLL_LEAST workers in
     * each step. If all workers started or ended at once, they would take the processor from the delivery of
     * messages.
     */
    ROLL_STEPS = 200,
    ROLL_LEAST = 4,
    LAST_POLLS_MS = 1000, /* how long an old manager waits for its workers' last polls */
    /* An old manager that takes longer than this to end hangs, and is killed. */
    OLD_MANAGER_MS = REEXEC_STEP_MS * ROLL_STEPS + LAST_POLLS_MS + REEXEC_LAST_WRITE_MS + 2000
};

/*
 * The protocol of a reload. P is the process whose id systemd or a pid file knows. S is the scoreboard that P
 * shares with its workers.
 *
 *  1. P kills the fork server. When that has ended, P knows all workers of S, and forks the old manager M. M
 *     has a copy of everything that P has: S, the database connections, the queries and questions in
 *     progress.
 *  2. P executes the new program, and so keeps its process id. The new program reads the process ids of M and
 *     of all other children from a memory file. The environment variable OLD_CHILDREN holds the file's
 *     descriptor, how many of the ids are old managers, and the descriptor of the server memory
 *     (server_memory.h), which M shares with P. If P cannot execute the program, P tells M, which exits, and
 *     P continues as before.
 *  3. M serves the workers of S as P did: it answers questions, fills the message ring, wakes polls, and
 *     drains the longest-waiting polls when few workers are idle. M starts no process. Its workers still
 *     accept requests.
 *  4. P creates a scoreboard, workers and database connections of its own. P never looks into S, which may
 *     have the layout of another version.
 *  5. P sends M SIGTERM when all new workers have begun, or after REPLACE_MS, or when P itself is told to
 *     end.
 *  6. M sends its workers SIGTERM, a few at a time, and serves the others meanwhile. Then M writes the last
 *     counters, deletes its rows of the statistics, and exits.
 *  7. P sends SIGTERM to the old children that are left, and SIGKILL to those that do not end in time.
 *
 * M signals its workers by process id, but they are P's children. Therefore P does not call waitpid(2) for
 * them before M has exited: until then the kernel gives their ids to no other process. M and all workers die
 * with P (PR_SET_PDEATHSIG).
 */

/* The environment variable's name. Version 0.1.0 uses the same variable and reads the descriptor from it. */
static const char OLD_CHILDREN[] = CONFIG_OLD_WORKERS;

/*
 * Each old manager holds database connections, so a reload waits until the previous one has ended. It does
 * not wait if no new worker has begun, because then it may be the attempt to replace a broken program.
 */
bool reexec_may_begin(const struct reexec *reexec)
{
    return reexec->manager_count == 0 ||
           (reexec->manager_count == 1 && scoreboard_begun(reexec->scoreboard) == 0);
}

static void write_pid(int fd, int pid)
{
    if (pid > 0 && write(fd, &pid, sizeof pid) != sizeof pid)
        log_write(LOG_LEVEL_ERROR, "cannot pass process id %d on to the new program: %s", pid,
                  strerror(errno));
}

/* Writes the process ids of all children to the file, old managers first, for the new program. */
static bool write_children(const struct reexec *reexec, const struct reader_pool *pool, int fd,
                           pid_t old_manager, int servers)
{
    char text[48];

    write_pid(fd, old_manager);
    for (int i = 0; i < reexec->manager_count; i++) /* old managers of a reload that has not ended yet */
        write_pid(fd, reexec->managers[i]);
    for (int i = 0; i < reexec->other_count; i++)
        write_pid(fd, reexec->others[i]);
    for (int i = 0; i < reexec->scoreboard->worker_count; i++)
        write_pid(fd, scoreboard_pid(reexec->scoreboard, i));
    for (int i = 0; i < atomic_load(&reexec->scoreboard->manager->readers); i++)
        write_pid(fd, pool->readers[i].pid);
    (void)snprintf(text, sizeof text, "%d %d %d", fd, reexec->manager_count + 1, servers);
    return setenv(OLD_CHILDREN, text, 1) == 0;
}

/*
 * Runs in the forked process. Waits until the parent has executed the new program, which closes the parent's
 * end of the pipe, and then continues as the old manager. The workers remain the parent's children.
 */
static void become_old_manager(struct reexec *reexec, struct fork_server *fork_server,
                               struct reader_pool *pool, int pipe_end)
{
    char failed;

    (void)prctl(PR_SET_NAME, "pgpoll-old");
    if (prctl(PR_SET_PDEATHSIG, SIGTERM) != 0 || read(pipe_end, &failed, 1) != 0 ||
        getppid() != reexec->scoreboard->manager_pid)
        _exit(EXIT_SUCCESS); /* not exit(), which would clean up what still belongs to the parent */
    (void)close(pipe_end);
    fork_server_release(fork_server);
    reader_pool_release(pool);
    reexec->manager_count = reexec->other_count = 0;
    reexec->is_old = true;
}

void reexec_begin(struct reexec *reexec, struct fork_server *fork_server, struct reader_pool *pool)
{
    int fd = memfd_create("pgpoll-old-children", 0), servers = -1, ends[2] = { -1, -1 };
    pid_t pid = -1;

    if (fd >= 0 && pipe2(ends, O_CLOEXEC) == 0)
        pid = fork();
    if (pid == 0) {
        (void)close(ends[1]);
        (void)close(fd);
        become_old_manager(reexec, fork_server, pool, ends[0]);
        return;
    }
    servers = dup(server_memory_descriptor()); /* not closed on exec */
    if (pid > 0 && write_children(reexec, pool, fd, pid, servers)) {
        log_write(LOG_LEVEL_INFO, "reloading: process %d serves the old workers until new ones have started",
                  (int)pid);
        /*
         * The signals stay blocked, so that one that arrives before the new program reads signals does not
         * end the process.
         */
        notify_restore();
        (void)execvp(reexec->argv[0], reexec->argv);
        notify_init();
    }
    log_write(LOG_LEVEL_ERROR, "cannot reload, the running program continues: %s: %s", reexec->argv[0],
              strerror(errno));
    if (pid > 0 && write(ends[1], "", 1) != 1)
        (void)kill(pid, SIGKILL);
    (void)unsetenv(OLD_CHILDREN);
    (void)close(ends[0]);
    (void)close(ends[1]);
    (void)close(fd);
    (void)close(servers);
}

/*
 * Reads the old children's process ids from the file that write_children() made, and takes over the server
 * memory. Returns false if this fails; errno says why.
 */
static bool read_children(struct reexec *reexec)
{
    const char *text = getenv(OLD_CHILDREN);
    char *end = NULL;
    int fd = text ? (int)strtol(text, &end, 10) : -1, count = 0;
    long manager_count = text ? strtol(end, &end, 10) : 0;
    int servers = text && *end ? (int)strtol(end, NULL, 10) : -1; /* older versions pass none on */
    off_t size = fd >= 0 ? lseek(fd, 0, SEEK_END) : 0;
    bool taken = true;

    if (size > 0) {
        reexec->managers = malloc((size_t)size);
        taken = reexec->managers && pread(fd, reexec->managers, (size_t)size, 0) == size;
        count = taken ? (int)((size_t)size / sizeof *reexec->managers) : 0;
    }
    if (count > 0) {
        reexec->manager_count = manager_count < count ? (int)manager_count : count;
        reexec->others = reexec->managers + reexec->manager_count;
        reexec->other_count = count - reexec->manager_count;
    }
    if (fd >= 0)
        (void)close(fd);
    (void)unsetenv(OLD_CHILDREN);
    reexec->stage_deadline_ms = clock_monotonic_ms() + REPLACE_MS;
    return server_memory_share(servers) && taken;
}

bool reexec_init(struct reexec *reexec, const struct config *config, char **argv,
                 struct scoreboard *scoreboard)
{
    *reexec = (struct reexec){
        .config = config, .argv = argv, .scoreboard = scoreboard, .exit_deadline_ms = INT64_MAX
    };
    return read_children(reexec);
}

void reexec_release(struct reexec *reexec)
{
    free(reexec->managers);
    *reexec = (struct reexec){ 0 };
}

bool reexec_has_children(const struct reexec *reexec)
{
    return reexec->manager_count + reexec->other_count > 0;
}

/* Steps 5 and 7 of the protocol of a reload. */
void reexec_end_old(struct reexec *reexec, bool stopping, int64_t now_ms)
{
    if (!reexec_has_children(reexec))
        return;
    if (reexec->stage == OLD_MANAGERS_SERVE &&
        (now_ms >= reexec->stage_deadline_ms || stopping ||
         scoreboard_begun(reexec->scoreboard) == reexec->scoreboard->worker_count)) {
        children_signal(reexec->managers, reexec->manager_count, SIGTERM);
        reexec->stage = OLD_MANAGERS_END;
        reexec->stage_deadline_ms = now_ms + OLD_MANAGER_MS;
    }
    if (reexec->stage == OLD_MANAGERS_END && reexec->manager_count == 0) {
        children_signal(reexec->others, reexec->other_count, SIGTERM);
        reexec->stage = OLD_OTHERS_END;
        reexec->stage_deadline_ms = now_ms + children_end_ms(reexec->config);
    }
    if (reexec->stage != OLD_MANAGERS_SERVE && now_ms >= reexec->stage_deadline_ms) {
        children_signal(reexec->managers, reexec->manager_count, SIGKILL);
        if (reexec->stage == OLD_OTHERS_END)
            children_signal(reexec->others, reexec->other_count, SIGKILL);
        reexec->stage_deadline_ms = INT64_MAX;
    }
}

int64_t reexec_due_ms(const struct reexec *reexec)
{
    if (!reexec_has_children(reexec))
        return INT64_MAX;
    return reexec->stage == OLD_MANAGERS_SERVE
               ? clock_min(reexec->stage_deadline_ms, clock_monotonic_ms() + LOOK_AGAIN_MS)
               : reexec->stage_deadline_ms;
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

bool reexec_forget_process(struct reexec *reexec, pid_t pid)
{
    (void)remove_pid(reexec->others, &reexec->other_count, pid);
    return remove_pid(reexec->managers, &reexec->manager_count, pid);
}

/* ---- in an old manager */

int reexec_step_size(const struct scoreboard *scoreboard)
{
    return scoreboard->worker_count / ROLL_STEPS + ROLL_LEAST;
}

/* Step 6 of the protocol of a reload. */
void reexec_drain(struct reexec *reexec, int64_t now_ms)
{
    const int count = reexec->scoreboard->worker_count;
    const int end = (int)clock_min(reexec->drained + reexec_step_size(reexec->scoreboard), count);

    if (now_ms < reexec->drain_ms)
        return;
    for (; reexec->drained < end; reexec->drained++) {
        const int pid = scoreboard_pid(reexec->scoreboard, reexec->drained);

        if (pid > 0)
            (void)kill(pid, SIGTERM);
    }
    reexec->drain_ms = now_ms + REEXEC_STEP_MS;
    if (reexec->drained == count && reexec->exit_deadline_ms == INT64_MAX)
        reexec->exit_deadline_ms = now_ms + LAST_POLLS_MS;
}

/* Whether a worker has a poll. The slot of one that was killed may say so for good: see inspection.c. */
static bool is_busy(const struct scoreboard *scoreboard, int worker)
{
    return atomic_load(&scoreboard_slot(scoreboard, worker)->state) > SLOT_IDLE &&
           children_find_state(scoreboard_pid(scoreboard, worker)) != CHILDREN_DEAD;
}

bool reexec_has_drained(const struct reexec *reexec, int64_t now_ms)
{
    if (reexec->drained < reexec->scoreboard->worker_count)
        return false;
    for (int i = 0; i < reexec->scoreboard->worker_count; i++)
        if (is_busy(reexec->scoreboard, i))
            return now_ms >= reexec->exit_deadline_ms;
    return true;
}

int64_t reexec_drain_due_ms(const struct reexec *reexec)
{
    return clock_min(reexec->exit_deadline_ms, reexec->drain_ms);
}
