#include "shared/host_health.h"

#include "shared/host_state.h"

static const struct {
    const char *name, *detail;
} texts[HEALTH_COUNT] = {
    [HEALTH_OK] = { "ok", "Polls are served" },
    [HEALTH_OK_WITHOUT_DATABASE] = { "ok", "Polls wait until the database is back" },
    [HEALTH_NO_MANAGER] = { "no_manager", "No manager has started on this host" },
    [HEALTH_STARTING] = { "starting", "No worker serves polls yet" },
    [HEALTH_DRAINING] = { "draining", "This host is about to stop, and still serves polls" },
    [HEALTH_ENDING] = { "stopped", "The manager has ended, or answers its last polls" },
    [HEALTH_DEAF] = { "deaf", "The manager has died or hangs" },
    [HEALTH_DATABASE_AWAY] = { "database_away", "There has been no usable database for too long" },
};

enum host_health host_health_judge(const struct host_values *values, int64_t now_ms, int64_t away_limit_ms)
{
    int64_t away_since_ms;

    if (!values)
        return HEALTH_NO_MANAGER;
    if (values->of[HOST_STAGE] == HOST_ENDING) /* nobody beats after the end */
        return HEALTH_ENDING;
    if (!host_state_is_fresh(values, now_ms))
        return HEALTH_DEAF;
    if (values->of[HOST_STAGE] != HOST_SERVING)
        return values->of[HOST_STAGE] == HOST_DRAINING ? HEALTH_DRAINING : HEALTH_STARTING;
    away_since_ms = values->of[HOST_DATABASE_AWAY_SINCE_MS];
    if (away_since_ms == 0)
        return HEALTH_OK;
    return now_ms - away_since_ms < away_limit_ms ? HEALTH_OK_WITHOUT_DATABASE : HEALTH_DATABASE_AWAY;
}

bool host_health_is_ok(enum host_health health)
{
    return health == HEALTH_OK || health == HEALTH_OK_WITHOUT_DATABASE;
}

const char *host_health_name(enum host_health health)
{
    return texts[health].name;
}

const char *host_health_detail(enum host_health health)
{
    return texts[health].detail;
}
