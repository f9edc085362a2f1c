/* pgpoll-reader: started by pgpoll.fcgi. Reads the table for the workers that have a manager. */
#include "config.h"
#include "program.h"
#include "reader.h"

#include <stdlib.h>

int main(int argc, char **argv)
{
    struct config config;
    int queue;

    return program_continue("pgpoll-reader", argc, argv, 1, &queue, &config) ? reader_run(&config, queue)
                                                                             : EXIT_FAILURE;
}
