#include "shared/host_metrics.h"

#include "expect.h"
#include "shared/host_state.h"
#include "suites.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NOW_MS = 1000 * 1000 };

static struct host_values serving(void)
{
    return (struct host_values){ .of = { [HOST_BEAT_MS] = NOW_MS,
                                         [HOST_STAGE] = HOST_SERVING,
                                         [HOST_LISTEN_WORKS] = 1,
                                         [HOST_WORKERS] = 20,
                                         [HOST_IDLE] = 12,
                                         [HOST_READERS_ALLOWED] = 3,
                                         [HOST_STARTED_MS] = NOW_MS - 90 * 1000,
                                         [HOST_STATISTICS_MS] = NOW_MS - 3999 } };
}

static char *written(const struct host_metrics *metrics)
{
    char *text = NULL;
    size_t length;
    FILE *stream = open_memstream(&text, &length);
    bool is_complete;

    CU_ASSERT_FATAL(stream != NULL);
    host_metrics_write(stream, metrics, NOW_MS);
    is_complete = fclose(stream) == 0;
    CU_ASSERT_FATAL(is_complete);
    return text;
}

/* Expects the samples, without HELP and TYPE, one a line. */
static void expect_samples(const struct host_metrics *metrics, const char *samples)
{
    char *text = written(metrics), *left = text, *line, *found = calloc(1, strlen(text) + 1);

    while ((line = strsep(&left, "\n")))
        if (*line && *line != '#')
            (void)strcat(strcat(found, line + strlen("pgpoll_")), "\n");
    line = strstr(found, "database_up"); /* the version comes before it */
    EXPECT(line && strcmp(line, samples) == 0, "got %s", found);
    free(found);
    free(text);
}

/* Expects this sample of database_up, or none if it is NULL. */
static void expect_database(const struct host_metrics *metrics, const char *sample)
{
    char *text = written(metrics);
    const char *found = strstr(text, "\npgpoll_database_up");

    EXPECT(sample ? found && strncmp(found + strlen("\npgpoll_"), sample, strlen(sample)) == 0 : !found,
           "got %s", text);
    free(text);
}

static void a_host_that_serves(void)
{
    const struct host_values values = serving();

    expect_samples(&(struct host_metrics){ "h", HOST_DATABASE_UP, true, &values },
                   "database_up{host=\"h\"} 1\nmanager_up{host=\"h\"} 1\nworkers{host=\"h\"} 20\n"
                   "workers_free{host=\"h\"} 12\nreaders_allowed{host=\"h\"} 3\nlistener_up{host=\"h\"} "
                   "1\nstatistics_age_seconds{host=\"h\"} 3\n");
}

static void the_timeline_is_shown_if_it_is_known(void)
{
    struct host_values values = serving();
    const struct host_metrics metrics = { "h", HOST_DATABASE_UP, true, &values };
    char *text;

    values.of[HOST_CLUSTER] = INT64_C(0x123456789abcdef0);
    values.of[HOST_TIMELINE] = INT64_C(0x1abcdef000000007);
    text = written(&metrics);
    CU_ASSERT(strstr(text, "\npgpoll_database_timeline{host=\"h\"} 7\n") != NULL);
    free(text);
}

static void a_host_whose_database_is_away(void)
{
    struct host_values values = serving();

    values.of[HOST_DATABASE_AWAY_SINCE_MS] = NOW_MS - 10;
    values.of[HOST_STATISTICS_MS] = 0;
    expect_samples(&(struct host_metrics){ "h", HOST_DATABASE_DOWN, true, &values },
                   "database_up{host=\"h\"} 0\nmanager_up{host=\"h\"} 1\nworkers{host=\"h\"} 20\n"
                   "workers_free{host=\"h\"} 12\nreaders_allowed{host=\"h\"} 3\nlistener_up{host=\"h\"} "
                   "0\nstatistics_age_seconds{host=\"h\"} 90\n");
}

static void a_host_to_which_listen_delivers_nothing(void)
{
    struct host_values values = serving();
    char *text;

    values.of[HOST_LISTEN_WORKS] = 0;
    text = written(&(struct host_metrics){ "h", HOST_DATABASE_UP, true, &values });
    CU_ASSERT(strstr(text, "\npgpoll_listener_up{host=\"h\"} 0\n") != NULL);
    free(text);
}

static void a_host_whose_manager_has_ended_or_died(void)
{
    struct host_values values = serving();
    const struct host_metrics metrics = { "h", HOST_DATABASE_UP, true, &values };
    static const char gone[] =
        "database_up{host=\"h\"} 1\nmanager_up{host=\"h\"} 0\nworkers{host=\"h\"} 0\n"
        "workers_free{host=\"h\"} 0\nreaders_allowed{host=\"h\"} 0\nlistener_up{host=\"h\"} 0\n"
        "statistics_age_seconds{host=\"h\"} 3\n";

    values.of[HOST_STAGE] = HOST_ENDING;
    values.of[HOST_CLUSTER] = values.of[HOST_TIMELINE] = 1; /* the next manager may see another timeline */
    expect_samples(&metrics, gone);
    values = serving();
    values.of[HOST_BEAT_MS] = NOW_MS - HOST_STATE_DEAF_MS;
    expect_samples(&metrics, gone);
}

static void a_host_without_a_manager(void)
{
    expect_samples(&(struct host_metrics){ "h", HOST_DATABASE_UP, true, NULL },
                   "database_up{host=\"h\"} 1\nmanager_up{host=\"h\"} 0\n");
    expect_samples(&(struct host_metrics){ "h", HOST_DATABASE_UP, false, NULL },
                   "database_up{host=\"h\"} 1\n");
}

/* Another request asks the database, and takes long. The manager uses it, too. */
static void a_database_that_was_not_asked_is_as_the_manager_knows_it(void)
{
    struct host_values values = serving();
    const struct host_metrics metrics = { "h", HOST_DATABASE_NOT_ASKED, true, &values };

    expect_database(&metrics, "database_up{host=\"h\"} 1\n");
    values.of[HOST_DATABASE_AWAY_SINCE_MS] = NOW_MS - 10;
    expect_database(&metrics, "database_up{host=\"h\"} 0\n");
    values.of[HOST_BEAT_MS] = NOW_MS - HOST_STATE_DEAF_MS;
    expect_database(&metrics, NULL);
    expect_database(&(struct host_metrics){ "h", HOST_DATABASE_NOT_ASKED, true, NULL }, NULL);
}

static void names_are_escaped(void)
{
    expect_samples(&(struct host_metrics){ "a\"b\\c\nd", HOST_DATABASE_UP, false, NULL },
                   "database_up{host=\"a\\\"b\\\\c\\nd\"} 1\n");
}

static void the_version_is_told(void)
{
    char *text = written(&(struct host_metrics){ "h", HOST_DATABASE_UP, false, NULL }), told[100];

    (void)snprintf(told, sizeof told, "pgpoll_build_info{host=\"h\",version=\"%s\",schema=\"",
                   PGPOLL_VERSION);
    CU_ASSERT(strstr(text, told) != NULL);
    free(text);
}

CU_TestInfo host_metrics_tests[] = {
    { "a host that serves", a_host_that_serves },
    { "the timeline is shown if it is known", the_timeline_is_shown_if_it_is_known },
    { "a host whose database is away", a_host_whose_database_is_away },
    { "a host to which LISTEN delivers nothing", a_host_to_which_listen_delivers_nothing },
    { "a host whose manager has ended or died", a_host_whose_manager_has_ended_or_died },
    { "a host without a manager", a_host_without_a_manager },
    { "a database that was not asked is as the manager knows it",
      a_database_that_was_not_asked_is_as_the_manager_knows_it },
    { "names are escaped", names_are_escaped },
    { "the version is told", the_version_is_told },
    CU_TEST_INFO_NULL,
};
