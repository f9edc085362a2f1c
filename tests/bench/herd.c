/*
 * The least that one process per poll costs behind the same web server: FastCGI workers that wait on an
 * eventfd and answer from shared memory. There is no database and one topic, and nothing is checked. The
 * difference between pgpoll's time and this program's is pgpoll's own cost.
 *
 *   spawn-fcgi -n -s SOCKET -b 4096 -- herd PROCESSES
 *
 * POST /herd/publish sets the next message, which is the body. GET /herd/waiting returns how many polls wait.
 * All other requests are polls. Those of topics "again-..." (the part comeback) get no message, they only
 * wait.
 *
 * HERD_LISTEN makes it LISTEN: it is a statement, and the payload of each notification is the next message,
 * too. The PG* variables choose the database. That is the least that a database adds: nothing is kept, and a
 * notification that comes while nobody listens is lost. This is a program of its own, because libpq and its
 * libraries cost every process memory.
 */
#include <errno.h>
#include <fcgiapp.h>
#ifdef HERD_LISTEN
#include <libpq-fe.h>
#endif
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SLOTS = 4096, SLOT_SIZE = 1024, WAIT_MS = 60 * 1000, AGAIN_MS = 5000 };

struct shared {
    atomic_uint last; /* messages so far */
    atomic_uint waiting;
    char messages[SLOTS][SLOT_SIZE];
};

static struct shared *shared;
static int wake_fd, epoll_fd;

/* Where to write the message that add_message() then gives to all. */
static char *next_message(void)
{
    return shared->messages[(atomic_load(&shared->last) + 1) % SLOTS];
}

static void add_message(void)
{
    (void)atomic_fetch_add(&shared->last, 1);
    (void)eventfd_write(wake_fd, 1);
}

static void publish(FCGX_Request *request)
{
    char *message = next_message();
    message[FCGX_GetStr(message, SLOT_SIZE - 1, request->in)] = '\0';
    add_message();
    (void)FCGX_PutS("Status: 202 Accepted\r\n\r\n", request->out);
}

#ifdef HERD_LISTEN
/* Until the connection is lost. */
static void listen_to_channel(void)
{
    PGconn *db = PQconnectdb("");
    struct pollfd socket = { .fd = PQsocket(db), .events = POLLIN };
    PQclear(PQexec(db, HERD_LISTEN));
    while (PQstatus(db) == CONNECTION_OK) {
        PGnotify *notification;
        while ((notification = PQnotifies(db))) {
            (void)snprintf(next_message(), SLOT_SIZE, "%s", notification->extra);
            add_message();
            PQfreemem(notification);
        }
        (void)poll(&socket, 1, -1);
        (void)PQconsumeInput(db);
    }
    (void)fprintf(stderr, "herd: %s", PQerrorMessage(db));
}
#endif

/* Until the client has gone, or it has been long enough. */
static void wait_for_nothing(int connection)
{
    struct pollfd client = { .fd = connection, .events = POLLIN | POLLRDHUP };
    (void)poll(&client, 1, AGAIN_MS);
}

/* Until there is something after since, the client has gone, or it has been long enough. */
static void wait_for_news(unsigned since, int connection)
{
    struct epoll_event event = { .events = EPOLLIN | EPOLLRDHUP, .data.fd = connection };
    bool wait = epoll_ctl(epoll_fd, EPOLL_CTL_ADD, connection, &event) == 0;
    atomic_fetch_add(&shared->waiting, 1);
    while (wait && atomic_load(&shared->last) == since)
        wait = epoll_wait(epoll_fd, &event, 1, WAIT_MS) > 0 && event.data.fd == wake_fd;
    atomic_fetch_sub(&shared->waiting, 1);
    (void)epoll_ctl(epoll_fd, EPOLL_CTL_DEL, connection, NULL);
}

static void answer_poll(FCGX_Request *request)
{
    char body[1024];
    body[FCGX_GetStr(body, sizeof body - 1, request->in)] = '\0';
    const char *cursor = strstr(body, "\"since\":{");
    cursor = cursor ? strstr(cursor, "\":\"") : NULL;
    unsigned since = cursor ? (unsigned)strtoul(cursor + 3, NULL, 10) : atomic_load(&shared->last);
    if (strstr(body, "\"again-"))
        wait_for_nothing(request->ipcFd);
    else if (!strstr(body, "\"timeout\":0"))
        wait_for_news(since, request->ipcFd);

    unsigned last = atomic_load(&shared->last);
    (void)FCGX_PutS("Content-Type: application/json\r\n\r\n{\"messages\":[", request->out);
    for (unsigned n = since + 1; n <= last; n++)
        (void)FCGX_FPrintF(request->out, "%s{\"payload\":%s}", n > since + 1 ? "," : "",
                           shared->messages[n % SLOTS]);
    (void)FCGX_FPrintF(request->out, "],\"has_more\":false,\"next_since\":{\"all\":\"%u\"}}", last);
}

static void serve(void)
{
    struct epoll_event news = { .events = EPOLLIN | EPOLLET, .data.fd = wake_fd };
    FCGX_Request request;
    epoll_fd = epoll_create1(0);
    if (epoll_fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, wake_fd, &news) != 0 ||
        FCGX_InitRequest(&request, 0, 0) != 0)
        return;
    while (FCGX_Accept_r(&request) == 0) {
        const char *uri = FCGX_GetParam("REQUEST_URI", request.envp);
        if (strcmp(uri, "/herd/publish") == 0)
            publish(&request);
        else if (strcmp(uri, "/herd/waiting") == 0)
            (void)FCGX_FPrintF(request.out, "Content-Type: text/plain\r\n\r\n%u\n",
                               atomic_load(&shared->waiting));
        else
            answer_poll(&request);
        FCGX_Finish_r(&request);
    }
}

int main(int argc, char **argv)
{
    long processes = argc == 2 ? strtol(argv[1], NULL, 10) : 0;
    if (processes < 1) {
        (void)fputs("usage: herd PROCESSES (as a FastCGI program)\n", stderr);
        return 2;
    }
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    wake_fd = eventfd(0, 0);
    if (shared == MAP_FAILED || wake_fd < 0 || FCGX_Init() != 0) {
        perror("herd");
        return 1;
    }
    (void)signal(SIGTERM, SIG_DFL); /* libfcgi catches it */
    for (long i = 0; i < processes; i++)
        if (fork() == 0) {
            (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
            serve();
            return 1;
        }
#ifdef HERD_LISTEN
    listen_to_channel();
#endif
    while (wait(NULL) > 0 || errno == EINTR)
        ;
    return 1;
}
