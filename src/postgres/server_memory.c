#include "postgres/server_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/*
 * Identifies the layout of struct server_memory: raise it when that changes. If a reload brings a program
 * with another layout, its memory begins empty.
 */
enum { LAYOUT = 2 };

static struct server_memory own = { .layout = LAYOUT }, *memory = &own;
static int memory_fd = -1;

struct server_memory *server_memory(void)
{
    return memory;
}

/* Maps a memory, if it is one of this layout. Returns NULL if it is not, or if this fails. */
static struct server_memory *map(int fd)
{
    struct stat status;
    void *mapped = MAP_FAILED;

    if (fd >= 0 && fstat(fd, &status) == 0 && status.st_size == sizeof own)
        mapped = mmap(NULL, sizeof own, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapped == MAP_FAILED)
        return NULL;
    if (((struct server_memory *)mapped)->layout == LAYOUT)
        return mapped;
    (void)munmap(mapped, sizeof own);
    return NULL;
}

static int new_memory(void)
{
    const int fd = memfd_create("pgpoll-servers", MFD_CLOEXEC);

    if (fd >= 0 && write(fd, &own, sizeof own) == sizeof own)
        return fd;
    if (fd >= 0)
        (void)close(fd);
    return -1;
}

bool server_memory_share(int descriptor)
{
    struct server_memory *mapped = map(descriptor);

    memory_fd = descriptor;
    if (!mapped) {
        if (descriptor >= 0)
            (void)close(descriptor);
        memory_fd = new_memory();
        mapped = map(memory_fd);
    }
    if (!mapped)
        return false;
    memory = mapped;
    return fcntl(memory_fd, F_SETFD, FD_CLOEXEC) == 0;
}

int server_memory_descriptor(void)
{
    return memory_fd;
}
