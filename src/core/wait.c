#include "core/wait.h"

#include "core/clock.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <sys/socket.h>
#include <time.h>

bool wait_for_fd(int fd, short events, int64_t deadline_ms)
{
    struct pollfd waited = { .fd = fd, .events = events };
    int ready;

    do {
        const int64_t left_ms = clock_max(deadline_ms - clock_monotonic_ms(), 0);

        ready = poll(&waited, 1, (int)clock_min(left_ms, INT_MAX));
    } while (ready < 0 && errno == EINTR);
    return ready != 0;
}

/*
 * Whether the web server has closed the connection or sent FCGI_ABORT_REQUEST (FastCGI specification 5.4),
 * which libfcgi ignores. The whole request was read before, so any other bytes have no meaning. They are read
 * and dropped, because otherwise poll() would report them again and again.
 */
static bool client_is_gone(int fd)
{
    enum { HEADER_SIZE = 8, TYPE_AT = 1, ABORT_REQUEST = 2 };
    unsigned char header[HEADER_SIZE];
    ssize_t size = recv(fd, header, sizeof header, MSG_DONTWAIT);

    if (size < 0)
        return errno != EAGAIN && errno != EINTR;
    return size == 0 || (size > TYPE_AT && header[TYPE_AT] == ABORT_REQUEST);
}

enum error wait_for_event(const struct interrupts *interrupts, int fd, short events, int64_t deadline_ms)
{
    struct pollfd fds[] = { { .fd = fd, .events = events },
                            { .fd = interrupts->client_fd, .events = POLLIN | POLLRDHUP } };

    for (;;) {
        int64_t left_ms = deadline_ms - clock_monotonic_ms();
        struct timespec timeout = { 0, 0 };
        int ready;

        if (*interrupts->drain)
            return ERROR_DRAINED;
        if (*interrupts->woken) {
            *interrupts->woken = 0;
            return ERROR_NONE;
        }
        if (left_ms > 0)
            timeout = (struct timespec){ left_ms / 1000, left_ms % 1000 * 1000000 };
        ready = ppoll(fds, 2, &timeout, interrupts->sleep_mask);
        if (ready == 0)
            return ERROR_TIMEOUT;
        if (ready > 0 && fds[0].revents)
            return ERROR_NONE;
        if (ready > 0 && fds[1].revents && client_is_gone(interrupts->client_fd))
            return ERROR_CLIENT_GONE;
    }
}
