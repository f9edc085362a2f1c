#include "oom.h"

#include "core/log.h"

#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

static bool is_fatal;

void oom_set_fatal(bool fatal)
{
    is_fatal = fatal;
}

/*
 * The address sanitizer has its own allocator, which itself ends the process when memory runs out. gcc and
 * clang announce the sanitizer differently.
 */
#ifdef __SANITIZE_ADDRESS__
#define HAS_SANITIZER 1
#elif defined(__has_feature)
#define HAS_SANITIZER __has_feature(address_sanitizer)
#else
#define HAS_SANITIZER 0
#endif
#if !HAS_SANITIZER

/* glibc's implementations. NOLINTBEGIN(bugprone-reserved-identifier) */
extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t nmemb, size_t size);
extern void *__libc_realloc(void *ptr, size_t size);
/* NOLINTEND(bugprone-reserved-identifier) */

/* Returns memory. If it is NULL and is_fatal is set, ends the process instead. */
static void *check(void *memory, size_t size)
{
    if (!memory && size > 0 && is_fatal) {
        is_fatal = false; /* log_write() may allocate memory itself */
        log_write(LOG_LEVEL_ERROR, "out of memory: this process exits");
        _exit(EXIT_FAILURE);
    }
    return memory;
}

void *malloc(size_t size)
{
    return check(__libc_malloc(size), size);
}

void *calloc(size_t nmemb, size_t size)
{
    return check(__libc_calloc(nmemb, size), size);
}

void *realloc(void *ptr, size_t size)
{
    return check(__libc_realloc(ptr, size), size);
}

#endif
