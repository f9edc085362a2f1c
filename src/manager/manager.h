/*
 * The PollManager: one process per host that keeps the workers running and delivers new messages to them.
 *
 * It has the workers forked (fork_server.h) and replaces those that die, with a pause if they die at once. It
 * drains the longest-waiting polls when few workers are idle (spare_workers.h). It fills the message ring and
 * answers the workers' questions (relay.h, authorizer.h), runs the readers (reader_pool.h), and writes the
 * statistics (stats_writer.h).
 *
 * Signals:
 *   SIGTERM, SIGINT, SIGUSR1   All workers answer their polls and end. The manager kills those that do not,
 *                              and exits with status 0.
 *   SIGHUP                     The manager executes the program again, from its file, under the same process
 *                              id; a copy serves the old workers until the new ones have begun (reexec.h).
 *
 * When the manager dies, its workers get SIGTERM, answer their polls and end.
 */
#ifndef PGPOLL_MANAGER_H
#define PGPOLL_MANAGER_H

struct config;

/*
 * Runs the manager until a signal ends it. argv: main's, to execute the program again. Returns the exit
 * status; errors are logged.
 */
int manager_run(const struct config *config, char **argv);

#endif
