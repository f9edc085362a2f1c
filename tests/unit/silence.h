/* A TCP server that accepts connections but never answers. */
#ifndef PGPOLL_SILENCE_H
#define PGPOLL_SILENCE_H

/* Starts it and points libpq's environment variables to it. Returns its socket. */
int silence_begin(void);

/* Closes it and its connections. */
void silence_end(int fd);

#endif
