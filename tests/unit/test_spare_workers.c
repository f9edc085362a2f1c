/* Tests which polls are drained while workers start, with a real scoreboard and no processes. */
#include "manager/spare_workers.h"

#include "shared/scoreboard.h"
#include "suites.h"

#include <stdatomic.h>

enum { POLLS = 40, RESERVE = 2, NOW_MS = 60 * 1000, WAITS_MS = 1000, START_MS = 5000 };

static struct scoreboard *scoreboard;
static struct spare_workers spare;

/* Begins with a poll that waits in each of the first count workers, the longest first. The others start. */
static void begin(int count)
{
    scoreboard = scoreboard_new(POLLS, 1, 64, 64 * 256, 1);
    CU_ASSERT_PTR_NOT_NULL_FATAL(scoreboard);
    CU_ASSERT_EQUAL_FATAL(scoreboard->reserve, RESERVE);
    for (int i = 0; i < count; i++) {
        atomic_store(&scoreboard_slot(scoreboard, i)->since_ms, NOW_MS - WAITS_MS + i);
        atomic_store(&scoreboard_slot(scoreboard, i)->state, SLOT_WAITING);
    }
    spare_workers_init(&spare, scoreboard);
    spare_workers_expect(&spare, NOW_MS);
}

/* Lets polls be drained. Returns how many are, the longest waiting first. */
static int keep(int64_t now_ms)
{
    int count = 0;

    spare_workers_keep(&spare, now_ms);
    while (count < scoreboard->worker_count && atomic_load(&scoreboard_slot(scoreboard, count)->drain))
        count++;
    for (int i = count; i < scoreboard->worker_count; i++)
        CU_ASSERT_EQUAL(atomic_load(&scoreboard_slot(scoreboard, i)->drain), 0);
    return count;
}

static void no_poll_is_drained_while_enough_workers_start(void)
{
    begin(POLLS);
    CU_ASSERT_EQUAL(keep(NOW_MS), 0);
    CU_ASSERT_EQUAL(spare_workers_due_ms(&spare), NOW_MS + 5); /* it looks again, because they may fail */
    CU_ASSERT_EQUAL(keep(NOW_MS + START_MS - 1), 0);
    scoreboard_free(scoreboard);
}

static void one_is_drained_for_each_that_will_be_missing(void)
{
    begin(POLLS + 1);
    CU_ASSERT_EQUAL(keep(NOW_MS), 1);
    scoreboard_free(scoreboard);
}

static void workers_that_do_not_begin_are_not_waited_for(void)
{
    begin(POLLS);
    CU_ASSERT_EQUAL(keep(NOW_MS + START_MS), RESERVE);
    scoreboard_free(scoreboard);
}

static void workers_that_cannot_be_started_are_not_waited_for(void)
{
    begin(1);
    spare_workers_expect_none(&spare);
    CU_ASSERT_EQUAL(keep(NOW_MS), 1);
    scoreboard_free(scoreboard);
}

CU_TestInfo spare_workers_tests[] = {
    { "no poll is drained while enough workers start", no_poll_is_drained_while_enough_workers_start },
    { "one is drained for each that will be missing", one_is_drained_for_each_that_will_be_missing },
    { "workers that do not begin are not waited for", workers_that_do_not_begin_are_not_waited_for },
    { "workers that cannot be started are not waited for",
      workers_that_cannot_be_started_are_not_waited_for },
    CU_TEST_INFO_NULL,
};
