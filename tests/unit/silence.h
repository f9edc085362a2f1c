/* A TCP server that accepts connections but never answers. */
#ifndef PGPOLL_SILENCE_H
#define PGPOLL_SILENCE_H

/* Starts the server and points libpq's environment variables to it. Returns its listening socket. */
int silence_begin(void);

/* Stops the server with this socket and closes its connections. */
void silence_end(int fd);

#endif
