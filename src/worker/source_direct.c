#include "worker/source_direct.h"

#include "api/poll_request.h"
#include "core/clock.h"
#include "core/config.h"
#include "core/json_build.h"
#include "postgres/calls.h"
#include "postgres/catch_up.h"
#include "postgres/database.h"
#include "postgres/statement.h"
#include "shared/stats_report.h"

#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct source_direct {
    struct message_source base;
    const struct config *config;
    struct database *database;
    bool subscribed;
    struct counters *counting;  /* the worker's counters */
    struct stats_report report; /* statements borrow its text */
    bool hides_error;           /* the last error's text is not shown, because it may quote a token */
    bool lost;                  /* the last call found the connection lost */
    bool read_only;             /* the database is read-only */
    int64_t written_ms;         /* when the statistics were written last */
    bool anonymous;             /* authenticate() is as installed */
    int64_t look_ms;            /* when to check again whether it is */
};

enum {
    WRITE_MS = 1000,             /* minimum time between two writes for polls that do not wait */
    LAST_MS = 1000,              /* how long a worker that ends waits for its last statement */
    AUTHENTICATE_CHECK_MS = 2500 /* time between two checks whether authenticate() is as installed */
};

/*
 * How often a waiting poll reads while the database is read-only, so that new messages are numbered soon
 * after the database is writable again.
 */
enum { READ_ONLY_LOOK_MS = 1000 };

/* ---- statistics */

/* Returns the finished report, or NULL if out of memory. ends says whether the worker ends. */
static const char *finish_report(struct source_direct *source, bool ends)
{
    (void)counters_take(&source->report.counters, source->counting);
    return stats_report_finish(&source->report, NULL, ends);
}

/*
 * Handles the result of a statement with a report. written says whether the report was written; if not, the
 * database is read-only.
 */
static void take_written(struct source_direct *source, bool written)
{
    if (written) {
        stats_report_written(&source->report);
        source->written_ms = clock_monotonic_ms();
    }
    database_note_read_only(&source->read_only, !written);
}

/* Writes the statistics. unlistens: also ends all LISTENs of the session. */
static enum error write_report(struct source_direct *source, bool unlistens, bool ends, int64_t timeout_ms)
{
    enum { WRITE, UNLISTEN, COUNT };
    const char *report = finish_report(source, ends);
    struct statement statements[COUNT];
    PGresult *results[COUNT] = { NULL };
    enum error error;

    if (!report)
        return ERROR_MEMORY;
    call_write_statistics(&statements[WRITE], source->config->host, report);
    call_unlisten(&statements[UNLISTEN]);
    error = database_run(source->database, statements, unlistens ? COUNT : UNLISTEN, results,
                         clock_monotonic_ms() + timeout_ms);
    if (!error)
        take_written(source, database_is_true(results[WRITE]));
    for (int i = 0; i < COUNT; i++) {
        PQclear(results[i]);
        statement_release(&statements[i]);
    }
    return error;
}

/* ---- the poll */

/* Returns a new array of the topics' names, or NULL if out of memory. */
static struct json_object *topics_of(const struct poll_request *request)
{
    struct json_object *topics = json_object_new_array();
    bool made = topics;

    for (int i = 0; made && i < request->topic_count; i++)
        made = json_build_add_item(
            topics, json_object_new_string_len(request->topics[i].name, (int)request->topics[i].length));
    if (made)
        return topics;
    json_object_put(topics);
    return NULL;
}

static bool subscribe_statement(struct statement *statement, struct source_direct *source,
                                const struct source_poll *poll)
{
    const int64_t now_ms = clock_monotonic_ms();
    const char *report;

    if (!stats_report_add_began(&source->report, (int)getpid(), topics_of(poll->request), poll->client,
                                poll->remote_user, now_ms - poll->started_ms, poll->deadline_ms - now_ms))
        return false;
    report = finish_report(source, false);
    return report && call_begin_wait(statement, poll->request->topics, poll->request->topic_count,
                                     source->config->host, report);
}

/*
 * Runs one statement that calls authenticate() or has_authenticate(). If the function fails, returns the
 * error code for that and hides the text of the error.
 */
static enum error ask_one(struct source_direct *source, const struct statement *statement, PGresult **result,
                          int64_t deadline_ms)
{
    enum error error = database_run(source->database, statement, 1, result, deadline_ms);

    if (error)
        error = database_name_error(source->database, error, ERROR_AUTHENTICATE_FAILED,
                                    ERROR_AUTHENTICATE_TIMEOUT);
    source->hides_error = error == ERROR_AUTHENTICATE_FAILED;
    return error;
}

/* Checks whether authenticate() is as installed, and remembers the result for AUTHENTICATE_CHECK_MS. */
static enum error look_at_authenticate(struct source_direct *source, int64_t deadline_ms)
{
    struct statement statement;
    PGresult *result = NULL;
    enum error error;

    call_has_authenticate(&statement);
    error = ask_one(source, &statement, &result, deadline_ms);
    if (!error) {
        source->anonymous = !database_is_true(result);
        source->look_ms = clock_monotonic_ms() + AUTHENTICATE_CHECK_MS;
    }
    PQclear(result);
    return error;
}

static enum error take_user(const PGresult *result, char user[static SOURCE_USER_SIZE])
{
    if (PQgetisnull(result, 0, 0))
        return ERROR_UNAUTHENTICATED;
    if (PQgetlength(result, 0, 0) >= SOURCE_USER_SIZE)
        return ERROR_AUTHENTICATE_FAILED;
    (void)snprintf(user, SOURCE_USER_SIZE, "%s", PQgetvalue(result, 0, 0));
    return ERROR_NONE;
}

static enum error direct_authenticate(struct message_source *base, const struct source_poll *poll,
                                      const char *authorization, char user[static SOURCE_USER_SIZE],
                                      int64_t deadline_ms)
{
    struct source_direct *source = (struct source_direct *)base;
    struct statement statement;
    PGresult *result = NULL;
    enum error error = ERROR_NONE;

    (void)poll;
    user[0] = '\0';
    if (clock_monotonic_ms() >= source->look_ms)
        error = look_at_authenticate(source, deadline_ms);
    if (error || source->anonymous)
        return error;
    if (!source_is_usable(authorization))
        return ERROR_UNAUTHENTICATED;
    call_authenticate(&statement, authorization);
    error = ask_one(source, &statement, &result, deadline_ms);
    if (!error)
        error = take_user(result, user);
    PQclear(result);
    return error;
}

/* Notes whether the database is away. If it is, it may have crashed, which empties pgpoll.counters. */
static void note_lost(struct source_direct *source, enum error error)
{
    source->lost = error == ERROR_DATABASE_AWAY;
    if (source->lost)
        source->report.counters_began = false;
}

static enum error direct_read(struct message_source *base, const struct source_poll *poll,
                              enum source_read how, int64_t *positions, struct page *page,
                              int64_t deadline_ms)
{
    struct source_direct *source = (struct source_direct *)base;
    struct statement subscribe = { 0 };
    const bool subscribes = how & SOURCE_SUBSCRIBE, checks_user = how & SOURCE_AUTHORIZE;
    struct catch_up_user user = { poll->remote_user, -1 };
    bool written = false;
    enum error error = ERROR_MEMORY;

    source->hides_error = false;
    if (checks_user) /* can_poll() may take as long as any statement, however short the poll is */
        deadline_ms = clock_max(deadline_ms, poll->started_ms + source->config->query_timeout_s * 1000);
    if (!subscribes || subscribe_statement(&subscribe, source, poll)) {
        source->subscribed = source->subscribed || subscribes; /* the batch may fail after LISTEN */
        error = catch_up_run(source->database, poll->request, checks_user ? &user : NULL,
                             subscribes ? &subscribe : NULL, &written, true, positions,
                             source->config->page_bytes, page, deadline_ms);
    }
    source->base.refused_topic = user.refused_topic;
    statement_release(&subscribe);
    if (!error) {
        if (subscribes)
            take_written(source, written);
        counters_add(source->counting, COUNTER_TABLE_PAGES, 1);
        counters_add(source->counting, COUNTER_RECONNECTS, source->lost);
    }
    note_lost(source, error);
    return error;
}

static enum error direct_wait(struct message_source *base, const struct interrupts *interrupts,
                              int64_t deadline_ms)
{
    struct source_direct *source = (struct source_direct *)base;
    const int64_t look_ms = source->read_only ? clock_monotonic_ms() + READ_ONLY_LOOK_MS : INT64_MAX;
    enum error error = database_wait_news(source->database, interrupts, clock_min(deadline_ms, look_ms));

    if (error == ERROR_TIMEOUT && look_ms < deadline_ms)
        error = ERROR_NONE;
    note_lost(source, error);
    return error;
}

static void direct_end(struct message_source *base)
{
    struct source_direct *source = (struct source_direct *)base;
    const int64_t timeout_ms = source->config->query_timeout_s * 1000;
    const bool subscribed = source->subscribed;

    source->subscribed = false;
    /* Without a connection there is no LISTEN to end, and the views ignore the worker's row. */
    if (!database_is_connected(source->database))
        return;
    /*
     * A session that LISTENs but is not read blocks the cluster's notification queue, so it is closed if
     * UNLISTEN fails.
     */
    if (subscribed && (!stats_report_add_ended(&source->report, (int)getpid()) ||
                       write_report(source, true, false, timeout_ms) != ERROR_NONE))
        database_close(source->database, NULL);
    if (!subscribed && clock_monotonic_ms() - source->written_ms >= WRITE_MS)
        (void)write_report(source, false, false, timeout_ms);
}

static const char *direct_error(const struct message_source *base)
{
    const struct source_direct *source = (const struct source_direct *)base;

    return source->hides_error ? "only PostgreSQL's log has the message, which may quote the token"
                               : database_error(source->database);
}

static void direct_rest(struct message_source *base)
{
    struct source_direct *source = (struct source_direct *)base;

    /* Write the worker's row, which counts it as idle, and new counts. The connection stays open. */
    if (!source->report.counters_began || atomic_load(&source->counting->fresh) ||
        atomic_load(&source->report.counters.fresh))
        (void)write_report(source, false, false, source->config->query_timeout_s * 1000);
}

/*
 * Writes the last counts and deletes the worker's rows, when the worker ends. Without a connection this is
 * not needed, because the views ignore the rows of a session that has ended.
 */
static void finish(struct source_direct *source)
{
    if (database_is_connected(source->database))
        (void)write_report(source, false, true, LAST_MS);
}

static void direct_free(struct message_source *base)
{
    struct source_direct *source = (struct source_direct *)base;

    if (!source)
        return;
    if (source->database)
        finish(source);
    database_free(source->database);
    stats_report_release(&source->report);
    free(source);
}

struct message_source *source_direct_new(const struct config *config, struct counters *counters)
{
    static const struct source_operations operations = { direct_authenticate, direct_read,  direct_wait,
                                                         direct_end,          direct_error, direct_rest,
                                                         direct_free };
    struct source_direct *source = calloc(1, sizeof *source);

    if (!source)
        return NULL;
    source->base.operations = &operations;
    source->config = config;
    source->database = database_new(config->query_timeout_s * 1000);
    source->counting = counters;
    if (!source->database) {
        direct_free(&source->base);
        return NULL; /* cppcheck-suppress memleak; base is the first member of source */
    }
    return &source->base;
}
