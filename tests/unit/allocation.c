/*
 * malloc() and its kin defined in the program take the place of libc's for every library too (ld.so(8), symbol
 * resolution). They hand on to glibc's own, or in a sanitized build to the sanitizer's, which goes on watching.
 */
#include "allocation.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define REAL(name) __interceptor_##name
#else
#define REAL(name) __libc_##name
#endif

/* The loader allocates before the sanitizers are ready, so they must not instrument these functions. */
#define UNWATCHED __attribute__((no_sanitize("address", "undefined", "thread")))

extern void *REAL(malloc)(size_t size);
extern void *REAL(calloc)(size_t count, size_t size);
extern void *REAL(realloc)(void *memory, size_t size);
extern void REAL(free)(void *memory);

static long countdown, live;

UNWATCHED long allocation_fail(long nth)
{
    long left = countdown;

    countdown = nth;
    return left;
}

UNWATCHED long allocation_live(void)
{
    return live;
}

/* Counts an allocation; true: it is the one to fail, and countdown is then -1. */
UNWATCHED static bool is_to_fail(void)
{
    if (countdown <= 0)
        return false;
    if (--countdown > 0)
        return false;
    countdown = -1;
    errno = ENOMEM;
    return true;
}

UNWATCHED static void *counted(void *memory)
{
    live += memory != NULL;
    return memory;
}

UNWATCHED void *malloc(size_t size)
{
    return is_to_fail() ? NULL : counted(REAL(malloc)(size));
}

UNWATCHED void *calloc(size_t count, size_t size)
{
    return is_to_fail() ? NULL : counted(REAL(calloc)(count, size));
}

UNWATCHED void *realloc(void *memory, size_t size)
{
    if (is_to_fail())
        return NULL;
    return memory ? REAL(realloc)(memory, size) : counted(REAL(realloc)(NULL, size));
}

UNWATCHED void free(void *memory)
{
    live -= memory != NULL;
    REAL(free)(memory);
}

/* libc's goes through malloc(), the sanitizer's does not. */
UNWATCHED char *strdup(const char *text)
{
    size_t size = strlen(text) + 1;
    char *copy = malloc(size);

    return copy ? memcpy(copy, text, size) : NULL;
}
