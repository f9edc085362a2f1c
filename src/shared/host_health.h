/*
 * Judges from a manager's host_state whether a load balancer should send polls to its host. Used for GET
 * /messages/poll/health and for the status that systemd shows.
 */
#ifndef PGPOLL_HOST_HEALTH_H
#define PGPOLL_HOST_HEALTH_H

#include <stdbool.h>
#include <stdint.h>

struct host_values;

enum host_health {
    HEALTH_OK,
    HEALTH_OK_WITHOUT_DATABASE, /* polls wait, until the database is back */
    HEALTH_NO_MANAGER,
    HEALTH_STARTING,
    HEALTH_DRAINING,
    HEALTH_ENDING,
    HEALTH_DEAF, /* the manager has died or is frozen */
    HEALTH_DATABASE_AWAY,
    HEALTH_COUNT
};

/*
 * values: what host_state_read() returned; NULL if it failed. away_limit_ms: for how long the database may be
 * away before the host counts as useless.
 */
enum host_health host_health_judge(const struct host_values *values, int64_t now_ms, int64_t away_limit_ms);

/* Whether a balancer should send polls to the host. */
bool host_health_is_ok(enum host_health health);

/* Return "ok" or a short name for what is wrong, and an explanation in one sentence. */
const char *host_health_name(enum host_health health);
const char *host_health_detail(enum host_health health);

#endif
