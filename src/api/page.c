#include "api/page.h"

#include "api/poll_request.h"

#include <json-c/printbuf.h>
#include <stdlib.h>

const char *gap_name(enum gap gap)
{
    static const char *const names[GAP_COUNT] = { "none", "expired", "unknown", "ahead" };

    return names[gap];
}

bool page_init(struct page *page, int topic_count)
{
    struct page made = { .topic_count = topic_count };

    made.topics = calloc((size_t)topic_count, sizeof *made.topics);
    made.messages = printbuf_new();
    if (!made.topics || !made.messages) {
        page_release(&made);
        return false;
    }
    *page = made;
    page_clear(page);
    return true;
}

void page_release(struct page *page)
{
    free(page->topics);
    printbuf_free(page->messages);
    *page = (struct page){ 0 };
}

void page_clear(struct page *page)
{
    for (int i = 0; i < page->topic_count; i++)
        page->topics[i] = (struct page_topic){ 0, 0, -1, GAP_NONE };
    printbuf_reset(page->messages);
    page->message_count = 0;
    page->first = 0;
    page->has_more = false;
    page->backlog = false;
}

/* Appends a comma if the next message is not the first. */
static bool separate(struct page *page)
{
    return page->message_count == 0 || printbuf_strappend(page->messages, ",") >= 0;
}

static bool count(struct page *page, int topic_index, int64_t position)
{
    if (page->message_count == 0)
        page->first = position;
    page->topics[topic_index].next = position;
    page->message_count++;
    return true;
}

bool page_add(struct page *page, int topic_index, const struct poll_topic *topic,
              const struct message *message)
{
    return separate(page) && message_append(page->messages, topic->quoted, message) &&
           count(page, topic_index, message->position);
}

bool page_add_json(struct page *page, int topic_index, int64_t position, const char *json, size_t length)
{
    return separate(page) && printbuf_memappend(page->messages, json, (int)length) >= 0 &&
           count(page, topic_index, position);
}
