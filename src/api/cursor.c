#include "api/cursor.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static const char PREFIX[] = "msg_";

enum { PREFIX_LENGTH = 4, SERIAL_BITS = 16 };
static const int64_t SERIAL_MAX = (1 << SERIAL_BITS) - 1;
static const int64_t MS_MAX = INT64_MAX >> SERIAL_BITS;

/*
 * Parses the decimal digits at *at, up to end or the first other character, and moves *at past them. Returns
 * false if there is no digit, the number has a leading zero, or it exceeds limit.
 */
static bool read_decimal(const char **at, const char *end, int64_t limit, int64_t *number)
{
    const char *start = *at, *digit = start;
    int64_t value = 0;

    for (; digit < end && *digit >= '0' && *digit <= '9'; digit++) {
        value = value * 10 + (*digit - '0');
        if (value > limit)
            return false;
    }
    if (digit == start || (*start == '0' && digit - start > 1))
        return false;
    *at = digit;
    *number = value;
    return true;
}

static bool read_message_id(const char *text, size_t length, int64_t *position)
{
    uint64_t value = 0;

    if (length != CURSOR_MESSAGE_ID_SIZE - 1 || memcmp(text, PREFIX, PREFIX_LENGTH) != 0)
        return false;
    for (const char *at = text + PREFIX_LENGTH; at < text + length; at++) {
        unsigned digit;
        if (*at >= '0' && *at <= '9')
            digit = (unsigned)(*at - '0');
        else if (*at >= 'a' && *at <= 'f')
            digit = (unsigned)(*at - 'a') + 10;
        else
            return false;
        value = value << 4 | digit;
    }
    if (value > INT64_MAX)
        return false;
    *position = (int64_t)value;
    return true;
}

static bool read_stream_id(const char *text, size_t length, int64_t *position)
{
    const char *at = text, *end = text + length;
    int64_t ms, serial;

    if (!read_decimal(&at, end, MS_MAX, &ms) || at == end || *at++ != '-' ||
        !read_decimal(&at, end, SERIAL_MAX, &serial) || at != end)
        return false;
    *position = ms << SERIAL_BITS | serial;
    return true;
}

/* Parses "-n" and sets *position to -n. */
static bool read_last(const char *text, size_t length, int64_t *position)
{
    const char *at = text + 1, *end = text + length;
    int64_t count;

    if (length < 2 || *text != '-' || !read_decimal(&at, end, CURSOR_LAST_MAX, &count) || at != end ||
        count == 0)
        return false;
    *position = -count;
    return true;
}

struct cursor cursor_parse(const char *text, size_t length)
{
    struct cursor cursor = { CURSOR_UNKNOWN, 0 };

    if (length == 1 && *text == '$')
        cursor.kind = CURSOR_NOW;
    else if (length == 1 && *text == '0')
        cursor.kind = CURSOR_ALL;
    else if (read_message_id(text, length, &cursor.position))
        cursor.kind = CURSOR_MESSAGE;
    else if (read_stream_id(text, length, &cursor.position))
        cursor.kind = CURSOR_TIME;
    else if (read_last(text, length, &cursor.position))
        cursor.kind = CURSOR_LAST;
    return cursor;
}

void cursor_message_id(int64_t position, char id[static CURSOR_MESSAGE_ID_SIZE])
{
    static const char digits[] = "0123456789abcdef";

    memcpy(id, PREFIX, PREFIX_LENGTH);
    for (char *at = id + CURSOR_MESSAGE_ID_SIZE - 2; at >= id + PREFIX_LENGTH; at--, position >>= 4)
        *at = digits[position & 0xf];
    id[CURSOR_MESSAGE_ID_SIZE - 1] = '\0';
}

void cursor_stream_id(int64_t position, char id[static CURSOR_STREAM_ID_SIZE])
{
    (void)snprintf(id, CURSOR_STREAM_ID_SIZE, "%" PRId64 "-%" PRId64, cursor_position_ms(position),
                   position & SERIAL_MAX);
}

int64_t cursor_position_ms(int64_t position)
{
    return position >> SERIAL_BITS;
}
