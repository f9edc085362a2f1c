#include "oom.h"

#include "core/log.h"

#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

static bool insists;

void oom_set_fatal(bool insist)
{
    insists = insist;
}

/* The address sanitizer has an allocator of its own, which ends the process by itself. gcc and clang tell of it differently. */
#ifdef __SANITIZE_ADDRESS__
#define IS_WATCHED 1
#elif defined(__has_feature)
#define IS_WATCHED __has_feature(address_sanitizer)
#else
#define IS_WATCHED 0
#endif
#if !IS_WATCHED

/* glibc's own. NOLINTBEGIN(bugprone-reserved-identifier) */
extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t nmemb, size_t size);
extern void *__libc_realloc(void *ptr, size_t size);
/* NOLINTEND(bugprone-reserved-identifier) */

static void *given(void *memory, size_t size)
{
    if (!memory && size > 0 && insists) {
        insists = false; /* the log may allocate */
        log_write(LOG_LEVEL_ERROR, "out of memory: this process ends");
        _exit(EXIT_FAILURE);
    }
    return memory;
}

void *malloc(size_t size)
{
    return given(__libc_malloc(size), size);
}

void *calloc(size_t nmemb, size_t size)
{
    return given(__libc_calloc(nmemb, size), size);
}

void *realloc(void *ptr, size_t size)
{
    return given(__libc_realloc(ptr, size), size);
}

#endif
