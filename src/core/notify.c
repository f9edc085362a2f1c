#include "core/notify.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* The environment variables, see sd_notify(3) and sd_watchdog_enabled(3). */
static struct {
    const char *name;
    char value[128];
} variables[] = { { "NOTIFY_SOCKET", "" }, { "WATCHDOG_USEC", "" }, { "WATCHDOG_PID", "" } };

enum { SOCKET, WATCHDOG, WATCHDOG_PID, VARIABLES };

void notify_init(void)
{
    for (int i = 0; i < VARIABLES; i++) {
        const char *value = getenv(variables[i].name);

        (void)snprintf(variables[i].value, sizeof variables[i].value, "%s", value ? value : "");
        (void)unsetenv(variables[i].name);
    }
}

void notify_restore(void)
{
    for (int i = 0; i < VARIABLES; i++)
        if (*variables[i].value)
            (void)setenv(variables[i].name, variables[i].value, 1);
}

bool notify_is_wanted(void)
{
    return *variables[SOCKET].value;
}

bool notify_send(const char *format, ...)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    const char *path = variables[SOCKET].value;
    const size_t length = strlen(path);
    char text[512];
    va_list arguments;
    ssize_t sent;
    int fd;

    if (length == 0)
        return true;
    if (length >= sizeof address.sun_path || (*path != '/' && *path != '@'))
        return true; /* sd_notify(3) knows other sockets, which do not occur between processes of one host */
    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    memcpy(address.sun_path, path, length);
    if (*path == '@')
        address.sun_path[0] = '\0'; /* an abstract socket, unix(7): its name has no NUL at its end */
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return false;
    sent = sendto(fd, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT, (struct sockaddr *)&address,
                  (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length));
    (void)close(fd);
    return sent >= 0;
}

int64_t notify_watchdog_ms(void)
{
    const long long interval_us = strtoll(variables[WATCHDOG].value, NULL, 10);
    const char *pid = variables[WATCHDOG_PID].value;

    /* sd_watchdog_enabled(3) recommends half of the interval. */
    return *pid && strtol(pid, NULL, 10) != getpid() ? 0 : interval_us / 1000 / 2;
}
