#include "worker.h"

#include "api/poll_request.h"
#include "core/log.h"
#include "http.h"
#include "oom.h"
#include "poll_log.h"
#include "shared/counters.h"
#include "shared/latch.h"
#include "shared/poll_quota.h"
#include "shared/scoreboard.h"
#include "worker/answer.h"
#include "worker/poll_counters.h"
#include "worker/poll_waiter.h"

#include <json-c/json.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

static const char METHODS[] = "POST, OPTIONS";

enum { KEPT_BYTES = 64 * 1024, TRIM_POLLS = 16 };

/* A poll's client: the interface that the poll waiter uses, and what begin_wait() and heartbeat() need. */
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

    /* White space before a JSON text has no meaning (RFC 8259, 2). */
    return FCGX_PutChar('\n', connection->request->out) != EOF && FCGX_FFlush(connection->request->out) == 0;
}

/* Sends the answer of a poll that ended with error. Returns the error to log and to count. */
static enum error send_outcome(struct worker *worker, const struct poll_waiter *waiter, FCGX_Request *request,
                               enum error error)
{
    bool made;

    if (!waiter->began_wait && error_http_status(error) != 200) {
        http_send_error(request, &worker->config, error, NULL, METHODS);
        return error;
    }
    printbuf_reset(worker->answer);
    /*
     * Once the head has been sent, only a broken connection can signal an error to the client, so exit if
     * memory runs out.
     */
    oom_set_fatal(waiter->began_wait);
    made = answer_messages(worker->answer, waiter);
    oom_set_fatal(false);
    if (!made) {
        http_send_error(request, &worker->config, ERROR_MEMORY, NULL, METHODS);
        return ERROR_MEMORY;
    }
    if (waiter->began_wait)
        (void)FCGX_PutStr(worker->answer->buf, printbuf_length(worker->answer), request->out);
    else
        http_send(request, &worker->config, 200, HTTP_JSON, worker->answer->buf,
                  (size_t)printbuf_length(worker->answer));
    return error;
}

/*
 * Returns the memory of a large request or answer to the system. Otherwise thousands of workers would keep
 * such memory.
 */
static void trim(struct worker *worker)
{
    struct printbuf *small;

    if (worker->answer->size > KEPT_BYTES && (small = printbuf_new())) {
        printbuf_free(worker->answer);
        worker->answer = small;
        worker->is_large = true;
    }
    if (worker->is_large)
        (void)malloc_trim(0);
    worker->is_large = false;
}

/* Counts and logs a request that was refused before it became a poll. */
static void record_refusal(const struct worker *worker, const FCGX_Request *request, enum error error)
{
    counters_add(worker->counters, COUNTER_POLLS + (int)error, 1);
    poll_log(request, NULL, error, "");
}

static void log_poll(const struct worker *worker, const FCGX_Request *request,
                     const struct poll_waiter *waiter, enum error error)
{
    const struct message_source *source = worker->source;

    poll_log(request, waiter, error,
             error_log_level(error) < LOG_LEVEL_DEBUG ? source->operations->error(source) : "");
}

/*
 * Claims a poll slot within the client's quota, which is PGPOLL_MAX_POLLS_PER_CLIENT. Polls that do not wait
 * need no slot. Returns false if the client has too many polls.
 */
static bool claim_quota(const struct worker *worker, const struct source_poll *poll)
{
    const int quota = (int)worker->config.max_polls_per_client;

    return quota == 0 || poll->request->timeout_s == 0 ||
           poll_quota_claim(worker->scoreboard, worker->index, poll->remote_user, poll->client,
                            poll->started_ms, quota);
}

/*
 * Gives the slot back. Called before the answer is sent, because the client may poll again as soon as it has
 * the answer.
 */
static void return_quota(const struct worker *worker)
{
    if (worker->config.max_polls_per_client > 0)
        poll_quota_return(worker->scoreboard, worker->index);
}

/* Authenticates the user, if the web server has not done so, and runs the poll. */
static enum error run_poll(const struct worker *worker, const FCGX_Request *request,
                           struct poll_waiter *waiter)
{
    enum error error = ERROR_NONE;

    if (!*waiter->poll.remote_user)
        error = poll_waiter_authenticate(waiter, http_parameter(request, "HTTP_AUTHORIZATION"));
    if (!error)
        error = claim_quota(worker, &waiter->poll) ? poll_waiter_run(waiter) : ERROR_TOO_MANY;
    return_quota(worker);
    return error;
}

static void serve_checked(struct worker *worker, FCGX_Request *request, const struct interrupts *interrupts,
                          const struct poll_request *asked)
{
    struct connection connection = { { begin_wait, heartbeat }, request, &worker->config };
    struct poll_waiter waiter;
    enum error error =
        poll_waiter_init(&waiter, &worker->config, worker->source, interrupts, &connection.client, asked,
                         http_parameter(request, "REMOTE_USER"), http_parameter(request, "REMOTE_ADDR"));

    if (error) {
        http_send_error(request, &worker->config, error, NULL, METHODS);
        record_refusal(worker, request, error);
        return;
    }
    error = run_poll(worker, request, &waiter);
    error = send_outcome(worker, &waiter, request, error);
    log_poll(worker, request, &waiter, error);
    /* Before the answer is complete, so that a client that has it finds its poll in the next statistics. */
    poll_counters_add(worker->counters, &waiter, error);
    FCGX_Finish_r(request); /* now, because poll_waiter_release() may have to wait for the database */
    poll_waiter_release(&waiter);
}

static enum error read_request(struct worker *worker, FCGX_Request *request, struct poll_request *asked,
                               struct json_object **detail)
{
    const int max_topics = (int)worker->config.max_topics;
    char *body = NULL;
    size_t length = 0;
    enum error error = http_read_body(request, poll_request_max_bytes(max_topics), &body, &length);

    oom_set_fatal(true);
    if (!error)
        error = poll_request_parse(asked, body, length, max_topics, detail);
    oom_set_fatal(false);
    free(body);
    /* Length 0: the body was empty, or it was dropped and may have had any size. */
    worker->is_large = length == 0 || length > KEPT_BYTES;
    if (worker->is_large)
        (void)malloc_trim(0); /* now, because the poll may wait for a minute */
    return error;
}

static void serve_request(struct worker *worker, FCGX_Request *request, const struct interrupts *interrupts)
{
    struct json_object *detail = NULL;
    struct poll_request asked;
    const bool is_found = http_path_is(request, "/messages/poll");
    enum error error;

    if (is_found && http_method_is(request, "POST"))
        error = read_request(worker, request, &asked, &detail);
    else if (!http_skip_body(request))
        error = ERROR_CLIENT_GONE;
    else
        error = is_found ? ERROR_METHOD : ERROR_NOT_FOUND;
    if (error == ERROR_CLIENT_GONE)
        return;
    if (error == ERROR_METHOD && http_method_is(request, "OPTIONS")) {
        http_send_options(request, &worker->config, METHODS);
        return;
    }
    if (error) {
        http_send_error(request, &worker->config, error, detail, METHODS);
        record_refusal(worker, request, error);
        return;
    }
    serve_checked(worker, request, interrupts, &asked);
    poll_request_release(&asked);
}

/* Tells the manager whether this worker is idle. */
static void set_state(const struct worker *worker, enum slot_state state)
{
    int idle;

    if (!worker->scoreboard)
        return;
    if (state == SLOT_SERVING)
        atomic_store(&worker->slot->drain, 0); /* a drain request in the slot was for the previous poll */
    atomic_store(&worker->slot->state, state);
    if (state == SLOT_IDLE) {
        (void)atomic_fetch_add(&worker->scoreboard->workers->idle, 1);
        latch_wake_stats_writer(worker->scoreboard);
    } else {
        (void)atomic_fetch_add(&worker->scoreboard->workers->polls, 1);
        idle = atomic_fetch_sub(&worker->scoreboard->workers->idle, 1) - 1;
        /*
         * Wake the manager only when the number of idle workers falls below the reserve. The manager then
         * checks by itself until enough workers are idle.
         */
        if (idle == worker->scoreboard->reserve - 1)
            latch_set(worker->scoreboard);
    }
}

static void count_lost_lines(const struct worker *worker)
{
    const uint64_t lost = log_take_lost();

    if (lost > 0)
        counters_add(worker->counters, COUNTER_LOG_LINES_LOST, lost);
}

static void serve(struct accept_loop *loop, FCGX_Request *request, const struct interrupts *interrupts)
{
    struct worker *worker = (struct worker *)loop;

    set_state(worker, SLOT_SERVING);
    serve_request(worker, request, interrupts);
    count_lost_lines(worker);
    trim(worker);
    if (worker->scoreboard && ++worker->served % TRIM_POLLS == 0)
        scoreboard_trim(worker->scoreboard);
    set_state(worker, SLOT_IDLE);
}

static void rest(struct accept_loop *loop)
{
    struct worker *worker = (struct worker *)loop;

    worker->source->operations->rest(worker->source);
}

int worker_run(struct worker *worker, struct message_source *source)
{
    int status = EXIT_FAILURE;

    worker->loop.serve = serve;
    worker->loop.rest = source && source->operations->rest ? rest : NULL;
    worker->source = source;
    worker->loop.peer_timeout_ms = worker->config.peer_timeout_s * 1000;
    worker->answer = printbuf_new();
    if (source && worker->answer) {
        set_state(worker, SLOT_IDLE);
        status = accept_loop_run(&worker->loop);
    } else {
        log_write(LOG_LEVEL_ERROR, "out of memory");
    }
    if (source)
        source->operations->free(source);
    printbuf_free(worker->answer);
    return status;
}
