/* pgpoll-reader reads the table for the workers of a manager. pgpoll.fcgi starts it. */
#include "core/config.h"
#include "reader/reader.h"
#include "startup.h"

#include <stdlib.h>

int main(int argc, char **argv)
{
    struct config config;
    int descriptors[2]; /* as reader_pool_keep() passes them */

    return startup_continue("pgpoll-reader", argc, argv, 2, descriptors, &config)
               ? reader_run(&config, descriptors[0], descriptors[1])
               : EXIT_FAILURE;
}
