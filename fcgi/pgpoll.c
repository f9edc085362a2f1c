/* pgpoll.fcgi: POST /messages/poll; one worker that stands alone, or the manager of many. */
#include "core/log.h"
#include "manager/check.h"
#include "manager/manager.h"
#include "shared/counters.h"
#include "startup.h"
#include "worker.h"
#include "worker/source_direct.h"

#include <stdlib.h>

int main(int argc, char **argv)
{
    static const struct program program = {
        .name = "pgpoll.fcgi",
        .purpose = "long polling over PostgreSQL",
        .spawned = "-s /run/pgpoll/poll.sock -b 4096",
        .check = check_run,
    };
    static struct worker worker;
    static struct counters alone;
    int status;

    if (!program_start(&program, argc, argv, &worker.config, &status))
        return status;
    if (!accept_loop_has_socket())
        return EXIT_FAILURE;
    if (worker.config.max_polls_per_client > 0 && worker.config.workers == 0) {
        log_write(LOG_LEVEL_ERROR, "PGPOLL_MAX_POLLS_PER_CLIENT: only a manager can count (--workers)");
        return EXIT_FAILURE;
    }
    if (worker.config.workers > 0)
        return manager_run(&worker.config, argv);
    worker.server.argv = argv;
    worker.counters = &alone;
    return worker_run(&worker, source_direct_new(&worker.config, &alone));
}
