#include "worker/poll_counters.h"

#include "api/cursor.h"
#include "core/clock.h"
#include "shared/counters.h"
#include "worker/poll_waiter.h"

#include <json-c/printbuf.h>

void poll_counters_add(struct counters *counters, const struct poll_waiter *waiter, enum error outcome)
{
    const struct page *page = &waiter->page;
    const bool waited = waiter->waits_since_ms != 0;

    if (waited)
        counters_add_wait(counters, clock_monotonic_ms() - waiter->waits_since_ms);
    if (outcome == ERROR_NONE) {
        counters_add(counters, COUNTER_MESSAGES, (uint64_t)page->message_count);
        counters_add(counters, COUNTER_BYTES, (uint64_t)printbuf_length(page->messages));
        /*
         * Only for a poll that waited: otherwise the message may be older than the poll, and its age is not
         * delivery latency. clock_max() excludes a negative age, because the database's clock may be ahead.
         */
        if (waited && page->message_count > 0)
            counters_add_latency(counters, clock_max(clock_wall_ms() - cursor_position_ms(page->first), 0));
    }
    for (int i = 0; outcome != ERROR_CLIENT_GONE && i < page->topic_count; i++)
        if (waiter->gaps[i].gap != GAP_NONE)
            counters_add(counters, COUNTER_GAPS + (int)waiter->gaps[i].gap, 1);
    counters_add(counters, COUNTER_POLLS + (int)outcome, 1);
}
