#include "core/config.h"

#include "core/cors.h"
#include "core/utf8.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum type { TYPE_INTEGER, TYPE_TEXT, TYPE_NAME, TYPE_ORIGINS, TYPE_LOG, TYPE_LOG_LEVEL };

static const struct variable {
    const char *name;
    enum type type;
    size_t offset; /* of the setting's member in struct config */
    const char *fallback;
    int64_t least, most; /* limits of a TYPE_INTEGER */
    const char *help;
} variables[] = {
    { "PGPOLL_WORKERS", TYPE_INTEGER, offsetof(struct config, workers), "0", 0, 20000,
      "number of polls that can wait at the same time on this host, under one manager; --workers N means the "
      "same. The manager starts a few more processes, so that one is free to accept the next poll. 0: there "
      "is no manager, and the process serves one poll at a time over its own connection" },
    { "PGPOLL_WINDOW_BYTES", TYPE_INTEGER, offsetof(struct config, window_bytes), "33554432", 65536,
      1073741824, "bytes of shared memory in which a manager keeps recent messages for its workers" },
    { "PGPOLL_CONNECTIONS", TYPE_INTEGER, offsetof(struct config, connections), "8", 1, 1000,
      "number of reader processes, which read the table for a manager's workers when a poll must catch up; "
      "each has a database connection while it is busy" },
    { "PGPOLL_CATCH_UP_SERVICE", TYPE_TEXT, offsetof(struct config, catch_up_service), "", 0, 0,
      "libpq service (an entry of PGSERVICEFILE) from which the reader processes read: PgBouncer, or a "
      "standby for old messages; empty: they connect as all other processes do" },
    { "PGPOLL_MAX_TOPICS", TYPE_INTEGER, offsetof(struct config, max_topics), "50", 1, 1000,
      "maximum number of topics in one poll; above 70, also raise the web server's limit on the size of a "
      "request, as its configuration file explains" },
    { "PGPOLL_MAX_POLLS_PER_CLIENT", TYPE_INTEGER, offsetof(struct config, max_polls_per_client), "0", 0,
      20000,
      "maximum number of polls of one user, or of one address if the client is not authenticated, that wait "
      "at the same time under a manager; a further poll makes the client's oldest one be answered early; 0: "
      "no limit" },
    { "PGPOLL_PAGE_BYTES", TYPE_INTEGER, offsetof(struct config, page_bytes), "1048576", 1, 268435456,
      "maximum bytes of payload and metadata in one answer; a single message that is larger is sent alone" },
    { "PGPOLL_REREAD_S", TYPE_INTEGER, offsetof(struct config, reread_s), "15", 1, 60,
      "seconds after which a waiting poll looks for messages again, in case a notification was lost; a "
      "manager looks every 5 s for all its polls, or after this time if that is less" },
    { "PGPOLL_IDLE_S", TYPE_INTEGER, offsetof(struct config, idle_s), "60", 1, 86400,
      "seconds without a poll after which a manager writes no more to the database, and asks it only once a "
      "minute, until the next poll" },
    { "PGPOLL_QUERY_TIMEOUT_S", TYPE_INTEGER, offsetof(struct config, query_timeout_s), "5", 1, 60,
      "seconds after which a query that gets no answer is cancelled and its connection is closed; each "
      "session's lock_timeout is 0.8 of this time and its statement_timeout 0.9" },
    { "PGPOLL_PEER_TIMEOUT_S", TYPE_INTEGER, offsetof(struct config, peer_timeout_s), "10", 2, 600,
      "seconds within which the web server must send the whole request, or accept more of an answer" },
    { "PGPOLL_HEARTBEAT_S", TYPE_INTEGER, offsetof(struct config, heartbeat_s), "0", 0, 60,
      "seconds between the newlines that are sent to a waiting client, to detect behind Apache that it has "
      "disconnected; 0: none are sent" },
    { "PGPOLL_ACCESS_CONNECTIONS", TYPE_INTEGER, offsetof(struct config, access_connections), "8", 1, 100,
      "maximum number of database connections through which a manager calls can_poll() and authenticate(), "
      "so the number of calls at the same time; more than one are opened only if these functions are slow" },
    { "PGPOLL_ACCESS_MEMORY_S", TYPE_INTEGER, offsetof(struct config, access_memory_s), "5", 0, 60,
      "seconds for which a manager remembers what can_poll() and authenticate() answered; a change of rights "
      "takes effect within this time; 0: it remembers nothing" },
    { "PGPOLL_DRAIN_S", TYPE_INTEGER, offsetof(struct config, drain_s), "0", 0, 60,
      "seconds for which a manager that is told to end (SIGTERM) serves polls on, while GET "
      "/messages/poll/health answers 503, so that a load balancer sends the next polls to other hosts; a "
      "second SIGTERM ends it at once; 0: the first one does" },
    { "PGPOLL_HEALTH_AWAY_S", TYPE_INTEGER, offsetof(struct config, health_away_s), "30", 0, 3600,
      "seconds for which the database may be away before GET /messages/poll/health answers 503; polls wait "
      "meanwhile" },
    { "PGPOLL_STATE_DIR", TYPE_TEXT, offsetof(struct config, state_dir), "", 0, 0,
      "directory of the file through which the manager tells the statistics processes how it is; default: "
      "the directory of the program's socket" },
    { "PGPOLL_CORS_ORIGIN", TYPE_ORIGINS, offsetof(struct config, cors_origin), "", 0, 0,
      "web origins whose pages may poll, such as \"https://www.example.org, https://app.example.org\", or * "
      "for all; empty: only pages from the web server's own origin" },
    { "PGPOLL_HOST", TYPE_NAME, offsetof(struct config, host), NULL, 0, 0,
      "name of this machine in statistics and metrics; default: its host name" },
    { "PGPOLL_LOG", TYPE_LOG, offsetof(struct config, log), "stderr", 0, 0,
      "stderr, syslog or the absolute path of a file (spawn-fcgi redirects stderr to /dev/null)" },
    { "PGPOLL_LOG_LEVEL", TYPE_LOG_LEVEL, offsetof(struct config, log_level), "info", 0, 0,
      "error, warning, info or debug" },
};

static const char PREFIX[] = "PGPOLL_";

static const char *const others[] = { CONFIG_OLD_WORKERS, CONFIG_PROGRAM, CONFIG_URL };

enum { VARIABLE_COUNT = sizeof variables / sizeof *variables, NAME_SIZE = 64 };

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

static bool read_integer(const struct variable *variable, const char *text, int64_t *value, char *reason,
                         size_t size)
{
    char *end;
    long long number;

    errno = 0;
    number = strtoll(text, &end, 10);
    if (errno || end == text || *end || number < variable->least || number > variable->most) {
        (void)snprintf(reason, size, "must be a whole number from %" PRId64 " to %" PRId64, variable->least,
                       variable->most);
        return false;
    }
    *value = number;
    return true;
}

static bool read_level(const struct variable *variable, const char *text, enum log_level *level, char *reason,
                       size_t size)
{
    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++)
        if (strcmp(text, levels[i].name) == 0) {
            *level = levels[i].level;
            return true;
        }
    (void)snprintf(reason, size, "must be %s", variable->help);
    return false;
}

/* Stores text as the variable's value. Returns false if it is invalid; reason (size bytes) says why. */
static bool read_value(const struct variable *variable, const char *text, struct config *config, char *reason,
                       size_t size)
{
    char *member = (char *)config + variable->offset;

    switch (variable->type) {
    case TYPE_INTEGER:
        return read_integer(variable, text, (int64_t *)(void *)member, reason, size);
    case TYPE_LOG_LEVEL:
        return read_level(variable, text, (enum log_level *)(void *)member, reason, size);
    case TYPE_ORIGINS:
        if (!cors_check(text, reason, size))
            return false;
        break;
    case TYPE_LOG:
        if (*text != '/' && strcmp(text, "stderr") != 0 && strcmp(text, "syslog") != 0) {
            (void)snprintf(reason, size, "must be %s", variable->help);
            return false;
        }
        break;
    case TYPE_TEXT:
    case TYPE_NAME: /* goes to the database */
        if (strpbrk(text, "\r\n") || (variable->type == TYPE_NAME && *utf8_or_empty(text) == '\0')) {
            (void)snprintf(reason, size, "must be one line%s",
                           variable->type == TYPE_NAME ? " of UTF-8" : "");
            return false;
        }
        break;
    }
    *(const char **)(void *)member = text;
    return true;
}

/* ---- unknown names */

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/*
 * Returns the Levenshtein distance: how many letters of name must be inserted, deleted or replaced to get
 * other, a name from the table. Ignores the case of name.
 */
static size_t distance(const char *name, size_t length, const char *other)
{
    size_t row[NAME_SIZE], columns = strlen(other);

    for (size_t j = 0; j <= columns; j++)
        row[j] = j;
    for (size_t i = 1; i <= length; i++) {
        size_t diagonal = row[0];

        row[0] = i;
        for (size_t j = 1; j <= columns; j++) {
            const size_t replaced = diagonal + (toupper((unsigned char)name[i - 1]) != other[j - 1]);

            diagonal = row[j];
            row[j] = smaller(replaced, smaller(row[j], row[j - 1]) + 1);
        }
    }
    return row[columns];
}

/* Returns the setting with the most similar name, or NULL if none is similar. */
static const char *nearest(const char *name, size_t length)
{
    size_t least = (length - strlen(PREFIX)) / 2 + 1; /* up to half of the letters may differ */
    const char *best = NULL;

    for (size_t i = 0; i < VARIABLE_COUNT; i++) {
        const size_t letters = distance(name, length, variables[i].name);

        if (letters < least) {
            least = letters;
            best = variables[i].name;
        }
    }
    return best;
}

static bool is_known(const char *name, size_t length)
{
    for (size_t i = 0; i < VARIABLE_COUNT; i++)
        if (strlen(variables[i].name) == length && memcmp(variables[i].name, name, length) == 0)
            return true;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (strlen(others[i]) == length && memcmp(others[i], name, length) == 0)
            return true;
    return false;
}

/*
 * Returns false if the environment has an unknown PGPOLL_ variable; error names it. An empty variable counts
 * as unset and is ignored.
 */
static bool check_names(char *error, size_t size)
{
    for (char **entry = environ; *entry; entry++) {
        const size_t length = strcspn(*entry, "=");
        const char *meant;

        if (strncmp(*entry, PREFIX, strlen(PREFIX)) != 0 || !(*entry)[length] || !(*entry)[length + 1] ||
            is_known(*entry, length))
            continue;
        meant = nearest(*entry, length);
        (void)snprintf(error, size, "%.*s is not a setting; %s%s%s", (int)smaller(length, 100), *entry,
                       meant ? "did you mean " : "see pgpoll.fcgi --help", meant ? meant : "",
                       meant ? "?" : "");
        return false;
    }
    return true;
}

bool config_load(struct config *config, char *error, size_t size)
{
    struct config loaded = { 0 };
    char reason[512];

    if (!check_names(error, size))
        return false;
    for (size_t i = 0; i < VARIABLE_COUNT; i++) {
        const struct variable *variable = &variables[i];
        const char *text = getenv(variable->name);

        if (!text || !*text)
            text = variable->fallback ? variable->fallback : host_name();
        if (!read_value(variable, text, &loaded, reason, sizeof reason)) {
            (void)snprintf(error, size, "%s=%s: %s", variable->name, text, reason);
            return false;
        }
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
            (void)fprintf(stream, "  %-28s (default %s, from %" PRId64 " to %" PRId64 ")\n", "",
                          variable->fallback, variable->least, variable->most);
        else if (variable->fallback && *variable->fallback)
            (void)fprintf(stream, "  %-28s (default %s)\n", "", variable->fallback);
    }
}
