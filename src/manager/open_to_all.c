#include "manager/open_to_all.h"

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
    return atomic_load(&open->scoreboard->workers->polls) == open->polls ? INT64_MAX
                                                                         : open->asked_ms + OPEN_AGAIN_MS;
}

const char *open_to_all_ask(struct open_to_all *open, int64_t now_ms)
{
    open->asked_ms = now_ms;
    open->polls = atomic_load(&open->scoreboard->workers->polls);
    return "SELECT pgpoll.is_open_to_all()";
}

void open_to_all_take(const struct open_to_all *open, const PGresult *result, int64_t asked_ms)
{
    atomic_store(&open->scoreboard->manager->open_until_ms,
                 database_is_true(result) ? asked_ms + OPEN_MS : 0);
}

void open_to_all_deny(struct scoreboard *scoreboard)
{
    atomic_store(&scoreboard->manager->open_until_ms, 0);
}
