#include "program.h"

#include "config.h"
#include "log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static void print_help(const struct program *program)
{
    (void)printf("%s: %s\n\n"
                 "A FastCGI program. Start it with spawn-fcgi, for example\n"
                 "  PGPOLL_LOG=syslog spawn-fcgi %s\n",
                 program->name, program->purpose, program->example);
    if (program->can_have_a_manager)
        (void)printf("--workers N means the same as PGPOLL_WORKERS=N, and shows in a process list.\n");
    (void)printf("The database is found by libpq's variables (PGHOST, PGDATABASE, PGUSER, PGSERVICE, ...).\n\n"
                 "Environment%s%s:\n",
                 program->uses ? "; this program uses only " : "", program->uses ? program->uses : "");
    config_print_help(stdout);
}

bool program_start(const struct program *program, int argc, char **argv, struct config *config, int *status)
{
    char error[256];

    *status = EXIT_SUCCESS;
    if (argc == 2 && strcmp(argv[1], "--help") == 0) {
        print_help(program);
        return false;
    }
    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        (void)printf("%s %s, for schema %d\n", program->name, PGPOLL_VERSION, PGPOLL_SCHEMA_VERSION);
        return false;
    }
    *status = EXIT_FAILURE;
    if (program->can_have_a_manager && argc == 3 && strcmp(argv[1], "--workers") == 0 &&
        setenv("PGPOLL_WORKERS", argv[2], 1) == 0)
        argc = 1;
    if (argc > 1) {
        (void)fprintf(stderr, "%s: unknown argument '%s'; see %s --help\n", program->name, argv[1], program->name);
        return false;
    }
    if (!config_load(config, error, sizeof error)) {
        (void)fprintf(stderr, "%s: %s\n", program->name, error);
        return false;
    }
    if (!log_open(config->log, config->log_level, program->name)) {
        (void)fprintf(stderr, "%s: cannot open PGPOLL_LOG=%s: %s\n", program->name, config->log, strerror(errno));
        return false;
    }
    /* For jitter only; what matters is that workers started together differ. */
    srandom((unsigned)time(NULL) ^ (unsigned)getpid() << 12);
    return true;
}
