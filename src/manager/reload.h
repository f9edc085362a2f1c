/*
 * pgpoll.fcgi --reload: makes a manager that runs reload, from another process, and waits until its new
 * workers serve polls. What a service's reload command runs.
 */
#ifndef PGPOLL_RELOAD_H
#define PGPOLL_RELOAD_H

#include <stdbool.h>
#include <sys/types.h>

struct config;

/*
 * Sends SIGHUP to the process and follows its host_state, also if the old program writes none. Returns
 * true if the new workers serve, or once the signal is sent if that cannot be followed: the process is a
 * worker without a manager, or it is not known where its state is, which is logged. Returns false if the
 * reload has failed; the reason is logged.
 */
bool reload_run(const struct config *config, pid_t manager);

#endif
