#include "answer.h"

#include "cursor.h"
#include "poll_request.h"
#include "poll_waiter.h"

#include <json-c/json.h>
#include <stdbool.h>

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

/* A json-c serializer: the page's messages are JSON already. */
static int write_messages(struct json_object *object, struct printbuf *out, int level, int flags)
{
    const struct page *page = json_object_get_userdata(object);

    (void)level;
    (void)flags;
    if (printbuf_strappend(out, "[") < 0 ||
        (page->message_count > 0 && printbuf_memappend(out, page->messages->buf, printbuf_length(page->messages)) < 0))
        return -1;
    return printbuf_strappend(out, "]");
}

static struct json_object *messages_of(const struct page *page)
{
    struct json_object *messages = json_object_new_array();

    /* json-c takes user data as not const, and gives it back to write_messages() only. */
    if (messages)
        json_object_set_serializer(messages, write_messages, (void *)(uintptr_t)page, NULL);
    return messages;
}

/* For every topic, also of an empty answer: whoever polls again with it misses nothing. */
static struct json_object *next_since_of(const struct poll_waiter *waiter)
{
    struct json_object *next_since = json_object_new_object();
    bool made = next_since;

    for (int i = 0; made && i < waiter->page.topic_count; i++) {
        int64_t position = waiter->page.message_count > 0 ? waiter->page.topics[i].next : waiter->states[i].position;
        made = take(next_since, waiter->who.request->topics[i].name, message_id(position));
    }
    if (!made) {
        json_object_put(next_since);
        return NULL;
    }
    return next_since;
}

static const char *gap_reason(enum gap gap)
{
    switch (gap) {
    case GAP_EXPIRED:
        return "expired";
    case GAP_AHEAD:
        return "ahead";
    case GAP_UNKNOWN:
    case GAP_NONE:
        break;
    }
    return "unknown";
}

static struct json_object *gap_of(const struct poll_state *state, const struct poll_topic *topic)
{
    struct json_object *gap = json_object_new_object();

    if (gap && take(gap, "reason", json_object_new_string(gap_reason(state->gap))) &&
        share(gap, "requested", topic->since) &&
        (state->oldest < 0 ? share(gap, "oldest", NULL) : take(gap, "oldest", message_id(state->oldest))))
        return gap;
    json_object_put(gap);
    return NULL;
}

/* Adds "gaps" where there are any. */
static bool take_gaps(struct json_object *answer, const struct poll_waiter *waiter)
{
    struct json_object *gaps = json_object_new_object();
    bool made = gaps;

    for (int i = 0; made && i < waiter->page.topic_count; i++) {
        const struct poll_topic *topic = &waiter->who.request->topics[i];
        if (waiter->states[i].gap != GAP_NONE)
            made = take(gaps, topic->name, gap_of(&waiter->states[i], topic));
    }
    if (!made || json_object_object_length(gaps) == 0) {
        json_object_put(gaps);
        return made;
    }
    return take(answer, "gaps", gaps);
}

struct json_object *answer_messages(const struct poll_waiter *waiter)
{
    struct json_object *answer = json_object_new_object();

    if (answer && take(answer, "messages", messages_of(&waiter->page)) &&
        take(answer, "has_more", json_object_new_boolean(waiter->page.has_more)) &&
        take(answer, "next_since", next_since_of(waiter)) && take_gaps(answer, waiter))
        return answer;
    json_object_put(answer);
    return NULL;
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
