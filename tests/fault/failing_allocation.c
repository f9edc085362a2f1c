/*
 * Is preloaded into pgpoll.fcgi and makes one allocation of a worker fail. The program's malloc() calls these
 * functions (fcgi/oom.c). The test controls it through a struct control in the file that MALLOC_FAILURES
 * names.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

struct control {
    _Atomic int64_t countdown; /* 1: the next one fails; 0: none, or it has */
    int64_t manager;           /* which is left alone */
};

static struct control *control;

__attribute__((constructor)) static void map_control(void)
{
    const char *path = getenv("MALLOC_FAILURES");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    void *memory =
        fd >= 0 ? mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;

    control = memory == MAP_FAILED ? NULL : memory;
    if (fd >= 0)
        (void)close(fd);
}

static int is_to_fail(void)
{
    int64_t left;

    if (!control || atomic_load(&control->countdown) <= 0 || getpid() == control->manager)
        return 0;
    left = atomic_fetch_sub(&control->countdown, 1);
    return left == 1;
}

static void *next(const char *name)
{
    return dlsym(RTLD_NEXT, name);
}

void *__libc_malloc(size_t size)
{
    static void *(*real)(size_t);

    if (!real)
        *(void **)(void *)&real = next("__libc_malloc");
    return is_to_fail() ? NULL : real(size);
}

void *__libc_calloc(size_t count, size_t size)
{
    static void *(*real)(size_t, size_t);

    if (!real)
        *(void **)(void *)&real = next("__libc_calloc");
    return is_to_fail() ? NULL : real(count, size);
}

void *__libc_realloc(void *memory, size_t size)
{
    static void *(*real)(void *, size_t);

    if (!real)
        *(void **)(void *)&real = next("__libc_realloc");
    return is_to_fail() ? NULL : real(memory, size);
}
