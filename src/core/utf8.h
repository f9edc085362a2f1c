/* Strict UTF-8 (RFC 3629): no overlong forms, no surrogates, nothing above U+10FFFF. json-c checks less than PostgreSQL does. */
#ifndef PGPOLL_UTF8_H
#define PGPOLL_UTF8_H

#include <stddef.h>
#include <stdint.h>

enum { UTF8_MAX_BYTES = 4 }; /* of one character */

/* Decodes the character at text (length > 0 bytes). Returns its length in bytes, 0 when it is not UTF-8. */
size_t utf8_decode(const char *text, size_t length, uint32_t *character);

/* Writes a character (no surrogate, at most U+10FFFF). Returns its length in bytes. */
size_t utf8_encode(uint32_t character, char bytes[static UTF8_MAX_BYTES]);

/* The length of the valid beginning of text: length itself when all of it is UTF-8. */
size_t utf8_valid_length(const char *text, size_t length);

#endif
