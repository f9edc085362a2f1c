/* pgpoll.fcgi: POST /messages/poll, one poll a process; alone, or with a manager for many. */
#include "answer.h"
#include "clock.h"
#include "config.h"
#include "hive.h"
#include "http.h"
#include "listener_direct.h"
#include "listener_managed.h"
#include "log.h"
#include "manager.h"
#include "poll_request.h"
#include "poll_waiter.h"
#include "program.h"
#include "server.h"

#include <inttypes.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char METHODS[] = "POST, OPTIONS";

enum { ANSWER_KEPT_BYTES = 64 * 1024 };

struct worker {
    struct server server;
    struct config config;
    struct listener *listener;
    struct hive *hive; /* NULL: no manager */
    struct cell *cell;
    struct printbuf *answer; /* used for one after the other */
    char body[POLL_REQUEST_MAX_BYTES];
};

/* A poll's client, as the poll sees it. */
struct connection {
    struct poll_client client;
    FCGX_Request *request;
    const struct config *config;
};

static bool begin_wait(struct poll_client *client)
{
    struct connection *connection = (struct connection *)client;

    return http_begin(connection->request, connection->config);
}

static bool heartbeat(struct poll_client *client)
{
    struct connection *connection = (struct connection *)client;

    /* White space before a JSON text means nothing (RFC 8259, 2). */
    return FCGX_PutChar('\n', connection->request->out) != EOF && FCGX_FFlush(connection->request->out) == 0;
}

/* Sends what a poll came to. */
static enum error send_outcome(struct worker *worker, const struct poll_waiter *waiter, FCGX_Request *request,
                               enum error error)
{
    if (!waiter->began_wait && error_http_status(error) != 200) {
        http_send_error(request, &worker->config, error, NULL, METHODS);
        return error;
    }
    printbuf_reset(worker->answer);
    if (!answer_messages(worker->answer, waiter)) {
        if (!waiter->began_wait)
            http_send_error(request, &worker->config, ERROR_MEMORY, NULL, METHODS);
        return ERROR_MEMORY;
    }
    if (waiter->began_wait)
        (void)FCGX_PutStr(worker->answer->buf, printbuf_length(worker->answer), request->out);
    else
        http_send(request, &worker->config, 200, worker->answer->buf, (size_t)printbuf_length(worker->answer));
    return error;
}

/* A large answer's memory is not kept. */
static void trim_answer(struct worker *worker)
{
    struct printbuf *small;

    if (worker->answer->size > ANSWER_KEPT_BYTES && (small = printbuf_new())) {
        printbuf_free(worker->answer);
        worker->answer = small;
    }
}

/* One line a poll: who, what, how it ended and how long it took. Topics are counted, not named. */
static void log_poll(const struct worker *worker, FCGX_Request *request, const struct poll_waiter *waiter,
                     enum error error)
{
    static unsigned served;
    enum log_level level = error_log_level(error);
    const char *why = level < LOG_LEVEL_DEBUG ? worker->listener->operations->error(worker->listener) : "";
    const char *given = http_parameter(request, "HTTP_X_REQUEST_ID");
    char id[65];

    if (!log_enabled(level))
        return;
    if (*given)
        (void)snprintf(id, sizeof id, "%s", given);
    else
        (void)snprintf(id, sizeof id, "%d-%u", (int)getpid(), ++served);
    log_write(level, "poll %s from %s: %s, %d topics, %d messages%s, %" PRId64 " ms%s%s", id,
              http_parameter(request, "REMOTE_ADDR"), error_name(error), waiter->page.topic_count,
              waiter->page.message_count, waiter->page.has_more ? " and more" : "",
              clock_monotonic_ms() - waiter->who.started_ms, *why ? ": " : "", why);
}

static void serve_checked(struct worker *worker, FCGX_Request *request, const struct interrupts *interrupts,
                          const struct poll_request *asked)
{
    struct connection connection = { { begin_wait, heartbeat }, request, &worker->config };
    struct poll_waiter waiter;
    enum error error =
        poll_waiter_init(&waiter, &worker->config, worker->listener, interrupts, &connection.client, asked,
                         http_parameter(request, "REMOTE_USER"), http_parameter(request, "REMOTE_ADDR"));

    if (error) {
        http_send_error(request, &worker->config, error, NULL, METHODS);
        return;
    }
    error = poll_waiter_run(&waiter);
    error = send_outcome(worker, &waiter, request, error);
    log_poll(worker, request, &waiter, error);
    /* The request was read to its end, so there is no need for libfcgi to wait until the web server has closed, too. */
    FCGX_Detach(request);
    FCGX_Finish_r(request); /* the answer is out before the poll's end, which may have to wait for the database */
    poll_waiter_release(&waiter);
    trim_answer(worker);
}

static void serve_request(struct worker *worker, FCGX_Request *request, const struct interrupts *interrupts)
{
    struct json_object *detail = NULL;
    struct poll_request asked;
    size_t length = 0;
    enum error error = http_read_body(request, worker->body, sizeof worker->body, &length);

    if (!http_path_is(request, "/messages/poll")) {
        error = ERROR_NOT_FOUND;
    } else if (http_method_is(request, "OPTIONS")) {
        http_send_options(request, &worker->config, METHODS);
        return;
    } else if (!http_method_is(request, "POST")) {
        error = ERROR_METHOD;
    }
    if (!error)
        error = poll_request_parse(&asked, worker->body, length, (int)worker->config.max_topics, &detail);
    if (error) {
        http_send_error(request, &worker->config, error, detail, METHODS);
        return;
    }
    serve_checked(worker, request, interrupts, &asked);
    poll_request_release(&asked);
}

/* Tells the manager whether this worker can accept another poll. */
static void set_state(const struct worker *worker, enum cell_state state)
{
    int idle;

    if (!worker->hive)
        return;
    atomic_store(&worker->cell->state, state);
    if (state == CELL_IDLE) {
        (void)atomic_fetch_add(&worker->hive->idle, 1);
    } else {
        (void)atomic_fetch_add(&worker->hive->polls, 1);
        idle = atomic_fetch_sub(&worker->hive->idle, 1) - 1;
        if (idle == worker->hive->reserve - 1) /* from here on the manager looks by itself, until there are enough */
            hive_ring(worker->hive);
    }
}

static void serve(struct server *server, FCGX_Request *request, const struct interrupts *interrupts)
{
    struct worker *worker = (struct worker *)server;

    set_state(worker, CELL_SERVING);
    serve_request(worker, request, interrupts);
    set_state(worker, CELL_IDLE);
}

static void rest(struct server *server)
{
    struct worker *worker = (struct worker *)server;

    worker->listener->operations->rest(worker->listener);
}

/* A worker's life, alone or in a process that the manager forked. */
static int work(struct worker *worker, struct listener *listener)
{
    int status = EXIT_FAILURE;

    worker->listener = listener;

    worker->answer = printbuf_new();
    if (listener && worker->answer) {
        set_state(worker, CELL_IDLE);
        status = server_run(&worker->server);
    } else {
        log_write(LOG_LEVEL_ERROR, "out of memory");
    }
    if (listener)
        listener->operations->free(listener);
    printbuf_free(worker->answer);
    return status;
}

static int work_managed(void *context, struct hive *hive, int number)
{
    struct worker *worker = context;

    worker->hive = hive;
    worker->cell = hive_cell(hive, number);
    return work(worker, listener_managed_new(&worker->config, hive, number));
}

int main(int argc, char **argv)
{
    static const struct program program = {
        .name = "pgpoll.fcgi",
        .purpose = "long polling over PostgreSQL",
        .example = "-s /run/pgpoll/poll.sock -b 4096 -- " PGPOLL_PREFIX "/lib/pgpoll/pgpoll.fcgi --workers 500",
        .can_have_a_manager = true,
    };
    static struct worker worker = { .server = { .serve = serve, .rest = rest } };
    int status;

    if (!program_start(&program, argc, argv, &worker.config, &status))
        return status;
    if (!server_has_socket())
        return EXIT_FAILURE;
    if (worker.config.workers > 0)
        return manager_run(&worker.config, work_managed, &worker, argv);
    worker.server.argv = argv;
    return work(&worker, listener_direct_new(&worker.config));
}
