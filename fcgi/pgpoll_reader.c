/* pgpoll-reader reads the table for the workers of a manager. pgpoll.fcgi starts it. */
#include "core/config.h"
#include "reader/reader.h"
#include "startup.h"

#include <stdlib.h>

int main(int argc, char **argv)
{
    enum { QUEUE, SERVERS, STATE, DESCRIPTORS };
    struct config config;
    int descriptors[DESCRIPTORS]; /* as reader_pool_keep() passes them */

    return startup_continue("pgpoll-reader", argc, argv, DESCRIPTORS, descriptors, &config)
               ? reader_run(&config, descriptors[QUEUE], descriptors[SERVERS], descriptors[STATE])
               : EXIT_FAILURE;
}
