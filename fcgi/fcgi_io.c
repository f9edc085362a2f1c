#include "fcgi_io.h"

#include "core/clock.h"
#include "core/log.h"
#include "core/wait.h"
#include "fcgi_records.h"

#include <errno.h>
#include <fcgios.h>
#include <poll.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <unistd.h>

static int64_t io_timeout_ms;
static struct {
    struct fcgi_records records;
    int64_t deadline_ms; /* when the whole request must have arrived; 0: nothing was read yet */
} request;

void fcgi_io_set_timeout(int64_t timeout_ms)
{
    io_timeout_ms = timeout_ms;
}

static bool would_block(ssize_t size)
{
    return size < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR);
}

int OS_Read(int fd, char *buf, size_t len)
{
    ssize_t got;

    if (request.deadline_ms == 0)
        request.deadline_ms = clock_monotonic_ms() + io_timeout_ms;
    /* Signals stay blocked here, so that a request that has begun is read to its end. */
    do
        got = recv(fd, buf, len, MSG_DONTWAIT);
    while (would_block(got) && wait_for_fd(fd, POLLIN, request.deadline_ms));
    /*
     * Test the deadline even after a successful recv(), because a web server may send a little all the time.
     */
    if (would_block(got) || clock_monotonic_ms() >= request.deadline_ms) {
        log_write(LOG_LEVEL_WARNING, "a request did not arrive completely within PGPOLL_PEER_TIMEOUT_S, "
                                     "closing its connection");
        errno = ETIMEDOUT;
        return -1;
    }
    if (got > 0 && !fcgi_records_follow(&request.records, (const unsigned char *)buf, (size_t)got)) {
        log_write(LOG_LEVEL_WARNING,
                  "received data that are not a FastCGI request, closing the connection; only a web server "
                  "should connect to this socket");
        errno = EPROTO;
        return -1;
    }
    return (int)got;
}

int OS_Write(int fd, char *buf, size_t len)
{
    const int64_t deadline_ms = clock_monotonic_ms() + io_timeout_ms;
    ssize_t put;

    while (would_block(put = send(fd, buf, len, MSG_DONTWAIT | MSG_NOSIGNAL)))
        if (!wait_for_fd(fd, POLLOUT, deadline_ms)) {
            log_write(LOG_LEVEL_WARNING, "the web server did not accept an answer within "
                                         "PGPOLL_PEER_TIMEOUT_S, closing its connection");
            errno = ETIMEDOUT;
            return -1;
        }
    return (int)put;
}

/*
 * Closes at once. libfcgi's own function waits for unread input, which does not matter here: the request was
 * read completely or is invalid.
 */
int OS_IpcClose(int ipcFd, int shutdown)
{
    (void)shutdown;
    request.deadline_ms = 0;
    request.records = (struct fcgi_records){ 0 };
    return ipcFd < 0 ? 0 : close(ipcFd);
}
