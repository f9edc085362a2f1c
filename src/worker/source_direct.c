#include "worker/source_direct.h"

#include "api/poll_request.h"
#include "core/clock.h"
#include "core/config.h"
#include "postgres/catch_up.h"
#include "postgres/database.h"
#include "postgres/statement.h"
#include "shared/counters.h"

#include <json-c/json.h>
#include <stdlib.h>
#include <unistd.h>

struct source_direct {
    struct message_source base;
    const struct config *config;
    struct database *database;
    bool subscribed;
    struct counters *counting;  /* the worker's counters */
    struct counters counted;    /* taken from there, and not written to the database yet */
    struct json_object *counts; /* the JSON of counted, which a statement borrows */
    bool counts_began;          /* every counter has a row in the database */
    bool lost;                  /* the last call found the connection lost */
    bool read_only;             /* the database is read-only */
    int64_t written_ms;         /* when the counters were written last */
};

enum {
    WRITE_MS = 1000, /* polls that do not wait write the counters at most this often */
    LAST_MS = 1000   /* how long a worker that ends waits for its last statement */
};

/*
 * While the database is read-only, a waiting poll reads this often, to number new messages as soon as it is
 * writable.
 */
enum { READ_ONLY_LOOK_MS = 1000 };

/* ---- counters */

/* Returns the counts to write as JSON text, borrowed until the next call; NULL: out of memory. */
static const char *take_counts(struct source_direct *source)
{
    (void)counters_take(&source->counted, source->counting);
    json_object_put(source->counts);
    source->counts = counters_json(&source->counted, !source->counts_began);
    return source->counts ? json_object_to_json_string_ext(source->counts, JSON_C_TO_STRING_PLAIN) : NULL;
}

/*
 * The counts are written. If a write's success is unknown, they are written again: counted twice rather than
 * lost.
 */
static void clear_counts(struct source_direct *source)
{
    counters_clear(&source->counted);
    source->counts_began = true;
    source->written_ms = clock_monotonic_ms();
}

/*
 * Handles the result of a statement that carried the counts. written: it wrote them; else the database is
 * read-only.
 */
static void take_written(struct source_direct *source, bool written)
{
    if (written)
        clear_counts(source);
    database_note_read_only(&source->read_only, !written);
}

/*
 * Runs a statement about this worker. $1 is its host, $2 its process id, $3 its counts. The statement returns
 * whether it has written the counts.
 */
static enum error run_statement(struct source_direct *source, const char *sql, int64_t timeout_ms)
{
    struct statement statement;
    PGresult *result = NULL;
    enum error error = ERROR_MEMORY;
    const char *counts = take_counts(source);

    statement_init(&statement, sql);
    statement_add_text(&statement, source->config->host);
    if (counts && statement_add_int4(&statement, (int32_t)getpid())) {
        statement_add_text(&statement, counts);
        error = database_run(source->database, &statement, 1, &result, clock_monotonic_ms() + timeout_ms);
    }
    if (!error)
        take_written(source, database_is_true(result));
    PQclear(result);
    statement_release(&statement);
    return error;
}

/* ---- the poll */

static bool subscribe_statement(struct statement *statement, struct source_direct *source,
                                const struct source_poll *poll)
{
    int64_t now_ms = clock_monotonic_ms();
    const char *counts = take_counts(source);

    statement_init(statement,
                   "SELECT " STATEMENT_WRITABLE ","
                   " CASE WHEN " STATEMENT_WRITABLE " THEN pgpoll.begin_wait($2, $3, $1, $4, $5, $6) END,"
                   " CASE WHEN " STATEMENT_WRITABLE
                   " THEN pgpoll.write_listener($2, $3, 1, NULL, NULL, $7::json) END"
                   " FROM pgpoll.listen($1) LIMIT 1");
    if (!counts || !statement_add_topics(statement, poll->request->topics, poll->request->topic_count))
        return false;
    statement_add_text(statement, source->config->host);
    if (!statement_add_int4(statement, (int32_t)getpid()))
        return false;
    statement_add_text(statement, poll->client);
    if (!statement_add_int8(statement, now_ms - poll->started_ms) ||
        !statement_add_int8(statement, poll->deadline_ms - now_ms))
        return false;
    statement_add_text(statement, counts);
    return true;
}

static enum error direct_read(struct message_source *base, const struct source_poll *poll,
                              enum source_read how, const int64_t *positions, struct page *page,
                              int64_t deadline_ms)
{
    struct source_direct *source = (struct source_direct *)base;
    struct statement subscribe = { 0 };
    const bool subscribes = how & SOURCE_SUBSCRIBE;
    bool written = false;
    enum error error = ERROR_MEMORY;

    if (!subscribes || subscribe_statement(&subscribe, source, poll)) {
        source->subscribed = source->subscribed || subscribes; /* even if the batch fails after LISTEN */
        error =
            catch_up_run(source->database, poll->request, how & SOURCE_AUTHORIZE ? poll->remote_user : NULL,
                         subscribes ? &subscribe : NULL, &written, positions, source->config->page_bytes,
                         page, deadline_ms);
    }
    statement_release(&subscribe);
    if (!error) {
        if (subscribes)
            take_written(source, written);
        counters_add(source->counting, COUNTER_TABLE_PAGES, 1);
        counters_add(source->counting, COUNTER_RECONNECTS, source->lost);
    }
    source->lost = error == ERROR_DATABASE_AWAY;
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
    source->lost = error == ERROR_DATABASE_AWAY;
    return error;
}

static const char write_listener[] = "SELECT " STATEMENT_WRITABLE ", CASE WHEN " STATEMENT_WRITABLE
                                     " THEN pgpoll.write_listener($1, $2, 1, NULL, NULL, $3::json) END";

static void direct_end(struct message_source *base)
{
    static const char end_wait[] =
        "SELECT " STATEMENT_WRITABLE ", pgpoll.end_wait($1, $2),"
        " CASE WHEN " STATEMENT_WRITABLE " THEN pgpoll.write_listener($1, $2, 1, NULL, NULL, $3::json) END";
    struct source_direct *source = (struct source_direct *)base;
    const int64_t timeout_ms = source->config->query_timeout_s * 1000;
    const bool subscribed = source->subscribed;

    source->subscribed = false;
    /* If the connection is lost, so is its LISTEN, and the views ignore its row. */
    if (!database_is_connected(source->database))
        return;
    /*
     * A session that LISTENs but is not read blocks the cluster's notification queue, so it is closed if
     * UNLISTEN fails.
     */
    if (subscribed && run_statement(source, end_wait, timeout_ms) != ERROR_NONE)
        database_close(source->database, NULL);
    if (!subscribed && clock_monotonic_ms() - source->written_ms >= WRITE_MS)
        (void)run_statement(source, write_listener, timeout_ms);
}

static const char *direct_error(const struct message_source *base)
{
    return database_error(((const struct source_direct *)base)->database);
}

static void direct_rest(struct message_source *base)
{
    struct source_direct *source = (struct source_direct *)base;

    /* An idle worker keeps its connection for the next poll, and its row counts it as idle. */
    if (!source->counts_began || atomic_load(&source->counting->fresh) || atomic_load(&source->counted.fresh))
        (void)run_statement(source, write_listener, source->config->query_timeout_s * 1000);
}

/*
 * The worker ends: writes the last counts and deletes its rows. Without a connection there is no need: the
 * views ignore them.
 */
static void finish(struct source_direct *source)
{
    static const char end_listener[] =
        "SELECT " STATEMENT_WRITABLE ", CASE WHEN " STATEMENT_WRITABLE
        " THEN pgpoll.write_listener($1, $2, 1, NULL, NULL, $3::json) END,"
        " CASE WHEN " STATEMENT_WRITABLE " THEN pgpoll.end_listener($1, $2) END";

    if (database_is_connected(source->database))
        (void)run_statement(source, end_listener, LAST_MS);
}

static void direct_free(struct message_source *base)
{
    struct source_direct *source = (struct source_direct *)base;

    if (!source)
        return;
    if (source->database)
        finish(source);
    database_free(source->database);
    json_object_put(source->counts);
    free(source);
}

struct message_source *source_direct_new(const struct config *config, struct counters *counters)
{
    static const struct source_operations operations = { direct_read,  direct_wait, direct_end,
                                                         direct_error, direct_rest, direct_free };
    struct source_direct *source = calloc(1, sizeof *source);

    if (!source)
        return NULL;
    source->base.operations = &operations;
    source->config = config;
    source->database = database_new(config->query_timeout_s * 1000);
    source->counting = counters;
    if (!source->database) {
        direct_free(&source->base);
        return NULL; /* cppcheck-suppress memleak; base is its first member */
    }
    return &source->base;
}
