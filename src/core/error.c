#include "core/error.h"

static const struct {
    const char *name;
    int http_status;
    const char *detail;
    enum log_level level;
} errors[ERROR_COUNT] = {
    [ERROR_NONE] = { "ok", 200, "OK", LOG_LEVEL_DEBUG },
    [ERROR_PENDING] = { "pending", 500, "Internal server error", LOG_LEVEL_ERROR },
    [ERROR_TIMEOUT] = { "timeout", 200, "OK", LOG_LEVEL_DEBUG },
    [ERROR_CLIENT_GONE] = { "client_gone", 200, "OK", LOG_LEVEL_DEBUG },
    [ERROR_DRAINED] = { "released", 200, "OK", LOG_LEVEL_DEBUG },
    [ERROR_NO_TOPIC] = { "no_topic", 400, "At least one topic required", LOG_LEVEL_DEBUG },
    [ERROR_INVALID] = { "invalid", 422, "Validation error", LOG_LEVEL_DEBUG },
    [ERROR_UNAUTHENTICATED] = { "unauthenticated", 401, "Not authenticated", LOG_LEVEL_INFO },
    [ERROR_DENIED] = { "denied", 403, "Access denied to one or more requested topics", LOG_LEVEL_INFO },
    [ERROR_NOT_FOUND] = { "not_found", 404, "Not Found", LOG_LEVEL_DEBUG },
    [ERROR_METHOD] = { "method", 405, "Method Not Allowed", LOG_LEVEL_DEBUG },
    [ERROR_TOO_LARGE] = { "too_large", 413, "Request body too large", LOG_LEVEL_DEBUG },
    [ERROR_TOO_MANY] = { "too_many", 429, "Too many polls at a time", LOG_LEVEL_INFO },
    [ERROR_AUTHENTICATE_FAILED] = { "authenticate_failed", 503, "Service Unavailable", LOG_LEVEL_WARNING },
    [ERROR_AUTHENTICATE_TIMEOUT] = { "authenticate_timeout", 503, "Service Unavailable", LOG_LEVEL_WARNING },
    [ERROR_CAN_POLL_FAILED] = { "can_poll_failed", 503, "Service Unavailable", LOG_LEVEL_WARNING },
    [ERROR_CAN_POLL_TIMEOUT] = { "can_poll_timeout", 503, "Service Unavailable", LOG_LEVEL_WARNING },
    [ERROR_READERS_BUSY] = { "readers_busy", 503, "Service Unavailable", LOG_LEVEL_WARNING },
    [ERROR_DATABASE_AWAY] = { "database_away", 503, "Service Unavailable", LOG_LEVEL_WARNING },
    [ERROR_DATABASE_QUERY] = { "database_query", 503, "Service Unavailable", LOG_LEVEL_ERROR },
    [ERROR_SCHEMA] = { "schema", 503, "Service Unavailable", LOG_LEVEL_ERROR },
    [ERROR_MEMORY] = { "memory", 503, "Service Unavailable", LOG_LEVEL_ERROR },
};

const char *error_name(enum error error)
{
    return errors[error].name;
}

int error_http_status(enum error error)
{
    return errors[error].http_status;
}

const char *error_detail(enum error error)
{
    return errors[error].detail;
}

enum log_level error_log_level(enum error error)
{
    return errors[error].level;
}
