#include "answer.h"

#include "cursor.h"
#include "poll_request.h"
#include "poll_waiter.h"

#include <json-c/json.h>
#include <stdbool.h>
#include <string.h>

static bool take(struct json_object *object, const char *key, struct json_object *value)
{
    if (value && json_object_object_add(object, key, value) == 0)
        return true;
    json_object_put(value);
    return false;
}

/* The same for a value, or null, that stays its owner's too. */
static bool share(struct json_object *object, const char *key, struct json_object *value)
{
    if (json_object_object_add(object, key, value) != 0)
        return false;
    (void)json_object_get(value);
    return true;
}

static struct json_object *message_id(int64_t position)
{
    char id[CURSOR_MESSAGE_ID_SIZE];

    cursor_message_id(position, id);
    return json_object_new_string(id);
}

/* Appends text whose length is known to the compiler. */
#define put(out, text) (printbuf_strappend((out), text) >= 0)

static bool put_text(struct printbuf *out, const char *text)
{
    return printbuf_memappend(out, text, (int)strlen(text)) >= 0;
}

/* For every topic, also in an empty answer: whoever polls again with it misses nothing. */
static bool put_next_since(struct printbuf *out, const struct poll_waiter *waiter)
{
    char id[CURSOR_MESSAGE_ID_SIZE];
    bool made = put(out, ",\"next_since\":{");

    for (int i = 0; made && i < waiter->page.topic_count; i++) {
        cursor_message_id(waiter->page.message_count > 0 ? waiter->page.topics[i].next : waiter->states[i].position,
                          id);
        made = (i == 0 || put(out, ",")) && put_text(out, waiter->who.request->topics[i].quoted) && put(out, ":\"") &&
               put_text(out, id) && put(out, "\"");
    }
    return made && put(out, "}");
}

static struct json_object *gap_of(const struct poll_state *state, const struct poll_topic *topic)
{
    struct json_object *gap = json_object_new_object();

    if (gap && take(gap, "reason", json_object_new_string(gap_name(state->gap))) &&
        share(gap, "requested", topic->since) &&
        (state->oldest < 0 ? share(gap, "oldest", NULL) : take(gap, "oldest", message_id(state->oldest))))
        return gap;
    json_object_put(gap);
    return NULL;
}

static bool has_gaps(const struct poll_waiter *waiter)
{
    for (int i = 0; i < waiter->page.topic_count; i++)
        if (waiter->states[i].gap != GAP_NONE)
            return true;
    return false;
}

static bool put_gaps(struct printbuf *out, const struct poll_waiter *waiter)
{
    struct json_object *gaps = json_object_new_object();
    const char *text;
    bool made = gaps;

    for (int i = 0; made && i < waiter->page.topic_count; i++) {
        const struct poll_topic *topic = &waiter->who.request->topics[i];

        if (waiter->states[i].gap != GAP_NONE)
            made = take(gaps, topic->name, gap_of(&waiter->states[i], topic));
    }
    text = made ? json_object_to_json_string_ext(gaps, JSON_C_TO_STRING_NOSLASHESCAPE) : NULL;
    made = text && put(out, ",\"gaps\":") && put_text(out, text);
    json_object_put(gaps);
    return made;
}

bool answer_messages(struct printbuf *out, const struct poll_waiter *waiter)
{
    const struct page *page = &waiter->page;

    /* A thousand of these go out when one message does: put together from JSON that is there already, as a message is. */
    return put(out, "{\"messages\":[") &&
           (page->message_count == 0 ||
            printbuf_memappend(out, page->messages->buf, printbuf_length(page->messages)) >= 0) &&
           put(out, "],\"has_more\":") && (page->has_more ? put(out, "true") : put(out, "false")) &&
           put_next_since(out, waiter) && (!has_gaps(waiter) || put_gaps(out, waiter)) && put(out, "}");
}

struct json_object *answer_error(enum error error, struct json_object *detail)
{
    struct json_object *answer = json_object_new_object();

    if (!detail)
        detail = json_object_new_string(error_detail(error));
    if (answer && take(answer, "detail", detail))
        return answer;
    if (!answer)
        json_object_put(detail);
    json_object_put(answer);
    return NULL;
}
