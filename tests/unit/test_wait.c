/*
 * Tests wait_for_event() and wait_for_fd() with real sockets and signals. Each wait ends within milliseconds,
 * unless there is a bug or the machine is busy.
 */
#include "core/wait.h"

#include "core/clock.h"
#include "expect.h"
#include "suites.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

enum { SHORT_MS = 30, LONG_MS = 30000, PROMPT_MS = 10000 }; /* PROMPT_MS allows for a busy machine */

static volatile sig_atomic_t drain_flag, woken_flag;

static void set_drain(int number)
{
    (void)number;
    drain_flag = 1;
}

static void set_woken(int number)
{
    (void)number;
    woken_flag = 1;
}

static void do_nothing(int number)
{
    (void)number;
}

struct line {
    int ours, theirs; /* the worker's and the client's end of the connection */
    int news[2];      /* a pipe; the worker waits for its reading end, [0] */
    sigset_t before, sleep_mask;
    struct interrupts interrupts;
};

/*
 * Opens a connection. Blocks the signals except during the sleep, as a worker does: SIGALRM drains, SIGUSR1
 * wakes, SIGUSR2 does nothing.
 */
static void open_line(struct line *line)
{
    struct sigaction action = { .sa_handler = set_drain };
    sigset_t ours;
    int pair[2];

    CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    CU_ASSERT_EQUAL_FATAL(pipe(line->news), 0);
    line->ours = pair[0];
    line->theirs = pair[1];
    (void)sigemptyset(&ours);
    (void)sigaddset(&ours, SIGALRM);
    (void)sigaddset(&ours, SIGUSR1);
    (void)sigaddset(&ours, SIGUSR2);
    (void)sigprocmask(SIG_BLOCK, &ours, &line->before);
    line->sleep_mask = line->before;
    (void)sigaction(SIGALRM, &action, NULL);
    action.sa_handler = set_woken;
    (void)sigaction(SIGUSR1, &action, NULL);
    action.sa_handler = do_nothing;
    (void)sigaction(SIGUSR2, &action, NULL);
    drain_flag = woken_flag = 0;
    line->interrupts = (struct interrupts){ line->ours, &drain_flag, &woken_flag, &line->sleep_mask };
}

static void close_line(struct line *line)
{
    (void)close(line->ours);
    if (line->theirs >= 0)
        (void)close(line->theirs);
    (void)close(line->news[0]);
    (void)close(line->news[1]);
    (void)sigprocmask(SIG_SETMASK, &line->before, NULL);
    (void)signal(SIGALRM, SIG_DFL);
    (void)signal(SIGUSR1, SIG_DFL);
    (void)signal(SIGUSR2, SIG_DFL);
}

#define EXPECT_WAIT(line, for_ms, wanted, least_ms) expect_wait(line, for_ms, wanted, least_ms, __LINE__)

/*
 * Waits for the pipe for at most for_ms. The wait must end with the wanted result, not before least_ms and
 * soon after it.
 */
static void expect_wait(const struct line *line, int64_t for_ms, enum error wanted, int64_t least_ms,
                        int source_line)
{
    int64_t start_ms = clock_monotonic_ms();
    enum error error = wait_for_event(&line->interrupts, line->news[0], POLLIN, start_ms + for_ms);
    int64_t took_ms = clock_monotonic_ms() - start_ms;

    (void)expect(error == wanted, __FILE__, source_line, "%s instead of %s", error_name(error),
                 error_name(wanted));
    (void)expect(took_ms >= least_ms && took_ms < least_ms + PROMPT_MS, __FILE__, source_line, "after %d ms",
                 (int)took_ms);
}

static void send_bytes(int fd, const char *bytes, size_t size)
{
    CU_ASSERT_EQUAL(send(fd, bytes, size, MSG_NOSIGNAL), (ssize_t)size);
}

static void a_ready_descriptor_ends_the_wait(void)
{
    struct line line;

    open_line(&line);
    CU_ASSERT_EQUAL(write(line.news[1], "x", 1), 1);
    EXPECT_WAIT(&line, LONG_MS, ERROR_NONE, 0);
    EXPECT_WAIT(&line, 0, ERROR_NONE, 0);
    EXPECT_WAIT(&line, -1000, ERROR_NONE, 0);
    close_line(&line);
}

static void the_deadline_ends_the_wait(void)
{
    struct line line;

    open_line(&line);
    EXPECT_WAIT(&line, SHORT_MS, ERROR_TIMEOUT, SHORT_MS);
    EXPECT_WAIT(&line, 0, ERROR_TIMEOUT, 0);
    EXPECT_WAIT(&line, -1000, ERROR_TIMEOUT, 0);
    line.interrupts.client_fd = -1;
    EXPECT_WAIT(&line, SHORT_MS, ERROR_TIMEOUT, SHORT_MS);
    CU_ASSERT_EQUAL(wait_for_event(&line.interrupts, -1, 0, clock_monotonic_ms() + 1), ERROR_TIMEOUT);
    close_line(&line);
}

static void a_closed_connection_ends_the_wait(void)
{
    struct line line;

    open_line(&line);
    (void)close(line.theirs);
    line.theirs = -1;
    EXPECT_WAIT(&line, LONG_MS, ERROR_CLIENT_GONE, 0);
    close_line(&line);

    open_line(&line);
    (void)shutdown(line.theirs, SHUT_WR);
    EXPECT_WAIT(&line, LONG_MS, ERROR_CLIENT_GONE, 0);
    close_line(&line);
}

static void an_abort_record_ends_the_wait(void)
{
    struct line line;

    open_line(&line);
    send_bytes(line.theirs, "\1\2\0\1\0\0\0\0", 8);
    EXPECT_WAIT(&line, LONG_MS, ERROR_CLIENT_GONE, 0);
    close_line(&line);
}

static void other_bytes_are_dropped(void)
{
    struct line line;
    char many[1000];

    memset(many, 'x', sizeof many);
    open_line(&line);
    send_bytes(line.theirs, "\1\5\0\1\0\0\0\0", 8); /* an empty FCGI_STDIN */
    send_bytes(line.theirs, many, sizeof many);
    EXPECT_WAIT(&line, SHORT_MS, ERROR_TIMEOUT, SHORT_MS);
    send_bytes(line.theirs, many, sizeof many);
    (void)close(line.theirs);
    line.theirs = -1;
    EXPECT_WAIT(&line, LONG_MS, ERROR_CLIENT_GONE, 0);
    close_line(&line);
}

/* Replaces the client's connection by a TCP connection that has been reset. */
static bool put_reset_connection(struct line *line)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    struct linger reset = { 1, 0 };
    socklen_t size = sizeof address;
    int source = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0), served = -1;

    if (bind(source, (struct sockaddr *)&address, size) == 0 && listen(source, 1) == 0 &&
        getsockname(source, (struct sockaddr *)&address, &size) == 0 &&
        connect(client, (struct sockaddr *)&address, size) == 0)
        served = accept(source, NULL, NULL);
    (void)setsockopt(client, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    (void)close(client);
    (void)close(source);
    if (served < 0)
        return false;
    (void)close(line->ours);
    line->ours = line->interrupts.client_fd = served;
    return true;
}

static void a_reset_connection_ends_the_wait(void)
{
    struct line line;

    open_line(&line);
    if (EXPECT(put_reset_connection(&line), "no TCP connection to ourselves"))
        EXPECT_WAIT(&line, LONG_MS, ERROR_CLIENT_GONE, 0);
    close_line(&line);
}

static void a_signal_during_the_wait_drains(void)
{
    struct itimerval soon = { .it_value = { 0, SHORT_MS * 1000 } };
    struct line line;

    open_line(&line);
    (void)setitimer(ITIMER_REAL, &soon, NULL);
    EXPECT_WAIT(&line, LONG_MS, ERROR_DRAINED, 0);
    close_line(&line);
}

/* As in a race: the signal is blocked and pending when the flag is checked. The sleep must end at once. */
static void a_signal_before_the_wait_drains(void)
{
    struct line line;

    open_line(&line);
    CU_ASSERT_EQUAL(kill(getpid(), SIGALRM), 0);
    CU_ASSERT_EQUAL(drain_flag, 0); /* pending: the signal is blocked while the worker is awake */
    EXPECT_WAIT(&line, LONG_MS, ERROR_DRAINED, 0);
    EXPECT_WAIT(&line, LONG_MS, ERROR_DRAINED, 0); /* the flag stays set */
    close_line(&line);
}

/* Each signal ends one wait, even if it comes before the wait. */
static void a_wake_up_ends_one_wait(void)
{
    struct line line;

    open_line(&line);
    CU_ASSERT_EQUAL(kill(getpid(), SIGUSR1), 0);
    CU_ASSERT_EQUAL(woken_flag, 0);
    EXPECT_WAIT(&line, LONG_MS, ERROR_NONE, 0);
    EXPECT_WAIT(&line, SHORT_MS, ERROR_TIMEOUT, SHORT_MS);
    woken_flag = 1;
    EXPECT_WAIT(&line, 0, ERROR_NONE, 0);
    woken_flag = drain_flag = 1;
    EXPECT_WAIT(&line, LONG_MS, ERROR_DRAINED, 0);
    close_line(&line);
}

static void other_signals_do_not_end_the_wait(void)
{
    struct line line;

    open_line(&line);
    CU_ASSERT_EQUAL(kill(getpid(), SIGUSR2), 0);
    EXPECT_WAIT(&line, SHORT_MS, ERROR_TIMEOUT, SHORT_MS);
    close_line(&line);
}

/* wait_for_fd() has neither a client nor flags, so only the descriptor and the deadline end it. */
static void a_descriptor_is_waited_for_through_signals(void)
{
    struct itimerval soon = { .it_value = { 0, SHORT_MS * 1000 } };
    struct line line;
    int64_t start_ms;

    open_line(&line);
    (void)sigprocmask(SIG_SETMASK, &line.before, NULL);
    (void)setitimer(ITIMER_REAL, &soon, NULL);
    start_ms = clock_monotonic_ms(); /* after the timer has started, so that it ends before the wait does */
    CU_ASSERT_FALSE(wait_for_fd(line.news[0], POLLIN, start_ms + 2 * SHORT_MS));
    CU_ASSERT_EQUAL(drain_flag, 1);
    CU_ASSERT(clock_monotonic_ms() >= start_ms + 2 * SHORT_MS);
    CU_ASSERT_FALSE(wait_for_fd(-1, POLLIN, start_ms));
    CU_ASSERT_EQUAL(write(line.news[1], "x", 1), 1);
    CU_ASSERT_TRUE(wait_for_fd(line.news[0], POLLIN, INT64_MAX));
    CU_ASSERT_TRUE(wait_for_fd(line.news[0], POLLIN, start_ms - LONG_MS));
    close_line(&line);
}

CU_TestInfo wait_tests[] = {
    { "a ready descriptor ends the wait", a_ready_descriptor_ends_the_wait },
    { "the deadline ends the wait", the_deadline_ends_the_wait },
    { "a closed connection ends the wait", a_closed_connection_ends_the_wait },
    { "an abort record ends the wait", an_abort_record_ends_the_wait },
    { "other bytes are dropped", other_bytes_are_dropped },
    { "a reset connection ends the wait", a_reset_connection_ends_the_wait },
    { "a signal during the wait drains", a_signal_during_the_wait_drains },
    { "a signal before the wait drains", a_signal_before_the_wait_drains },
    { "a wake-up ends one wait", a_wake_up_ends_one_wait },
    { "other signals do not end the wait", other_signals_do_not_end_the_wait },
    { "a descriptor is waited for through signals", a_descriptor_is_waited_for_through_signals },
    CU_TEST_INFO_NULL,
};
