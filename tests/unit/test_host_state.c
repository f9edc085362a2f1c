#include "shared/host_state.h"

#include "expect.h"
#include "shared/host_health.h"
#include "suites.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { NOW_MS = 1000 * 1000, AWAY_LIMIT_MS = 30 * 1000 };

static char directory[] = "/tmp/pgpoll-unit-XXXXXX", path[HOST_STATE_PATH_SIZE];

static bool make_directory(void)
{
    (void)strcpy(directory + strlen(directory) - 6, "XXXXXX");
    return mkdtemp(directory) && host_state_path(directory, -1, path);
}

static void remove_directory(void)
{
    (void)unlink(path);
    EXPECT(rmdir(directory) == 0, "more than one file is left in %s", directory);
}

static struct host_values serving(void)
{
    return (struct host_values){
        .of = { [HOST_PID] = 4711, [HOST_BEAT_MS] = NOW_MS, [HOST_STAGE] = HOST_SERVING, [HOST_IDLE] = 12 }
    };
}

static void what_is_published_is_read(void)
{
    struct host_values values = serving(), read;
    struct host_state *state;

    CU_ASSERT_FATAL(make_directory());
    CU_ASSERT(!host_state_read(path, &read));
    state = host_state_new(path, &values);
    CU_ASSERT_FATAL(state != NULL);
    CU_ASSERT(host_state_read(path, &read) && read.of[HOST_PID] == 4711 && read.of[HOST_IDLE] == 12);
    values.of[HOST_IDLE] = 13;
    values.of[HOST_BEAT_MS] = NOW_MS + 500;
    host_state_publish(state, &values);
    CU_ASSERT(host_state_read(path, &read) && read.of[HOST_IDLE] == 13);
    CU_ASSERT(read.of[HOST_BEAT_MS] == NOW_MS + 500);
    host_state_free(state);
    remove_directory();
}

/* A new manager's file takes the place of the old one's, whose manager may still write to its own. */
static void the_newest_manager_is_read(void)
{
    struct host_values values = serving(), read;
    struct host_state *old, *new;

    CU_ASSERT_FATAL(make_directory());
    old = host_state_new(path, &values);
    values.of[HOST_PID] = 4712;
    new = host_state_new(path, &values);
    CU_ASSERT_FATAL(old && new);
    values.of[HOST_PID] = 4711;
    values.of[HOST_BEAT_MS] = NOW_MS + 500;
    host_state_publish(old, &values);
    CU_ASSERT(host_state_read(path, &read) && read.of[HOST_PID] == 4712 && read.of[HOST_BEAT_MS] == NOW_MS);
    host_state_free(old);
    host_state_free(new);
    remove_directory();
}

static void files_of_other_versions_are_not_read(void)
{
    struct host_values values = serving();
    struct host_state *state;
    int fd;

    CU_ASSERT_FATAL(make_directory());
    state = host_state_new(path, &values);
    CU_ASSERT_FATAL(state != NULL);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    CU_ASSERT(pwrite(fd, "other", 5, 0) == 5);
    CU_ASSERT(!host_state_read(path, &values));
    CU_ASSERT(ftruncate(fd, 8) == 0);
    CU_ASSERT(!host_state_read(path, &values));
    CU_ASSERT(ftruncate(fd, 0) == 0);
    CU_ASSERT(!host_state_read(path, &values));
    (void)close(fd);
    host_state_free(state);
    remove_directory();
}

static void a_place_that_cannot_be_written_is_an_error(void)
{
    const struct host_values values = serving();
    struct stat status;

    CU_ASSERT(host_state_new("/nowhere/" HOST_STATE_FILE, &values) == NULL);
    /* A file cannot take a directory's place, and nothing is left behind. */
    CU_ASSERT_FATAL(make_directory() && mkdir(path, 0700) == 0);
    CU_ASSERT(host_state_new(path, &values) == NULL);
    CU_ASSERT(stat(path, &status) == 0 && rmdir(path) == 0);
    remove_directory();
}

static void the_file_is_beside_the_socket(void)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    char found[HOST_STATE_PATH_SIZE];
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    CU_ASSERT_FATAL(make_directory());
    (void)snprintf(address.sun_path, sizeof address.sun_path, "%s/poll.sock", directory);
    CU_ASSERT(!host_state_path("", fd, found)); /* it has no name yet */
    CU_ASSERT(!host_state_path("", -1, found));
    CU_ASSERT(bind(fd, (struct sockaddr *)&address, sizeof address) == 0);
    CU_ASSERT(host_state_path("", fd, found));
    EXPECT_TEXT(found, path);
    CU_ASSERT(host_state_path("/elsewhere", fd, found));
    EXPECT_TEXT(found, "/elsewhere/" HOST_STATE_FILE);
    (void)close(fd);
    (void)unlink(address.sun_path);
    remove_directory();
}

static void health(void)
{
    static const struct {
        const char *name;
        enum host_stage stage;
        int64_t beat_ms, away_since_ms;
        bool ok;
    } rows[] = {
        { "ok", HOST_SERVING, NOW_MS, 0, true },
        { "ok", HOST_SERVING, NOW_MS - HOST_STATE_DEAF_MS + 1, 0, true },
        { "deaf", HOST_SERVING, NOW_MS - HOST_STATE_DEAF_MS, 0, false },
        { "deaf", HOST_SERVING, NOW_MS + 1, 0, false }, /* of before the machine was booted */
        { "deaf", HOST_STARTING, 1, 0, false },
        { "deaf", HOST_DRAINING, 1, 0, false },
        { "starting", HOST_STARTING, NOW_MS, 0, false },
        { "draining", HOST_DRAINING, NOW_MS, 0, false },
        { "stopped", HOST_ENDING, NOW_MS, 0, false },
        { "stopped", HOST_ENDING, 1, 0, false },
        { "ok", HOST_SERVING, NOW_MS, NOW_MS - AWAY_LIMIT_MS + 1, true },
        { "database_away", HOST_SERVING, NOW_MS, NOW_MS - AWAY_LIMIT_MS, false },
        { "draining", HOST_DRAINING, NOW_MS, NOW_MS - AWAY_LIMIT_MS, false },
    };

    EXPECT_TEXT(host_health_name(host_health_judge(NULL, NOW_MS, AWAY_LIMIT_MS)), "no_manager");
    CU_ASSERT(!host_health_is_ok(HEALTH_NO_MANAGER));
    for (size_t i = 0; i < COUNT(rows); i++) {
        const struct host_values values = { .of = { [HOST_STAGE] = rows[i].stage,
                                                    [HOST_BEAT_MS] = rows[i].beat_ms,
                                                    [HOST_DATABASE_AWAY_SINCE_MS] = rows[i].away_since_ms } };
        const enum host_health health = host_health_judge(&values, NOW_MS, AWAY_LIMIT_MS);

        EXPECT(strcmp(host_health_name(health), rows[i].name) == 0, "row %zu: %s", i,
               host_health_name(health));
        EXPECT(host_health_is_ok(health) == rows[i].ok, "row %zu", i);
        CU_ASSERT(*host_health_detail(health));
    }
}

CU_TestInfo host_state_tests[] = {
    { "what is published is read", what_is_published_is_read },
    { "the newest manager is read", the_newest_manager_is_read },
    { "files of other versions are not read", files_of_other_versions_are_not_read },
    { "a place that cannot be written is an error", a_place_that_cannot_be_written_is_an_error },
    { "the file is beside the socket", the_file_is_beside_the_socket },
    { "health", health },
    CU_TEST_INFO_NULL,
};
