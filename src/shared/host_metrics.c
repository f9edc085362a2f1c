#include "shared/host_metrics.h"

#include "core/clock.h"
#include "shared/host_state.h"

#include <inttypes.h>

/* Writes a label's value, with the escapes of the text format. */
static void put_escaped(FILE *stream, const char *text)
{
    for (; *text; text++) {
        if (*text == '\\' || *text == '"')
            (void)fputc('\\', stream);
        (void)fputs(*text == '\n' ? "\\n" : (char[]){ *text, '\0' }, stream);
    }
}

/* Writes a gauge of this host. labels: further labels, "" or beginning with a comma. */
static void put_gauge(FILE *stream, const char *host, const char *name, const char *help, const char *labels,
                      int64_t value)
{
    (void)fprintf(stream, "# HELP pgpoll_%s %s\n# TYPE pgpoll_%s gauge\npgpoll_%s{host=\"", name, help, name,
                  name);
    put_escaped(stream, host);
    (void)fprintf(stream, "\"%s} %" PRId64 "\n", labels, value);
}

static void put_manager(FILE *stream, const char *host, const struct host_values *values, bool is_up,
                        int64_t now_ms)
{
    /* Before the first write, the age counts from the start. */
    const int64_t written_ms = clock_max(values->of[HOST_STATISTICS_MS], values->of[HOST_STARTED_MS]);

    put_gauge(stream, host, "workers", "Worker processes.", "", is_up ? values->of[HOST_WORKERS] : 0);
    put_gauge(stream, host, "workers_free", "Worker processes that can take a poll.", "",
              is_up ? values->of[HOST_IDLE] : 0);
    put_gauge(
        stream, host, "readers_allowed",
        "How many reader processes may read the table at a time: PGPOLL_CONNECTIONS, or fewer while they "
        "slow publishers and deliveries down.",
        "", is_up ? values->of[HOST_READERS_ALLOWED] : 0);
    put_gauge(stream, host, "listener_up",
              "1: LISTEN delivers to the manager, which tests it every 5 s while there are polls. 0: it does "
              "not, or the database is away, or the manager does not run.",
              "",
              is_up && values->of[HOST_LISTEN_WORKS] != 0 && values->of[HOST_DATABASE_AWAY_SINCE_MS] == 0);
    put_gauge(
        stream, host, "statistics_age_seconds",
        "How long ago the manager last wrote its counters to the database. While there are no polls, it "
        "writes none.",
        "", clock_max(0, now_ms - written_ms) / 1000);
    if (is_up && values->of[HOST_CLUSTER] != 0)
        put_gauge(stream, host, "database_timeline",
                  "The newest timeline of the database's cluster that the manager has seen. If it differs "
                  "between hosts, some of them follow an old primary.",
                  "", (uint32_t)values->of[HOST_TIMELINE]);
}

/* Is silent if nobody knows. */
static void put_database(FILE *stream, const struct host_metrics *metrics, bool has_manager)
{
    bool is_up = metrics->database == HOST_DATABASE_UP;

    if (metrics->database == HOST_DATABASE_NOT_ASKED) {
        if (!has_manager)
            return;
        is_up = metrics->values->of[HOST_DATABASE_AWAY_SINCE_MS] == 0;
    }
    put_gauge(stream, metrics->host, "database_up",
              "1: the statistics program of this host reads the database. 0: the database is away or cannot "
              "be used, and metrics that come from it are missing. While another request reads it, this is "
              "what the manager knows.",
              "", is_up);
}

void host_metrics_write(FILE *stream, const struct host_metrics *metrics, int64_t now_ms)
{
    const struct host_values *values = metrics->values;
    const bool is_up = host_state_is_alive(values, now_ms);
    char version[128];

    (void)snprintf(version, sizeof version, ",version=\"%s\",schema=\"%d\"", PGPOLL_VERSION,
                   PGPOLL_SCHEMA_VERSION);
    put_gauge(stream, metrics->host, "build_info", "The version of pgpoll, and of the schema that it needs.",
              version, 1);
    put_database(stream, metrics, is_up);
    if (values || metrics->may_have_manager)
        put_gauge(stream, metrics->host, "manager_up",
                  "1: the manager of this host runs. 0: it has not started, has ended, has died or hangs.",
                  "", is_up);
    if (values)
        put_manager(stream, metrics->host, values, is_up, now_ms);
}
