#include "listener_direct.h"

#include "catch_up.h"
#include "clock.h"
#include "config.h"
#include "database.h"
#include "log.h"
#include "poll_request.h"
#include "statement.h"
#include "tally.h"

#include <json-c/json.h>
#include <stdlib.h>
#include <unistd.h>

struct listener_direct {
    struct listener base;
    const struct config *config;
    struct database *database;
    bool subscribed;
    struct tally *counting;     /* the worker's */
    struct tally counted;       /* taken from there, and not yet written down */
    struct json_object *counts; /* what a statement borrows */
    bool counts_began;          /* everything that is counted has a row */
    bool lost;                  /* the connection */
    bool read_only;             /* the database would not have anything written down */
    int64_t written_ms;
};

enum {
    WRITE_MS = 1000, /* counts of polls that do not wait are written so much later, with others */
    LAST_MS = 1000   /* so long a worker that ends waits for its last statement */
};

/* While the database is read-only, a waiting poll looks this often whether new messages can be given positions again. */
enum { READ_ONLY_LOOK_MS = 1000 };

/* ---- what was counted */

/* What is to be written down, as text; NULL: out of memory. */
static const char *take_counts(struct listener_direct *listener)
{
    (void)tally_take(&listener->counted, listener->counting);
    json_object_put(listener->counts);
    listener->counts = tally_json(&listener->counted, !listener->counts_began);
    return listener->counts ? json_object_to_json_string_ext(listener->counts, JSON_C_TO_STRING_PLAIN) : NULL;
}

/* It is written down. Where that was not to be seen, it may be counted twice, rather than not at all. */
static void forget_counts(struct listener_direct *listener)
{
    tally_clear(&listener->counted);
    listener->counts_began = true;
    listener->written_ms = clock_monotonic_ms();
}

/* A read-only database still serves what has a position. */
static void set_read_only(struct listener_direct *listener, bool read_only)
{
    if (read_only && !listener->read_only)
        log_write(LOG_LEVEL_WARNING, "the database is read-only (default_transaction_read_only): new messages are not "
                                     "delivered and statistics are not updated until it is writable again");
    else if (listener->read_only && !read_only)
        log_write(LOG_LEVEL_INFO, "the database is writable again");
    listener->read_only = read_only;
}

/* Takes what came of a statement that has the counts: whether it wrote them down. */
static void take_outcome(struct listener_direct *listener, bool written)
{
    if (written)
        forget_counts(listener);
    set_read_only(listener, !written);
}

/*
 * Runs a statement about this worker: its host, its process and its counts are $1, $2 and $3. It returns whether the counts are written
 * down.
 */
static enum error write_down(struct listener_direct *listener, const char *sql, int64_t timeout_ms)
{
    struct statement statement;
    PGresult *result = NULL;
    enum error error = ERROR_MEMORY;
    const char *counts = take_counts(listener);

    statement_init(&statement, sql);
    statement_add_text(&statement, listener->config->host);
    if (counts && statement_add_int4(&statement, (int32_t)getpid())) {
        statement_add_text(&statement, counts);
        error = database_run(listener->database, &statement, 1, &result, clock_monotonic_ms() + timeout_ms);
    }
    if (!error)
        take_outcome(listener, database_is_true(result));
    PQclear(result);
    statement_release(&statement);
    return error;
}

/* ---- the poll */

static bool subscribe_statement(struct statement *statement, struct listener_direct *listener,
                                const struct listener_poll *poll)
{
    int64_t now_ms = clock_monotonic_ms();
    const char *counts = take_counts(listener);

    statement_init(statement,
                   "SELECT " STATEMENT_WRITABLE ","
                   " CASE WHEN " STATEMENT_WRITABLE " THEN pgpoll.begin_wait($2, $3, $1, $4, $5, $6) END,"
                   " CASE WHEN " STATEMENT_WRITABLE " THEN pgpoll.write_listener($2, $3, 1, NULL, NULL, $7::json) END"
                   " FROM pgpoll.listen($1) LIMIT 1");
    if (!counts || !statement_add_topics(statement, poll->request->topics, poll->request->topic_count))
        return false;
    statement_add_text(statement, listener->config->host);
    if (!statement_add_int4(statement, (int32_t)getpid()))
        return false;
    statement_add_text(statement, poll->client);
    if (!statement_add_int8(statement, now_ms - poll->started_ms) ||
        !statement_add_int8(statement, poll->deadline_ms - now_ms))
        return false;
    statement_add_text(statement, counts);
    return true;
}

static enum error direct_read(struct listener *base, const struct listener_poll *poll, enum listener_read how,
                              const int64_t *positions, struct page *page, int64_t give_up_ms)
{
    struct listener_direct *listener = (struct listener_direct *)base;
    struct statement subscribe = { 0 };
    const bool subscribes = how & LISTENER_SUBSCRIBE;
    bool written = false;
    enum error error = ERROR_MEMORY;

    if (!subscribes || subscribe_statement(&subscribe, listener, poll)) {
        listener->subscribed = listener->subscribed || subscribes; /* even if only half of it gets there */
        error = catch_up_run(listener->database, poll->request, how & LISTENER_AUTHORIZE ? poll->remote_user : NULL,
                             subscribes ? &subscribe : NULL, &written, positions, listener->config->page_bytes, page,
                             give_up_ms);
    }
    statement_release(&subscribe);
    if (!error) {
        if (subscribes)
            take_outcome(listener, written);
        tally_add(listener->counting, TALLY_TABLE_PAGES, 1);
        tally_add(listener->counting, TALLY_RECONNECTS, listener->lost);
    }
    listener->lost = error == ERROR_DATABASE_AWAY;
    return error;
}

static enum error direct_wait(struct listener *base, const struct interrupts *interrupts, int64_t deadline_ms)
{
    struct listener_direct *listener = (struct listener_direct *)base;
    const int64_t look_ms = listener->read_only ? clock_monotonic_ms() + READ_ONLY_LOOK_MS : INT64_MAX;
    enum error error = database_wait_news(listener->database, interrupts, clock_min(deadline_ms, look_ms));

    if (error == ERROR_TIMEOUT && look_ms < deadline_ms)
        error = ERROR_NONE;
    listener->lost = error == ERROR_DATABASE_AWAY;
    return error;
}

static const char write_listener[] = "SELECT " STATEMENT_WRITABLE ", CASE WHEN " STATEMENT_WRITABLE
                                     " THEN pgpoll.write_listener($1, $2, 1, NULL, NULL, $3::json) END";

static void direct_end(struct listener *base)
{
    static const char end_wait[] =
        "SELECT " STATEMENT_WRITABLE ", pgpoll.end_wait($1, $2),"
        " CASE WHEN " STATEMENT_WRITABLE " THEN pgpoll.write_listener($1, $2, 1, NULL, NULL, $3::json) END";
    struct listener_direct *listener = (struct listener_direct *)base;
    const int64_t timeout_ms = listener->config->query_timeout_s * 1000;
    const bool subscribed = listener->subscribed;

    listener->subscribed = false;
    /* Without the connection nothing is LISTENed to, and its row does not count. */
    if (!database_is_connected(listener->database))
        return;
    /* A connection that LISTENs and is not read holds up the notification queue of the whole cluster. */
    if (subscribed && write_down(listener, end_wait, timeout_ms) != ERROR_NONE)
        database_close(listener->database, NULL);
    if (!subscribed && clock_monotonic_ms() - listener->written_ms >= WRITE_MS)
        (void)write_down(listener, write_listener, timeout_ms);
}

static const char *direct_error(const struct listener *base)
{
    return database_error(((const struct listener_direct *)base)->database);
}

static void direct_rest(struct listener *base)
{
    struct listener_direct *listener = (struct listener_direct *)base;

    /* The connection is as good as the process: both are there for the next poll, and counted as free. */
    if (!listener->counts_began || atomic_load(&listener->counting->fresh) || atomic_load(&listener->counted.fresh))
        (void)write_down(listener, write_listener, listener->config->query_timeout_s * 1000);
}

/* The worker ends: writes the last counts and deletes its rows. Without a connection they do not count. */
static void finish(struct listener_direct *listener)
{
    static const char end_listener[] = "SELECT " STATEMENT_WRITABLE ", CASE WHEN " STATEMENT_WRITABLE
                                       " THEN pgpoll.write_listener($1, $2, 1, NULL, NULL, $3::json) END,"
                                       " CASE WHEN " STATEMENT_WRITABLE " THEN pgpoll.end_listener($1, $2) END";

    if (database_is_connected(listener->database))
        (void)write_down(listener, end_listener, LAST_MS);
}

static void direct_free(struct listener *base)
{
    struct listener_direct *listener = (struct listener_direct *)base;

    if (!listener)
        return;
    if (listener->database)
        finish(listener);
    database_free(listener->database);
    json_object_put(listener->counts);
    free(listener);
}

struct listener *listener_direct_new(const struct config *config, struct tally *tally)
{
    static const struct listener_operations operations = { direct_read,  direct_wait, direct_end,
                                                           direct_error, direct_rest, direct_free };
    struct listener_direct *listener = calloc(1, sizeof *listener);

    if (!listener)
        return NULL;
    listener->base.operations = &operations;
    listener->config = config;
    listener->database = database_new(config->query_timeout_s * 1000);
    listener->counting = tally;
    if (!listener->database) {
        direct_free(&listener->base);
        return NULL;
    }
    return &listener->base;
}
