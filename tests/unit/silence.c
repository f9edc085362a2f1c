#include "silence.h"

#include <CUnit/CUnit.h>
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int silence_begin(void)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t size = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    char port[8];

    CU_ASSERT_FATAL(bind(fd, (struct sockaddr *)&address, size) == 0 && listen(fd, 1) == 0);
    CU_ASSERT_EQUAL_FATAL(getsockname(fd, (struct sockaddr *)&address, &size), 0);
    (void)snprintf(port, sizeof port, "%d", ntohs(address.sin_port));
    CU_ASSERT_FATAL(setenv("PGHOSTADDR", "127.0.0.1", 1) == 0 && setenv("PGPORT", port, 1) == 0);
    return fd;
}

void silence_end(int fd)
{
    CU_ASSERT_EQUAL(close(fd), 0);
    CU_ASSERT(unsetenv("PGHOSTADDR") == 0 && unsetenv("PGPORT") == 0);
}
