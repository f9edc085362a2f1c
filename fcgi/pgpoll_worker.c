/*
 * pgpoll-worker is the program of the fork server and of the workers that it forks for a manager. pgpoll.fcgi
 * starts it.
 */
#include "core/log.h"
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
 * Replaces glibc's gethostbyname(). libfcgi calls it to connect to other hosts, which a worker never does.
 * glibc's own function needs shared libraries at run time, and the linker warns about that when pgpoll-worker
 * is linked statically.
 */
struct hostent *gethostbyname(const char *name)
{
    (void)name;
    return NULL;
}

/*
 * The main function of a worker process. index is the index of its slot in the scoreboard. Returns the exit
 * status.
 */
static int run_worker(void *context, int index)
{
    struct worker *worker = context;

    (void)prctl(PR_SET_NAME, "pgpoll-worker");
    /*
     * The worker gets SIGTERM when the manager, its parent, dies. If the manager has died already, no signal
     * will come, so compare.
     */
    if (prctl(PR_SET_PDEATHSIG, SIGTERM) != 0 || getppid() != worker->scoreboard->manager_pid)
        return EXIT_FAILURE;
    srandom((unsigned)getpid());
    worker->index = index;
    worker->slot = scoreboard_slot(worker->scoreboard, index);
    worker->counters = &worker->slot->counters;
    return worker_run(worker, source_shared_new(&worker->config, worker->scoreboard, index));
}

int main(int argc, char **argv)
{
    enum { SOCKET = SCOREBOARD_DESCRIPTORS, DESCRIPTORS };
    static struct worker worker;
    int descriptors[DESCRIPTORS];

    if (!startup_continue("pgpoll-worker", argc, argv, DESCRIPTORS, descriptors, &worker.config))
        return EXIT_FAILURE;
    worker.scoreboard = scoreboard_join(descriptors);
    if (!worker.scoreboard) {
        log_write(LOG_LEVEL_ERROR, "cannot attach to the manager's shared memory: %s",
                  errno ? strerror(errno) : "it belongs to another version of pgpoll");
        return EXIT_FAILURE;
    }
    fork_server_run(worker.scoreboard, descriptors[SOCKET], run_worker, &worker);
    return EXIT_SUCCESS;
}
