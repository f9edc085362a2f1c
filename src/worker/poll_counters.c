#include "worker/poll_counters.h"

#include "api/cursor.h"
#include "core/clock.h"
#include "shared/counters.h"
#include "worker/poll_waiter.h"

#include <json-c/printbuf.h>

void poll_counters_add(struct tally *tally, const struct poll_waiter *waiter, enum error outcome)
{
    const struct page *page = &waiter->page;
    const bool waited = waiter->waits_since_ms != 0;

    if (waited)
        tally_add_wait(tally, clock_monotonic_ms() - waiter->waits_since_ms);
    if (outcome == ERROR_NONE) {
        tally_add(tally, TALLY_MESSAGES, (uint64_t)page->message_count);
        tally_add(tally, TALLY_BYTES, (uint64_t)printbuf_length(page->messages));
        /* Skip messages older than the poll: their age is not delivery latency. The database's clock may differ from ours. */
        if (waited && page->message_count > 0)
            tally_add_latency(tally, clock_max(clock_wall_ms() - cursor_position_ms(page->first), 0));
    }
    for (int i = 0; outcome != ERROR_CLIENT_GONE && i < page->topic_count; i++)
        if (waiter->states[i].gap != GAP_NONE)
            tally_add(tally, TALLY_GAPS + (int)waiter->states[i].gap, 1);
    tally_add(tally, TALLY_POLLS + (int)outcome, 1);
}
