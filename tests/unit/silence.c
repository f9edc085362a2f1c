#include "silence.h"

#include <CUnit/CUnit.h>
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Returns a listening socket on a free port. */
static int listening(int backlog, char *port, size_t size_of_port)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t size = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    CU_ASSERT_FATAL(bind(fd, (struct sockaddr *)&address, size) == 0 && listen(fd, backlog) == 0);
    CU_ASSERT_EQUAL_FATAL(getsockname(fd, (struct sockaddr *)&address, &size), 0);
    (void)snprintf(port, size_of_port, "%d", ntohs(address.sin_port));
    return fd;
}

int silence_begin(void)
{
    char port[8];
    int fd = listening(1, port, sizeof port);

    CU_ASSERT_FATAL(setenv("PGHOSTADDR", "127.0.0.1", 1) == 0 && setenv("PGPORT", port, 1) == 0);
    return fd;
}

void silence_end(int fd)
{
    CU_ASSERT_EQUAL(close(fd), 0);
    CU_ASSERT(unsetenv("PGHOSTADDR") == 0 && unsetenv("PGPORT") == 0);
}

void silence_of_the_first_begin(int fds[static 3])
{
    char ports[16], port[8];
    struct sockaddr_in address;
    socklen_t size = sizeof address;

    fds[0] = listening(0, ports, sizeof ports);
    fds[1] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CU_ASSERT_FATAL(getsockname(fds[0], (struct sockaddr *)&address, &size) == 0 &&
                    connect(fds[1], (struct sockaddr *)&address, size) == 0);
    fds[2] = listening(1, port, sizeof port);
    (void)strcat(strcat(ports, ","), port);
    CU_ASSERT_FATAL(setenv("PGHOSTADDR", "127.0.0.1,127.0.0.1", 1) == 0 && setenv("PGPORT", ports, 1) == 0);
}

void silence_of_the_first_end(const int fds[static 3])
{
    CU_ASSERT_EQUAL(close(fds[0]), 0);
    CU_ASSERT_EQUAL(close(fds[1]), 0);
    silence_end(fds[2]);
}
