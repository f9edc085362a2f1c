#include "startup.h"

#include "core/config.h"
#include "core/log.h"
#include "core/notify.h"
#include "core/subprocess.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { HELP = 'h', VERSION = 'V', WORKERS = 256, CHECK, RELOAD };

/* The command line options. Programs without a check function have only those from FIRST_COMMON on. */
static const struct option options[] = {
    { "check", no_argument, NULL, CHECK },         { "workers", required_argument, NULL, WORKERS },
    { "reload", required_argument, NULL, RELOAD }, { "help", no_argument, NULL, HELP },
    { "version", no_argument, NULL, VERSION },     { NULL, 0, NULL, 0 },
};

enum { FIRST_COMMON = 3 };

static void print_help(const struct program *program)
{
    char *path = realpath("/proc/self/exe", NULL);

    (void)printf("%s: %s\n\n"
                 "A FastCGI program. Start it with spawn-fcgi, for example\n"
                 "  PGPOLL_LOG=syslog spawn-fcgi %s -- %s%s\n",
                 program->name, program->purpose, program->spawned, path ? path : program->name,
                 program->check ? " --workers 500" : "");
    free(path);
    if (program->check)
        (void)printf(
            "Options:\n"
            "  --workers N                  same as PGPOLL_WORKERS=N, but visible in process lists\n"
            "  --check                      finds and explains problems; needs the user and the\n"
            "                               environment of the workers, as pgpoll-check uses them\n"
            "  --reload PID                 sends SIGHUP to a running manager and waits until its new\n"
            "                               workers serve; needs its PGPOLL_STATE_DIR\n"
            "  -h, --help and -V, --version\n");
    (void)printf("libpq's variables select the database (PGHOST, PGDATABASE, PGUSER, PGSERVICE, ...).\n\n"
                 "Environment%s%s:\n",
                 program->uses ? "; this program uses only " : "", program->uses ? program->uses : "");
    config_print_help(stdout);
}

static void print_version(const char *name)
{
    (void)printf("%s %s, for schema %d\n", name, PGPOLL_VERSION, PGPOLL_SCHEMA_VERSION);
}

/* Loads the configuration and opens the log. log_name is the program's name in log lines. */
static bool set_up(const char *name, const char *log_name, struct config *config)
{
    char error[1024];

    if (!config_load(config, error, sizeof error)) {
        (void)fprintf(stderr, "%s: %s\n", name, error);
        (void)notify_send("STATUS=%s", error);
        return false;
    }
    if (!log_open(config->log, config->log_level, log_name)) {
        (void)snprintf(error, sizeof error, "cannot open the log file PGPOLL_LOG=%s: %s", config->log,
                       strerror(errno));
        (void)fprintf(stderr, "%s: %s\n", name, error);
        (void)notify_send("STATUS=%s", error);
        return false;
    }
    /* Used only for jitter. Processes that start together must get different numbers. */
    srandom((unsigned)time(NULL) ^ (unsigned)getpid() << 12);
    return true;
}

static bool read_pid(const char *text, pid_t *pid)
{
    char *end;
    const long number = strtol(text, &end, 10);

    *pid = (pid_t)number;
    return !*end && number > 1 && number <= INT_MAX;
}

/*
 * Reads the command line. Returns the option that decides what the program does (HELP, VERSION, CHECK, or
 * RELOAD with *manager), 0 to serve requests, or -1 if the command line is wrong, which has been reported.
 */
static int read_options(const struct program *program, int argc, char **argv, pid_t *manager)
{
    int option, action = 0;

    while (action == 0 || action == CHECK || action == RELOAD) {
        option = getopt_long(argc, argv, "hV", program->check ? options : options + FIRST_COMMON, NULL);
        if (option < 0)
            break;
        if (option == WORKERS && *optarg && setenv("PGPOLL_WORKERS", optarg, 1) == 0)
            continue;
        if (option == WORKERS)
            (void)fprintf(stderr, "%s: option '--workers' requires a number\n", program->name);
        if (option == RELOAD && !read_pid(optarg, manager)) {
            (void)fprintf(stderr, "%s: option '--reload' requires a process id\n", program->name);
            action = -1;
            break;
        }
        action = option == WORKERS || option == '?' ? -1 : option;
    }
    if (optind < argc && (action == 0 || action == CHECK || action == RELOAD)) {
        (void)fprintf(stderr, "%s: unexpected argument '%s'\n", program->name, argv[optind]);
        action = -1;
    }
    if (action == -1)
        (void)fprintf(stderr, "usage: %s %s[--help | --version]\n", program->name,
                      program->check ? "[--workers N] [--check] [--reload PID] " : "");
    return action;
}

bool startup_begin(const struct program *program, int argc, char **argv, struct config *config, int *status)
{
    pid_t manager = 0;
    const int action = read_options(program, argc, argv, &manager);

    *status = action == -1 ? EXIT_FAILURE : EXIT_SUCCESS;
    switch (action) {
    case -1:
        return false;
    case HELP:
        print_help(program);
        return false;
    case VERSION:
        print_version(program->name);
        return false;
    default:
        break;
    }
    *status = EXIT_FAILURE;
    if (action == 0)
        notify_init();
    if (!set_up(program->name, program->name, config))
        return false;
    if (action == CHECK) {
        *status = program->check(config, stdout) ? EXIT_SUCCESS : EXIT_FAILURE;
        return false;
    }
    if (action == RELOAD) {
        *status = program->reload(config, manager) ? EXIT_SUCCESS : EXIT_FAILURE;
        return false;
    }
    return true;
}

bool startup_continue(const char *name, int argc, char **argv, int count, int *descriptors,
                      struct config *config)
{
    switch (argc > 1 && *argv[1] == '-' ? getopt_long(argc, argv, "hV", options + FIRST_COMMON, NULL) : 0) {
    case HELP:
        (void)printf("%s is started by pgpoll.fcgi; see pgpoll.fcgi --help\n", name);
        exit(EXIT_SUCCESS);
    case VERSION:
        print_version(name);
        exit(EXIT_SUCCESS);
    default:
        break;
    }
    if (subprocess_descriptors(argc, argv, count, descriptors) != 0) {
        (void)fprintf(stderr, "%s: cannot be started by hand: start pgpoll.fcgi, which starts it\n", name);
        return false;
    }
    return set_up(name, "pgpoll.fcgi", config); /* log lines of all processes show this name */
}
