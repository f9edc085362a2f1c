#include "postgres/server_memory.h"

#include "expect.h"
#include "postgres/addresses.h"
#include "postgres/timeline.h"
#include "suites.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LIST = 7, CLUSTER = 1000 };

/* Whether the newest timeline of the cluster is this one. */
static bool has_seen(uint32_t timeline)
{
    return timeline_is_behind(&(struct server){ CLUSTER, timeline - 1, false }) &&
           !timeline_is_behind(&(struct server){ CLUSTER, timeline, false });
}

/* Returns the id of the address that attempts begin with; 0: the first one. */
static uint64_t begins_with(void)
{
    for (int i = 0; i < SERVER_MEMORY_LISTS; i++)
        if (server_memory()->begins[i].list == LIST)
            return server_memory()->begins[i].id;
    return 0;
}

static bool remember(uint32_t timeline, uint64_t address)
{
    timeline_remember(&(struct server){ CLUSTER, timeline, false });
    addresses_prefer(LIST, address);
    return has_seen(timeline) && begins_with() == address;
}

static void processes_share_what_they_remember(void)
{
    int status = -1, passed_on;
    pid_t pid;

    CU_ASSERT(remember(2, 20) && server_memory_share(-1));
    CU_ASSERT(has_seen(2) && begins_with() == 20); /* what the process remembered alone */
    CU_ASSERT(server_memory_descriptor() >= 0 && fcntl(server_memory_descriptor(), F_GETFD) == FD_CLOEXEC);
    pid = fork();
    if (pid == 0)
        _exit(server_memory_share(dup(server_memory_descriptor())) && remember(8, 80) ? 0 : 1);
    CU_ASSERT(waitpid(pid, &status, 0) == pid && status == 0);
    CU_ASSERT(has_seen(8) && begins_with() == 80);

    passed_on = dup(server_memory_descriptor()); /* as a reload does */
    CU_ASSERT(close(server_memory_descriptor()) == 0 && server_memory_share(passed_on));
    CU_ASSERT(has_seen(8) && begins_with() == 80);
}

static void another_file_is_not_taken_for_the_memory(void)
{
    int ends[2];

    CU_ASSERT(close(server_memory_descriptor()) == 0 && pipe(ends) == 0);
    CU_ASSERT(server_memory_share(ends[0]) && fcntl(ends[1], F_GETFD) >= 0);
    CU_ASSERT(has_seen(2) && begins_with() == 20); /* a new memory, with what this process knew alone */
    CU_ASSERT(close(ends[1]) == 0 && close(server_memory_descriptor()) == 0);
}

CU_TestInfo server_memory_tests[] = {
    { "processes share what they remember", processes_share_what_they_remember },
    { "another file is not taken for the memory", another_file_is_not_taken_for_the_memory },
    CU_TEST_INFO_NULL,
};
