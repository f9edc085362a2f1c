#include "accept_loop.h"

#include "core/log.h"
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

enum { SOURCE_FD = 0, REST_AFTER_MS = 1000 };

static volatile sig_atomic_t release;  /* a signal has come: answer what waits */
static volatile sig_atomic_t run_anew; /* it was SIGHUP */
static volatile sig_atomic_t woken;    /* SIGUSR2 */

static void handle_signal(int number)
{
    if (number == SIGUSR2) {
        woken = 1;
    } else {
        run_anew = number == SIGHUP;
        release = 1;
    }
}

/* Blocks our signals and gives the mask that lets them in. After FCGX_Init, which installs handlers of its own. */
static bool catch_signals(bool runs_anew, sigset_t *sleep_mask)
{
    static const int signals[] = { SIGTERM, SIGINT, SIGUSR1, SIGUSR2, SIGHUP };
    struct sigaction action = { .sa_handler = handle_signal };
    sigset_t ours;

    (void)sigemptyset(&ours);
    (void)sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        (void)sigaddset(&ours, signals[i]);
    if (sigprocmask(SIG_BLOCK, &ours, sleep_mask) != 0)
        return false;
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
        (void)sigdelset(sleep_mask, signals[i]);
        if (sigaction(signals[i], &action, NULL) != 0)
            return false;
    }
    action.sa_handler = SIG_IGN;
    return sigaction(SIGPIPE, &action, NULL) == 0 && (runs_anew || sigaction(SIGHUP, &action, NULL) == 0);
}

/* The socket is shared: it must not block those who come too late for a request. */
static int make_idle_set(void)
{
    int flags = fcntl(SOURCE_FD, F_GETFL);

    return flags < 0 || fcntl(SOURCE_FD, F_SETFL, flags | O_NONBLOCK) != 0 ? -1
                                                                           : epoll_create1(EPOLL_CLOEXEC);
}

/*
 * Watches the listening socket, or stops. With EPOLLEXCLUSIVE a connection wakes one idle worker, or a few, instead of all; but it
 * also looks at every busy one that is still watching, a thousand of them when a thousand polls wait. So only idle ones watch.
 */
static bool watch_listener(int epoll_fd, int operation)
{
    struct epoll_event event = { .events = EPOLLIN | EPOLLEXCLUSIVE };

    return epoll_ctl(epoll_fd, operation, SOURCE_FD, &event) == 0;
}

static bool accept_request(FCGX_Request *request)
{
    int outcome;

    oom_set_fatal(true);
    outcome = FCGX_Accept_r(request);
    oom_set_fatal(false);
    request->keepConnection = 0; /* the next request on it would wait behind a socket that nobody watches */
    if (outcome == 0 &&
        FCGX_GetError(request->in)) { /* libfcgi takes an error for the end of the parameters */
        FCGX_Finish_r(request);
        return false;
    }
    if (outcome != 0 && outcome != -EAGAIN && outcome != -EINTR && outcome != -ECONNABORTED) {
        log_write(LOG_LEVEL_ERROR, "cannot accept a request: %s", strerror(-outcome));
        (void)poll(NULL, 0, 100); /* out of descriptors or memory: do not spin */
    }
    return outcome == 0;
}

/* Sleeps until there is a request; false: a signal came first. */
static bool next_request(struct accept_loop *server, FCGX_Request *request, int epoll_fd,
                         const sigset_t *sleep_mask)
{
    int timeout_ms = server->rest ? REST_AFTER_MS : -1;
    struct epoll_event event;
    bool accepted = false;

    while (!release && !watch_listener(epoll_fd, EPOLL_CTL_ADD)) {
        log_write(LOG_LEVEL_ERROR, "cannot watch for requests: %s", strerror(errno));
        (void)ppoll(NULL, 0, &(struct timespec){ .tv_nsec = 100 * 1000 * 1000 }, sleep_mask);
    }
    while (!release && !accepted) {
        int ready = epoll_pwait(epoll_fd, &event, 1, timeout_ms, sleep_mask);

        if (ready > 0) {
            accepted = accept_request(request);
        } else if (server
                       ->rest) { /* nothing came for a while, or a signal did: somebody wants what we hold */
            server->rest(server);
            timeout_ms = -1;
        }
    }
    (void)watch_listener(epoll_fd, EPOLL_CTL_DEL);
    return accepted;
}

/* Returns only when it failed. */
static void exec_anew(char **argv)
{
    /* Our signals stay blocked: one that comes before the new program handles it must not end it. */
    (void)execvp(argv[0], argv);
    log_write(LOG_LEVEL_ERROR, "cannot run %s anew, staying as it is: %s", argv[0], strerror(errno));
    release = 0;
    run_anew = 0;
}

bool accept_loop_has_socket(void)
{
    int value = 0;
    socklen_t size = sizeof value;
    bool listening = getsockopt(SOURCE_FD, SOL_SOCKET, SO_ACCEPTCONN, &value, &size) == 0 && value;

    if (!listening)
        log_write(LOG_LEVEL_ERROR, "descriptor 0 is no listening socket: start this program with spawn-fcgi");
    return listening;
}

int accept_loop_run(struct accept_loop *server)
{
    FCGX_Request request;
    sigset_t sleep_mask;
    int epoll_fd;

    fcgi_io_set_timeout(server->peer_timeout_ms);
    if (FCGX_Init() != 0 || FCGX_InitRequest(&request, SOURCE_FD, FCGI_FAIL_ACCEPT_ON_INTR) != 0 ||
        !catch_signals(server->argv != NULL, &sleep_mask) || (epoll_fd = make_idle_set()) < 0) {
        log_write(LOG_LEVEL_ERROR, "cannot set up the process: %s", strerror(errno));
        return EXIT_FAILURE;
    }
    do {
        while (next_request(server, &request, epoll_fd, &sleep_mask)) {
            const struct interrupts interrupts = { request.ipcFd, &release, &woken, &sleep_mask };
            server->serve(server, &request, &interrupts);
            FCGX_Finish_r(&request);
        }
        if (run_anew && server->argv)
            exec_anew(server->argv);
    } while (!release);
    (void)close(epoll_fd);
    return EXIT_SUCCESS;
}
