/* Strict UTF-8 (RFC 3629): no overlong forms, no surrogates, nothing above U+10FFFF. json-c checks less than PostgreSQL does. */
#ifndef PGPOLL_UTF8_H
#define PGPOLL_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* Decodes the character at text (length > 0 bytes). Returns its length in bytes, 0 when it is not UTF-8. */
size_t utf8_decode(const char *text, size_t length, uint32_t *character);

/* The length of the valid beginning of text: length itself when all of it is UTF-8. */
size_t utf8_valid_length(const char *text, size_t length);

#endif
