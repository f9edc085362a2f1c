#include "poll_log.h"

#include "api/poll_request.h"
#include "core/clock.h"
#include "core/log.h"
#include "http.h"
#include "worker/poll_waiter.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Sizes of texts in a log line, with their NULs. A name that does not fit is cut. */
enum { ID_SIZE = 65, TOPICS_SIZE = 400, USER_SIZE = 300, ACCESS_SIZE = USER_SIZE + 4 * 256 + 64 };

/*
 * Makes the id of a request. This is its X-Request-Id, cut and with unusual characters replaced; without one,
 * a new id.
 */
static void make_id(const FCGX_Request *request, char id[static ID_SIZE])
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:/+=@-";
    static unsigned served;
    const char *given = http_parameter(request, "HTTP_X_REQUEST_ID");

    served++;
    if (*given)
        (void)snprintf(id, ID_SIZE, "%s", given);
    else
        (void)snprintf(id, ID_SIZE, "%d-%u", (int)getpid(), served);
    for (char *at = id; *at; at++)
        if (!strchr(allowed, *at))
            *at = '_';
}

/*
 * Appends a name in quotes, with \xNN for quotes, backslashes and bytes that are not printable ASCII. If
 * there is room for a part of it only, cuts it and ends it with three dots. Returns whether it was not cut.
 */
static bool add_name(char *text, size_t size, const char *name)
{
    static const char last[] = "\\xNN...\""; /* for what there must be room when a character is added */
    size_t at = strlen(text);

    if (at + strlen(" \"") + sizeof last > size)
        return false;
    at += (size_t)snprintf(text + at, size - at, " \"");
    for (; *name && at + sizeof last <= size; name++) {
        unsigned char c = (unsigned char)*name;
        if (c < ' ' || c > '~' || c == '"' || c == '\\')
            at += (size_t)snprintf(text + at, size - at, "\\x%02x", c);
        else
            text[at++] = *name;
    }
    (void)snprintf(text + at, size - at, "%s\"", *name ? "..." : "");
    return !*name;
}

/* Writes the names of the first topics to text, as many as there is room for. The last one may be cut. */
static void list_topics(const struct poll_request *request, char text[static TOPICS_SIZE])
{
    text[0] = '\0';
    for (int i = 0; i < request->topic_count; i++)
        if (!add_name(text, TOPICS_SIZE, request->topics[i].name))
            return;
}

/*
 * Writes the part of a poll's log line about its user and, if the poll was refused, about the refused topic.
 */
static void describe_access(const struct poll_waiter *waiter, enum error outcome, char *text, size_t size)
{
    const int refused = waiter->source->refused_topic;

    text[0] = '\0';
    if (*waiter->poll.remote_user) {
        (void)snprintf(text, size, ", user");
        (void)add_name(text, USER_SIZE, waiter->poll.remote_user);
    }
    if (outcome == ERROR_DENIED && refused >= 0) {
        (void)snprintf(text + strlen(text), size - strlen(text), ", may not poll");
        (void)add_name(text, size, waiter->poll.request->topics[refused].name);
    }
}

void poll_log(const FCGX_Request *request, const struct poll_waiter *waiter, enum error outcome,
              const char *why)
{
    const enum log_level level = error_log_level(outcome);
    const int64_t now_ms = clock_monotonic_ms();
    char id[ID_SIZE], topics[TOPICS_SIZE] = "", access[ACCESS_SIZE];

    if (!log_enabled(level))
        return;
    make_id(request, id);
    if (!waiter) {
        log_write(level, "poll %s from %s: %s%s%s", id, http_parameter(request, "REMOTE_ADDR"),
                  error_name(outcome), *why ? ": " : "", why);
        return;
    }
    if (log_enabled(LOG_LEVEL_DEBUG))
        list_topics(waiter->poll.request, topics);
    describe_access(waiter, outcome, access, sizeof access);
    log_write(level,
              "poll %s from %s: %s, %d messages%s, waited %" PRId64 " of %" PRId64 " ms, %d topics%s%s%s%s%s",
              id, http_parameter(request, "REMOTE_ADDR"), error_name(outcome), waiter->page.message_count,
              waiter->page.has_more ? " and more" : "",
              waiter->waits_since_ms ? now_ms - waiter->waits_since_ms : 0, now_ms - waiter->poll.started_ms,
              waiter->page.topic_count, access, *topics ? ":" : "", topics, *why ? ": " : "", why);
}
