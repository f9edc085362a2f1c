/*
 * Reads messages from the table: builds the statements that call pgpoll.catch_up() and pgpoll.new_messages()
 * (sql/functions/) and decodes the rows of their results. Only this module knows the parameters and columns
 * of these functions.
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

/*
 * Initialises a statement that reads a page for request, with a position for each topic and at most
 * page_bytes of payload and metadata. Returns false if out of memory. The caller releases the statement in
 * both cases.
 */
bool catch_up_statement(struct statement *statement, const struct poll_request *request,
                        const int64_t *positions, int64_t page_bytes);

enum catch_up_kind { CATCH_UP_TOPIC, CATCH_UP_MESSAGE, CATCH_UP_MORE };

/*
 * One row: the start of a topic's read, a message, or the mark that more messages follow. Texts are borrowed
 * from the result.
 */
struct catch_up_row {
    enum catch_up_kind kind;
    int topic_index;
    struct page_topic topic; /* for CATCH_UP_TOPIC */
    /*
     * For CATCH_UP_TOPIC, if the topic is read "from now": its newest position. While a backlog is being
     * numbered, "now" (topic.start) is a higher position than newest.
     */
    int64_t newest;
    struct message message; /* for CATCH_UP_MESSAGE */
};

/* Decodes a row of the result of catch_up_statement(). */
struct catch_up_row catch_up_row(const PGresult *result, int row);

/*
 * Initialises the statement with which a manager assigns positions to new messages and reads them. Returns
 * false if out of memory.
 */
bool catch_up_batch_statement(struct statement *statement, int max_messages, int64_t max_bytes);

/* What the result of catch_up_batch_statement() says. */
struct catch_up_batch {
    bool read_only;   /* the database is read-only, so no message can get a position now */
    int assigned;     /* how many messages got positions */
    bool more;        /* more messages need positions: run the statement again at once */
    int64_t previous; /* no message has a position between this one and the first of the batch */
    /*
     * The number of rows, each of which is a message, in order of positions. catch_up_message() decodes a
     * row; column 0 is its topic. If the batch exceeds the limits of the statement, the number is 0, and the
     * messages must be read from the table.
     */
    int message_count;
};

struct catch_up_batch catch_up_batch(const PGresult *result);

/*
 * Decodes the message in a row of the result of catch_up_statement() or catch_up_batch_statement(). Texts are
 * borrowed from the result.
 */
struct message catch_up_message(const PGresult *result, int row);

/* The user whose right to poll is checked before a read. */
struct catch_up_user {
    const char *name;  /* "": not authenticated */
    int refused_topic; /* set with ERROR_DENIED: the index of the topic that can_poll() refuses */
};

/*
 * Reads a page into page, which is cleared, by deadline_ms. Sends up to four transactions in one network
 * write:
 *  1. Checks whether the user may poll these topics, unless user is NULL.
 *  2. Runs the statement first, unless first is NULL, and sets *first_is_true to whether its result is true.
 *  3. If number is set, assigns positions to one batch of new messages. Sets page->backlog if more messages
 *     need positions.
 *  4. Reads the page.
 * Returns ERROR_NONE, ERROR_DENIED, ERROR_CAN_POLL_FAILED, ERROR_CAN_POLL_TIMEOUT, ERROR_MEMORY or an error
 * of database_run(); on errors the page is clear.
 */
enum error catch_up_run(struct database *database, const struct poll_request *request,
                        struct catch_up_user *user, const struct statement *first, bool *first_is_true,
                        bool number, const int64_t *positions, int64_t page_bytes, struct page *page,
                        int64_t deadline_ms);

#endif
