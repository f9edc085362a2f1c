/*
 * The PollManager: one process that keeps the workers of a host going and brings them the news.
 *
 * It has the workers forked (fork server.h), another one for each that dies, more slowly when they die at once; asks the polls that
 * wait longest to answer when few workers are left to accept; feeds the message ring (relay.h); has the table read for the workers
 * (readers.h); keeps the statistics (stats_writer.h).
 *
 *   SIGTERM, SIGINT, SIGUSR1   all workers answer what waits and end; it kills those that do not; it exits 0
 *   SIGHUP                     executes the program again, from its file, with the same process id; a copy of the
 *                              manager serves the old workers until the new ones have begun (see manager.c)
 *
 * When it dies its workers get SIGTERM, answer what waits and end.
 */
#ifndef PGPOLL_MANAGER_H
#define PGPOLL_MANAGER_H

struct config;

/*
 * Runs until it is told to end. argv: main's, to run the program anew. Returns the status to exit with; what went wrong is logged.
 */
int manager_run(const struct config *config, char **argv);

#endif
