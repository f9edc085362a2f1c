/*
 * Reads the feed: pgpoll.catch_up() and pgpoll.new_messages() (sql/functions/) as statements, and what their rows mean.
 * The only code that knows those functions' parameters and columns.
 */
#ifndef PGPOLL_CATCH_UP_H
#define PGPOLL_CATCH_UP_H

#include "api/page.h"
#include "core/error.h"

#include <libpq-fe.h>
#include <stdint.h>

struct database;
struct poll_request;
struct statement;

/* A topic's position when it is to be read from now on. */
enum { CATCH_UP_FROM_NOW = -1 };

/* Makes the statement. positions: one a topic. The caller releases it, also on failure. false: out of memory. */
bool catch_up_statement(struct statement *statement, const struct poll_request *request,
                        const int64_t *positions, int64_t page_bytes);

enum catch_up_kind { CATCH_UP_TOPIC, CATCH_UP_MESSAGE, CATCH_UP_MORE };

/* One row: where a topic's reading starts, a message, or the hint that there are more. Texts are borrowed from the result. */
struct catch_up_row {
    enum catch_up_kind kind;
    int topic_index;
    struct page_topic topic; /* of CATCH_UP_TOPIC */
    int64_t
        newest; /* of CATCH_UP_TOPIC: its last position, if it is read from now; in a backlog now comes later */
    struct message message; /* of CATCH_UP_MESSAGE */
};

/* Reads a row of the statement's result. */
struct catch_up_row catch_up_row(const PGresult *result, int row);

/* The statement by which a manager gives new messages their positions and gets them (sql/functions/new_messages.sql). */
bool catch_up_batch_statement(struct statement *statement, int max_messages, int64_t max_bytes);

/* What its result says. */
struct catch_up_batch {
    bool read_only;   /* nothing can be given a position now: the database is read-only */
    int assigned;     /* so many new messages there were */
    bool more;        /* there is a backlog: ask again at once */
    int64_t previous; /* between this position and them there is nothing */
    int message_count; /* 0: they are too many for one result; else a row each, in order: catch_up_message(), topic in column 0 */
};

struct catch_up_batch catch_up_batch(const PGresult *result);

/* The message in a row of either statement's result. */
struct message catch_up_message(const PGresult *result, int row);

/*
 * Reads one page into a cleared page, by deadline_ms, in one network write of up to four transactions: it asks whether remote_user may
 * poll these topics (NULL: does not ask), runs first (NULL: nothing) and sets *first_is_true to whether that returned true, has new
 * messages given their positions, or one batch of them (page->backlog), and reads the page.
 * ERROR_DENIED, ERROR_MEMORY and the errors of database_run(); the page is clear then.
 */
enum error catch_up_run(struct database *database, const struct poll_request *request,
                        const char *remote_user, const struct statement *first, bool *first_is_true,
                        const int64_t *positions, int64_t page_bytes, struct page *page, int64_t deadline_ms);

#endif
