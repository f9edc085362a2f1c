/* What may be a topic's name. The same rule as the CHECKs of pgpoll.messages (sql/tables.sql). */
#ifndef PGPOLL_TOPIC_H
#define PGPOLL_TOPIC_H

#include <stddef.h>

enum { TOPIC_MAX_CHARACTERS = 255, TOPIC_MAX_BYTES = TOPIC_MAX_CHARACTERS * 4 };

enum topic_fault { TOPIC_OK, TOPIC_BLANK, TOPIC_TOO_LONG, TOPIC_CONTROL };

/*
 * Checks a name of length bytes, valid UTF-8, NUL bytes allowed. Blank: nothing but white space (line breaks and tabs too),
 * or nothing at all. Control: U+0000..001F, U+007F..009F.
 */
enum topic_fault topic_check(const char *name, size_t length);

#endif
