/* A server that takes connections and says nothing. */
#ifndef PGPOLL_SILENCE_H
#define PGPOLL_SILENCE_H

/* Returns its socket; libpq's variables lead there. */
int silence_begin(void);

/* Its connections are cut. */
void silence_end(int fd);

#endif
