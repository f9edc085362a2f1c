/*
 * What becomes of an allocation that fails. Our own code is told, and answers 503. libfcgi and json-c's parser and serializers do
 * not look, and would crash or lose a part of a text without a word: while they run, the process ends instead, having said so, and
 * whoever started it starts another.
 *
 * malloc(), calloc() and realloc() are defined here, in front of glibc's own, and for the libraries too (ld.so(8), symbol resolution).
 */
#ifndef PGPOLL_OOM_H
#define PGPOLL_OOM_H

#include <stdbool.h>

/* Whether an allocation that fails ends the process; as it begins, none does. */
void oom_set_fatal(bool insist);

#endif
