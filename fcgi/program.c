#include "program.h"

#include "child.h"
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
    char *path = realpath("/proc/self/exe", NULL);

    (void)printf("%s: %s\n\n"
                 "A FastCGI program. Start it with spawn-fcgi, for example\n"
                 "  PGPOLL_LOG=syslog spawn-fcgi %s -- %s%s\n",
                 program->name, program->purpose, program->spawned, path ? path : program->name,
                 program->arguments ? program->arguments : "");
    free(path);
    if (program->can_have_a_manager)
        (void)printf("--workers N means the same as PGPOLL_WORKERS=N, and shows in a process list.\n");
    if (program->check)
        (void)printf(
            "--check [--workers N], by hand, with the workers' environment and as their user: says what is wrong.\n");
    (void)printf("The database is found by libpq's variables (PGHOST, PGDATABASE, PGUSER, PGSERVICE, ...).\n\n"
                 "Environment%s%s:\n",
                 program->uses ? "; this program uses only " : "", program->uses ? program->uses : "");
    config_print_help(stdout);
}

/* log_name: as in the log. */
static bool set_up(const char *name, const char *log_name, struct config *config)
{
    char error[256];

    if (!config_load(config, error, sizeof error)) {
        (void)fprintf(stderr, "%s: %s\n", name, error);
        return false;
    }
    if (!log_open(config->log, config->log_level, log_name)) {
        (void)fprintf(stderr, "%s: cannot open PGPOLL_LOG=%s: %s\n", name, config->log, strerror(errno));
        return false;
    }
    /* For jitter only; what matters is that workers started together differ. */
    srandom((unsigned)time(NULL) ^ (unsigned)getpid() << 12);
    return true;
}

bool program_start(const struct program *program, int argc, char **argv, struct config *config, int *status)
{
    bool checks = false;

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
    if (program->check && argc > 1 && strcmp(argv[1], "--check") == 0) {
        checks = true;
        argc--;
        argv++;
    }
    if (program->can_have_a_manager && argc == 3 && strcmp(argv[1], "--workers") == 0 &&
        setenv("PGPOLL_WORKERS", argv[2], 1) == 0)
        argc = 1;
    if (argc > 1) {
        (void)fprintf(stderr, "%s: unknown argument '%s'; see %s --help\n", program->name, argv[1], program->name);
        return false;
    }
    if (!set_up(program->name, program->name, config))
        return false;
    if (checks) {
        *status = program->check(config, stdout) ? EXIT_SUCCESS : EXIT_FAILURE;
        return false;
    }
    return true;
}

bool program_continue(const char *name, int argc, char **argv, int count, int *descriptors, struct config *config)
{
    if (child_descriptors(argc, argv, count, descriptors) != 0) {
        (void)fprintf(stderr, "%s: not for the command line; pgpoll.fcgi starts it\n", name);
        return false;
    }
    return set_up(name, "pgpoll.fcgi", config); /* to its operator it is one program */
}
