#include "core/notify.h"

#include "expect.h"
#include "suites.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* Plays systemd: returns a socket that is bound to this address. name: as in NOTIFY_SOCKET. */
static int listen_at(const char *name)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    const int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    memcpy(address.sun_path, name, strlen(name));
    if (*name == '@')
        address.sun_path[0] = '\0';
    CU_ASSERT_FATAL(bind(fd, (struct sockaddr *)&address,
                         (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name))) == 0);
    return fd;
}

static void expect_message(int fd, const char *expected)
{
    char text[1024] = "";
    const ssize_t length = recv(fd, text, sizeof text - 1, 0);

    EXPECT(length == (ssize_t)strlen(expected), "%d bytes", (int)length);
    EXPECT_TEXT(text, expected);
}

static void set(const char *socket, const char *watchdog_us, const char *pid)
{
    (void)setenv("NOTIFY_SOCKET", socket, 1);
    (void)setenv("WATCHDOG_USEC", watchdog_us, 1);
    (void)setenv("WATCHDOG_PID", pid, 1);
    notify_init();
}

static void messages_arrive_at(const char *name)
{
    const int fd = listen_at(name);

    set(name, "", "");
    CU_ASSERT(notify_is_wanted());
    CU_ASSERT(notify_send("READY=1"));
    expect_message(fd, "READY=1");
    CU_ASSERT(notify_send("STATUS=%d of %d", 1, 2));
    expect_message(fd, "STATUS=1 of 2");
    (void)close(fd);
    CU_ASSERT(!notify_send("READY=1")); /* nobody listens any more */
}

static void messages_arrive(void)
{
    char name[64];

    (void)snprintf(name, sizeof name, "/tmp/pgpoll-unit-notify-%d", (int)getpid());
    messages_arrive_at(name);
    (void)unlink(name);
    *name = '@'; /* an abstract socket */
    messages_arrive_at(name);
    set("", "", "");
}

static void a_full_socket_does_not_block(void)
{
    char name[64];
    int fd, sent = 0;

    (void)snprintf(name, sizeof name, "@pgpoll-unit-notify-%d", (int)getpid());
    fd = listen_at(name);
    set(name, "", "");
    while (sent < 100000 && notify_send("WATCHDOG=1"))
        sent++;
    CU_ASSERT(sent > 0 && sent < 100000);
    expect_message(fd, "WATCHDOG=1");
    CU_ASSERT(notify_send("READY=1"));
    (void)close(fd);
    set("", "", "");
}

static void children_do_not_inherit_the_variables(void)
{
    set("@nobody", "2000000", "");
    CU_ASSERT(!getenv("NOTIFY_SOCKET") && !getenv("WATCHDOG_USEC") && !getenv("WATCHDOG_PID"));
    notify_restore();
    EXPECT_TEXT(getenv("NOTIFY_SOCKET"), "@nobody");
    EXPECT_TEXT(getenv("WATCHDOG_USEC"), "2000000");
    CU_ASSERT(!getenv("WATCHDOG_PID")); /* it was not set */
    set("", "", "");
}

static void nobody_wants_to_know(void)
{
    set("", "", "");
    CU_ASSERT(!notify_is_wanted() && notify_send("READY=1") && notify_watchdog_ms() == 0);
    notify_restore();
    CU_ASSERT(!getenv("NOTIFY_SOCKET"));
}

static void the_watchdog_is_told_twice_in_its_interval(void)
{
    char pid[16];

    set("@nobody", "20000000", "");
    CU_ASSERT(notify_watchdog_ms() == 10000);
    (void)snprintf(pid, sizeof pid, "%d", (int)getpid());
    set("@nobody", "20000000", pid);
    CU_ASSERT(notify_watchdog_ms() == 10000);
    set("@nobody", "20000000", "1"); /* meant for another process */
    CU_ASSERT(notify_watchdog_ms() == 0);
    set("", "", "");
}

CU_TestInfo notify_tests[] = {
    { "messages arrive", messages_arrive },
    { "a full socket does not block", a_full_socket_does_not_block },
    { "children do not inherit the variables", children_do_not_inherit_the_variables },
    { "nobody wants to know", nobody_wants_to_know },
    { "the watchdog is told twice in its interval", the_watchdog_is_told_twice_in_its_interval },
    CU_TEST_INFO_NULL,
};
