/* Fuzzes cursors: a parsed cursor is written back as the same text, and message ids sort like positions. */
#include "api/cursor.h"
#include "fuzz.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static void check_text(const char *text, size_t length)
{
    const struct cursor cursor = cursor_parse(text, length);
    char id[CURSOR_MESSAGE_ID_SIZE], stream_id[CURSOR_STREAM_ID_SIZE];

    HOLDS((cursor.position < 0) == (cursor.kind == CURSOR_LAST));
    cursor_message_id(cursor.position < 0 ? 0 : cursor.position, id);
    cursor_stream_id(cursor.position < 0 ? 0 : cursor.position, stream_id);
    switch (cursor.kind) {
    case CURSOR_NOW:
        HOLDS(length == 1 && *text == '$');
        break;
    case CURSOR_ALL:
        HOLDS(length == 1 && *text == '0');
        break;
    case CURSOR_MESSAGE:
        HOLDS(strlen(id) == length && memcmp(id, text, length) == 0);
        break;
    case CURSOR_TIME:
        HOLDS(strlen(stream_id) == length && memcmp(stream_id, text, length) == 0);
        break;
    case CURSOR_LAST:
        HOLDS(cursor.position >= -CURSOR_LAST_MAX);
        (void)snprintf(id, sizeof id, "%" PRId64, cursor.position);
        HOLDS(strlen(id) == length && memcmp(id, text, length) == 0);
        break;
    case CURSOR_UNKNOWN:
        HOLDS(cursor.position == 0);
        break;
    }
}

static void check_position(int64_t position)
{
    char id[CURSOR_MESSAGE_ID_SIZE], stream_id[CURSOR_STREAM_ID_SIZE];
    struct cursor cursor;

    cursor_message_id(position, id);
    cursor = cursor_parse(id, strlen(id));
    HOLDS(cursor.kind == CURSOR_MESSAGE && cursor.position == position);
    cursor_stream_id(position, stream_id);
    cursor = cursor_parse(stream_id, strlen(stream_id));
    HOLDS(cursor.kind == CURSOR_TIME && cursor.position == position);
}

static void check_order(int64_t a, int64_t b)
{
    char id_a[CURSOR_MESSAGE_ID_SIZE], id_b[CURSOR_MESSAGE_ID_SIZE];

    cursor_message_id(a, id_a);
    cursor_message_id(b, id_b);
    HOLDS((a < b) == (strcmp(id_a, id_b) < 0) && (a == b) == (strcmp(id_a, id_b) == 0));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int64_t positions[2];

    check_text((const char *)data, size);
    if (size >= sizeof positions) {
        memcpy(positions, data, sizeof positions);
        for (int i = 0; i < 2; i++)
            check_position(positions[i] &= INT64_MAX);
        check_order(positions[0], positions[1]);
    }
    return 0;
}
