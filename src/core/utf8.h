/*
 * Decodes and checks UTF-8 as strictly as PostgreSQL does (RFC 3629): no overlong forms, no surrogates,
 * nothing above U+10FFFF. json-c checks less.
 */
#ifndef PGPOLL_UTF8_H
#define PGPOLL_UTF8_H

#include <stddef.h>
#include <stdint.h>

enum { UTF8_MAX_BYTES = 4 }; /* maximum length of a character */

/*
 * Decodes the first character of text (length > 0 bytes). Returns its length in bytes, or 0 if it is not
 * UTF-8.
 */
size_t utf8_decode(const char *text, size_t length, uint32_t *character);

/* Encodes a character (not a surrogate, at most U+10FFFF). Returns its length in bytes. */
size_t utf8_encode(uint32_t character, char bytes[static UTF8_MAX_BYTES]);

/* Returns how many bytes of text are valid UTF-8, from its start up to the first error. */
size_t utf8_valid_length(const char *text, size_t length);

/* Returns text, or "" if it is not valid UTF-8, which the database would refuse. */
const char *utf8_or_empty(const char *text);

#endif
