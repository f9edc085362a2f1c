#include "program.h"

#include "config.h"
#include "log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static void print_help(const char *name, const char *purpose)
{
    (void)printf("%s: %s\n\n"
                 "A FastCGI program. Start it with spawn-fcgi, for example\n"
                 "  spawn-fcgi -s /run/pgpoll/%s.sock -b 4096 -- /usr/lib/pgpoll/%s\n"
                 "The database is found by libpq's variables (PGHOST, PGDATABASE, PGUSER, PGSERVICE, ...).\n\n"
                 "Environment:\n",
                 name, purpose, name, name);
    config_print_help(stdout);
}

bool program_start(const char *name, const char *purpose, int argc, char **argv, struct config *config, int *status)
{
    char error[256];

    *status = EXIT_SUCCESS;
    if (argc == 2 && strcmp(argv[1], "--help") == 0) {
        print_help(name, purpose);
        return false;
    }
    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        (void)printf("%s %s\n", name, PGPOLL_VERSION);
        return false;
    }
    *status = EXIT_FAILURE;
    /* --workers N says what PGPOLL_WORKERS=N does, so that a process list shows it. */
    if (argc == 3 && strcmp(argv[1], "--workers") == 0 && setenv("PGPOLL_WORKERS", argv[2], 1) == 0)
        argc = 1;
    if (argc > 1) {
        (void)fprintf(stderr, "%s: unknown argument '%s'; see %s --help\n", name, argv[1], name);
        return false;
    }
    if (!config_load(config, error, sizeof error)) {
        (void)fprintf(stderr, "%s: %s\n", name, error);
        return false;
    }
    if (!log_open(config->log, config->log_level, name)) {
        (void)fprintf(stderr, "%s: cannot open PGPOLL_LOG=%s: %s\n", name, config->log, strerror(errno));
        return false;
    }
    /* For jitter only; what matters is that workers started together differ. */
    srandom((unsigned)time(NULL) ^ (unsigned)getpid() << 12);
    return true;
}
