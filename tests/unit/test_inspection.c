/* Tests the inspection of workers, with a real scoreboard and real processes in place of broken workers. */
#include "manager/inspection.h"

#include "core/log.h"
#include "expect.h"
#include "manager/reexec.h"
#include "shared/read_permits.h"
#include "shared/scoreboard.h"
#include "suites.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { POLLS = 500, TOPICS = 1000, NOW_MS = 60 * 1000, MOST_AT_ONCE = 51 * TOPICS, READERS = 2 };

static struct scoreboard *scoreboard;
static struct inspection inspection;
static int64_t *spawned_ms;
static int calls;

/* Begins with workers that all wait for many topics. */
static void begin(void)
{
    scoreboard = scoreboard_new(POLLS, TOPICS, 64, 64 * 256, READERS);
    CU_ASSERT_PTR_NOT_NULL_FATAL(scoreboard);
    spawned_ms = calloc((size_t)scoreboard->worker_count, sizeof *spawned_ms);
    CU_ASSERT_PTR_NOT_NULL_FATAL(spawned_ms);
    for (int i = 0; i < scoreboard->worker_count; i++) {
        atomic_store(&scoreboard_slot(scoreboard, i)->topic_count, TOPICS);
        atomic_store(&scoreboard_slot(scoreboard, i)->state, SLOT_WAITING);
    }
    inspection_init(&inspection, scoreboard, spawned_ms);
    CU_ASSERT_EQUAL(inspection_due_ms(&inspection), INT64_MAX);
    calls = 0;
}

static void end(void)
{
    free(spawned_ms);
    scoreboard_free(scoreboard);
}

/* Starts a process in place of a worker, which sleeps until it is killed. */
static pid_t start(int worker)
{
    sigset_t wake_up, mask;
    pid_t pid;

    (void)sigemptyset(&wake_up);
    (void)sigaddset(&wake_up, SIGUSR2);
    (void)sigprocmask(SIG_BLOCK, &wake_up, &mask); /* workers do the same */
    pid = fork();
    if (pid == 0)
        for (;;)
            (void)pause();
    (void)sigprocmask(SIG_SETMASK, &mask, NULL);
    CU_ASSERT_FATAL(pid > 0);
    atomic_store(&scoreboard->pids[worker], (int)pid);
    return pid;
}

/* Kills the process if it lives. Returns whether it did. */
static bool lived(pid_t pid)
{
    int status = 0;

    (void)kill(pid, SIGTERM);
    return waitpid(pid, &status, 0) == pid && WTERMSIG(status) == SIGTERM;
}

/* Makes one inspection. Returns at how many topics it has looked at most in one call. */
static int inspect(int64_t now_ms)
{
    int most = 0;

    do {
        int workers = -inspection.next;

        inspection_step(&inspection, now_ms);
        workers += inspection.next ? inspection.next : scoreboard->worker_count;
        most = workers * TOPICS > most ? workers * TOPICS : most;
        calls++;
    } while (inspection_due_ms(&inspection) <= now_ms);
    return most;
}

static void many_topics_are_looked_at_a_part_at_a_time(void)
{
    pid_t first, last, sound;
    int last_worker;

    begin();
    last_worker = scoreboard->worker_count - 1;
    first = start(0);
    last = start(last_worker);
    sound = start(1);
    atomic_store(&scoreboard_slot(scoreboard, 0)->state, SLOT_STATES);
    atomic_store(&scoreboard_slot(scoreboard, last_worker)->topics[TOPICS - 1].topic, -1);
    inspection_request(&inspection);
    CU_ASSERT(log_open("/dev/null", LOG_LEVEL_INFO, "test"));
    EXPECT(inspect(NOW_MS) < MOST_AT_ONCE, "one call looked at too many topics");
    CU_ASSERT(log_open("stderr", LOG_LEVEL_INFO, "test"));
    EXPECT(calls >= scoreboard->worker_count * TOPICS / MOST_AT_ONCE, "only %d calls", calls);
    CU_ASSERT(!lived(first) && !lived(last) && lived(sound));
    CU_ASSERT_EQUAL(inspection_due_ms(&inspection), INT64_MAX);
    end();
}

static void a_worker_that_does_not_begin_is_killed(void)
{
    pid_t late, recent;

    begin();
    late = start(2);
    recent = start(3);
    spawned_ms[3] = NOW_MS - 5000;
    for (int i = 2; i <= 3; i++) {
        atomic_store(&scoreboard_slot(scoreboard, i)->topic_count, 0);
        atomic_store(&scoreboard_slot(scoreboard, i)->state, SLOT_EMPTY);
    }
    inspection_request(&inspection);
    CU_ASSERT(log_open("/dev/null", LOG_LEVEL_INFO, "test"));
    (void)inspect(NOW_MS);
    CU_ASSERT(log_open("stderr", LOG_LEVEL_INFO, "test"));
    CU_ASSERT(!lived(late) && lived(recent));
    end();
}

/* What killed workers left wrong is corrected, once all workers were looked at. */
static void counts_are_corrected(void)
{
    begin();
    atomic_store(&scoreboard->workers->idle, 7);
    (void)atomic_fetch_sub(&scoreboard->workers->read_permits_left, 1);
    (void)atomic_fetch_add(&scoreboard->workers->polls, 1); /* a poll has begun */
    (void)inspect(NOW_MS);
    CU_ASSERT_EQUAL(scoreboard_idle(scoreboard), 0);
    CU_ASSERT_EQUAL(read_permits_taken(scoreboard), 1); /* not sure yet */
    CU_ASSERT(inspection_due_ms(&inspection) > NOW_MS && inspection_due_ms(&inspection) <= NOW_MS + 1000);
    (void)inspect(NOW_MS + 1000);
    CU_ASSERT_EQUAL(read_permits_taken(scoreboard), 0);
    CU_ASSERT_EQUAL(inspection_due_ms(&inspection), INT64_MAX);
    end();
}

/* Others read while a worker is stopped. When it continues, it may hold a permit as before. */
static void a_stopped_worker_keeps_no_permit(void)
{
    siginfo_t info = { 0 };
    pid_t stopped, reads;

    begin();
    stopped = start(4);
    reads = start(5);
    for (int i = 4; i <= 6; i++)
        (void)read_permits_take(scoreboard, i);
    (void)inspect(NOW_MS);
    CU_ASSERT(read_permits_has(scoreboard, 4) && read_permits_has(scoreboard, 5));
    CU_ASSERT_EQUAL(inspection_due_ms(&inspection), NOW_MS + 1000);
    (void)kill(stopped, SIGSTOP);
    CU_ASSERT_EQUAL_FATAL(waitid(P_PID, (id_t)stopped, &info, WSTOPPED | WNOWAIT), 0);
    CU_ASSERT(log_open("/dev/null", LOG_LEVEL_INFO, "test"));
    (void)inspect(NOW_MS + 1000);
    CU_ASSERT(log_open("stderr", LOG_LEVEL_INFO, "test"));
    CU_ASSERT(!read_permits_has(scoreboard, 4) && read_permits_has(scoreboard, 5));
    CU_ASSERT_TRUE(read_permits_take(scoreboard, 6));
    (void)kill(stopped, SIGCONT);
    CU_ASSERT_EQUAL_FATAL(waitid(P_PID, (id_t)stopped, &info, WCONTINUED | WNOWAIT), 0);
    read_permits_return(scoreboard, 4); /* it has ended its read */
    read_permits_return(scoreboard, 5);
    CU_ASSERT_TRUE(read_permits_take(scoreboard, 4));
    (void)inspect(NOW_MS + 2000);
    CU_ASSERT(read_permits_has(scoreboard, 4) && read_permits_has(scoreboard, 6));
    CU_ASSERT_EQUAL(read_permits_taken(scoreboard), 2);
    CU_ASSERT(lived(stopped) && lived(reads));
    end();
}

/* Starts a process whose child is put in place of a worker, and stops. */
static pid_t start_stopped_grandchild(int worker)
{
    int ends[2], child = 0;
    pid_t pid;

    CU_ASSERT_EQUAL_FATAL(pipe(ends), 0);
    pid = fork();
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        child = fork();
        if (child == 0)
            for (;;)
                (void)(prctl(PR_SET_PDEATHSIG, SIGKILL), raise(SIGSTOP));
        if (waitpid(child, NULL, WUNTRACED) == child && write(ends[1], &child, sizeof child) > 0)
            (void)pause();
        _exit(EXIT_FAILURE);
    }
    CU_ASSERT_FATAL(pid > 0);
    CU_ASSERT_EQUAL_FATAL(read(ends[0], &child, sizeof child), (ssize_t)sizeof child);
    (void)close(ends[0]);
    (void)close(ends[1]);
    atomic_store(&scoreboard->pids[worker], child);
    return pid;
}

/* After a reload, an old manager's workers are children of the new one. */
static void a_stopped_worker_of_an_old_manager_keeps_no_permit(void)
{
    pid_t parent;

    begin();
    parent = start_stopped_grandchild(4);
    (void)read_permits_take(scoreboard, 4);
    CU_ASSERT(log_open("/dev/null", LOG_LEVEL_INFO, "test"));
    (void)inspect(NOW_MS);
    CU_ASSERT(log_open("stderr", LOG_LEVEL_INFO, "test"));
    CU_ASSERT_FALSE(read_permits_has(scoreboard, 4));
    CU_ASSERT(lived(parent));
    end();
}

/* An old manager is not told that they have died, and does not reset their slots. */
static void a_dead_worker_of_an_old_manager_keeps_no_permit(void)
{
    siginfo_t info = { 0 };
    pid_t dead;

    begin();
    dead = start(4);
    (void)read_permits_take(scoreboard, 4);
    (void)inspect(NOW_MS);
    CU_ASSERT(read_permits_has(scoreboard, 4));
    (void)kill(dead, SIGKILL);
    CU_ASSERT_EQUAL_FATAL(waitid(P_PID, (id_t)dead, &info, WEXITED | WNOWAIT), 0);
    (void)inspect(NOW_MS + 1000);
    CU_ASSERT_FALSE(read_permits_has(scoreboard, 4));
    CU_ASSERT_EQUAL(read_permits_taken(scoreboard), 0);
    CU_ASSERT_FALSE(lived(dead));
    end();
}

/* An old manager that ends waits for the workers that have a poll, but for none that has died. */
static void an_old_manager_does_not_wait_for_a_dead_worker(void)
{
    struct reexec reexec = { .is_old = true, .exit_deadline_ms = NOW_MS };
    siginfo_t info = { 0 };
    pid_t busy;

    begin();
    for (int i = 0; i < scoreboard->worker_count; i++)
        if (i != 4)
            atomic_store(&scoreboard_slot(scoreboard, i)->state, SLOT_IDLE);
    busy = start(4);
    reexec.scoreboard = scoreboard;
    reexec.drained = scoreboard->worker_count;
    CU_ASSERT_FALSE(reexec_has_drained(&reexec, NOW_MS - 1));
    CU_ASSERT_TRUE(reexec_has_drained(&reexec, NOW_MS));
    (void)kill(busy, SIGKILL);
    CU_ASSERT_EQUAL_FATAL(waitid(P_PID, (id_t)busy, &info, WEXITED | WNOWAIT), 0);
    CU_ASSERT_TRUE(reexec_has_drained(&reexec, NOW_MS - 1));
    CU_ASSERT_FALSE(lived(busy));
    end();
}

CU_TestInfo inspection_tests[] = {
    { "many topics are looked at a part at a time", many_topics_are_looked_at_a_part_at_a_time },
    { "a worker that does not begin is killed", a_worker_that_does_not_begin_is_killed },
    { "counts are corrected", counts_are_corrected },
    { "a stopped worker keeps no permit", a_stopped_worker_keeps_no_permit },
    { "a stopped worker of an old manager keeps no permit",
      a_stopped_worker_of_an_old_manager_keeps_no_permit },
    { "a dead worker of an old manager keeps no permit", a_dead_worker_of_an_old_manager_keeps_no_permit },
    { "an old manager does not wait for a dead worker", an_old_manager_does_not_wait_for_a_dead_worker },
    CU_TEST_INFO_NULL,
};
