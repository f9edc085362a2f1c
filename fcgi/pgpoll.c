/* pgpoll.fcgi serves POST /messages/poll, as a single worker or as the manager of many. */
#include "core/log.h"
#include "manager/check.h"
#include "manager/manager.h"
#include "manager/reload.h"
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
        .reload = reload_run,
    };
    static struct worker worker;
    static struct counters counters;
    int status;

    if (!startup_begin(&program, argc, argv, &worker.config, &status))
        return status;
    if (!accept_loop_has_socket())
        return EXIT_FAILURE;
    if (worker.config.max_polls_per_client > 0 && worker.config.workers == 0) {
        log_write(LOG_LEVEL_ERROR,
                  "PGPOLL_MAX_POLLS_PER_CLIENT needs a manager: set PGPOLL_WORKERS or use --workers");
        return EXIT_FAILURE;
    }
    if (worker.config.workers > 0)
        return manager_run(&worker.config, argv);
    worker.loop.argv = argv;
    worker.counters = &counters;
    return worker_run(&worker, source_direct_new(&worker.config, &counters));
}
