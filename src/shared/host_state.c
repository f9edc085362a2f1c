#include "shared/host_state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* The first value of a file. Change it whenever enum host_value changes. */
static const int64_t LAYOUT = INT64_C(0x7067706f6c6c0001);

struct host_state {
    _Atomic int64_t values[HOST_VALUES];
};

/* Writes the directory of a Unix socket to directory. Returns false if the socket has none. */
static bool socket_directory(int socket, char directory[static HOST_STATE_PATH_SIZE])
{
    struct sockaddr_un address = { 0 };
    socklen_t size = sizeof address - 1; /* the path may lack a NUL */
    char *end;

    if (getsockname(socket, (struct sockaddr *)&address, &size) != 0 || address.sun_family != AF_UNIX ||
        address.sun_path[0] != '/')
        return false;
    end = strrchr(address.sun_path, '/'); /* not NULL: the path is absolute */
    end[end == address.sun_path] = '\0';
    memcpy(directory, address.sun_path, sizeof address.sun_path);
    return true;
}

bool host_state_path(const char *directory, int socket, char path[static HOST_STATE_PATH_SIZE])
{
    char found[HOST_STATE_PATH_SIZE];

    if (!*directory) {
        if (!socket_directory(socket, found))
            return false;
        directory = found;
    }
    return snprintf(path, HOST_STATE_PATH_SIZE, "%s/%s", directory, HOST_STATE_FILE) < HOST_STATE_PATH_SIZE;
}

static struct host_state *map(int fd, int protection)
{
    void *memory = mmap(NULL, sizeof(struct host_state), protection, MAP_SHARED, fd, 0);

    return memory == MAP_FAILED ? NULL : memory;
}

void host_state_publish(struct host_state *state, const struct host_values *values)
{
    for (int i = HOST_LAYOUT + 1; i < HOST_VALUES; i++)
        atomic_store_explicit(&state->values[i], values->of[i], memory_order_relaxed);
    atomic_store_explicit(&state->values[HOST_LAYOUT], LAYOUT, memory_order_release);
}

void host_state_free(struct host_state *state)
{
    if (state)
        (void)munmap(state, sizeof *state);
}

struct host_state *host_state_new(const char *path, const struct host_values *values)
{
    static const char SUFFIX[] = ".XXXXXX";
    char made[HOST_STATE_PATH_SIZE + sizeof SUFFIX];
    struct host_state *state = NULL;
    int fd, saved;

    (void)snprintf(made, sizeof made, "%s%s", path, SUFFIX);
    fd = mkostemp(made, O_CLOEXEC);
    if (fd < 0)
        return NULL;
    /* posix_fallocate() reserves the blocks, so that no write to the memory can fail for lack of space. */
    errno = posix_fallocate(fd, 0, sizeof *state);
    if (errno == 0 && fchmod(fd, 0644) == 0)
        state = map(fd, PROT_READ | PROT_WRITE);
    if (state)
        host_state_publish(state, values);
    if (state && rename(made, path) != 0) {
        saved = errno;
        host_state_free(state);
        state = NULL;
        errno = saved;
    }
    saved = errno;
    if (!state)
        (void)unlink(made);
    (void)close(fd);
    errno = saved;
    return state;
}

bool host_state_read(const char *path, struct host_values *values)
{
    struct host_state *state = NULL;
    struct stat status;
    bool is_ours = false;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return false;
    /* A shorter file must not be read: an access beyond its end is a SIGBUS. */
    if (fstat(fd, &status) == 0 && status.st_size == (off_t)sizeof *state)
        state = map(fd, PROT_READ);
    (void)close(fd);
    if (state && atomic_load_explicit(&state->values[HOST_LAYOUT], memory_order_acquire) == LAYOUT) {
        for (int i = 0; i < HOST_VALUES; i++)
            values->of[i] = atomic_load_explicit(&state->values[i], memory_order_relaxed);
        is_ours = true;
    }
    host_state_free(state);
    return is_ours;
}

int64_t host_state_timeline(uint64_t cluster, uint32_t timeline)
{
    return (int64_t)(cluster << 32 | timeline);
}

bool host_state_is_fresh(const struct host_values *values, int64_t now_ms)
{
    const int64_t beat_ms = values->of[HOST_BEAT_MS];

    /* A beat in the future is from before the last boot, after which the monotonic clock began again. */
    return beat_ms <= now_ms && now_ms - beat_ms < HOST_STATE_DEAF_MS;
}

bool host_state_is_alive(const struct host_values *values, int64_t now_ms)
{
    return values && values->of[HOST_STAGE] != HOST_ENDING && host_state_is_fresh(values, now_ms);
}
