#include "listener_direct.h"

#include "catch_up.h"
#include "clock.h"
#include "config.h"
#include "database.h"
#include "poll_request.h"
#include "statement.h"

#include <stdlib.h>
#include <unistd.h>

struct listener_direct {
    struct listener base;
    const struct config *config;
    struct database *database;
    bool subscribed;
};

static bool subscribe_statement(struct statement *statement, const struct listener_direct *listener,
                                const struct listener_poll *poll)
{
    int64_t now_ms = clock_monotonic_ms();

    statement_init(statement, "SELECT pgpoll.begin_wait($2, $3, $1, $4, $5, $6) FROM pgpoll.listen($1) LIMIT 1");
    if (!statement_add_topics(statement, poll->request->topics, poll->request->topic_count))
        return false;
    statement_add_text(statement, listener->config->host);
    if (!statement_add_int4(statement, (int32_t)getpid()))
        return false;
    statement_add_text(statement, poll->client);
    return statement_add_int8(statement, now_ms - poll->started_ms) &&
           statement_add_int8(statement, poll->deadline_ms - now_ms);
}

static enum error direct_read(struct listener *base, const struct listener_poll *poll, enum listener_read how,
                              const int64_t *positions, struct page *page, int64_t give_up_ms)
{
    struct listener_direct *listener = (struct listener_direct *)base;
    struct statement subscribe = { 0 };
    const bool subscribes = how & LISTENER_SUBSCRIBE;
    enum error error = ERROR_MEMORY;

    if (!subscribes || subscribe_statement(&subscribe, listener, poll)) {
        listener->subscribed = listener->subscribed || subscribes; /* even if only half of it gets there */
        error = catch_up_run(listener->database, poll->request, how & LISTENER_AUTHORIZE ? poll->remote_user : NULL,
                             subscribes ? &subscribe : NULL, positions, listener->config->page_bytes, page, give_up_ms);
    }
    statement_release(&subscribe);
    return error;
}

static enum error direct_wait(struct listener *base, const struct interrupts *interrupts, int64_t deadline_ms)
{
    return database_wait_news(((struct listener_direct *)base)->database, interrupts, deadline_ms);
}

static void direct_end(struct listener *base)
{
    struct listener_direct *listener = (struct listener_direct *)base;
    struct statement statement;
    PGresult *result = NULL;

    const bool subscribed = listener->subscribed;

    listener->subscribed = false;
    /* Without the connection nothing is LISTENed to, and its row does not count. */
    if (!subscribed || !database_is_connected(listener->database))
        return;
    statement_init(&statement, "SELECT pgpoll.end_wait($1, $2)");
    statement_add_text(&statement, listener->config->host);
    /* A connection that LISTENs and is not read holds up the notification queue of the whole cluster. */
    if (!statement_add_int4(&statement, (int32_t)getpid()) ||
        database_run(listener->database, &statement, 1, &result,
                     clock_monotonic_ms() + listener->config->query_timeout_s * 1000) != ERROR_NONE)
        database_close(listener->database, NULL);
    PQclear(result);
    statement_release(&statement);
}

static const char *direct_error(const struct listener *base)
{
    return database_error(((const struct listener_direct *)base)->database);
}

static void direct_free(struct listener *base)
{
    struct listener_direct *listener = (struct listener_direct *)base;

    if (!listener)
        return;
    database_free(listener->database);
    free(listener);
}

struct listener *listener_direct_new(const struct config *config)
{
    static const struct listener_operations operations = { direct_read, direct_wait, direct_end, direct_error,
                                                           direct_free };
    struct listener_direct *listener = calloc(1, sizeof *listener);

    if (!listener)
        return NULL;
    *listener = (struct listener_direct){ { &operations }, config, database_new(), false };
    if (!listener->database) {
        direct_free(&listener->base);
        return NULL;
    }
    return &listener->base;
}
