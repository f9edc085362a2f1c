/*
 * Checks JSON text (RFC 8259) and rewrites it so that all versions of json-c from 0.15 to 0.19 parse it
 * alike.
 *
 * json-c alone cannot check the text. Without JSON_TOKENER_STRICT it accepts text that is not JSON, such as
 * 'x', 01, NaN, 1e and [1,]. With JSON_TOKENER_STRICT, json-c 0.18 rejects every character outside ASCII.
 * json-c 0.16 decodes one in 32 surrogate pairs wrongly.
 */
#ifndef PGPOLL_JSON_TEXT_H
#define PGPOLL_JSON_TEXT_H

#include <stdbool.h>
#include <stddef.h>

enum { JSON_TEXT_MAX_DEPTH = 32 }; /* how many arrays and objects may be nested */

/* Why and where a text is rejected. */
struct json_text_fault {
    const char *message;
    size_t offset; /* where the wrong byte or escape is, in bytes from the start of the text */
};

/*
 * Checks that text (length bytes) is one JSON value, optionally after a byte order mark. Writes the rewritten
 * text to out, without a NUL, and sets *written to its number of bytes. out must have room for length bytes.
 *
 * The output has no white space. Its only escapes are \" \\ \b \f \n \r \t, and \u00XX for other control
 * characters. It contains only what a request needs, because json-c uses up to 280 bytes of memory for a byte
 * of text. The outermost object keeps only the members whose names are in members (names with their quotes;
 * NULL ends the list), and an array or object that is nested in two others is replaced by 0.
 *
 * Returns false if the text is not JSON, nests deeper than JSON_TEXT_MAX_DEPTH, has half a surrogate pair, or
 * has \u0000 in a name, at which json-c would end the name. In these cases *fault says what is wrong and
 * where.
 */
bool json_text_rewrite(const char *text, size_t length, const char *const *members, char *out,
                       size_t *written, struct json_text_fault *fault);

#endif
