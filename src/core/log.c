#include "core/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <paths.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/*
 * A line with its head is shorter than PIPE_BUF, so a pipe accepts either the whole line or nothing
 * (pipe(7)).
 */
enum { LINE_SIZE = 2048, HEAD_SIZE = 128 };

enum { NO_FD = -1 };

enum kind {
    KIND_UNKNOWN,
    KIND_FILE,        /* a regular file; write(2) can wait only for the disk */
    KIND_SOCKET,      /* a socket; send(2) does not block with MSG_DONTWAIT */
    KIND_NONBLOCKING, /* a pipe or terminal through our own open file description, with O_NONBLOCK */
    KIND_MAY_BLOCK,   /* a shared pipe or terminal that we are not permitted to reopen */
    KIND_SYSLOG
};

static struct {
    enum log_level level;
    const char *program;
    int fd;
    enum kind kind;
    bool is_stream;     /* for KIND_SYSLOG: the socket is a stream socket, in which a NUL ends each line */
    uint64_t lost;      /* number of lost lines that the log has not yet reported */
    uint64_t uncounted; /* number of lost lines that log_take_lost() has not yet returned */
} out = { LOG_LEVEL_INFO, "pgpoll", STDERR_FILENO, KIND_UNKNOWN, false, 0, 0 };

/* ---- the destination */

/*
 * Reopens the pipe or terminal behind fd with O_NONBLOCK. The flag is not set on fd itself, because it
 * belongs to the open file description, which is shared with other programs (a shell, other processes of the
 * service). Returns -1 on failure, for example if another user owns the pipe or terminal.
 */
static int open_again(int fd)
{
    char path[32];

    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return open(path, O_WRONLY | O_APPEND | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
}

/* Determines how to write to out.fd without blocking.  */
static void find_kind(void)
{
    struct stat status;
    int fd;

    out.kind = KIND_FILE;
    /* out.fd is a descriptor: it is NO_FD only for KIND_SYSLOG, for which this function is not called. */
    /* NOLINTNEXTLINE(clang-analyzer-unix.StdCLibraryFunctions) */
    if (fstat(out.fd, &status) != 0 || S_ISREG(status.st_mode))
        return;
    out.kind = S_ISSOCK(status.st_mode) ? KIND_SOCKET : KIND_MAY_BLOCK;
    if (out.kind == KIND_MAY_BLOCK && (fd = open_again(out.fd)) >= 0) {
        if (out.fd != STDERR_FILENO)
            (void)close(out.fd);
        out.fd = fd;
        out.kind = KIND_NONBLOCKING;
    }
}

/*
 * Opens the file for appending. A named pipe without a reader is opened for reading as well, because open(2)
 * for writing alone fails with ENXIO, and the start or reload would fail.
 */
static int open_path(const char *path)
{
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0640);

    return fd < 0 && errno == ENXIO ? open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC) : fd;
}

/*
 * Connects to the syslog daemon; syslog(3) itself blocks while the daemon does not read. Returns NO_FD on
 * failure.
 */
static int connect_syslog(void)
{
    const struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = _PATH_LOG };
    static const int types[] = { SOCK_DGRAM, SOCK_STREAM };

    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        int fd = socket(AF_UNIX, types[i] | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

        if (fd >= 0 && connect(fd, (const struct sockaddr *)&address, sizeof address) == 0) {
            out.is_stream = types[i] == SOCK_STREAM;
            return fd;
        }
        if (fd >= 0)
            (void)close(fd);
    }
    return NO_FD;
}

bool log_open(const char *destination, enum log_level level, const char *program)
{
    const bool to_syslog = strcmp(destination, "syslog") == 0;
    int fd = *destination == '/' ? open_path(destination) : to_syslog ? connect_syslog() : STDERR_FILENO;

    if (fd < 0 && !to_syslog)
        return false;
    if (out.fd != STDERR_FILENO && out.fd != NO_FD)
        (void)close(out.fd);
    out.level = level;
    out.program = program;
    out.fd = fd;
    out.kind = KIND_SYSLOG;
    if (!to_syslog)
        find_kind();
    return true;
}

bool log_enabled(enum log_level level)
{
    return level <= out.level;
}

static const char *level_name(enum log_level level)
{
    switch (level) {
    case LOG_LEVEL_ERROR:
        return "error";
    case LOG_LEVEL_WARNING:
        return "warning";
    case LOG_LEVEL_INFO:
        return "info";
    case LOG_LEVEL_DEBUG:
        return "debug";
    }
    return "?";
}

/* ---- writing lines */

/*
 * Returns whether the whole line was written. If not, errno is set, even if a part of the line was written.
 */
static bool put(const char *line, size_t size)
{
    struct iovec part = { (void *)(uintptr_t)line, size };
    struct pollfd fd = { .fd = out.fd, .events = POLLOUT };
    ssize_t written = -1;

    switch (out.kind) {
    case KIND_SOCKET:
    case KIND_SYSLOG:
        written = send(out.fd, line, size, MSG_DONTWAIT | MSG_NOSIGNAL);
        break;
    case KIND_MAY_BLOCK:
        /* Linux before 6.4 lacks RWF_NOWAIT for pipes. There write() can block, if another process fills the
           pipe after poll(). */
        written = pwritev2(out.fd, &part, 1, -1, RWF_NOWAIT);
        if (written < 0 && errno == EOPNOTSUPP && poll(&fd, 1, 0) == 1)
            written = write(out.fd, line, size);
        break;
    case KIND_UNKNOWN:
    case KIND_FILE:
    case KIND_NONBLOCKING:
        written = write(out.fd, line, size);
        break;
    }
    if (written >= 0 && written < (ssize_t)size)
        errno = ENOSPC;
    return written == (ssize_t)size;
}

/* Reconnects once if the line cannot be sent, because the syslog daemon may have been restarted. */
static bool put_to_syslog(const char *line, size_t size)
{
    if (out.fd != NO_FD && put(line, size + out.is_stream))
        return true;
    if (out.fd != NO_FD && errno == EAGAIN)
        return false;
    if (out.fd != NO_FD)
        (void)close(out.fd);
    out.fd = connect_syslog();
    return out.fd != NO_FD && put(line, size + out.is_stream);
}

/* Uses one write(2) per line, so that with O_APPEND the lines of different processes do not mix. */
static bool write_line(enum log_level level, const char *text)
{
    char line[LINE_SIZE + HEAD_SIZE], stamp[32] = "";
    struct timespec now;
    struct tm utc;
    int length;

    (void)clock_gettime(CLOCK_REALTIME, &now);
    if (gmtime_r(&now.tv_sec, &utc))
        (void)strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &utc);
    length = snprintf(line, sizeof line, "%s.%03ldZ %s[%d] %s: %s\n", stamp, now.tv_nsec / 1000000,
                      out.program, (int)getpid(), level_name(level), text);
    return length > 0 && put(line, (size_t)length);
}

/* Formats the line as syslog(3) does: RFC 3164, in local time. */
static bool write_to_syslog(enum log_level level, const char *text)
{
    char line[LINE_SIZE + HEAD_SIZE], stamp[32] = "";
    time_t now = time(NULL);
    struct tm local;
    int length;

    if (localtime_r(&now, &local))
        (void)strftime(stamp, sizeof stamp, "%h %e %T ", &local);
    length = snprintf(line, sizeof line, "<%d>%s%s[%d]: %s", LOG_DAEMON | (int)level, stamp, out.program,
                      (int)getpid(), text);
    return length > 0 && put_to_syslog(line, (size_t)length);
}

static bool write_text(enum log_level level, const char *text)
{
    if (out.kind == KIND_UNKNOWN)
        find_kind();
    return out.kind == KIND_SYSLOG ? write_to_syslog(level, text) : write_line(level, text);
}

void log_report_lost(void)
{
    char text[128];

    if (out.lost == 0)
        return;
    (void)snprintf(text, sizeof text,
                   "%" PRIu64 " log lines were lost because nobody read the log or its disk was full",
                   out.lost);
    if (write_text(LOG_LEVEL_WARNING, text))
        out.lost = 0;
}

uint64_t log_take_lost(void)
{
    uint64_t lost = out.uncounted;

    out.uncounted = 0;
    return lost;
}

void log_write(enum log_level level, const char *format, ...)
{
    char text[LINE_SIZE];
    va_list arguments;

    if (!log_enabled(level))
        return;
    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    /* The text may contain what a client or server sent; keep each event on one line. */
    for (char *at = text; *at; at++)
        if ((unsigned char)*at < ' ' || *at == 0x7f)
            *at = ' ';
    log_report_lost();
    if (!write_text(level, text)) {
        out.lost++;
        out.uncounted++;
    }
}
