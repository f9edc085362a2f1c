#include "postgres/timeline.h"

#include "core/log.h"
#include "expect.h"
#include "suites.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FIRST = 100, SECOND, THIRD, FOURTH, PRIMARY }; /* clusters */

static char text[512];

static bool admit(uint64_t cluster, uint32_t timeline, bool standby, bool is_copy)
{
    const struct server server = { cluster, timeline, standby };
    PGconn *connection = PQconnectStart("host=/nowhere port=7");
    bool admitted;

    text[0] = '\0';
    admitted = timeline_admit(&server, connection, is_copy, text, sizeof text);
    PQfinish(connection);
    return admitted;
}

static void a_server_on_an_older_timeline_is_refused(void)
{
    CU_ASSERT(admit(FIRST, 2, false, false));
    CU_ASSERT(log_open("/dev/null", LOG_LEVEL_INFO, "test"));
    CU_ASSERT(!admit(FIRST, 1, false, false));
    EXPECT(strstr(text, "host /nowhere port 7") && strstr(text, "timeline 1") && strstr(text, "timeline 2") &&
               strstr(text, "pg_rewind"),
           "%s", text);
    CU_ASSERT(!admit(FIRST, 1, true, false));
    EXPECT(strstr(text, "the standby at host /nowhere"), "%s", text);
    CU_ASSERT(log_open("stderr", LOG_LEVEL_INFO, "test"));
    CU_ASSERT(admit(FIRST, 2, false, false) && admit(FIRST, 2, true, false));
    CU_ASSERT(admit(FIRST, 7, false, false)); /* a restored backup */
    CU_ASSERT(timeline_is_behind(&(struct server){ FIRST, 6, false }));
}

static void other_clusters_do_not_matter(void)
{
    CU_ASSERT(admit(SECOND, 9, false, false));
    CU_ASSERT(admit(THIRD, 1, false, false));
    CU_ASSERT(!timeline_is_behind(&(struct server){ THIRD, 1, false }));
    CU_ASSERT(timeline_is_behind(&(struct server){ SECOND, 8, false }));
}

static void an_unknown_server_is_admitted(void)
{
    CU_ASSERT(admit(0, 0, false, false) && admit(0, 0, true, false));
}

static void a_refusal_is_logged_once(void)
{
    char path[] = "/tmp/pgpoll-timeline-XXXXXX";
    const int fd = mkstemp(path);
    char lines[4096] = "";

    CU_ASSERT(admit(FOURTH, 3, false, false));
    CU_ASSERT(log_open(path, LOG_LEVEL_INFO, "test"));
    for (int i = 0; i < 5; i++)
        CU_ASSERT(!admit(FOURTH, 1, false, false));
    CU_ASSERT(!admit(FOURTH, 2, false, false));
    CU_ASSERT(log_open("stderr", LOG_LEVEL_INFO, "test"));
    CU_ASSERT(read(fd, lines, sizeof lines - 1) > 0);
    CU_ASSERT(strchr(lines, '\n') && strchr(strchr(lines, '\n') + 1, '\n') == strrchr(lines, '\n'));
    EXPECT(strstr(lines, "on timeline 1") && strstr(lines, "on timeline 2"), "%s", lines);
    CU_ASSERT(close(fd) == 0 && unlink(path) == 0);
}

static void a_copy_must_be_one_of_the_primary(void)
{
    CU_ASSERT(admit(PRIMARY, 3, false, false));
    CU_ASSERT(admit(PRIMARY, 3, true, true) && admit(PRIMARY, 3, false, true));
    CU_ASSERT(!admit(SECOND, 9, true, true) && !admit(SECOND, 9, false, true));
    EXPECT(strstr(text, "not of the cluster of the primary"), "%s", text);
    CU_ASSERT(!admit(PRIMARY, 2, true, true));
    CU_ASSERT(!admit(0, 0, true, true));
    EXPECT(strstr(text, "pg_control_system()"), "%s", text);
    CU_ASSERT(admit(0, 0, false, true)); /* a pooler, for a role that may not ask for the cluster */
}

/* Somebody has promoted the standby, for a test or because of a failover that this host has not noticed. */
static void a_promoted_copy_does_not_make_the_primary_an_old_one(void)
{
    CU_ASSERT(admit(PRIMARY, 4, false, false));
    CU_ASSERT(!admit(PRIMARY, 5, false, true));
    EXPECT(strstr(text, "it was promoted"), "%s", text);
    CU_ASSERT(admit(PRIMARY, 4, false, false) && admit(PRIMARY, 4, true, true));
    CU_ASSERT(admit(PRIMARY, 5, false, false) && admit(PRIMARY, 5, false, true));
    CU_ASSERT(admit(PRIMARY, 6, true, true)); /* a standby follows a newer primary */
    CU_ASSERT(timeline_is_behind(&(struct server){ PRIMARY, 5, false }));
}

CU_TestInfo timeline_tests[] = {
    { "a server on an older timeline is refused", a_server_on_an_older_timeline_is_refused },
    { "other clusters do not matter", other_clusters_do_not_matter },
    { "an unknown server is admitted", an_unknown_server_is_admitted },
    { "a refusal is logged once", a_refusal_is_logged_once },
    { "a copy must be one of the primary", a_copy_must_be_one_of_the_primary },
    { "a promoted copy does not make the primary an old one",
      a_promoted_copy_does_not_make_the_primary_an_old_one },
    CU_TEST_INFO_NULL,
};
