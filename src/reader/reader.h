/*
 * A process that reads the table for the workers of a host, one page at a time (reading.h), over a connection that it keeps until
 * nothing was asked for a while. Started by the manager (readers.h). Ends when all workers are gone, not with the manager: the
 * last polls are still to be answered.
 */
#ifndef PGPOLL_READER_H
#define PGPOLL_READER_H

struct config;

/* Reads what is asked for in this queue. Returns the status to exit with; what went wrong is logged. */
int reader_run(const struct config *config, int queue);

#endif
