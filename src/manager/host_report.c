#include "manager/host_report.h"

#include "core/clock.h"
#include "core/config.h"
#include "core/log.h"
#include "core/notify.h"
#include "postgres/timeline.h"
#include "shared/scoreboard.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
    /* Time between two checks whether the workers have begun, or systemd takes messages again. */
    START_CHECK_MS = 50,
    /* The host counts as begun when all workers have begun, or after this time if at least one has. */
    BEGIN_MS = 10 * 1000
};

void host_report_release(struct host_report *report)
{
    host_state_free(report->state);
    report->state = NULL;
}

int64_t host_report_due_ms(const struct host_report *report)
{
    if (!report->state && !notify_is_wanted())
        return INT64_MAX;
    return notify_watchdog_ms() > 0 ? clock_min(report->beat_ms, report->watchdog_ms) : report->beat_ms;
}

static enum host_stage find_stage(const struct host_facts *facts, int begun)
{
    if (facts->ending)
        return HOST_ENDING;
    if (facts->draining)
        return HOST_DRAINING;
    return begun > 0 || facts->has_old_managers ? HOST_SERVING : HOST_STARTING;
}

static struct host_values values_of(const struct host_report *report, const struct host_facts *facts,
                                    int64_t now_ms)
{
    const struct server newest = timeline_newest();

    return (struct host_values){ .of = {
                                     [HOST_PID] = getpid(),
                                     [HOST_STARTED_MS] = report->started_ms,
                                     [HOST_BEAT_MS] = now_ms,
                                     [HOST_STAGE] = report->stage,
                                     [HOST_HAS_BEGUN] = report->has_begun,
                                     [HOST_RELOAD_FAILURES] = facts->reload_failures,
                                     [HOST_DATABASE_AWAY_SINCE_MS] = facts->away_since_ms,
                                     [HOST_LISTEN_WORKS] = atomic_load(&report->scoreboard->listen_works),
                                     [HOST_WORKERS] = facts->running,
                                     [HOST_IDLE] = scoreboard_idle(report->scoreboard),
                                     [HOST_STATISTICS_MS] = report->scoreboard->statistics_ms,
                                     [HOST_READERS_ALLOWED] =
                                         atomic_load(&report->scoreboard->manager->read_permits_allowed),
                                     [HOST_CLUSTER] = (int64_t)newest.cluster,
                                     [HOST_TIMELINE] = host_state_timeline(newest.cluster, newest.timeline),
                                 } };
}

void host_report_init(struct host_report *report, const struct config *config,
                      const struct scoreboard *scoreboard, int socket, const struct host_facts *facts)
{
    char path[HOST_STATE_PATH_SIZE];
    struct host_values values;

    *report = (struct host_report){ .config = config,
                                    .scoreboard = scoreboard,
                                    .started_ms = clock_monotonic_ms(),
                                    .stage = find_stage(facts, 0) };
    if (!host_state_path(config->state_dir, socket, path)) {
        log_write(LOG_LEVEL_INFO, "GET /messages/poll/health says no_manager: set PGPOLL_STATE_DIR, because "
                                  "the socket is not a Unix socket with an absolute path, or shorten it");
        return;
    }
    values = values_of(report, facts, report->started_ms);
    report->state = host_state_new(path, &values);
    if (!report->state)
        log_write(LOG_LEVEL_WARNING, "GET /messages/poll/health says no_manager: cannot create %s: %s", path,
                  strerror(errno));
}

/* Writes the file. Returns what it says about the host. */
static enum host_health publish(struct host_report *report, const struct host_facts *facts, int64_t now_ms)
{
    const struct host_values values = values_of(report, facts, now_ms);

    if (report->state)
        host_state_publish(report->state, &values);
    return host_health_judge(&values, now_ms, report->config->health_away_s * 1000);
}

/* Tells systemd what it does not know yet. What is not taken is told again at the next beat. */
static void notify(struct host_report *report, const struct host_facts *facts, enum host_health health)
{
    char status[sizeof report->status], reason[128] = "";

    if (facts->spawn_error)
        (void)snprintf(reason, sizeof reason, " (cannot start a worker: %s)", strerror(facts->spawn_error));
    (void)snprintf(status, sizeof status, "%s; %d of %d workers run%s", host_health_detail(health),
                   facts->running, report->scoreboard->worker_count, reason);
    if (strcmp(status, report->status) != 0 && notify_send("STATUS=%s", status))
        memcpy(report->status, status, sizeof status);
    if (report->has_begun && !report->told_ready)
        report->told_ready = notify_send("READY=1");
}

/* Whether the manager has begun to drain or end, or lost or reached the database, since the last report. */
static bool has_news(const struct host_report *report, const struct host_facts *facts)
{
    if (report->away != (facts->away_since_ms > 0))
        return true;
    return (facts->ending || facts->draining) && find_stage(facts, 0) != report->stage;
}

void host_report_step(struct host_report *report, const struct host_facts *facts, int64_t now_ms)
{
    const int64_t watchdog_ms = notify_watchdog_ms();
    int begun;

    if (watchdog_ms > 0 && now_ms >= report->watchdog_ms)
        report->watchdog_ms = now_ms + (notify_send("WATCHDOG=1") ? watchdog_ms : START_CHECK_MS);
    if (now_ms < report->beat_ms && !has_news(report, facts))
        return;
    begun = scoreboard_begun(report->scoreboard);
    report->stage = find_stage(facts, begun);
    report->away = facts->away_since_ms > 0;
    if (begun == report->scoreboard->worker_count || (begun > 0 && now_ms - report->started_ms >= BEGIN_MS))
        report->has_begun = true;
    report->beat_ms = now_ms + (report->has_begun ? HOST_STATE_BEAT_MS : START_CHECK_MS);
    notify(report, facts, publish(report, facts, now_ms));
}
