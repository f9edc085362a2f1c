#include "manager/reader_pool.h"

#include "core/clock.h"
#include "core/log.h"
#include "expect.h"
#include "fake_clock.h"
#include "shared/read_channel.h"
#include "shared/read_permits.h"
#include "shared/reader_state.h"
#include "shared/scoreboard.h"
#include "suites.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { READERS = 4, WORKERS = 8, LONG_MS = 60 * 1000 };

static struct scoreboard *scoreboard;
static struct reader_pool pool;

/* The pool finds its program beside the running one: sleep(1), which takes descriptors for seconds. */
static void begin(void)
{
    char path[PATH_MAX] = "";

    CU_ASSERT_FATAL(readlink("/proc/self/exe", path, sizeof path - sizeof "pgpoll-reader") > 0);
    (void)strcpy(strrchr(path, '/') + 1, "pgpoll-reader");
    CU_ASSERT_FATAL(symlink("/bin/sleep", path) == 0 || errno == EEXIST);
    fake_clock_stop();
    scoreboard = scoreboard_new(WORKERS, 1, 16, 4096, READERS);
    CU_ASSERT_FATAL(scoreboard && reader_pool_init(&pool, scoreboard));
    (void)unlink(path);
    CU_ASSERT(log_open("/dev/null", LOG_LEVEL_INFO, "test"));
}

static int readers(void)
{
    return atomic_load(&scoreboard->manager->readers);
}

/* Turns of the manager's loop. Returns how many readers the pool has afterwards. */
static int turn(int turns)
{
    sigset_t none;

    (void)sigemptyset(&none);
    for (; turns > 0; turns--)
        reader_pool_keep(&pool, &none);
    return readers();
}

/* Lets time pass, with a turn whenever one is due. */
static void pass(int64_t ms)
{
    const int64_t end_ms = clock_monotonic_ms() + ms;

    for (int64_t due_ms = reader_pool_due_ms(&pool); due_ms <= end_ms; due_ms = reader_pool_due_ms(&pool)) {
        fake_clock_advance(clock_max(due_ms - clock_monotonic_ms(), 0));
        (void)turn(1);
    }
    fake_clock_advance(end_ms - clock_monotonic_ms());
    (void)turn(1);
}

/* The reader says that it waits for questions. */
static void set_idle(int reader)
{
    atomic_store(&pool.readers[reader].state->due_ms, 0);
}

static void set_due(int reader, int64_t in_ms)
{
    atomic_store(&pool.readers[reader].state->due_ms, clock_monotonic_ms() + in_ms);
}

/* Whether an idle reader was not killed: one that was has time to end, although that may take a while. */
static bool is_kept(int reader)
{
    return atomic_load(&pool.readers[reader].state->due_ms) == 0;
}

/* Waits for the end of a reader that must have been killed, and tells the pool. */
static void expect_killed(pid_t pid)
{
    int status = 0;

    CU_ASSERT(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    CU_ASSERT(reader_pool_forget_process(&pool, pid));
}

/* Whether this reader lives. To be called some time after it may have been killed. */
static bool lives(pid_t pid)
{
    siginfo_t info = { 0 };

    return waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == 0;
}

static void end(void)
{
    for (int i = 0; i < readers(); i++) {
        (void)kill(pool.readers[i].pid, SIGKILL);
        (void)waitpid(pool.readers[i].pid, NULL, 0);
    }
    CU_ASSERT(log_open("stderr", LOG_LEVEL_INFO, "test"));
    reader_pool_release(&pool);
    scoreboard_free(scoreboard);
    fake_clock_restore();
}

/* A worker takes a permit, which is free. */
static void take(int worker)
{
    CU_ASSERT_TRUE(read_permits_take(scoreboard, worker));
}

/* Begins with two readers, since two workers read. */
static void begin_with_two(void)
{
    begin();
    for (int i = 0; i < 2; i++)
        take(i);
    CU_ASSERT_EQUAL_FATAL(turn(2), 2);
}

static void readers_are_started_one_in_a_turn(void)
{
    begin();
    CU_ASSERT_EQUAL(turn(3), 1);
    for (int i = 0; i < READERS; i++)
        take(i);
    for (int i = 1; i < READERS; i++) {
        CU_ASSERT(reader_pool_due_ms(&pool) <= clock_monotonic_ms());
        EXPECT(turn(1) == i + 1, "%d readers after %d turns", readers(), i);
    }
    CU_ASSERT(reader_pool_due_ms(&pool) > clock_monotonic_ms());
    end();
}

static void a_reader_that_is_late_is_replaced(void)
{
    pid_t late, busy;

    begin_with_two();
    late = pool.readers[0].pid;
    busy = pool.readers[1].pid;
    set_due(0, 5000);
    set_due(1, LONG_MS);
    pass(5500); /* late by as much as on a busy machine */
    CU_ASSERT(lives(late));
    pass(5000);
    expect_killed(late);
    CU_ASSERT(lives(busy));
    pass(1000);
    CU_ASSERT_EQUAL(readers(), 2);
    end();
}

enum { QUESTIONS = 2 };

/* Questions in the queue. */
struct asked {
    struct poll_topic topic;
    struct poll_request request;
    int64_t position;
    int sockets[QUESTIONS];
    int oldest;
};

static void ask(struct asked *asked, int question)
{
    const struct read_channel_question whole = { &asked->request, &asked->position, NULL, false,
                                                 clock_monotonic_ms() + LONG_MS };

    asked->sockets[question] = read_channel_ask(scoreboard->read_queue, &whole);
    CU_ASSERT_FATAL(asked->sockets[question] >= 0);
}

static void begin_to_ask(struct asked *asked)
{
    *asked = (struct asked){ .topic = { .name = "t", .length = 1, .quoted = "\"t\"" } };
    asked->request = (struct poll_request){ .topics = &asked->topic, .topic_count = 1, .limit = 1 };
    for (int i = 0; i < QUESTIONS; i++)
        ask(asked, i);
}

/* A reader takes the oldest question, and a worker asks another one. */
static void take_one(struct asked *asked, int reader)
{
    (void)close(read_channel_take(pool.queue));
    (void)atomic_fetch_add(&pool.readers[reader].state->taken, 1);
    (void)close(asked->sockets[asked->oldest]);
    ask(asked, asked->oldest);
    asked->oldest = (asked->oldest + 1) % QUESTIONS;
}

static void end_to_ask(struct asked *asked)
{
    for (int i = 0; i < QUESTIONS; i++)
        (void)close(asked->sockets[i]);
}

static void a_reader_that_takes_no_question_is_replaced(void)
{
    struct asked asked;
    pid_t idle, busy;

    begin_with_two();
    idle = pool.readers[0].pid;
    busy = pool.readers[1].pid;
    set_idle(0);
    set_due(1, LONG_MS);
    pass(LONG_MS / 2);
    CU_ASSERT(lives(idle)); /* there was no question */
    begin_to_ask(&asked);
    pass(500);
    take_one(&asked, 1);
    pass(2500);
    CU_ASSERT(is_kept(0));
    pass(5000);
    expect_killed(idle);
    CU_ASSERT(lives(busy));
    end_to_ask(&asked);
    end();
}

/* Each look finds a question, but another one. The readers wait for one at that moment, or for a core. */
static void readers_that_take_questions_are_kept(void)
{
    struct asked asked;

    begin_with_two();
    for (int i = 0; i < 2; i++)
        set_idle(i);
    begin_to_ask(&asked);
    for (int i = 0; i < 60; i++) {
        pass(500);
        if (i % 3 == 0)
            take_one(&asked, 0);
    }
    CU_ASSERT(is_kept(0) && is_kept(1));
    end_to_ask(&asked);
    end();
}

/* One that was killed has left the question. The next one has as much time as the first one. */
static void the_next_reader_has_time_to_take_the_question(void)
{
    struct asked asked;
    pid_t first;

    begin_with_two();
    first = pool.readers[0].pid;
    set_idle(0);
    set_due(1, LONG_MS);
    begin_to_ask(&asked);
    pass(4000);
    expect_killed(first);
    pass(500);
    CU_ASSERT_EQUAL_FATAL(readers(), 2);
    set_idle(1);
    pass(1000);
    CU_ASSERT(is_kept(1));
    end_to_ask(&asked);
    end();
}

static void a_reader_that_does_not_begin_is_replaced(void)
{
    pid_t first;

    begin();
    take(0);
    CU_ASSERT_EQUAL_FATAL(turn(1), 1);
    first = pool.readers[0].pid;
    pass(LONG_MS / 2);
    expect_killed(first);
    CU_ASSERT(turn(1) == 1 && pool.readers[0].pid != first);
    end();
}

/* Kills a reader, and tells the pool. */
static void lose(int reader)
{
    const pid_t pid = pool.readers[reader].pid;

    CU_ASSERT_EQUAL(kill(pid, SIGKILL), 0);
    expect_killed(pid);
}

/* A reader ends when the queue was shut down. No other one is started, which would end as well. */
static void a_queue_that_was_shut_down_asks_for_a_reload_now_and_then(void)
{
    begin_with_two();
    pass(LONG_MS);
    lose(0);
    CU_ASSERT_FALSE(reader_pool_wants_reload(&pool)); /* it died of something else */
    pass(LONG_MS);
    CU_ASSERT_EQUAL_FATAL(readers(), 2);
    CU_ASSERT_EQUAL(shutdown(scoreboard->read_queue, SHUT_RDWR), 0);
    lose(0);
    CU_ASSERT(reader_pool_due_ms(&pool) <= clock_monotonic_ms());
    CU_ASSERT_TRUE(reader_pool_wants_reload(&pool));
    CU_ASSERT_FALSE(reader_pool_wants_reload(&pool)); /* not again at once, if the reload fails */
    lose(0);
    CU_ASSERT_EQUAL(turn(3), 0);
    fake_clock_advance(5000);
    CU_ASSERT_FALSE(reader_pool_wants_reload(&pool));
    fake_clock_advance(5000);
    CU_ASSERT_TRUE(reader_pool_wants_reload(&pool));
    end();
}

static void a_queue_that_is_shut_down_at_once_asks_for_a_reload_later(void)
{
    begin_with_two();
    CU_ASSERT_EQUAL(shutdown(scoreboard->read_queue, SHUT_RDWR), 0);
    lose(0);
    CU_ASSERT_FALSE(reader_pool_wants_reload(&pool));
    fake_clock_advance(10 * 1000);
    CU_ASSERT_TRUE(reader_pool_wants_reload(&pool));
    end();
}

static void an_idle_manager_is_not_woken(void)
{
    begin();
    CU_ASSERT_EQUAL_FATAL(turn(1), 1);
    set_idle(0);
    CU_ASSERT_EQUAL(reader_pool_due_ms(&pool), INT64_MAX);
    end();
}

CU_TestInfo reader_pool_tests[] = {
    { "readers are started one in a turn", readers_are_started_one_in_a_turn },
    { "a reader that is late is replaced", a_reader_that_is_late_is_replaced },
    { "a reader that takes no question is replaced", a_reader_that_takes_no_question_is_replaced },
    { "readers that take questions are kept", readers_that_take_questions_are_kept },
    { "the next reader has time to take the question", the_next_reader_has_time_to_take_the_question },
    { "a reader that does not begin is replaced", a_reader_that_does_not_begin_is_replaced },
    { "a queue that was shut down asks for a reload now and then",
      a_queue_that_was_shut_down_asks_for_a_reload_now_and_then },
    { "a queue that is shut down at once asks for a reload later",
      a_queue_that_is_shut_down_at_once_asks_for_a_reload_later },
    { "an idle manager is not woken", an_idle_manager_is_not_woken },
    CU_TEST_INFO_NULL,
};
