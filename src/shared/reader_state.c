#include "shared/reader_state.h"

#include <stddef.h>
#include <sys/mman.h>
#include <unistd.h>

static struct reader_state *map(int descriptor)
{
    void *state = mmap(NULL, sizeof(struct reader_state), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);

    return state == MAP_FAILED ? NULL : state;
}

struct reader_state *reader_state_new(int *descriptor)
{
    const int fd = memfd_create("pgpoll-reader", MFD_CLOEXEC);
    struct reader_state *state = NULL;

    if (fd >= 0 && ftruncate(fd, sizeof *state) == 0)
        state = map(fd);
    if (state)
        *descriptor = fd;
    else if (fd >= 0)
        (void)close(fd);
    return state;
}

struct reader_state *reader_state_join(int descriptor)
{
    struct reader_state *state = map(descriptor);

    (void)close(descriptor);
    return state;
}

void reader_state_free(struct reader_state *state)
{
    if (state)
        (void)munmap(state, sizeof *state);
}
