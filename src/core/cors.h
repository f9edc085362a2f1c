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
 * instead; the text fits after "PGPOLL_CORS_ORIGIN=...: ".
 */
bool cors_check(const char *list, char *reason, size_t size);

/* Whether a list that cors_check() accepted has this value of the Origin header, in any case of letters. */
bool cors_allows(const char *list, const char *origin);

/* Whether the list is "*". */
bool cors_allows_all(const char *list);

#endif
