/*
 * Positions and the cursors that clients hold.
 *
 * A position is where a message stands in the order of delivery: milliseconds since 1970 << 16 | n, given at commit
 * (sql/functions/assign_position.sql). A message_id and a stream_id are two ways to write one.
 */
#ifndef PGPOLL_CURSOR_H
#define PGPOLL_CURSOR_H

#include <stddef.h>
#include <stdint.h>

enum cursor_kind {
    CURSOR_NOW,     /* "$", or none: what commits from now on */
    CURSOR_ALL,     /* "0": everything retained */
    CURSOR_MESSAGE, /* msg_ and 16 lower-case hex digits: after this message */
    CURSOR_TIME,    /* <ms>-<n>: a stream_id, which may also be just a time */
    CURSOR_UNKNOWN  /* not ours */
};

struct cursor {
    enum cursor_kind kind;
    int64_t position; /* of CURSOR_MESSAGE and CURSOR_TIME; else 0 */
};

enum {
    CURSOR_MESSAGE_ID_SIZE = 21, /* "msg_", 16 digits, NUL */
    CURSOR_STREAM_ID_SIZE = 24   /* room for any two int64_t halves; in use: 13 digits, "-", 1 digit, NUL */
};

/* Reads a cursor of length bytes; anything is some cursor. */
struct cursor cursor_parse(const char *text, size_t length);

/* Writes a position (>= 0) as a message_id and as a stream_id, with a NUL. */
void cursor_message_id(int64_t position, char id[static CURSOR_MESSAGE_ID_SIZE]);
void cursor_stream_id(int64_t position, char id[static CURSOR_STREAM_ID_SIZE]);

/* Milliseconds since 1970 at which a position was given. */
int64_t cursor_position_ms(int64_t position);

#endif
