/*
 * Cross-origin resource sharing: which web origins may read our answers in a browser. A list is text as
 * PGPOLL_CORS_ORIGIN has it: origins separated by commas or blanks, "*" alone for every origin, "" for none.
 *
 * Source: the Fetch standard, "CORS protocol"; RFC 6454 for an origin's form.
 */
#ifndef PGPOLL_CORS_H
#define PGPOLL_CORS_H

#include <stdbool.h>
#include <stddef.h>

/*
 * Checks a list. false: reason (size bytes) continues "PGPOLL_CORS_ORIGIN=...: ", names the origin that is wrong and says
 * what to write instead.
 */
bool cors_check(const char *list, char *reason, size_t size);

/* Whether pages of this origin, as the browser's Origin header has it, may read answers. list: has passed cors_check(). */
bool cors_allows(const char *list, const char *origin);

/* Whether the list is "*". */
bool cors_allows_all(const char *list);

#endif
