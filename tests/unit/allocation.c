/*
 * Defines malloc(), calloc() and the other functions of allocation. The program's definitions take precedence
 * over libc's, in libraries too (ld.so(8)). They call glibc's own functions or, in a sanitized build, the
 * sanitizer's.
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

/*
 * The loader calls these functions before the sanitizers are ready, so the sanitizers must not instrument
 * them.
 */
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

/* Counts an allocation. Returns true if this allocation must fail; countdown is then -1. */
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

/*
 * Defined here because the sanitizer's strdup() does not call malloc(), as glibc's does, so it would not be
 * counted.
 */
UNWATCHED char *strdup(const char *text)
{
    size_t size = strlen(text) + 1;
    char *copy = malloc(size);

    return copy ? memcpy(copy, text, size) : NULL;
}
