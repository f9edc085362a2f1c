#include "worker/answer.h"

#include "api/cursor.h"
#include "api/poll_request.h"
#include "core/json_build.h"
#include "worker/poll_waiter.h"

#include <json-c/json.h>
#include <stdbool.h>
#include <string.h>

/* Appends a string literal. */
#define put(out, text) (printbuf_strappend((out), text) >= 0)

static bool put_text(struct printbuf *out, const char *text)
{
    return printbuf_memappend(out, text, (int)strlen(text)) >= 0;
}

/*
 * Appends "next_since" with a cursor for every topic, even if there are no messages, so that a client that
 * sends the cursors back misses nothing.
 */
static bool put_next_since(struct printbuf *out, const struct poll_waiter *waiter)
{
    char id[CURSOR_MESSAGE_ID_SIZE];
    bool made = put(out, ",\"next_since\":{");

    for (int i = 0; made && i < waiter->page.topic_count; i++) {
        cursor_message_id(waiter->page.message_count > 0 ? waiter->page.topics[i].next : waiter->positions[i],
                          id);
        made = (i == 0 || put(out, ",")) && put_text(out, waiter->poll.request->topics[i].quoted) &&
               put(out, ":\"") && put_text(out, id) && put(out, "\"");
    }
    return made && put(out, "}");
}

static bool put_gap(struct printbuf *out, const struct poll_gap *gap, const struct poll_topic *topic)
{
    char oldest[CURSOR_MESSAGE_ID_SIZE];
    bool made = put_text(out, topic->quoted) && put(out, ":{\"reason\":\"") &&
                put_text(out, gap_name(gap->gap)) && put(out, "\",\"requested\":") &&
                put_text(out, topic->since ? topic->since : "null") && put(out, ",\"oldest\":");

    if (gap->oldest < 0)
        return made && put(out, "null}");
    cursor_message_id(gap->oldest, oldest);
    return made && put(out, "\"") && put_text(out, oldest) && put(out, "\"}");
}

/* Appends the member "gaps" if there is a gap. */
static bool put_gaps(struct printbuf *out, const struct poll_waiter *waiter)
{
    bool made = true, any = false;

    for (int i = 0; made && i < waiter->page.topic_count; i++) {
        if (waiter->gaps[i].gap == GAP_NONE)
            continue;
        made = (any ? put(out, ",") : put(out, ",\"gaps\":{")) &&
               put_gap(out, &waiter->gaps[i], &waiter->poll.request->topics[i]);
        any = true;
    }
    return made && (!any || put(out, "}"));
}

bool answer_messages(struct printbuf *out, const struct poll_waiter *waiter)
{
    const struct page *page = &waiter->page;

    /*
     * One message may cause a thousand answers. Therefore an answer is concatenated from parts that are
     * already JSON, instead of being built as a tree.
     */
    return put(out, "{\"messages\":[") &&
           (page->message_count == 0 ||
            printbuf_memappend(out, page->messages->buf, printbuf_length(page->messages)) >= 0) &&
           put(out, "],\"has_more\":") && (page->has_more ? put(out, "true") : put(out, "false")) &&
           put_next_since(out, waiter) && put_gaps(out, waiter) && put(out, "}");
}

struct json_object *answer_error(enum error error, struct json_object *detail)
{
    struct json_object *answer = json_object_new_object();

    if (!detail)
        detail = json_object_new_string(error_detail(error));
    if (json_build_add_member(answer, "detail", detail))
        return answer;
    json_object_put(answer);
    return NULL;
}
