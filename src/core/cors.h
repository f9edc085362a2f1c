/*
 * Decides which web origins may read answers in a browser (cross-origin resource sharing). An origin list is
 * the text of PGPOLL_CORS_ORIGIN: origins separated by commas or blanks, "*" alone for every origin, "" for
 * none.
 *
 * Source: the Fetch standard, "CORS protocol"; RFC 6454 for the form of an origin.
 */
#ifndef PGPOLL_CORS_H
#define PGPOLL_CORS_H

#include <stdbool.h>
#include <stddef.h>

/*
 * Returns whether list is valid. If not, reason (size bytes) names the wrong origin and says what to write
 * instead; it is worded to follow "PGPOLL_CORS_ORIGIN=...: " in a message.
 */
bool cors_check(const char *list, char *reason, size_t size);

/*
 * Whether the list, which cors_check() has accepted, contains the value origin of the Origin header. Ignores
 * case.
 */
bool cors_allows(const char *list, const char *origin);

/* Whether the list is "*". */
bool cors_allows_all(const char *list);

#endif
