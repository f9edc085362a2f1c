#include "core/backoff.h"

#include "core/clock.h"

#include <stdlib.h>

void backoff_fail(struct backoff *backoff, int64_t now_ms)
{
    backoff->pause_ms =
        backoff->pause_ms ? clock_min(backoff->pause_ms * 2, backoff->max_ms) : backoff->first_ms;
    backoff->due_ms = now_ms + backoff->pause_ms - random() % (backoff->pause_ms / 2 + 1);
}

void backoff_reset(struct backoff *backoff)
{
    backoff->pause_ms = 0;
}
