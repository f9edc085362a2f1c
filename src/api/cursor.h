/*
 * Converts between positions and the cursors that clients hold.
 *
 * A position is a message's place in the order of delivery: (milliseconds since 1970) << 16 | counter.
 * Messages get their positions in batches after they are committed (sql/functions/assign_positions.sql). A
 * message_id and a stream_id are two notations for a position.
 */
#ifndef PGPOLL_CURSOR_H
#define PGPOLL_CURSOR_H

#include <limits.h>
#include <stddef.h>
#include <stdint.h>

enum cursor_kind {
    CURSOR_NOW,     /* "$", or no cursor: messages committed from now on */
    CURSOR_ALL,     /* "0": all retained messages */
    CURSOR_MESSAGE, /* msg_ and 16 lower-case hex digits: messages after this one */
    CURSOR_TIME,    /* <ms>-<n>, a stream_id: messages after this position, which need not be in use */
    CURSOR_LAST,    /* -<n>, n from 1 to CURSOR_LAST_MAX: the last n retained messages, and what follows */
    CURSOR_UNKNOWN  /* not a cursor of pgpoll */
};

struct cursor {
    enum cursor_kind kind;
    int64_t position; /* set for CURSOR_MESSAGE and CURSOR_TIME; -n for CURSOR_LAST; otherwise 0 */
};

enum { CURSOR_LAST_MAX = 1000 };

/*
 * Stands for the position of a topic that is to be read from now on. A negative position -n, down to
 * -CURSOR_LAST_MAX, stands for the last n retained messages. The first read replaces both by the real
 * position.
 */
enum { CATCH_UP_FROM_NOW = INT_MIN };

enum {
    CURSOR_MESSAGE_ID_SIZE = 21, /* "msg_", 16 digits, NUL */
    CURSOR_STREAM_ID_SIZE = 24   /* enough for any position; usually 13 digits, "-", 1 digit, NUL */
};

/* Parses a cursor of length bytes. Never fails; a text that is no cursor becomes CURSOR_UNKNOWN. */
struct cursor cursor_parse(const char *text, size_t length);

/* These functions write a position (>= 0) as a message_id or a stream_id, with a NUL. */
void cursor_message_id(int64_t position, char id[static CURSOR_MESSAGE_ID_SIZE]);
void cursor_stream_id(int64_t position, char id[static CURSOR_STREAM_ID_SIZE]);

/* Returns the time that the position contains, in milliseconds since 1970: when it was assigned. */
int64_t cursor_position_ms(int64_t position);

#endif
