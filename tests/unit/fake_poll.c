#include "fake_poll.h"

#include "core/clock.h"
#include "expect.h"
#include "fake_clock.h"
#include "worker/answer.h"

#include <CUnit/CUnit.h>
#include <json-c/json.h>
#include <limits.h>
#include <stddef.h>
#include <string.h>

static const char *const call_names[] = { "read", "wait", "begin_wait", "heartbeat" };

static struct fake_poll *of_source(struct message_source *source)
{
    return (struct fake_poll *)(void *)((char *)source - offsetof(struct fake_poll, source));
}

static struct fake_poll *of_client(struct poll_client *client)
{
    return (struct fake_poll *)(void *)((char *)client - offsetof(struct fake_poll, client));
}

/*
 * Returns the script's step for this call. If the script expects another call, returns a step with
 * ERROR_MEMORY, which ends any poll.
 */
static const struct fake_step *next_step(struct fake_poll *poll, enum fake_call call, int64_t deadline_ms)
{
    static const struct fake_step unexpected = { .error = ERROR_MEMORY };
    const struct fake_step *step = &poll->script[poll->step];

    if (poll->step < poll->steps && step->repeat && step->call != call) {
        poll->step++;
        step++;
    }
    if (!EXPECT(poll->step < poll->steps && poll->call_count < FAKE_CALLS && step->call == call,
                "step %d: unexpected %s", poll->step, call_names[call])) {
        poll->step = poll->steps;
        return &unexpected;
    }
    poll->calls[poll->call_count].call = call;
    poll->calls[poll->call_count++].left_ms = deadline_ms - clock_monotonic_ms();
    if (!step->repeat)
        poll->step++;
    fake_clock_advance(step->takes_ms);
    return step;
}

/* Waits for a turn to read, as source_shared.c does. Returns false if the client has disconnected. */
static bool wait_for_turn(struct fake_poll *poll, const struct source_poll *asked, int64_t queued_ms)
{
    struct interrupts interrupts = { .client_fd = INT_MIN };
    const int64_t since_ms = clock_monotonic_ms(), end_ms = since_ms + queued_ms;
    int64_t due_ms = since_ms;
    bool is_there = true;

    for (; is_there && due_ms < end_ms; fake_clock_advance(clock_min(due_ms, end_ms) - clock_monotonic_ms()))
        is_there = asked->attend(asked->waiter, since_ms, &interrupts, &due_ms);
    poll->watched = interrupts.client_fd != INT_MIN;
    return is_there;
}

static enum error fake_read(struct message_source *source, const struct source_poll *asked,
                            enum source_read how, int64_t *positions, struct page *page, int64_t deadline_ms)
{
    struct fake_poll *poll = of_source(source);
    const struct fake_step *step = next_step(poll, FAKE_READ, deadline_ms);

    if (step->error == ERROR_MEMORY)
        return step->error;
    if (!wait_for_turn(poll, asked, step->queued_ms))
        return ERROR_CLIENT_GONE;
    EXPECT(how == step->how, "read %d: how is %d instead of %d", poll->call_count, (int)how, (int)step->how);
    EXPECT(page->message_count == 0 && !page->has_more, "read %d: the page is not clear", poll->call_count);
    memcpy(poll->calls[poll->call_count - 1].positions, positions,
           (size_t)page->topic_count * sizeof *positions);
    for (int i = 0; i < page->topic_count; i++) {
        page->topics[i] = step->topics[i];
        page->topics[i].next = step->topics[i].start;
    }
    /*
     * A step may have both messages and an error, because a connection may be lost in the middle of a page.
     */
    for (int i = 0; i < FAKE_MESSAGES && step->messages[i].position; i++) {
        struct message message = { step->messages[i].position, 0, "1", 1, NULL, 0 };
        if (!page_add(page, step->messages[i].topic, &asked->request->topics[step->messages[i].topic],
                      &message))
            return ERROR_MEMORY;
    }
    page->has_more = step->has_more;
    return step->error;
}

static enum error fake_wait(struct message_source *source, const struct interrupts *interrupts,
                            int64_t deadline_ms)
{
    const struct fake_step *step = next_step(of_source(source), FAKE_WAIT, deadline_ms);
    int64_t left_ms = deadline_ms - clock_monotonic_ms();

    (void)interrupts;
    if (step->error == ERROR_TIMEOUT && left_ms > 0)
        fake_clock_advance(left_ms);
    return step->error;
}

static void fake_end(struct message_source *source)
{
    of_source(source)->ends++;
}

static bool fake_begin(struct poll_client *client)
{
    return next_step(of_client(client), FAKE_BEGIN, clock_monotonic_ms())->error == ERROR_NONE;
}

static bool fake_heartbeat(struct poll_client *client)
{
    return next_step(of_client(client), FAKE_HEARTBEAT, clock_monotonic_ms())->error == ERROR_NONE;
}

void fake_poll_init(struct fake_poll *poll, const char *body)
{
    static const struct source_operations operations = { .read = fake_read,
                                                         .wait = fake_wait,
                                                         .end = fake_end };
    struct json_object *detail = NULL;

    fake_clock_stop();
    memset(poll, 0, sizeof *poll);
    poll->source.operations = &operations;
    poll->client = (struct poll_client){ fake_begin, fake_heartbeat };
    (void)sigemptyset(&poll->sleep_mask);
    poll->interrupts = (struct interrupts){ -1, &poll->drain, &poll->woken, &poll->sleep_mask };
    poll->config = (struct config){ .reread_s = 60, .query_timeout_s = 5 };
    poll->error = poll_request_parse(&poll->request, body, strlen(body), FAKE_TOPICS, &detail);
    EXPECT(!poll->error, "%s: %s", body, json_object_to_json_string(detail));
    json_object_put(detail);
    CU_ASSERT_FATAL(!poll->error); /* otherwise there is no valid request */
}

void fake_poll_run(struct fake_poll *poll, const struct fake_step *script, int steps, const char *file,
                   int line)
{
    poll->script = script;
    poll->steps = steps;
    poll->error = poll_waiter_init(&poll->waiter, &poll->config, &poll->source, &poll->interrupts,
                                   &poll->client, &poll->request, "", "192.0.2.1");
    if (!poll->error)
        poll->error = poll_waiter_run(&poll->waiter);
    (void)expect(poll->step == steps || (poll->step == steps - 1 && script[poll->step].repeat), file, line,
                 "only %d of %d steps were played", poll->step, steps);
}

void fake_poll_expect(const struct fake_poll *poll, const char *member, const char *json, const char *file,
                      int line)
{
    struct printbuf *answer = printbuf_new();
    const char *text = answer_messages(answer, &poll->waiter) ? answer->buf : "out of memory";
    struct json_object *received = json_tokener_parse(text), *value = NULL;

    (void)expect(received, file, line, "not JSON: %s", text);
    (void)json_object_object_get_ex(received, member, &value);
    expect_json(json_object_get(value), json, file, line);
    json_object_put(received);
    printbuf_free(answer);
}

void fake_poll_release(struct fake_poll *poll)
{
    if (poll->waiter.source)
        poll_waiter_release(&poll->waiter);
    EXPECT(poll->ends == 1, "end was called %d times", poll->ends);
    poll_request_release(&poll->request);
    fake_clock_restore();
}
