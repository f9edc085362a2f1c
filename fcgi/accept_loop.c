#include "accept_loop.h"

#include "core/log.h"
#include "core/notify.h"
#include "fcgi_io.h"
#include "oom.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LISTEN_FD = 0, REST_AFTER_MS = 1000 };

static volatile sig_atomic_t drain;  /* set by a signal: answer the current request, then end the loop */
static volatile sig_atomic_t reexec; /* the signal that set drain was SIGHUP: re-exec instead of exiting */
static volatile sig_atomic_t woken;  /* set by SIGUSR2: wake the waiting poll */

static void handle_signal(int number)
{
    if (number == SIGUSR2) {
        woken = 1;
    } else {
        reexec = number == SIGHUP;
        drain = 1;
    }
}

/*
 * Installs the handlers, blocks the signals, and sets *sleep_mask to the mask that unblocks them. Must follow
 * FCGX_Init(), which installs handlers of its own. SIGHUP is ignored unless can_reexec is set.
 */
static bool catch_signals(bool can_reexec, sigset_t *sleep_mask)
{
    static const int signals[] = { SIGTERM, SIGINT, SIGUSR1, SIGUSR2, SIGHUP };
    struct sigaction action = { .sa_handler = handle_signal };
    sigset_t blocked;

    (void)sigemptyset(&blocked);
    (void)sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        (void)sigaddset(&blocked, signals[i]);
    if (sigprocmask(SIG_BLOCK, &blocked, sleep_mask) != 0)
        return false;
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
        (void)sigdelset(sleep_mask, signals[i]);
        if (sigaction(signals[i], &action, NULL) != 0)
            return false;
    }
    action.sa_handler = SIG_IGN;
    return sigaction(SIGPIPE, &action, NULL) == 0 && (can_reexec || sigaction(SIGHUP, &action, NULL) == 0);
}

/*
 * Makes the listening socket non-blocking, because another worker may accept a request first. Returns an
 * epoll descriptor with which to wait for the socket, or -1 on failure.
 */
static int make_epoll(void)
{
    int flags = fcntl(LISTEN_FD, F_GETFL);

    return flags < 0 || fcntl(LISTEN_FD, F_SETFL, flags | O_NONBLOCK) != 0 ? -1
                                                                           : epoll_create1(EPOLL_CLOEXEC);
}

/*
 * Adds the listening socket to the epoll set, or removes it. With EPOLLEXCLUSIVE a new connection wakes one
 * or a few of the workers that watch the socket. But for each connection the kernel also runs a callback for
 * every busy worker that watches the socket. With a thousand busy workers that would be a thousand callbacks,
 * so a worker watches the socket only while it is idle.
 */
static bool watch_listener(int epoll_fd, int operation)
{
    struct epoll_event event = { .events = EPOLLIN | EPOLLEXCLUSIVE };

    return epoll_ctl(epoll_fd, operation, LISTEN_FD, &event) == 0;
}

static bool accept_request(FCGX_Request *request)
{
    int outcome;

    oom_set_fatal(true);
    outcome = FCGX_Accept_r(request);
    oom_set_fatal(false);
    request->keepConnection = 0; /* only the listening socket is watched, not a kept connection */
    /* FCGX_Accept_r() returns 0 even if reading the parameters failed. */
    if (outcome == 0 && FCGX_GetError(request->in)) {
        FCGX_Finish_r(request);
        return false;
    }
    if (outcome != 0 && outcome != -EAGAIN && outcome != -EINTR && outcome != -ECONNABORTED) {
        log_write(LOG_LEVEL_ERROR, "cannot accept a request: %s", strerror(-outcome));
        (void)poll(NULL, 0, 100); /* descriptors or memory ran out: do not spin */
    }
    return outcome == 0;
}

/* Sleeps until a request is accepted. Returns false if a signal that drains comes first. */
static bool next_request(struct accept_loop *loop, FCGX_Request *request, int epoll_fd,
                         const sigset_t *sleep_mask)
{
    int timeout_ms = loop->rest ? REST_AFTER_MS : -1;
    struct epoll_event event;
    bool accepted = false;

    while (!drain && !watch_listener(epoll_fd, EPOLL_CTL_ADD)) {
        log_write(LOG_LEVEL_ERROR, "cannot watch for requests: %s", strerror(errno));
        (void)ppoll(NULL, 0, &(struct timespec){ .tv_nsec = 100 * 1000 * 1000 }, sleep_mask);
    }
    while (!drain && !accepted) {
        int ready = epoll_pwait(epoll_fd, &event, 1, timeout_ms, sleep_mask);

        if (ready > 0) {
            accepted = accept_request(request);
        } else if (loop->rest) { /* idle or signalled */
            loop->rest(loop);
            timeout_ms = -1;
        }
    }
    (void)watch_listener(epoll_fd, EPOLL_CTL_DEL);
    return accepted;
}

/* Re-execs the program. Returns only on failure; the process then continues with the running version. */
static void reexec_program(char **argv)
{
    /* The signals stay blocked: the new program must not get one before it has installed its handlers. */
    notify_restore();
    (void)execvp(argv[0], argv);
    log_write(LOG_LEVEL_ERROR, "cannot re-exec %s, continuing with the running version: %s", argv[0],
              strerror(errno));
    drain = 0;
    reexec = 0;
}

bool accept_loop_has_socket(void)
{
    int value = 0;
    socklen_t size = sizeof value;
    bool listening = getsockopt(LISTEN_FD, SOL_SOCKET, SO_ACCEPTCONN, &value, &size) == 0 && value;

    if (!listening)
        log_write(LOG_LEVEL_ERROR,
                  "descriptor 0 is not a listening socket: start this program with spawn-fcgi");
    return listening;
}

int accept_loop_run(struct accept_loop *loop)
{
    FCGX_Request request;
    sigset_t sleep_mask;
    int epoll_fd;

    fcgi_io_set_timeout(loop->peer_timeout_ms);
    if (FCGX_Init() != 0 || FCGX_InitRequest(&request, LISTEN_FD, FCGI_FAIL_ACCEPT_ON_INTR) != 0 ||
        !catch_signals(loop->argv != NULL, &sleep_mask) || (epoll_fd = make_epoll()) < 0) {
        log_write(LOG_LEVEL_ERROR, "cannot set up the FastCGI socket and signals: %s", strerror(errno));
        return EXIT_FAILURE;
    }
    /* No watchdog: a worker without a manager has nothing to tell while its poll waits. */
    (void)notify_send("READY=1\nWATCHDOG_USEC=0");
    do {
        while (next_request(loop, &request, epoll_fd, &sleep_mask)) {
            const struct interrupts interrupts = { request.ipcFd, &drain, &woken, &sleep_mask };
            loop->serve(loop, &request, &interrupts);
            FCGX_Finish_r(&request);
        }
        if (reexec && loop->argv)
            reexec_program(loop->argv);
    } while (!drain);
    (void)close(epoll_fd);
    return EXIT_SUCCESS;
}
