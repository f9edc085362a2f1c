#include "core/background.h"
#include "core/clock.h"
#include "postgres/database.h"
#include "postgres/database_state.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    LOOK_MS = 100,       /* between looks at several such sessions */
    DEAD_PEER_MS = 25000 /* a peer that acknowledges nothing for so long has no backend for us either */
};

enum error database_fail(struct database *database, enum error error, const char *text)
{
    (void)snprintf(database->error, sizeof database->error, "%s", text);
    database->error[strcspn(database->error, "\n")] = '\0';
    return error;
}

/* Without a sign of life from the peer, TCP itself gives the socket up. */
static void watch_peer(int fd)
{
    static const struct {
        int level, name, value;
    } options[] = { { SOL_SOCKET, SO_KEEPALIVE, 1 },
                    { IPPROTO_TCP, TCP_KEEPIDLE, DEAD_PEER_MS / 1000 - 15 },
                    { IPPROTO_TCP, TCP_KEEPINTVL, 5 },
                    { IPPROTO_TCP, TCP_KEEPCNT, 3 },
                    { IPPROTO_TCP, TCP_USER_TIMEOUT, DEAD_PEER_MS } };

    for (size_t i = 0; i < sizeof options / sizeof *options;
         i++) /* of a Unix socket there is nothing to set */
        (void)setsockopt(fd, options[i].level, options[i].name, &options[i].value, sizeof options[i].value);
}

static void send_cancel(void *cancel)
{
    char error[256];

    (void)PQcancel(cancel, error, (int)sizeof error);
}

static void free_cancel(void *cancel)
{
    PQfreeCancel(cancel);
}

/* PQcancel() makes a connection of its own, and blocks. One at a time: where it takes long, another one does, too. */
static void cancel_statement(struct database *database)
{
    PGcancel *cancel;

    if (database->canceller && !background_is_done(database->canceller))
        return;
    background_free(database->canceller);
    cancel = PQgetCancel(database->connection);
    database->canceller = cancel ? background_start(send_cancel, free_cancel, cancel) : NULL;
    if (!database->canceller)
        PQfreeCancel(cancel);
}

/* Whether the server has closed it. What it still sent is dropped. */
static bool is_over(int fd)
{
    char dropped[4096];
    ssize_t got;

    do
        got = recv(fd, dropped, sizeof dropped, MSG_DONTWAIT);
    while (got > 0 || (got < 0 && errno == EINTR));
    return got == 0 || errno != EAGAIN;
}

void session_forget(struct database *database, int number)
{
    (void)close(database->ended[number].fd);
    database->ended_count--;
    memmove(&database->ended[number], &database->ended[number + 1],
            (size_t)(database->ended_count - number) * sizeof *database->ended);
}

/* Whether a connection may be opened: nothing is left of those before, or it is to see to the one that does not end by itself. */
bool session_may_connect(struct database *database)
{
    for (int i = database->ended_count - 1; i >= 0; i--)
        if (is_over(database->ended[i].fd))
            session_forget(database, i);
    database->look_ms = clock_monotonic_ms() + LOOK_MS;
    return database->ended_count == 0 ||
           (database->ended_count == 1 && clock_monotonic_ms() >= database->ended[0].since_ms + EXIT_MS);
}

static bool is_busy(const struct database *database)
{
    const struct pipeline *pipeline = database->state == RUNNING ? &database->asked : &database->check;

    return PQstatus(database->connection) == CONNECTION_OK && pipeline->received < pipeline->count;
}

/*
 * Ends the session. Its socket stays open beside libpq's, which PQfinish() closes. A session with something under way is to read nothing
 * more after it; then PQfinish() cannot write to it either, which would block where the peer does not read.
 */
static void end_session(struct database *database)
{
    const ConnStatusType status = PQstatus(database->connection);
    const int socket = PQsocket(database->connection);
    int fd = -1;

    if (is_busy(database))
        cancel_statement(database);
    if (is_busy(database) || status != CONNECTION_OK)
        (void)shutdown(socket, SHUT_WR);
    if (socket >= 0 && status != CONNECTION_STARTED) /* while connect(2) is under way there is no backend */
        fd = fcntl(socket, F_DUPFD_CLOEXEC, 0);
    if (fd >= 0) {
        watch_peer(fd);
        database->ended[database->ended_count++] =
            (struct ended){ fd, database->backend, clock_monotonic_ms() };
    }
    PQfinish(database->connection);
    database->connection = NULL;
    database->backend = (struct backend){ 0 };
}

void database_close(struct database *database, const char *text)
{
    if (text)
        (void)database_fail(database, ERROR_DATABASE_AWAY, text);
    if (database->connection)
        end_session(database);
    pipeline_clear(&database->asked);
    pipeline_clear(&database->check);
    database->state = CLOSED;
}

void database_give_up(struct database *database)
{
    static const char *const texts[] = {
        [ENDING] = "an earlier session has not ended",
        [RESOLVING] = "no host name was resolved in time",
        [CONNECTING] = "no connection in time",
        [CHECKING] = "no answer in time",
        [REPLACING] = "an earlier session could not be terminated",
        [RUNNING] = "no answer in time",
        [IDLE] = "no answer in time",
        [CLOSED] = "no connection",
    };

    database_close(database, texts[database->state]);
}

/* The connection is of no use any more. */
enum error database_lose(struct database *database)
{
    database_close(database, PQerrorMessage(database->connection));
    return ERROR_DATABASE_AWAY;
}
