/*
 * Reads messages from the table: builds the statements that call pgpoll.catch_up(), pgpoll.new_messages(),
 * pgpoll.read_feed() and pgpoll.newest_positions() (sql/functions/) and decodes their rows. The only code
 * that knows these functions' parameters and columns.
 */
#ifndef PGPOLL_CATCH_UP_H
#define PGPOLL_CATCH_UP_H

#include "api/page.h"
#include "core/error.h"

#include <libpq-fe.h>
#include <stdint.h>

struct database;
struct poll_request;
struct poll_topic;
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
    struct message message;  /* for CATCH_UP_MESSAGE */
};

/* Decodes a row of the result of catch_up_statement(). */
struct catch_up_row catch_up_row(const PGresult *result, int row);

/*
 * Initialise the statements with which a manager reads all messages after a position into its ring, a page at
 * a time; the first one gives positions to new messages before. after: CATCH_UP_FROM_NOW: only those that the
 * statement itself gives positions to. wanted: messages of other topics may come without payload. Return
 * false if out of memory.
 */
bool catch_up_new_statement(struct statement *statement, int max_messages, int64_t max_bytes, int64_t after,
                            const struct poll_topic *wanted, int wanted_count);
bool catch_up_feed_statement(struct statement *statement, int max_messages, int64_t max_bytes, int64_t after,
                             const struct poll_topic *wanted, int wanted_count);

/* The result of these statements. A row for which catch_up_is_message() is true is a message. */
struct catch_up_feed {
    bool read_only;      /* the database is read-only, so no positions can be given now */
    int assigned;        /* how many messages got positions */
    bool more;           /* run the statement again at once */
    int64_t complete_to; /* the rows have all messages up to this position; 0: unknown */
    int64_t deleted_to;  /* messages up to this one may have been deleted before they were read; 0: none */
};

struct catch_up_feed catch_up_feed(const PGresult *result);

bool catch_up_is_message(const PGresult *result, int row);

/* The topic of a message of these statements. Borrowed from the result. */
const char *catch_up_topic(const PGresult *result, int row, size_t *length);

/* Whether the message in this row has its payload; if not, its topic is not wanted. */
bool catch_up_is_whole(const PGresult *result, int row);

/* Initialises a statement that asks where these topics stand. Returns false if out of memory. */
bool catch_up_newest_statement(struct statement *statement, const struct poll_topic *topics, int count);

/* Where one of these topics stands; in their order. */
struct catch_up_newest {
    int64_t newest; /* its last position */
    int64_t now;    /* where a poll "from now" starts: after a backlog in progress */
    uint32_t hash;  /* stands for the topic in announcements */
};

struct catch_up_newest catch_up_newest(const PGresult *result, int row);

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
