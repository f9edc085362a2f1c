#include "manager/host_report.h"

#include "core/clock.h"
#include "core/config.h"
#include "core/log.h"
#include "core/notify.h"
#include "expect.h"
#include "fake_clock.h"
#include "shared/scoreboard.h"
#include "suites.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { POLLS = 4, WORKERS = 5, WATCHDOG_MS = 10 * 1000 };

static struct config config = { .state_dir = "", .health_away_s = 30 };
static struct scoreboard *scoreboard;
static struct host_report report;
static struct host_facts facts;
static int64_t now_ms;
static int systemd; /* the socket that receives notifications */

/* Begins a report to systemd, which takes messages unless is_deaf. There is no place for the file. */
static void begin(bool is_deaf)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    char name[64], watchdog_us[16];

    fake_clock_stop();
    now_ms = clock_monotonic_ms();
    (void)snprintf(name, sizeof name, "@pgpoll-unit-report-%d", (int)getpid());
    (void)snprintf(watchdog_us, sizeof watchdog_us, "%d", 2 * WATCHDOG_MS * 1000);
    systemd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    memcpy(address.sun_path + 1, name + 1, strlen(name) - 1);
    if (!is_deaf)
        CU_ASSERT_FATAL(bind(systemd, (struct sockaddr *)&address,
                             (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name))) == 0);
    (void)setenv("NOTIFY_SOCKET", name, 1);
    (void)setenv("WATCHDOG_USEC", watchdog_us, 1);
    notify_init();
    scoreboard = scoreboard_new(POLLS, 1, 16, 4096, 1);
    CU_ASSERT_FATAL(scoreboard && scoreboard->worker_count == WORKERS);
    facts = (struct host_facts){ .running = WORKERS, .away_since_ms = now_ms };
    CU_ASSERT(log_open("/dev/null", LOG_LEVEL_INFO, "test"));
    host_report_init(&report, &config, scoreboard, -1, &facts);
    CU_ASSERT(log_open("stderr", LOG_LEVEL_INFO, "test"));
    CU_ASSERT(report.state == NULL);
}

static void end(void)
{
    host_report_release(&report);
    scoreboard_free(scoreboard);
    (void)close(systemd);
    notify_init(); /* the variables are no longer there */
    fake_clock_restore();
}

static void let_begin(int workers)
{
    for (int i = 0; i < workers; i++)
        atomic_store(&scoreboard_slot(scoreboard, i)->state, SLOT_IDLE);
}

static void step_after(int64_t ms)
{
    now_ms += ms;
    host_report_step(&report, &facts, now_ms);
}

/* Takes all messages that have come. Returns whether this one is among them. */
static bool has_come(const char *message)
{
    char text[512];
    ssize_t length;
    bool found = false;

    while ((length = recv(systemd, text, sizeof text - 1, 0)) >= 0) {
        text[length] = '\0';
        found = found || strcmp(text, message) == 0;
    }
    return found;
}

static void it_is_ready_when_all_workers_have_begun(void)
{
    begin(false);
    step_after(0);
    CU_ASSERT(has_come("STATUS=No worker serves polls yet; 5 of 5 workers run"));
    let_begin(WORKERS - 1);
    step_after(50);
    CU_ASSERT(!has_come("READY=1"));
    let_begin(WORKERS);
    step_after(50);
    CU_ASSERT(has_come("READY=1"));
    step_after(1000);
    CU_ASSERT(!has_come("READY=1"));
    end();
}

static void some_workers_are_enough_after_10_s(void)
{
    begin(false);
    step_after(9900);
    let_begin(1);
    step_after(50);
    CU_ASSERT(!has_come("READY=1"));
    step_after(50);
    CU_ASSERT(has_come("READY=1"));
    end();
}

static void without_a_worker_it_is_never_ready(void)
{
    begin(false);
    for (int i = 0; i < 100; i++)
        step_after(1000);
    CU_ASSERT(!has_come("READY=1"));
    end();
}

static void the_status_says_why_workers_are_missing(void)
{
    begin(false);
    let_begin(WORKERS);
    facts = (struct host_facts){ .running = WORKERS - 1, .spawn_error = EAGAIN };
    step_after(50);
    CU_ASSERT(
        has_come("STATUS=Polls are served; 4 of 5 workers run (cannot start a worker: Resource temporarily "
                 "unavailable)"));
    facts = (struct host_facts){ .running = WORKERS };
    step_after(1000);
    CU_ASSERT(has_come("STATUS=Polls are served; 5 of 5 workers run"));
    end();
}

static void the_watchdog_hears_of_each_turn_in_time(void)
{
    begin(false);
    step_after(0);
    CU_ASSERT(has_come("WATCHDOG=1"));
    step_after(WATCHDOG_MS - 1);
    CU_ASSERT(!has_come("WATCHDOG=1"));
    CU_ASSERT(host_report_due_ms(&report) <= now_ms + 1);
    step_after(1);
    CU_ASSERT(has_come("WATCHDOG=1"));
    end();
}

static void the_end_is_told_at_once(void)
{
    begin(false);
    let_begin(WORKERS);
    step_after(0);
    facts.draining = true;
    step_after(1);
    CU_ASSERT(has_come("STATUS=This host is about to stop, and still serves polls; 5 of 5 workers run"));
    facts.ending = true;
    step_after(1);
    CU_ASSERT(has_come("STATUS=The manager has ended, or answers its last polls; 5 of 5 workers run"));
    end();
}

/* The loop must not spin, whatever cannot be told. */
static void messages_that_nobody_takes_wait(void)
{
    begin(true);
    let_begin(WORKERS);
    for (int i = 0; i < 100; i++) {
        step_after(10);
        EXPECT(host_report_due_ms(&report) > now_ms, "turn %d", i);
    }
    end();
}

CU_TestInfo host_report_tests[] = {
    { "it is ready when all workers have begun", it_is_ready_when_all_workers_have_begun },
    { "some workers are enough after 10 s", some_workers_are_enough_after_10_s },
    { "without a worker it is never ready", without_a_worker_it_is_never_ready },
    { "the status says why workers are missing", the_status_says_why_workers_are_missing },
    { "the watchdog hears of each turn in time", the_watchdog_hears_of_each_turn_in_time },
    { "the end is told at once", the_end_is_told_at_once },
    { "messages that nobody takes wait", messages_that_nobody_takes_wait },
    CU_TEST_INFO_NULL,
};
