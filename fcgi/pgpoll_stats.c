/*
 * pgpoll-stats.fcgi serves GET of /messages/poll/stats, /messages/poll/metrics and /messages/poll/health. It
 * is a program of its own with its own pool of processes, so that it answers even while every poll worker is
 * busy, and also when the manager does not live.
 */
#include "accept_loop.h"
#include "core/clock.h"
#include "core/config.h"
#include "core/json_build.h"
#include "core/log.h"
#include "http.h"
#include "postgres/database.h"
#include "postgres/stats_query.h"
#include "shared/host_health.h"
#include "shared/host_state.h"
#include "startup.h"

#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char METHODS[] = "GET, HEAD, OPTIONS", POLL_METHODS[] = "POST, OPTIONS";

struct stats_worker {
    struct accept_loop loop;
    struct config config;
    struct database *database;
};

struct resource {
    const char *path;
    void (*send)(struct stats_worker *worker, FCGX_Request *request, const struct resource *resource);
    enum stats_kind kind; /* of those that the database answers */
    const char *type;
};

static void send_statistics(struct stats_worker *worker, FCGX_Request *request,
                            const struct resource *resource)
{
    PGresult *result = NULL;
    int64_t timeout_ms = worker->config.query_timeout_s * 1000;
    enum error error =
        stats_read(worker->database, resource->kind, &result, clock_monotonic_ms() + timeout_ms);

    /* Retry once: the connection may have been lost while the process was idle. */
    if (error == ERROR_DATABASE_AWAY)
        error = stats_read(worker->database, resource->kind, &result, clock_monotonic_ms() + timeout_ms);
    if (error) {
        log_write(error_log_level(error), "%s: %s: %s", resource->path, error_name(error),
                  database_error(worker->database));
        http_send_error(request, &worker->config, error, NULL, METHODS);
        return;
    }
    http_send(request, &worker->config, 200, resource->type, PQgetvalue(result, 0, 0),
              (size_t)PQgetlength(result, 0, 0));
    PQclear(result);
}

/* Says without the database whether this host serves polls. */
static void send_health(struct stats_worker *worker, FCGX_Request *request, const struct resource *resource)
{
    char path[HOST_STATE_PATH_SIZE];
    struct host_values values;
    const bool found =
        host_state_path(worker->config.state_dir, STDIN_FILENO, path) && host_state_read(path, &values);
    const enum host_health health =
        host_health_judge(found ? &values : NULL, clock_monotonic_ms(), worker->config.health_away_s * 1000);
    struct json_object *answer = json_object_new_object();
    const char *text = NULL;

    (void)resource;
    if (json_build_add_member(answer, "status", json_object_new_string(host_health_name(health))) &&
        json_build_add_member(answer, "detail", json_object_new_string(host_health_detail(health))))
        text = json_object_to_json_string(answer);
    if (text)
        http_send(request, &worker->config, host_health_is_ok(health) ? 200 : 503, HTTP_JSON, text,
                  strlen(text));
    else
        http_send_error(request, &worker->config, ERROR_MEMORY, NULL, METHODS);
    json_object_put(answer);
}

/* The resources, by their paths. */
static const struct resource resources[] = {
    { "/messages/poll/stats", send_statistics, STATS_JSON, HTTP_JSON },
    { "/messages/poll/metrics", send_statistics, STATS_METRICS, "text/plain; version=0.0.4; charset=utf-8" },
    { .path = "/messages/poll/health", .send = send_health },
};

static const struct resource *find_resource(const FCGX_Request *request)
{
    for (size_t i = 0; i < sizeof resources / sizeof *resources; i++)
        if (http_path_is(request, resources[i].path))
            return &resources[i];
    return NULL;
}

static void serve(struct accept_loop *loop, FCGX_Request *request, const struct interrupts *interrupts)
{
    struct stats_worker *worker = (struct stats_worker *)loop;
    const struct resource *resource = find_resource(request);

    (void)interrupts;
    if (!http_skip_body(request))
        return;
    if (!resource && !http_path_is(request, "/messages/poll"))
        http_send_error(request, &worker->config, ERROR_NOT_FOUND, NULL, METHODS);
    else if (http_method_is(request, "OPTIONS")) /* also for polls: a preflight needs no poll worker */
        http_send_options(request, &worker->config, resource ? METHODS : POLL_METHODS);
    else if (!resource || !(http_method_is(request, "GET") || http_method_is(request, "HEAD")))
        http_send_error(request, &worker->config, ERROR_METHOD, NULL, resource ? METHODS : POLL_METHODS);
    else
        resource->send(worker, request, resource);
}

int main(int argc, char **argv)
{
    static const struct program program = {
        .name = "pgpoll-stats.fcgi",
        .purpose = "statistics, metrics and health of pgpoll",
        .spawned = "-s /run/pgpoll/stats.sock -b 4096 -F 2",
        .uses = "PGPOLL_QUERY_TIMEOUT_S, PGPOLL_PEER_TIMEOUT_S, PGPOLL_HEALTH_AWAY_S, PGPOLL_STATE_DIR, "
                "PGPOLL_CORS_ORIGIN, PGPOLL_LOG and PGPOLL_LOG_LEVEL",
    };
    struct stats_worker worker = { .loop = { .serve = serve, .argv = argv } };
    int status;

    if (!startup_begin(&program, argc, argv, &worker.config, &status))
        return status;
    if (!accept_loop_has_socket())
        return EXIT_FAILURE;
    worker.loop.peer_timeout_ms = worker.config.peer_timeout_s * 1000;
    worker.database = database_new(worker.config.query_timeout_s * 1000);
    if (!worker.database) {
        log_write(LOG_LEVEL_ERROR, "out of memory");
        return EXIT_FAILURE;
    }
    status = accept_loop_run(&worker.loop);
    database_free(worker.database);
    return status;
}
