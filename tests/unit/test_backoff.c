#include "core/backoff.h"

#include "expect.h"
#include "suites.h"

enum { NOW_MS = 5000 };

static void pauses_double_up_to_the_limit(void)
{
    static const int64_t pauses_ms[] = { 50, 100, 200, 400, 800, 1000, 1000 };
    struct backoff backoff = BACKOFF_DATABASE;

    CU_ASSERT(backoff.due_ms <= NOW_MS); /* the first attempt is due at once */
    for (size_t i = 0; i < sizeof pauses_ms / sizeof *pauses_ms; i++) {
        backoff_fail(&backoff, NOW_MS);
        EXPECT(backoff.due_ms >= NOW_MS + pauses_ms[i] / 2 && backoff.due_ms <= NOW_MS + pauses_ms[i],
               "pause %d ends after %d ms", (int)i, (int)(backoff.due_ms - NOW_MS));
    }
}

static void a_success_makes_the_next_pause_short_again(void)
{
    struct backoff backoff = BACKOFF_CHILDREN;

    for (int i = 0; i < 10; i++)
        backoff_fail(&backoff, NOW_MS);
    CU_ASSERT(backoff.due_ms >= NOW_MS + backoff.max_ms / 2);
    backoff_reset(&backoff);
    backoff_fail(&backoff, NOW_MS);
    CU_ASSERT(backoff.due_ms <= NOW_MS + backoff.first_ms);
}

static void equal_failures_try_again_at_different_times(void)
{
    int64_t earliest_ms = INT64_MAX, latest_ms = 0;

    for (int i = 0; i < 1000; i++) {
        struct backoff backoff = { .first_ms = 1000, .max_ms = 1000 };

        backoff_fail(&backoff, NOW_MS);
        earliest_ms = backoff.due_ms < earliest_ms ? backoff.due_ms : earliest_ms;
        latest_ms = backoff.due_ms > latest_ms ? backoff.due_ms : latest_ms;
    }
    CU_ASSERT(earliest_ms >= NOW_MS + 500 && earliest_ms < NOW_MS + 550);
    CU_ASSERT(latest_ms <= NOW_MS + 1000 && latest_ms > NOW_MS + 950);
}

CU_TestInfo backoff_tests[] = {
    { "pauses double up to the limit", pauses_double_up_to_the_limit },
    { "a success makes the next pause short again", a_success_makes_the_next_pause_short_again },
    { "equal failures try again at different times", equal_failures_try_again_at_different_times },
    CU_TEST_INFO_NULL,
};
