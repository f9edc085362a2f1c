#include "core/subprocess.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int subprocess_find(struct subprocess *subprocess, const char *name)
{
    char own[sizeof subprocess->path];
    ssize_t length = readlink("/proc/self/exe", own, sizeof own - 1);

    if (length < 0)
        return -1;
    own[length] = '\0';
    *strrchr(own, '/') = '\0'; /* not NULL: the link is an absolute path */
    if ((size_t)snprintf(subprocess->path, sizeof subprocess->path, "%s/%s", own, name) >=
        sizeof subprocess->path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    subprocess->program = open(subprocess->path, O_PATH | O_CLOEXEC);
    return subprocess->program < 0 ? -1 : 0;
}

/*
 * Whether a process that does not connect to the database inherits this variable. These are the settings of
 * pgpoll, libc, libfcgi and the sanitizers. In the list, * stands for the rest of a name.
 */
static bool is_inherited(const char *entry)
{
    static const char *const names[] = {
        "PGPOLL_*", "LANG",   "LANGUAGE",       "LC_*",     "TZ",        "TZDIR",
        "PATH",     "LD_*",   "GLIBC_TUNABLES", "MALLOC_*", "LIBFCGI_*", "FCGI_WEB_SERVER_ADDRS",
        "ASAN_*",   "LSAN_*", "TSAN_*",         "UBSAN_*"
    };
    const size_t length = strcspn(entry, "=");

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const size_t size = strcspn(names[i], "*");

        if (strncmp(entry, names[i], size) == 0 && (names[i][size] || length == size))
            return true;
    }
    return false;
}

/* Removes all variables that are not inherited. Runs in the new process. */
static void clean_environment(void)
{
    size_t kept = 0;

    for (size_t i = 0; environ[i]; i++)
        if (is_inherited(environ[i]))
            environ[kept++] = environ[i];
    environ[kept] = NULL;
}

static void become(const struct subprocess *subprocess, const int *descriptors, const sigset_t *mask)
{
    char texts[SUBPROCESS_DESCRIPTORS][12],
        *argv[SUBPROCESS_DESCRIPTORS + 2] = { (char *)(uintptr_t)subprocess->path };

    for (int i = 0; i < SUBPROCESS_DESCRIPTORS && descriptors[i] >= 0; i++) {
        (void)snprintf(texts[i], sizeof texts[i], "%d", descriptors[i]);
        argv[i + 1] = texts[i];
        if (fcntl(descriptors[i], F_SETFD, 0) != 0)
            return;
    }
    if (sigprocmask(SIG_SETMASK, mask, NULL) == 0)
        (void)fexecve(subprocess->program, argv, environ);
}

pid_t subprocess_start(const struct subprocess *subprocess,
                       const int descriptors[static SUBPROCESS_DESCRIPTORS], enum subprocess_kind kind,
                       const sigset_t *mask)
{
    pid_t pid = fork();

    if (pid == 0) {
        if (kind == SUBPROCESS_WITHOUT_DATABASE)
            clean_environment();
        become(subprocess, descriptors, mask);
        _exit(EXIT_FAILURE);
    }
    return pid;
}

int subprocess_descriptors(int argc, char **argv, int count, int *descriptors)
{
    if (argc != count + 1)
        return -1;
    for (int i = 0; i < count; i++) {
        char *end;

        descriptors[i] = (int)strtol(argv[i + 1], &end, 10);
        if (*end || fcntl(descriptors[i], F_GETFD) < 0)
            return -1;
    }
    return 0;
}
