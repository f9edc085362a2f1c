/*
 * Tests the authorizer with a server that accepts a connection, sends nothing and closes it. Tests with a
 * real database are in tests/e2e.
 */
#include "manager/authorizer.h"

#include "core/config.h"
#include "core/log.h"
#include "expect.h"
#include "fake_clock.h"
#include "shared/question.h"
#include "shared/scoreboard.h"
#include "shared/slot_reset.h"
#include "silence.h"
#include "suites.h"

#include <string.h>

enum { POLLS = 40 };

static void ask_for_all(struct authorizer *authorizer, const struct scoreboard *scoreboard)
{
    for (int i = 0; i < scoreboard->worker_count; i++) {
        struct slot *slot = scoreboard_slot(scoreboard, i);

        memcpy(scoreboard_names(scoreboard, slot), "topic", sizeof "topic");
        slot->topics[0].name_length = sizeof "topic" - 1;
        slot->question_count = 1;
        slot->question_kind = QUESTION_AUTHORIZE;
        slot->question_deadline_ms = INT64_MAX;
        slot->asked = scoreboard_reply(scoreboard, i)->answered + 1;
        CU_ASSERT_EQUAL_FATAL(question_take((struct scoreboard *)scoreboard, i), QUESTION_TAKEN);
        authorizer_ask(authorizer, i);
    }
}

/* Lets the authorizer make a step. Returns how many of its sessions have a socket. */
static int step(struct authorizer *authorizer, bool ready)
{
    struct pollfd fds[AUTHORIZER_MAX_SESSIONS];
    const int count = authorizer_pollfds(authorizer, fds);
    int open = 0;

    for (int i = 0; i < count; i++)
        fds[i].revents = ready ? POLLIN : 0;
    authorizer_step(authorizer, fds);
    (void)authorizer_pollfds(authorizer, fds);
    for (int i = 0; i < count; i++)
        open += fds[i].fd >= 0;
    return open;
}

/*
 * All workers are killed while a call of can_poll() for one of them is under way. The workers that replace
 * them ask questions before this call fails.
 */
static void the_dead_leave_nothing_behind(void)
{
    const struct config config = { .query_timeout_s = 5, .access_connections = 3, .access_memory_s = 5 };
    struct scoreboard *scoreboard = scoreboard_new(POLLS, 1, 64, 64 * 256, 1);
    struct authorizer *authorizer = scoreboard ? authorizer_new(&config, scoreboard) : NULL;
    int silent = silence_begin(), answered = 0;

    if (!authorizer) {
        CU_FAIL("out of memory");
        scoreboard_free(scoreboard);
        return;
    }
    CU_ASSERT(log_open("/dev/null", LOG_LEVEL_INFO, "test"));
    fake_clock_stop();
    ask_for_all(authorizer, scoreboard);
    CU_ASSERT_EQUAL(step(authorizer, false), 1); /* a second session opens only after a longer wait */
    fake_clock_restore();
    for (int i = 0; i < scoreboard->worker_count; i++) {
        authorizer_forget_worker(authorizer, i);
        slot_reset(scoreboard, i);
    }
    ask_for_all(authorizer, scoreboard);
    silence_end(silent);
    while (step(authorizer, true) > 0)
        ;
    for (int i = 0; i < scoreboard->worker_count; i++) {
        answered += scoreboard_question(scoreboard, i) == NULL;
        CU_ASSERT(scoreboard_question(scoreboard, i) ||
                  scoreboard_reply(scoreboard, i)->error == ERROR_DATABASE_AWAY);
    }
    EXPECT(answered < scoreboard->worker_count, "%d answered at once", answered);
    authorizer_free(authorizer);
    scoreboard_free(scoreboard);
    CU_ASSERT(log_open("stderr", LOG_LEVEL_INFO, "test"));
}

CU_TestInfo authorizer_tests[] = { { "the dead leave nothing behind", the_dead_leave_nothing_behind },
                                   CU_TEST_INFO_NULL };
