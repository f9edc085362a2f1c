/* A TCP server that accepts connections but never answers. */
#ifndef PGPOLL_SILENCE_H
#define PGPOLL_SILENCE_H

/* Starts the server and points libpq's environment variables to it. Returns its listening socket. */
int silence_begin(void);

/* Stops the server with this socket and closes its connections. */
void silence_end(int fd);

/*
 * Starts two servers on one address and points libpq's environment variables to them: the first one does not
 * even let TCP connect, as a host without power, because its backlog is full; the second one never answers.
 * fds: set to descriptors that silence_of_the_first_end() closes; the last one is the second server's.
 */
void silence_of_the_first_begin(int fds[3]);
void silence_of_the_first_end(const int fds[3]);

#endif
