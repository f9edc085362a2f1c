/*
 * The PollManager: one process per host that keeps the workers running and delivers new messages to them.
 *
 * It has the fork server fork the workers (fork_server.h) and replaces workers that die, after a pause if
 * they die soon after their start. It drains the longest-waiting polls when few workers are idle
 * (spare_workers.h). It fills the message ring and answers the workers' questions (relay.h, authorizer.h),
 * runs the readers (reader_pool.h), writes the statistics (stats_writer.h), and tells its host how it is
 * (host_report.h).
 *
 * Signals:
 *   SIGTERM, SIGINT, SIGUSR1   All workers answer their polls and end. The manager kills workers that do
 *                              not end, and exits with status 0. The first SIGTERM does this after
 *                              PGPOLL_DRAIN_S, in which polls are served and the host says that it drains.
 *   SIGHUP                     The manager executes the program again, from its file, under the same
 *                              process id; a copy serves the old workers until the new ones have begun
 *                              (reexec.h).
 *
 * When the manager dies, its workers get SIGTERM, answer their polls and end.
 */
#ifndef PGPOLL_MANAGER_H
#define PGPOLL_MANAGER_H

struct config;

/*
 * Runs the manager until a signal ends it. argv: as passed to main(), for executing the program again.
 * Returns the exit status; errors are logged.
 */
int manager_run(const struct config *config, char **argv);

#endif
