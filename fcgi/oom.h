/*
 * Ends the process when an allocation fails inside a library that does not check its allocations. pgpoll's
 * own code handles a failed allocation and answers 503. libfcgi and json-c's parser and serializers would
 * crash, or silently lose a part of a text. If an allocation fails while one of these runs, the process logs
 * the failure and exits; its manager or supervisor starts another process.
 *
 * oom.c defines malloc(), calloc() and realloc(), which take precedence over glibc's in the libraries, too
 * (ld.so(8)).
 */
#ifndef PGPOLL_OOM_H
#define PGPOLL_OOM_H

#include <stdbool.h>

/* Sets whether a failed allocation ends the process. Initially it does not. */
void oom_set_fatal(bool fatal);

#endif
