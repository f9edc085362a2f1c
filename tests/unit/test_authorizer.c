/*
 * Tests the authorizer with a server that accepts a connection, sends nothing and closes it. Tests with a
 * real database are in tests/e2e.
 */
#include "manager/authorizer.h"

#include "core/config.h"
#include "core/log.h"
#include "shared/question.h"
#include "shared/scoreboard.h"
#include "silence.h"
#include "suites.h"

#include <string.h>

enum { POLLS = 40 };

static void ask_for_all(struct authorizer *authorizer, const struct scoreboard *scoreboard)
{
    for (int i = 0; i < scoreboard->worker_count; i++)
        authorizer_ask(authorizer, i);
}

/*
 * All workers are killed while their questions are in a batch. The workers that replace them ask questions
 * before the batch fails.
 */
static void room_for_all_when_a_batch_of_dead_workers_fails(void)
{
    const struct config config = { .query_timeout_s = 5 };
    struct scoreboard *scoreboard = scoreboard_new(POLLS, 1, 16, 64, 64 * 256, 1);
    struct authorizer *authorizer = scoreboard ? authorizer_new(&config, scoreboard) : NULL;
    int silent = silence_begin();
    enum error answer;

    CU_ASSERT_FATAL(authorizer != NULL);
    CU_ASSERT(log_open("/dev/null", LOG_LEVEL_INFO, "test"));
    for (int i = 0; i < scoreboard->worker_count; i++) {
        struct slot *slot = scoreboard_slot(scoreboard, i);

        memcpy(scoreboard_names(scoreboard, slot), "topic", sizeof "topic");
        slot->topics[0].name_length = sizeof "topic" - 1;
        slot->question_count = 1;
        slot->question_deadline_ms = INT64_MAX;
        slot->asked = 1;
        CU_ASSERT_EQUAL_FATAL(question_take(scoreboard, i), QUESTION_TAKEN);
    }
    ask_for_all(authorizer, scoreboard);
    authorizer_step(authorizer, false);
    CU_ASSERT(authorizer_pollfd(authorizer).fd >= 0);
    for (int i = 0; i < scoreboard->worker_count; i++)
        authorizer_forget_worker(authorizer, i);
    ask_for_all(authorizer, scoreboard);
    silence_end(silent);
    while (authorizer_pollfd(authorizer).fd >= 0)
        authorizer_step(authorizer, true);
    CU_ASSERT_EQUAL(authorizer_take(authorizer, &answer), -1);
    authorizer_free(authorizer);
    scoreboard_free(scoreboard);
    CU_ASSERT(log_open("stderr", LOG_LEVEL_INFO, "test"));
}

CU_TestInfo authorizer_tests[] = { { "room for all when a batch of dead workers fails",
                                     room_for_all_when_a_batch_of_dead_workers_fails },
                                   CU_TEST_INFO_NULL };
