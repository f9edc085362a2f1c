/*
 * JSON text (RFC 8259): checks it, and rewrites it so that json-c 0.15 to 0.19 all read the same in it.
 *
 * json-c cannot check it: without JSON_TOKENER_STRICT it accepts more than JSON, such as 'x', 01, NaN, 1e
 * and [1,]; with it, 0.18 refuses every character outside ASCII. And 0.16 decodes one in 32 surrogate pairs
 * wrongly.
 */
#ifndef PGPOLL_JSON_TEXT_H
#define PGPOLL_JSON_TEXT_H

#include <stdbool.h>
#include <stddef.h>

enum { JSON_TEXT_MAX_DEPTH = 32 }; /* arrays and objects within each other */

/* Why a text is refused. */
struct json_text_fault {
    const char *message;
    size_t offset; /* in the text, of the byte or escape that cannot stand there */
};

/*
 * Checks a text of length bytes, which is one JSON value, with or without a byte order mark before it, and
 * writes it to out, which has room for as many bytes, without a NUL. *written: how many bytes that took.
 *
 * The output has no white space. Its only escapes are \" \\ \b \f \n \r \t, and \u00XX for other control
 * characters. It is also cut down to what a request needs, because json-c takes up to 280 bytes of memory
 * for a byte of text: the outermost object keeps only its members that are named in members (names with
 * their quotes; NULL ends the list), and an array or object within two others becomes 0.
 *
 * false: the text is not JSON, nests deeper than JSON_TEXT_MAX_DEPTH, has half a surrogate pair, or has
 * \u0000 in a name, where json-c would end the name. *fault says which and where.
 */
bool json_text_rewrite(const char *text, size_t length, const char *const *members, char *out,
                       size_t *written, struct json_text_fault *fault);

#endif
