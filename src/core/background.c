#include "core/background.h"

#include "core/wait.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct background {
    void (*call)(void *context);
    void (*release)(void *context);
    void *context;
    pid_t process; /* that of the thread */
    int fd;        /* an eventfd, set when the call has returned */
    _Atomic bool done;
    _Atomic int references; /* one is held by the thread, one by the caller of background_start() */
};

static void drop_reference(struct background *background)
{
    if (atomic_fetch_sub(&background->references, 1) > 1)
        return;
    background->release(background->context);
    (void)close(background->fd);
    free(background);
}

static void *run(void *context)
{
    struct background *background = context;

    background->call(background->context);
    atomic_store(&background->done, true);
    (void)eventfd_write(background->fd, 1);
    drop_reference(background);
    return NULL;
}

/* The thread blocks all signals, so that the process's other threads handle them. */
static int start_thread(struct background *background)
{
    pthread_attr_t detached;
    pthread_t thread;
    sigset_t all, before;
    int failure = pthread_attr_init(&detached);

    if (failure)
        return failure;
    (void)sigfillset(&all);
    failure = pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    if (!failure)
        failure = pthread_sigmask(SIG_BLOCK, &all, &before);
    if (!failure) {
        failure = pthread_create(&thread, &detached, run, background);
        (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    (void)pthread_attr_destroy(&detached);
    return failure;
}

struct background *background_start(void (*call)(void *context), void (*release)(void *context),
                                    void *context)
{
    struct background *background = calloc(1, sizeof *background);
    int failure;

    if (!background)
        return NULL;
    background->call = call;
    background->release = release;
    background->context = context;
    background->references = 2;
    background->process = getpid();
    background->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    failure = background->fd < 0 ? errno : start_thread(background);
    if (failure) {
        if (background->fd >= 0)
            (void)close(background->fd);
        free(background);
        errno = failure;
        return NULL;
    }
    return background;
}

bool background_is_done(const struct background *background)
{
    return background && atomic_load(&background->done);
}

bool background_is_lost(const struct background *background)
{
    return background->process != getpid();
}

int background_fd(const struct background *background)
{
    return background->fd;
}

void background_wait(const struct background *background, int64_t deadline_ms)
{
    (void)wait_for_fd(background->fd, POLLIN, deadline_ms);
}

void background_free(struct background *background)
{
    if (background)
        drop_reference(background);
}
