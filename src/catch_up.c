#include "catch_up.h"

#include "poll_request.h"
#include "statement.h"

#include <endian.h>
#include <string.h>

/* The columns, in the function's order. */
enum column { TOPIC_NO, POSITION, CREATED_AT, PAYLOAD, METADATA, GAP, OLDEST, COLUMN_COUNT };

/* timestamptz counts microseconds from 2000-01-01 UTC (datatype/timestamp.h). */
static const int64_t POSTGRES_EPOCH_US = 946684800 * INT64_C(1000000);

bool catch_up_statement(struct statement *statement, const struct poll_request *request, const int64_t *positions,
                        int64_t page_bytes)
{
    statement_init(statement, "SELECT * FROM pgpoll.catch_up($1, $2, $3, $4)");
    if (!statement_add_topics(statement, request->topics, request->topic_count) ||
        !statement_add_positions(statement, positions, request->topic_count))
        return false;
    statement_add_int4(statement, request->limit);
    statement_add_int8(statement, page_bytes);
    return true;
}

static int32_t get_int4(const PGresult *result, int row, enum column column)
{
    uint32_t big_endian;

    memcpy(&big_endian, PQgetvalue(result, row, (int)column), sizeof big_endian);
    return (int32_t)be32toh(big_endian);
}

static int64_t get_int8(const PGresult *result, int row, enum column column)
{
    uint64_t big_endian;

    memcpy(&big_endian, PQgetvalue(result, row, (int)column), sizeof big_endian);
    return (int64_t)be64toh(big_endian);
}

static void take_topic(const PGresult *result, int row, struct page_topic *topic)
{
    topic->start = get_int8(result, row, POSITION);
    topic->next = topic->start;
    topic->oldest = PQgetisnull(result, row, OLDEST) ? -1 : get_int8(result, row, OLDEST);
    if (PQgetisnull(result, row, GAP))
        topic->gap = GAP_NONE;
    else
        topic->gap = strcmp(PQgetvalue(result, row, GAP), "ahead") == 0 ? GAP_AHEAD : GAP_EXPIRED;
}

static bool take_message(const PGresult *result, int row, int index, const struct poll_request *request,
                         struct page *page)
{
    struct message message = {
        .position = get_int8(result, row, POSITION),
        .created_at_us = get_int8(result, row, CREATED_AT) + POSTGRES_EPOCH_US,
        .payload = PQgetvalue(result, row, PAYLOAD),
        .payload_length = (size_t)PQgetlength(result, row, PAYLOAD),
    };

    if (!PQgetisnull(result, row, METADATA)) {
        message.metadata = PQgetvalue(result, row, METADATA);
        message.metadata_length = (size_t)PQgetlength(result, row, METADATA);
    }
    return page_add(page, index, &request->topics[index], &message);
}

enum error catch_up_result(const PGresult *result, const struct poll_request *request, struct page *page)
{
    enum error error = PQnfields(result) == COLUMN_COUNT ? ERROR_NONE : ERROR_DATABASE_QUERY;

    for (int row = 0; !error && row < PQntuples(result); row++) {
        int index = get_int4(result, row, TOPIC_NO) - 1;

        if (index < 0 || index >= page->topic_count)
            error = ERROR_DATABASE_QUERY;
        else if (PQgetisnull(result, row, CREATED_AT))
            take_topic(result, row, &page->topics[index]);
        else if (PQgetisnull(result, row, PAYLOAD))
            page->has_more = true;
        else if (!take_message(result, row, index, request, page))
            error = ERROR_MEMORY;
    }
    if (error)
        page_clear(page);
    return error;
}
