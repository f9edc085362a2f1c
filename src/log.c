#include "log.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LINE_SIZE = 2048 };

static struct {
    enum log_level level;
    const char *program;
    int fd;
    bool to_syslog;
} out = { LOG_LEVEL_INFO, "pgpoll", STDERR_FILENO, false };

bool log_open(const char *destination, enum log_level level, const char *program)
{
    int fd = STDERR_FILENO;

    if (*destination == '/') {
        fd = open(destination, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640);
        if (fd < 0)
            return false;
    }
    if (out.fd != STDERR_FILENO)
        (void)close(out.fd);
    out.level = level;
    out.program = program;
    out.fd = fd;
    out.to_syslog = strcmp(destination, "syslog") == 0;
    if (out.to_syslog)
        openlog(program, LOG_PID, LOG_DAEMON);
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

/* One write(2) a line: with O_APPEND the lines of many workers do not mix. */
static void write_line(enum log_level level, const char *text)
{
    char line[LINE_SIZE + 128], stamp[32] = "";
    struct timespec now;
    struct tm utc;
    int length;

    (void)clock_gettime(CLOCK_REALTIME, &now);
    if (gmtime_r(&now.tv_sec, &utc))
        (void)strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &utc);
    length = snprintf(line, sizeof line, "%s.%03ldZ %s[%d] %s: %s\n", stamp, now.tv_nsec / 1000000, out.program,
                      (int)getpid(), level_name(level), text);
    if (length > 0 && write(out.fd, line, (size_t)length) < 0) {
        /* The log itself is full or gone; there is nobody left to tell. */
    }
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
    /* What clients and servers sent may be in it: one event stays one line. */
    for (char *at = text; *at; at++)
        if ((unsigned char)*at < ' ' || *at == 0x7f)
            *at = ' ';
    if (out.to_syslog)
        syslog((int)level, "%s", text);
    else
        write_line(level, text);
}
