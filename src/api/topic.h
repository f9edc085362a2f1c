/* Checks topic names by the same rule as the CHECK constraints of pgpoll.messages (sql/tables.sql). */
#ifndef PGPOLL_TOPIC_H
#define PGPOLL_TOPIC_H

#include <stddef.h>

enum { TOPIC_MAX_CHARACTERS = 255, TOPIC_MAX_BYTES = TOPIC_MAX_CHARACTERS * 4 };

enum topic_fault { TOPIC_OK, TOPIC_BLANK, TOPIC_TOO_LONG, TOPIC_CONTROL };

/*
 * Checks a name of length bytes of valid UTF-8, which may contain NUL. TOPIC_BLANK: it is empty or has only
 * white space, line breaks and tabs included. TOPIC_TOO_LONG: it has more than 255 characters. TOPIC_CONTROL:
 * it contains a control character (U+0000..001F, U+007F..009F).
 */
enum topic_fault topic_check(const char *name, size_t length);

#endif
