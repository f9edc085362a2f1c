/* pgpoll-reader: started by pgpoll.fcgi. Reads the table for the workers that have a manager. */
#include "core/config.h"
#include "reader/reader.h"
#include "startup.h"

#include <stdlib.h>

int main(int argc, char **argv)
{
    struct config config;
    int queue;

    return program_continue("pgpoll-reader", argc, argv, 1, &queue, &config) ? reader_run(&config, queue)
                                                                             : EXIT_FAILURE;
}
