/* pgpoll-worker: started by pgpoll.fcgi. The workers that have a manager, and the fork server that forks them. */
#include "core/log.h"
#include "core/subprocess.h"
#include "manager/fork_server.h"
#include "shared/scoreboard.h"
#include "startup.h"
#include "worker.h"
#include "worker/source_shared.h"

#include <errno.h>
#include <netdb.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

/*
 * libfcgi can also connect to other hosts; a worker never does. With glibc's own in its place a statically linked worker would need
 * shared libraries to look up a name, and the linker warns of that.
 */
struct hostent *gethostbyname(const char *name)
{
    (void)name;
    return NULL;
}

static int live(void *context, int number)
{
    struct worker *worker = context;

    (void)prctl(PR_SET_NAME, "pgpoll-worker");
    /* Whoever dies first, the other follows; if the manager was faster, nobody is left to tell us. */
    if (prctl(PR_SET_PDEATHSIG, SIGTERM) != 0 || getppid() != worker->scoreboard->manager_pid)
        return EXIT_FAILURE;
    srandom((unsigned)getpid());
    worker->number = number;
    worker->slot = scoreboard_slot(worker->scoreboard, number);
    worker->counters = &worker->slot->counters;
    return worker_run(worker, source_shared_new(&worker->config, worker->scoreboard, number));
}

int main(int argc, char **argv)
{
    enum { SOCKET = SCOREBOARD_DESCRIPTORS, DESCRIPTORS };
    static struct worker worker;
    int descriptors[DESCRIPTORS];

    if (!program_continue("pgpoll-worker", argc, argv, DESCRIPTORS, descriptors, &worker.config))
        return EXIT_FAILURE;
    worker.scoreboard = scoreboard_join(descriptors);
    if (!worker.scoreboard) {
        log_write(LOG_LEVEL_ERROR, "cannot join the manager: %s",
                  errno ? strerror(errno) : "it is another version's");
        return EXIT_FAILURE;
    }
    fork_server_run(worker.scoreboard, descriptors[SOCKET], live, &worker);
    return EXIT_SUCCESS;
}
