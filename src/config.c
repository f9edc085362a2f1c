#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum type { TYPE_INTEGER, TYPE_TEXT, TYPE_LOG, TYPE_LOG_LEVEL };

static const struct variable {
    const char *name;
    enum type type;
    size_t offset; /* of its member in struct config */
    const char *fallback;
    int64_t least, most; /* of TYPE_INTEGER */
    const char *help;
} variables[] = {
    { "PGPOLL_WORKERS", TYPE_INTEGER, offsetof(struct config, workers), "0", 0, 20000,
      "polls that can wait at a time, under one manager, as with --workers; a few more processes stay free to accept; "
      "0: no manager, this process alone serves one poll and LISTENs for it" },
    { "PGPOLL_WINDOW_BYTES", TYPE_INTEGER, offsetof(struct config, window_bytes), "33554432", 65536, 1073741824,
      "recent messages that a manager keeps for its workers" },
    { "PGPOLL_CONNECTIONS", TYPE_INTEGER, offsetof(struct config, connections), "8", 1, 1000,
      "processes that read the table for a manager's workers, to catch up; each has a database connection while it is "
      "busy" },
    { "PGPOLL_CATCH_UP_SERVICE", TYPE_TEXT, offsetof(struct config, catch_up_service), "", 0, 0,
      "the libpq service (PGSERVICEFILE) that those connect to, which may be PgBouncer; empty: as every other "
      "connection" },
    { "PGPOLL_MAX_TOPICS", TYPE_INTEGER, offsetof(struct config, max_topics), "50", 1, 1000, "topics in one poll" },
    { "PGPOLL_MAX_POLLS_PER_CLIENT", TYPE_INTEGER, offsetof(struct config, max_polls_per_client), "0", 0, 20000,
      "polls of one user, or of one address if nobody was authenticated, that may wait at a time under a manager; "
      "one more has the oldest answered early; 0: as many as there is room for" },
    { "PGPOLL_PAGE_BYTES", TYPE_INTEGER, offsetof(struct config, page_bytes), "1048576", 1, 268435456,
      "bytes of payload and metadata in one answer; a first message that alone is larger is sent all the same" },
    { "PGPOLL_REREAD_S", TYPE_INTEGER, offsetof(struct config, reread_s), "15", 1, 60,
      "seconds after which a waiting poll reads the table again, in case a notification was lost" },
    { "PGPOLL_QUERY_TIMEOUT_S", TYPE_INTEGER, offsetof(struct config, query_timeout_s), "5", 1, 60,
      "seconds after which a connection that does not answer is given up" },
    { "PGPOLL_PEER_TIMEOUT_S", TYPE_INTEGER, offsetof(struct config, peer_timeout_s), "10", 2, 600,
      "seconds in which the web server must have sent a request, once it has begun, or taken more of an answer" },
    { "PGPOLL_HEARTBEAT_S", TYPE_INTEGER, offsetof(struct config, heartbeat_s), "0", 0, 60,
      "seconds between newlines sent to a waiting client, to notice behind Apache that it left; 0: none" },
    { "PGPOLL_CORS_ORIGIN", TYPE_TEXT, offsetof(struct config, cors_origin), "", 0, 0,
      "the origin whose pages may poll (Access-Control-Allow-Origin), or *; empty: none but our own" },
    { "PGPOLL_HOST", TYPE_TEXT, offsetof(struct config, host), NULL, 0, 0,
      "this machine's name in pgpoll.waiters; default: the host name" },
    { "PGPOLL_LOG", TYPE_LOG, offsetof(struct config, log), "stderr", 0, 0,
      "stderr, syslog or the absolute path of a file (spawn-fcgi gives its children /dev/null for stderr)" },
    { "PGPOLL_LOG_LEVEL", TYPE_LOG_LEVEL, offsetof(struct config, log_level), "info", 0, 0,
      "error, warning, info or debug" },
};

enum { VARIABLE_COUNT = sizeof variables / sizeof *variables };

static const struct {
    const char *name;
    enum log_level level;
} levels[] = {
    { "error", LOG_LEVEL_ERROR },
    { "warning", LOG_LEVEL_WARNING },
    { "info", LOG_LEVEL_INFO },
    { "debug", LOG_LEVEL_DEBUG },
};

static const char *host_name(void)
{
    static char name[HOST_NAME_MAX + 1];

    return gethostname(name, sizeof name) == 0 && *name ? name : "localhost";
}

static bool read_integer(const struct variable *variable, const char *text, int64_t *value)
{
    char *end;
    long long number;

    errno = 0;
    number = strtoll(text, &end, 10);
    if (errno || end == text || *end || number < variable->least || number > variable->most)
        return false;
    *value = number;
    return true;
}

static bool read_level(const char *text, enum log_level *level)
{
    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++)
        if (strcmp(text, levels[i].name) == 0) {
            *level = levels[i].level;
            return true;
        }
    return false;
}

/* Stores text as the variable's value; false: it is no such value. */
static bool read_value(const struct variable *variable, const char *text, struct config *config)
{
    char *member = (char *)config + variable->offset;

    switch (variable->type) {
    case TYPE_INTEGER:
        return read_integer(variable, text, (int64_t *)(void *)member);
    case TYPE_LOG_LEVEL:
        return read_level(text, (enum log_level *)(void *)member);
    case TYPE_LOG:
        if (*text != '/' && strcmp(text, "stderr") != 0 && strcmp(text, "syslog") != 0)
            return false;
        break;
    case TYPE_TEXT:
        /* It may go into a header. */
        if (strpbrk(text, "\r\n"))
            return false;
        break;
    }
    *(const char **)(void *)member = text;
    return true;
}

bool config_load(struct config *config, char *error, size_t size)
{
    struct config loaded = { 0 };

    for (size_t i = 0; i < VARIABLE_COUNT; i++) {
        const struct variable *variable = &variables[i];
        const char *text = getenv(variable->name);

        if (!text || !*text)
            text = variable->fallback ? variable->fallback : host_name();
        if (read_value(variable, text, &loaded))
            continue;
        if (variable->type == TYPE_INTEGER)
            (void)snprintf(error, size, "%s=%s: must be a whole number from %" PRId64 " to %" PRId64, variable->name,
                           text, variable->least, variable->most);
        else
            (void)snprintf(error, size, "%s=%s: must be %s", variable->name, text,
                           variable->type == TYPE_TEXT ? "one line" : variable->help);
        return false;
    }
    *config = loaded;
    return true;
}

void config_print_help(FILE *stream)
{
    for (size_t i = 0; i < VARIABLE_COUNT; i++) {
        const struct variable *variable = &variables[i];

        (void)fprintf(stream, "  %-28s %s\n", variable->name, variable->help);
        if (variable->type == TYPE_INTEGER)
            (void)fprintf(stream, "  %-28s (default %s, from %" PRId64 " to %" PRId64 ")\n", "", variable->fallback,
                          variable->least, variable->most);
        else if (variable->fallback && *variable->fallback)
            (void)fprintf(stream, "  %-28s (default %s)\n", "", variable->fallback);
    }
}
