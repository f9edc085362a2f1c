#include "manager/open_to_all.h"

#include "core/clock.h"
#include "postgres/calls.h"
#include "postgres/database.h"
#include "shared/scoreboard.h"

#include <stdatomic.h>

enum {
    OPEN_MS = 2500, /* how long workers rely on the answer */
    /* time between two questions; less than OPEN_MS, so that the answer is renewed in time */
    OPEN_AGAIN_MS = 1500
};

int64_t open_to_all_due_ms(const struct open_to_all *open)
{
    if (open->wanted)
        return 0;
    return atomic_load(&open->scoreboard->workers->polls) == open->polls ? INT64_MAX
                                                                         : open->asked_ms + OPEN_AGAIN_MS;
}

void open_to_all_ask(struct open_to_all *open, struct statement *statement, int64_t now_ms)
{
    open->asked_ms = now_ms;
    open->polls = atomic_load(&open->scoreboard->workers->polls);
    call_is_open_to_all(statement);
}

void open_to_all_take(struct open_to_all *open, const PGresult *result, int64_t asked_ms)
{
    open->wanted = false;
    open->is_known = true;
    open->allows_all = database_is_true(result);
    open->knows_nobody = PQntuples(result) == 1 && !PQgetisnull(result, 0, 1) && database_bool(result, 0, 1);
    atomic_store(&open->scoreboard->manager->open_until_ms, open->allows_all ? asked_ms + OPEN_MS : 0);
    atomic_store(&open->scoreboard->manager->anonymous_until_ms, open->knows_nobody ? asked_ms + OPEN_MS : 0);
}

void open_to_all_deny(struct scoreboard *scoreboard)
{
    atomic_store(&scoreboard->manager->open_until_ms, 0);
}

enum open_answer open_to_all_judge(struct open_to_all *open, const struct question *question)
{
    const bool authenticates = question->kind == QUESTION_AUTHENTICATE;
    const struct manager_memory *memory = open->scoreboard->manager;
    const int64_t until_ms =
        atomic_load(authenticates ? &memory->anonymous_until_ms : &memory->open_until_ms);

    if (clock_monotonic_ms() < until_ms)
        return OPEN_YES;
    if (open->is_known && !(authenticates ? open->knows_nobody : open->allows_all))
        return OPEN_NO;
    open->wanted = true;
    return OPEN_UNKNOWN;
}
