/* Checks topic names by the same rules as the domain pgpoll.topic_name (sql/tables.sql). */
#ifndef PGPOLL_TOPIC_H
#define PGPOLL_TOPIC_H

#include <stddef.h>

enum { TOPIC_MAX_CHARACTERS = 255, TOPIC_MAX_BYTES = TOPIC_MAX_CHARACTERS * 4 };

enum topic_fault { TOPIC_OK, TOPIC_BLANK, TOPIC_TOO_LONG, TOPIC_CONTROL };

/*
 * Checks a name of length bytes of valid UTF-8, which may contain NUL. Returns TOPIC_OK; TOPIC_BLANK if the
 * name is empty or has only white space, line breaks and tabs included; TOPIC_TOO_LONG if it has more than
 * 255 characters; or TOPIC_CONTROL if it contains a control character (U+0000..001F, U+007F..009F).
 */
enum topic_fault topic_check(const char *name, size_t length);

#endif
