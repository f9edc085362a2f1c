#include "page.h"

#include "poll_request.h"

#include <json-c/printbuf.h>
#include <stdlib.h>

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
    page->has_more = false;
}

bool page_add(struct page *page, int topic_index, const struct poll_topic *topic, const struct message *message)
{
    if (page->message_count > 0 && printbuf_strappend(page->messages, ",") < 0)
        return false;
    if (!message_append(page->messages, topic->quoted, message))
        return false;
    page->topics[topic_index].next = message->position;
    page->message_count++;
    return true;
}
