#include "postgres/catch_up.h"

#include "api/poll_request.h"
#include "postgres/calls.h"
#include "postgres/database.h"
#include "postgres/statement.h"

#include <string.h>

/*
 * The columns of all results, in their order: of catch_up(); of new_messages() and read_feed(); of the view
 * feed_messages. All of them begin with those of a message, of which there are MESSAGE_COLUMNS. A column that
 * is added to a message goes before MESSAGE_COLUMNS and into the two statements below that name the columns.
 */
enum column { TOPIC_NO, POSITION, CREATED_AT, PAYLOAD, METADATA, MESSAGE_COLUMNS };
enum catch_up_column { GAP = MESSAGE_COLUMNS, OLDEST };
enum feed_column { TOPIC, ASSIGNED = MESSAGE_COLUMNS, COMPLETE_TO, MORE, DELETED_TO };
enum followed_column { FOLLOWED_DELETED_TO = MESSAGE_COLUMNS };
enum newest_column { NEWEST, NOW, HASH };

/*
 * The limit of catch_up_followed_statement(). A message of more than 64 KiB comes without its payload (see
 * the view pgpoll.feed_messages), so a page has at most 8 MiB.
 */
enum { FOLLOWED_MESSAGES = 128 };

bool catch_up_statement(struct statement *statement, const struct poll_request *request,
                        const int64_t *positions, int64_t page_bytes)
{
    statement_init(statement, "SELECT * FROM pgpoll.catch_up($1, $2, $3, $4)");
    return statement_add_topics(statement, request->topics, request->topic_count) &&
           statement_add_int8s(statement, positions, request->topic_count, CATCH_UP_FROM_NOW) &&
           statement_add_int4(statement, request->limit) && statement_add_int8(statement, page_bytes);
}

static bool is_null(const PGresult *result, int row, int column)
{
    return PQgetisnull(result, row, column);
}

static struct page_topic get_topic(const PGresult *result, int row)
{
    struct page_topic topic = { .start = database_int8(result, row, POSITION),
                                .oldest = -1,
                                .gap = GAP_NONE };

    topic.next = topic.start;
    if (!is_null(result, row, OLDEST))
        topic.oldest = database_int8(result, row, OLDEST);
    if (!is_null(result, row, GAP))
        topic.gap = strcmp(PQgetvalue(result, row, GAP), "ahead") == 0 ? GAP_AHEAD : GAP_EXPIRED;
    return topic;
}

/* Returns NULL, and sets *length to 0, if the value is NULL. */
static const char *get_text(const PGresult *result, int row, int column, size_t *length)
{
    *length = (size_t)PQgetlength(result, row, column);
    return is_null(result, row, column) ? NULL : PQgetvalue(result, row, column);
}

struct message catch_up_message(const PGresult *result, int row)
{
    struct message message = {
        .position = database_int8(result, row, POSITION),
        .created_at_us = database_int8(result, row, CREATED_AT),
    };

    message.payload = get_text(result, row, PAYLOAD, &message.payload_length);
    message.metadata = get_text(result, row, METADATA, &message.metadata_length);
    return message;
}

struct catch_up_row catch_up_row(const PGresult *result, int row)
{
    struct catch_up_row read = { .kind = CATCH_UP_TOPIC,
                                 .topic_index = database_int4(result, row, TOPIC_NO) - 1 };

    if (is_null(result, row, CREATED_AT)) {
        read.topic = get_topic(result, row);
    } else if (is_null(result, row, PAYLOAD)) {
        read.kind = CATCH_UP_MORE;
    } else {
        read.kind = CATCH_UP_MESSAGE;
        read.message = catch_up_message(result, row);
    }
    return read;
}

static bool add_range(struct statement *statement, int max_messages, int64_t max_bytes, int64_t after,
                      const struct poll_topic *wanted, int wanted_count)
{
    return statement_add_int4(statement, max_messages) && statement_add_int8(statement, max_bytes) &&
           statement_add_int8(statement, after) && statement_add_topics(statement, wanted, wanted_count);
}

bool catch_up_new_statement(struct statement *statement, int max_messages, int64_t max_bytes, int64_t after,
                            const struct poll_topic *wanted, int wanted_count, bool others)
{
    statement_init(statement,
                   "SELECT * FROM pgpoll.new_messages($1, $2, CASE WHEN $3 >= 0 THEN $3 END, $4, $5 <> 0)");
    statement->name = "pgpoll_new_messages " PGPOLL_VERSION;
    return add_range(statement, max_messages, max_bytes, after, wanted, wanted_count) &&
           statement_add_int4(statement, others);
}

bool catch_up_feed_statement(struct statement *statement, int max_messages, int64_t max_bytes, int64_t after,
                             const struct poll_topic *wanted, int wanted_count)
{
    statement_init(statement,
                   "SELECT topic, position, created_at, payload, metadata, 0, complete_to, more, deleted_to"
                   " FROM pgpoll.read_feed($1, $2, CASE WHEN $3 >= 0 THEN $3 END, $4)");
    statement->name = "pgpoll_read_feed " PGPOLL_VERSION;
    return add_range(statement, max_messages, max_bytes, after, wanted, wanted_count);
}

/*
 * pg_sequence_last_value() stands outside of the view, because the planner would sort the rows of a view that
 * calls a volatile function. The limit is a constant, because the planner would take a parameter to mean a
 * tenth of the table.
 */
bool catch_up_followed_statement(struct statement *statement, int64_t after)
{
    statement_init(statement, "SELECT topic, position, created_at, payload, metadata,"
                              " pg_sequence_last_value('pgpoll.last_deleted') FROM pgpoll.feed_messages"
                              " WHERE position > $1 ORDER BY position LIMIT 128");
    statement->name = "pgpoll_follow " PGPOLL_VERSION;
    return statement_add_int8(statement, after);
}

struct catch_up_feed catch_up_feed(const PGresult *result)
{
    struct catch_up_feed feed = { .read_only = database_int4(result, 0, ASSIGNED) < 0,
                                  .more = database_bool(result, 0, MORE),
                                  .deleted_to = database_int8(result, 0, DELETED_TO) };

    feed.assigned = feed.read_only ? 0 : database_int4(result, 0, ASSIGNED);
    if (!is_null(result, 0, COMPLETE_TO))
        feed.complete_to = database_int8(result, 0, COMPLETE_TO);
    return feed;
}

bool catch_up_followed(const PGresult *result, int64_t after, struct catch_up_feed *feed)
{
    const int count = PQntuples(result);

    if (count == 0 || is_null(result, 0, FOLLOWED_DELETED_TO))
        return false;
    *feed = (struct catch_up_feed){ .more = count == FOLLOWED_MESSAGES,
                                    .complete_to = database_int8(result, count - 1, POSITION),
                                    .deleted_to = database_int8(result, 0, FOLLOWED_DELETED_TO) };
    if (feed->deleted_to <= after)
        feed->deleted_to = 0;
    return true;
}

bool catch_up_is_message(const PGresult *result, int row)
{
    return !is_null(result, row, POSITION);
}

const char *catch_up_topic(const PGresult *result, int row, size_t *length)
{
    *length = (size_t)PQgetlength(result, row, TOPIC);
    return PQgetvalue(result, row, TOPIC);
}

bool catch_up_is_whole(const PGresult *result, int row)
{
    return !is_null(result, row, CREATED_AT);
}

bool catch_up_newest_statement(struct statement *statement, const struct poll_topic *topics, int count)
{
    statement_init(statement, "SELECT * FROM pgpoll.newest_positions($1)");
    return statement_add_topics(statement, topics, count);
}

struct catch_up_newest catch_up_newest(const PGresult *result, int row)
{
    return (struct catch_up_newest){ database_int8(result, row, NEWEST), database_int8(result, row, NOW),
                                     (uint32_t)database_int8(result, row, HASH) };
}

/* Fills a cleared page from the result of catch_up_statement(). */
static enum error fill_page(const PGresult *result, const struct poll_request *request, struct page *page)
{
    for (int i = 0; i < PQntuples(result); i++) {
        struct catch_up_row row = catch_up_row(result, i);

        if (row.topic_index < 0 || row.topic_index >= page->topic_count) {
            page_clear(page);
            return ERROR_DATABASE_QUERY; /* catch_up() is not the function of this pgpoll version */
        }
        if (row.kind == CATCH_UP_TOPIC) {
            page->topics[row.topic_index] = row.topic;
        } else if (row.kind == CATCH_UP_MORE) {
            page->has_more = true;
        } else if (!page_add(page, row.topic_index, &request->topics[row.topic_index], &row.message)) {
            page_clear(page);
            return ERROR_MEMORY;
        }
    }
    return ERROR_NONE;
}

/*
 * Returns the error that catch_up_run() returns for a failure of database_run(). checked: the first statement
 * was the check of the user, whose failure has errors of its own.
 */
static enum error name_error(const struct database *database, enum error error, bool checked)
{
    if (!checked || database_failed(database) != 0)
        return error;
    return database_name_error(database, error, ERROR_CAN_POLL_FAILED, ERROR_CAN_POLL_TIMEOUT);
}

static enum error take_refused(struct catch_up_user *user, const PGresult *result)
{
    const int32_t number = database_int4(result, 0, 0);

    if (number == 0)
        return ERROR_NONE;
    user->refused_topic = number - 1;
    return ERROR_DENIED;
}

enum error catch_up_run(struct database *database, const struct poll_request *request,
                        struct catch_up_user *user, const struct statement *first, bool *first_is_true,
                        bool number, const int64_t *positions, int64_t page_bytes, struct page *page,
                        int64_t deadline_ms)
{
    enum { MAX_STATEMENTS = 4 };
    struct statement refused = { 0 }, assign = { 0 }, catch_up = { 0 }, statements[MAX_STATEMENTS];
    PGresult *results[MAX_STATEMENTS] = { NULL };
    enum error error = ERROR_MEMORY;
    int count = 0;

    if ((user && !call_refused_topic(&refused, user->name, request->topics, request->topic_count)) ||
        !catch_up_statement(&catch_up, request, positions, page_bytes))
        goto out;
    if (user)
        statements[count++] = refused;
    if (first)
        statements[count++] = *first;
    statement_init(&assign, "SELECT more FROM pgpoll.assign_positions()");
    if (number)
        statements[count++] = assign;
    statements[count++] = catch_up;

    error = database_run(database, statements, count, results, deadline_ms);
    if (error)
        error = name_error(database, error, user);
    else if (user)
        error = take_refused(user, results[0]);
    if (!error && first)
        *first_is_true = database_is_true(results[user != NULL]);
    if (!error)
        error = fill_page(results[count - 1], request, page);
    if (!error && number)
        page->backlog = database_is_true(results[count - 2]);
out:
    for (int i = 0; i < count; i++)
        PQclear(results[i]);
    statement_release(&refused);
    statement_release(&catch_up);
    return error;
}
