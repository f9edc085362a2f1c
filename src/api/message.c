#include "api/message.h"

#include "api/cursor.h"

#include <json-c/printbuf.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { TIMESTAMP_SIZE = 48 };

static const time_t POSTGRES_EPOCH_S = 946684800; /* 2000-01-01 UTC (datatype/timestamp.h in PostgreSQL) */

/* Formats microseconds since 2000 as YYYY-MM-DDTHH:MM:SS.ffffff in UTC. */
static void format_timestamp(int64_t us, char text[static TIMESTAMP_SIZE])
{
    time_t seconds = (time_t)(us / 1000000) + POSTGRES_EPOCH_S;
    int fraction = (int)(us % 1000000);
    struct tm utc;

    if (fraction < 0) {
        fraction += 1000000;
        seconds--;
    }
    /* Cannot overflow: PostgreSQL's years end at 294276. */
    (void)gmtime_r(&seconds, &utc);
    (void)snprintf(text, TIMESTAMP_SIZE, "%04d-%02d-%02dT%02d:%02d:%02d.%06d", utc.tm_year + 1900,
                   utc.tm_mon + 1, utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec, fraction);
}

static bool is_json_null(const char *text, size_t length)
{
    static const char white[] = " \t\r\n";

    while (length > 0 && memchr(white, text[0], sizeof white - 1)) {
        text++;
        length--;
    }
    while (length > 0 && memchr(white, text[length - 1], sizeof white - 1))
        length--;
    return length == 4 && memcmp(text, "null", 4) == 0;
}

static bool append(struct printbuf *out, const char *text, size_t length)
{
    /* PostgreSQL's limit of 1 GB for a value keeps length below INT_MAX; printbuf rejects a larger total. */
    return printbuf_memappend(out, text, (int)length) >= 0;
}

static bool append_text(struct printbuf *out, const char *text)
{
    return append(out, text, strlen(text));
}

/*
 * Concatenates parts that are already JSON or need no escaping (hex and decimal digits). Building them with
 * json-c would allocate a dozen objects for each of the up to 1,000 messages of a page.
 */
bool message_append(struct printbuf *out, const char *quoted_topic, const struct message *message)
{
    char message_id[CURSOR_MESSAGE_ID_SIZE], stream_id[CURSOR_STREAM_ID_SIZE], timestamp[TIMESTAMP_SIZE];
    bool no_metadata = !message->metadata || is_json_null(message->metadata, message->metadata_length);

    cursor_message_id(message->position, message_id);
    cursor_stream_id(message->position, stream_id);
    format_timestamp(message->created_at_us, timestamp);
    return append_text(out, "{\"topic\":") && append_text(out, quoted_topic) &&
           append_text(out, ",\"message_id\":\"") && append_text(out, message_id) &&
           append_text(out, "\",\"payload\":") && append(out, message->payload, message->payload_length) &&
           append_text(out, ",\"timestamp\":\"") && append_text(out, timestamp) &&
           append_text(out, "\",\"metadata\":") &&
           (no_metadata ? append_text(out, "{}")
                        : append(out, message->metadata, message->metadata_length)) &&
           append_text(out, ",\"stream_id\":\"") && append_text(out, stream_id) && append_text(out, "\"}");
}
