#include "core/background.h"
#include "core/clock.h"
#include "postgres/addresses.h"
#include "postgres/database.h"
#include "postgres/database_state.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    ENDED_CHECK_MS = 100, /* time between two checks whether given-up sessions have ended */
    DEAD_PEER_MS = 25000  /* TCP drops a connection whose peer acknowledges nothing for this long */
};

enum error database_fail(struct database *database, enum error error, const char *text)
{
    (void)snprintf(database->error, sizeof database->error, "%s", text);
    database->error[strcspn(database->error, "\n")] = '\0';
    return error;
}

void session_add_reason(struct database *database, const char *text)
{
    const size_t length = strlen(database->error);

    (void)snprintf(database->error + length, sizeof database->error - length, "%s%.*s", length ? "; " : "",
                   (int)strcspn(text, "\n"), text);
}

/*
 * Makes TCP drop the connection if the peer is dead. No backend can use such a session any more, so it counts
 * as ended.
 */
static void watch_peer(int fd)
{
    static const struct {
        int level, name, value;
    } options[] = { { SOL_SOCKET, SO_KEEPALIVE, 1 },
                    { IPPROTO_TCP, TCP_KEEPIDLE, DEAD_PEER_MS / 1000 - 15 },
                    { IPPROTO_TCP, TCP_KEEPINTVL, 5 },
                    { IPPROTO_TCP, TCP_KEEPCNT, 3 },
                    { IPPROTO_TCP, TCP_USER_TIMEOUT, DEAD_PEER_MS } };

    /* setsockopt() fails for Unix sockets, which need none of this. */
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
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

/*
 * Sends a cancel request in a thread, because PQcancel() opens a connection and blocks. Sends none while an
 * earlier one is still under way.
 */
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

/* Whether the server has closed the connection. Drops data that still arrives. */
static bool is_over(int fd)
{
    char dropped[4096];
    ssize_t got;

    do
        got = recv(fd, dropped, sizeof dropped, MSG_DONTWAIT);
    while (got > 0 || (got < 0 && errno == EINTR));
    return got == 0 || errno != EAGAIN;
}

void session_forget(struct database *database, struct ended *ended)
{
    const struct ended *end = database->ended + database->ended_count;

    (void)close(ended->fd);
    memmove(ended, ended + 1, (size_t)(end - ended - 1) * sizeof *ended);
    database->ended_count--;
}

struct ended *session_oldest_ended(struct database *database)
{
    for (int i = 0; i < database->ended_count; i++)
        if (database->ended[i].server == database->server)
            return &database->ended[i];
    return NULL;
}

const struct ended *session_newest_ended(const struct database *database)
{
    for (int i = database->ended_count - 1; i >= 0; i--)
        if (database->ended[i].server == database->server)
            return &database->ended[i];
    return NULL;
}

bool session_may_connect(struct database *database)
{
    const int64_t now_ms = clock_monotonic_ms();
    const struct ended *oldest;

    for (int i = database->ended_count - 1; i >= 0; i--)
        if (is_over(database->ended[i].fd))
            session_forget(database, &database->ended[i]);
    oldest = session_oldest_ended(database);
    database->look_ms = now_ms + ENDED_CHECK_MS;
    if (!oldest)
        return true;
    if (oldest != session_newest_ended(database))
        return false;
    database->look_ms = oldest->since_ms + EXIT_MS;
    return now_ms >= database->look_ms;
}

/* Whether the server is still working on statements. */
static bool is_busy(const struct database *database)
{
    const struct pipeline *pipeline = database->state == RUNNING ? &database->asked : &database->check;

    return PQstatus(database->connection) == CONNECTION_OK && pipeline->received < pipeline->count;
}

/* Whether the connection was lost because nothing came from the server any more. */
static bool is_silent(const PGconn *connection)
{
    const char *message = PQstatus(connection) == CONNECTION_BAD ? PQerrorMessage(connection) : "";

    return strstr(message, strerror(ETIMEDOUT)) || strstr(message, strerror(EHOSTUNREACH));
}

/*
 * Keeps this socket of a given-up session. If there are too many, forgets the oldest one, whose server has
 * been left for others long ago.
 */
static void keep(struct database *database, int fd)
{
    if (database->ended_count == ENDED_MAX)
        session_forget(database, &database->ended[0]);
    database->ended[database->ended_count++] =
        (struct ended){ fd, database->server, database->backend, clock_monotonic_ms() };
}

/*
 * Ends the session, but keeps a duplicate of its socket open, which shows when the backend has exited.
 * Cancels a running statement. If one is running, or the connection is not in order, shuts down the sending
 * side of the socket. Then the backend exits after the current statement, and PQfinish() cannot block by
 * writing to a peer that does not read.
 */
static void end_session(struct database *database)
{
    const ConnStatusType status = PQstatus(database->connection);
    const int socket = PQsocket(database->connection);
    int fd = -1;

    if (is_silent(database->connection))
        addresses_avoid(database->list, database->address, database->next_address);
    if (is_busy(database))
        cancel_statement(database);
    if (is_busy(database) || status != CONNECTION_OK)
        (void)shutdown(socket, SHUT_WR);
    if (socket >= 0 && status != CONNECTION_STARTED) /* there is no backend while connect(2) is pending */
        fd = fcntl(socket, F_DUPFD_CLOEXEC, 0);
    if (fd >= 0) {
        watch_peer(fd);
        keep(database, fd);
    }
    PQfinish(database->connection);
    database->connection = NULL;
    database->backend = (struct backend){ 0 };
    database->reached = (struct server){ 0 };
}

void session_end(struct database *database)
{
    if (database->connection)
        end_session(database);
    pipeline_clear(&database->check);
}

/*
 * Whether a resolver still works on the addresses, or has ended and its result was not used. It is left to
 * the next attempt to connect (connect_begin()), because another one would have to begin again.
 */
static bool leaves_resolver(const struct database *database)
{
    return database->state == RESOLVING || (database->state == CLOSED && database->resolver);
}

void database_close(struct database *database, const char *text)
{
    if (text)
        (void)database_fail(database, ERROR_DATABASE_AWAY, text);
    session_end(database);
    pipeline_clear(&database->asked);
    if (!leaves_resolver(database))
        connect_drop_addresses(database);
    database->state = CLOSED;
}

/* Writes to text what has not happened in time. */
static void name_silence(const struct database *database, char *text, size_t size)
{
    static const char *const texts[] = {
        [ENDING] = "the backend of an earlier session has not exited",
        [RESOLVING] = "host names were not resolved in time",
        [CONNECTING] = "no connection in time",
        [CHECKING] = "no answer to the question for the version of the schema",
        [IDENTIFYING] = "no answer to the question for the identity of the server",
        [REPLACING] = "the backend of an earlier session could not be terminated",
        [RUNNING] = "no answer",
        [IDLE] = "no answer in time",
        [CLOSED] = "no connection",
    };
    const enum state state = database->state;
    const struct pipeline *asked = state == RUNNING ? &database->asked : &database->check;

    if (state == RUNNING || state == CHECKING || state == IDENTIFYING)
        (void)snprintf(text, size, "%s within %" PRId64 " ms", texts[state],
                       clock_monotonic_ms() - asked->since_ms);
    else if (state != CONNECTING || !connect_name_silence(database, text, size))
        (void)snprintf(text, size, "%s", texts[state]);
}

void database_give_up(struct database *database)
{
    char text[sizeof database->error];

    name_silence(database, text, sizeof text);
    if (database->state == RUNNING)
        database->failed = database->asked.received;
    if (database->state == ENDING || database->state == CONNECTING) {
        session_add_reason(database, text);
        connect_run_out(database);
        database_close(database, NULL);
    } else {
        if (database->state != RESOLVING && database->state != CLOSED)
            connect_run_out(database);
        database_close(database, text);
    }
}

enum error database_lose(struct database *database)
{
    database_close(database, PQerrorMessage(database->connection));
    return ERROR_DATABASE_AWAY;
}
