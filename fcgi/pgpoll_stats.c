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
#include "postgres/timeline.h"
#include "shared/host_health.h"
#include "shared/host_metrics.h"
#include "shared/host_state.h"
#include "startup.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char METHODS[] = "GET, HEAD, OPTIONS", POLL_METHODS[] = "POST, OPTIONS";

struct stats_worker {
    struct accept_loop loop;
    struct config config;
    struct database *database;
};

/*
 * A request takes at most TURN_MS until it is its turn, and then TRIES times TRY_MS: 9 s together, because
 * Prometheus gives up after 10 s.
 */
enum {
    TURN_MS = 1000, /* how long a request waits for another one that asks the database */
    TURN_LOOK_MS = 5,
    TRIES = 2, /* the connection may have been lost while the process was idle */
    TRY_MS = 4000,
    AWAY_TRY_MS = 500 /* while the manager says that the database is away */
};

struct resource {
    const char *path;
    void (*send)(struct stats_worker *worker, FCGX_Request *request, const struct resource *resource);
};

/* What the host's manager tells. */
struct host {
    bool has_place; /* there is a place where a manager would tell it */
    bool is_there;  /* values are set */
    struct host_values values;
};

/*
 * Makes this process refuse the old primary that the manager refuses. values: of a manager that is alive; one
 * that has ended may have been stopped so that an older timeline could be restored. The cluster and the
 * timeline may be from different turns of the manager's loop; if they do not fit together, they are ignored.
 */
static void learn_timeline(const struct host_values *values)
{
    const struct server newest = { .cluster = (uint64_t)values->of[HOST_CLUSTER],
                                   .timeline = (uint32_t)values->of[HOST_TIMELINE] };

    if (host_state_timeline(newest.cluster, newest.timeline) == values->of[HOST_TIMELINE])
        timeline_remember(&newest);
}

static void look_at_host(const struct stats_worker *worker, struct host *host)
{
    char path[HOST_STATE_PATH_SIZE];

    host->has_place = host_state_path(worker->config.state_dir, STDIN_FILENO, path);
    host->is_there = host->has_place && host_state_read(path, &host->values);
    if (host->is_there && host_state_is_alive(&host->values, clock_monotonic_ms()))
        learn_timeline(&host->values);
}

static int64_t try_deadline_ms(const struct stats_worker *worker, const struct host *host)
{
    const int64_t now_ms = clock_monotonic_ms();
    const bool is_away = host->is_there && host_state_is_fresh(&host->values, now_ms) &&
                         host->values.of[HOST_DATABASE_AWAY_SINCE_MS] != 0;

    return now_ms + clock_min(worker->config.query_timeout_s * 1000, is_away ? AWAY_TRY_MS : TRY_MS);
}

/*
 * Waits until no other process of this pool asks the database. While the database hangs, only one process
 * hangs with it, and the others answer balancers. The lock is on the socket, which all of them share; the
 * kernel releases it when its owner dies. Returns false if it is not this process's turn within TURN_MS.
 */
static bool take_turn(void)
{
    struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
    const int64_t deadline_ms = clock_monotonic_ms() + TURN_MS;

    while (fcntl(STDIN_FILENO, F_SETLK, &lock) != 0) {
        if (errno != EAGAIN && errno != EACCES)
            return true; /* it cannot be locked: that is no reason to refuse statistics */
        if (clock_monotonic_ms() >= deadline_ms)
            return false;
        (void)poll(NULL, 0, TURN_LOOK_MS);
    }
    return true;
}

static void end_turn(void)
{
    struct flock lock = { .l_type = F_UNLCK, .l_whence = SEEK_SET };

    (void)fcntl(STDIN_FILENO, F_SETLK, &lock);
}

/*
 * Reads the statistics of all hosts, or the metrics of this host. Logs errors. *asked: whether the
 * database was asked.
 */
static enum error read_database(const struct stats_worker *worker, const struct resource *resource,
                                bool metrics, const struct host *host, PGresult **result, bool *asked)
{
    enum error error = ERROR_DATABASE_AWAY;

    *asked = take_turn();
    if (!*asked) {
        log_write(LOG_LEVEL_WARNING, "%s: another request waits for the database", resource->path);
        return error;
    }
    for (int tries = 0; tries < TRIES && error == ERROR_DATABASE_AWAY; tries++) {
        const int64_t deadline_ms = try_deadline_ms(worker, host);

        error = metrics ? stats_read_metrics(worker->database, worker->config.host, host->is_there, result,
                                             deadline_ms)
                        : stats_read(worker->database, result, deadline_ms);
    }
    end_turn();
    if (error)
        log_write(error_log_level(error), "%s: %s: %s", resource->path, error_name(error),
                  database_error(worker->database));
    return error;
}

static void send_statistics(struct stats_worker *worker, FCGX_Request *request,
                            const struct resource *resource)
{
    PGresult *result = NULL;
    enum error error;
    struct host host;
    bool asked;

    look_at_host(worker, &host);
    error = read_database(worker, resource, false, &host, &result, &asked);
    if (error) {
        http_send_error(request, &worker->config, error, NULL, METHODS);
        return;
    }
    http_send(request, &worker->config, 200, HTTP_JSON, PQgetvalue(result, 0, 0),
              (size_t)PQgetlength(result, 0, 0));
    PQclear(result);
}

/*
 * Writes the host's own metrics and, unless from_database is NULL, those of the database. asked: whether the
 * database was asked. Returns the text, which the caller frees, or NULL if out of memory.
 */
static char *write_metrics(const struct stats_worker *worker, const struct host *host, bool asked,
                           const PGresult *from_database, size_t *length)
{
    const struct host_metrics metrics = {
        .host = worker->config.host,
        .database = !asked          ? HOST_DATABASE_NOT_ASKED
                    : from_database ? HOST_DATABASE_UP
                                    : HOST_DATABASE_DOWN,
        .may_have_manager = host->has_place,
        .values = host->is_there ? &host->values : NULL,
    };
    char *text = NULL;
    FILE *stream = open_memstream(&text, length);

    if (!stream)
        return NULL;
    host_metrics_write(stream, &metrics, clock_monotonic_ms());
    if (from_database)
        (void)fputs(PQgetvalue(from_database, 0, 0), stream);
    if (fclose(stream) == 0)
        return text;
    free(text);
    return NULL;
}

/* Without the database, sends what the host knows. */
static void send_metrics(struct stats_worker *worker, FCGX_Request *request, const struct resource *resource)
{
    PGresult *result = NULL;
    struct host host;
    size_t length = 0;
    bool asked;
    char *text;

    look_at_host(worker, &host);
    (void)read_database(worker, resource, true, &host, &result, &asked);
    text = write_metrics(worker, &host, asked, result, &length);
    if (text)
        http_send(request, &worker->config, 200, "text/plain; version=0.0.4; charset=utf-8", text, length);
    else
        http_send_error(request, &worker->config, ERROR_MEMORY, NULL, METHODS);
    free(text);
    PQclear(result);
}

/* Says without the database whether this host serves polls. */
static void send_health(struct stats_worker *worker, FCGX_Request *request, const struct resource *resource)
{
    struct json_object *answer = json_object_new_object();
    const char *text = NULL;
    enum host_health health;
    struct host host;

    (void)resource;
    look_at_host(worker, &host);
    health = host_health_judge(host.is_there ? &host.values : NULL, clock_monotonic_ms(),
                               worker->config.health_away_s * 1000);
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
    { "/messages/poll/stats", send_statistics },
    { "/messages/poll/metrics", send_metrics },
    { "/messages/poll/health", send_health },
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
                "PGPOLL_CORS_ORIGIN, PGPOLL_HOST, PGPOLL_LOG and PGPOLL_LOG_LEVEL",
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
