#include "reader/reader.h"

#include "api/page.h"
#include "core/clock.h"
#include "core/config.h"
#include "core/log.h"
#include "postgres/addresses.h"
#include "postgres/catch_up.h"
#include "postgres/database.h"
#include "shared/read_channel.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <unistd.h>

/* A reader that has had no question for this long closes its connection and returns memory. */
enum { IDLE_MS = 1000 };

static void serve(const struct config *config, struct database *database, int socket)
{
    struct read_channel_job job;
    const struct read_channel_question *question = &job.question;
    struct catch_up_user user = { .name = NULL };
    struct page page;
    enum error error;

    if (!read_channel_accept(socket, &job))
        return; /* the worker has gone, or it will give up at its deadline */
    user.name = question->remote_user;
    if (page_init(&page, question->request->topic_count)) {
        error =
            catch_up_run(database, question->request, user.name ? &user : NULL, NULL, NULL, question->number,
                         question->positions, config->page_bytes, &page, question->deadline_ms);
        read_channel_answer(socket, question->deadline_ms, error, &page, database_error(database));
        page_release(&page);
    } else {
        read_channel_answer(socket, question->deadline_ms, ERROR_MEMORY, NULL, "out of memory");
    }
    read_channel_release(&job);
}

/* Closes the connection and returns unused memory to the system, after a while without questions. */
static void rest(struct database *database)
{
    database_close(database, NULL);
    (void)malloc_trim(0);
}

/*
 * Watches the queue with EPOLLEXCLUSIVE, so that a question wakes only one idle reader. That is always the
 * same one as long as it keeps up. Returns an epoll descriptor, or -1 if this fails.
 */
static int watch(int queue)
{
    struct epoll_event event = { .events = EPOLLIN | EPOLLEXCLUSIVE };
    int epoll_fd = epoll_create1(EPOLL_CLOEXEC);

    return epoll_fd >= 0 && epoll_ctl(epoll_fd, EPOLL_CTL_ADD, queue, &event) == 0 ? epoll_fd : -1;
}

/*
 * Ignores signals. One that is sent to all processes of the service is meant for the manager; a reader ends
 * when the queue is closed.
 */
static void ignore_signals(void)
{
    static const int signals[] = { SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGPIPE };

    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        (void)signal(signals[i], SIG_IGN);
}

/*
 * Closes the web server's listening socket, which is standard input, so that connections are refused when no
 * worker is left.
 */
static bool close_listening_socket(void)
{
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    bool done = fd >= 0 && dup2(fd, STDIN_FILENO) == STDIN_FILENO;

    (void)close(fd);
    return done;
}

/*
 * Sets PGSERVICE, which libpq reads whenever it needs a connection parameter. If service is "", changes
 * nothing.
 */
static bool use_service(const char *service)
{
    return *service == '\0' || setenv("PGSERVICE", service, 1) == 0;
}

int reader_run(const struct config *config, int queue, int addresses)
{
    struct database *database = database_new(config->query_timeout_s * 1000);
    int epoll_fd = watch(queue), socket = -1, timeout_ms = -1;

    ignore_signals();
    (void)prctl(PR_SET_NAME, "pgpoll-reader");
    if (!database || epoll_fd < 0 || !close_listening_socket() || !use_service(config->catch_up_service) ||
        !addresses_share(addresses)) {
        log_write(LOG_LEVEL_ERROR, "cannot set up a reader: %s", strerror(errno));
        database_free(database);
        return EXIT_FAILURE;
    }
    do {
        struct epoll_event event;

        if (epoll_wait(epoll_fd, &event, 1, timeout_ms) == 0) {
            rest(database);
            timeout_ms = -1;
        }
        socket = read_channel_take(queue);
        if (socket >= 0) {
            serve(config, database, socket);
            (void)close(socket);
            timeout_ms = IDLE_MS;
        }
    } while (socket >= 0 || errno);
    database_free(database);
    (void)close(epoll_fd);
    return EXIT_SUCCESS;
}
