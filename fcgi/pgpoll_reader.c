/* pgpoll-reader reads the table for the workers of a manager. pgpoll.fcgi starts it. */
#include "core/config.h"
#include "reader/reader.h"
#include "startup.h"

#include <stdlib.h>

int main(int argc, char **argv)
{
    struct config config;
    int queue;

    return startup_continue("pgpoll-reader", argc, argv, 1, &queue, &config) ? reader_run(&config, queue)
                                                                             : EXIT_FAILURE;
}
