#include "shared/scoreboard.h"

#include "api/topic.h"
#include "shared/topic_table.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

enum { CACHE_LINE = 64, READ_WRITE = PROT_READ | PROT_WRITE };

/* Limits of the numbers of entries in the access memories. */
enum { PERMISSIONS_LEAST = 16384, PERMISSIONS_MOST = 4194304, USERS_LEAST = 4096 };

_Static_assert(sizeof PGPOLL_VERSION <= sizeof((struct manager_memory *)NULL)->version,
               "if the version were cut, no worker would take the memory for that of its own program");

/* The order of the descriptors that scoreboard_join() takes. */
enum { MANAGER_MEMORY, WORKERS_MEMORY, PIDS, LATCH, READ_QUEUE };

/* ---- layout */

static size_t round_up(size_t size, size_t unit)
{
    return (size + unit - 1) / unit * unit;
}

static size_t whole_pages(size_t size)
{
    return round_up(size, 4096);
}

/* Offsets of the parts of the manager's memory, and its size (end). */
struct manager_layout {
    size_t topics, ring, permissions, users, replies, reply_stride, end;
};

/* Returns how many permissions are remembered: twice as many as all waiting polls need at the same time. */
static int permission_count(const struct scoreboard_plan *plan)
{
    const int64_t count = INT64_C(2) * plan->worker_count * plan->max_topics;

    return (int)(count < PERMISSIONS_LEAST  ? PERMISSIONS_LEAST
                 : count > PERMISSIONS_MOST ? PERMISSIONS_MOST
                                            : count);
}

static int user_count(const struct scoreboard_plan *plan)
{
    return 2 * plan->worker_count < USERS_LEAST ? USERS_LEAST : 2 * plan->worker_count;
}

static struct manager_layout lay_out_manager(const struct scoreboard_plan *plan)
{
    struct manager_layout layout = { .topics = whole_pages(sizeof(struct manager_memory)) };

    layout.ring = whole_pages(layout.topics + topic_table_memory(plan->topic_count));
    layout.permissions =
        whole_pages(layout.ring + ring_memory(plan->topic_count, plan->ring_messages, plan->ring_bytes));
    layout.users = whole_pages(layout.permissions + access_memory_size(permission_count(plan), sizeof(bool)));
    layout.replies = whole_pages(layout.users + access_memory_size(user_count(plan), SCOREBOARD_USER_SIZE));
    layout.reply_stride =
        round_up(sizeof(struct reply) + (size_t)plan->max_topics * sizeof(struct reply_topic), CACHE_LINE);
    layout.end = layout.replies + (size_t)plan->worker_count * layout.reply_stride;
    return layout;
}

static size_t set_words(const struct scoreboard_plan *plan)
{
    return ((size_t)plan->worker_count + SCOREBOARD_WORD_BITS - 1) / SCOREBOARD_WORD_BITS;
}

size_t scoreboard_names_size(int max_topics)
{
    const size_t names = (size_t)max_topics * TOPIC_MAX_BYTES;

    return names < ACCESS_TOKEN_MAX_BYTES ? ACCESS_TOKEN_MAX_BYTES : names;
}

/* Offsets of the parts of the workers' memory, and its size (end). Each slot has whole pages. */
struct workers_layout {
    size_t sets, slots, slot_stride, end;
};

static struct workers_layout lay_out_workers(const struct scoreboard_plan *plan)
{
    struct workers_layout layout = { .sets = whole_pages(sizeof(struct workers_memory)) };

    /*
     * The sets are those of askers and lookers, and the wait sets. Then follow as many words as workers for
     * the clients' hashes, and as many for the turns to read.
     */
    layout.slots = whole_pages(layout.sets + (SCOREBOARD_BUCKETS + 2 + 2 * SCOREBOARD_WORD_BITS) *
                                                 set_words(plan) * sizeof(uint64_t));
    layout.slot_stride =
        whole_pages(sizeof(struct slot) + (size_t)plan->max_topics * sizeof(struct slot_topic) +
                    scoreboard_names_size(plan->max_topics));
    layout.end = layout.slots + (size_t)plan->worker_count * layout.slot_stride;
    return layout;
}

static void find_parts(struct scoreboard *scoreboard, const struct scoreboard_plan *plan)
{
    const struct manager_layout manager = lay_out_manager(plan);
    const struct workers_layout workers = lay_out_workers(plan);
    const size_t words = set_words(plan);
    char *manager_memory = (char *)scoreboard->manager, *workers_memory = (char *)scoreboard->workers;

    scoreboard->worker_count = plan->worker_count;
    scoreboard->max_topics = plan->max_topics;
    scoreboard->topic_count = plan->topic_count;
    scoreboard->read_permits = plan->max_readers;
    scoreboard->set_words = (int)words;
    scoreboard->topics = (struct topic_table *)(void *)(manager_memory + manager.topics);
    scoreboard->ring = (struct message_ring *)(void *)(manager_memory + manager.ring);
    scoreboard->permissions = (struct access_memory *)(void *)(manager_memory + manager.permissions);
    scoreboard->users = (struct access_memory *)(void *)(manager_memory + manager.users);
    scoreboard->replies = manager_memory + manager.replies;
    scoreboard->reply_stride = manager.reply_stride;
    scoreboard->askers = (_Atomic uint64_t *)(void *)(workers_memory + workers.sets);
    scoreboard->lookers = scoreboard->askers + words;
    scoreboard->wait_sets = scoreboard->askers + 2 * words;
    scoreboard->clients = scoreboard->askers + (SCOREBOARD_BUCKETS + 2) * words;
    scoreboard->read_turns = scoreboard->clients + SCOREBOARD_WORD_BITS * words;
    scoreboard->slots = workers_memory + workers.slots;
    scoreboard->slot_stride = workers.slot_stride;
}

struct slot *scoreboard_slot(const struct scoreboard *scoreboard, int worker)
{
    return (struct slot *)(void *)(scoreboard->slots + (size_t)worker * scoreboard->slot_stride);
}

struct reply *scoreboard_reply(const struct scoreboard *scoreboard, int worker)
{
    return (struct reply *)(void *)(scoreboard->replies + (size_t)worker * scoreboard->reply_stride);
}

char *scoreboard_names(const struct scoreboard *scoreboard, struct slot *slot)
{
    return (char *)(slot->topics + scoreboard->max_topics);
}

int scoreboard_pid(const struct scoreboard *scoreboard, int worker)
{
    return atomic_load(&scoreboard->pids[worker]);
}

int scoreboard_begun(const struct scoreboard *scoreboard)
{
    int begun = 0;

    for (int i = 0; i < scoreboard->worker_count; i++)
        begun += atomic_load(&scoreboard_slot(scoreboard, i)->state) != SLOT_EMPTY;
    return begun;
}

/* ---- creating and joining */

static struct scoreboard *new_view(void)
{
    struct scoreboard *scoreboard = calloc(1, sizeof *scoreboard);

    if (scoreboard) {
        scoreboard->manager_fd = scoreboard->workers_fd = scoreboard->pids_fd = -1;
        scoreboard->latch = scoreboard->read_queue = -1;
    }
    return scoreboard;
}

static void *map(int fd, size_t size, int protection)
{
    void *memory = mmap(NULL, size, protection, MAP_SHARED | MAP_NORESERVE, fd, 0);

    return memory == MAP_FAILED ? NULL : memory;
}

/*
 * Creates and maps a file in memory, sealed so that no worker can change its size. Returns NULL if this
 * fails; errno says why.
 */
static void *new_memory(const char *name, size_t size, int *fd)
{
    *fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    return *fd >= 0 && ftruncate(*fd, (off_t)size) == 0 &&
                   fcntl(*fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) == 0
               ? map(*fd, size, READ_WRITE)
               : NULL;
}

static bool map_new(struct scoreboard *scoreboard, const struct scoreboard_plan *plan)
{
    scoreboard->manager_size = lay_out_manager(plan).end;
    scoreboard->workers_size = lay_out_workers(plan).end;
    scoreboard->pids_size = (size_t)plan->worker_count * sizeof *scoreboard->pids;
    scoreboard->manager = new_memory("pgpoll-manager", scoreboard->manager_size, &scoreboard->manager_fd);
    scoreboard->workers =
        scoreboard->manager ? new_memory("pgpoll-workers", scoreboard->workers_size, &scoreboard->workers_fd)
                            : NULL;
    scoreboard->pids =
        scoreboard->workers ? new_memory("pgpoll-pids", scoreboard->pids_size, &scoreboard->pids_fd) : NULL;
    if (!scoreboard->pids)
        return false;
    /*
     * The mapping that exists stays writable, and later ones cannot be writable. Linux before 5.1 refuses
     * this seal. Then only the workers' own read-only mappings protect the memory.
     */
    (void)fcntl(scoreboard->manager_fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE);
    return true;
}

static bool set_up(struct scoreboard *scoreboard, const struct scoreboard_plan *plan, int reserve)
{
    struct manager_memory *manager;

    if (!map_new(scoreboard, plan))
        return false;
    find_parts(scoreboard, plan);
    manager = scoreboard->manager;
    memcpy(manager->version, PGPOLL_VERSION, sizeof PGPOLL_VERSION);
    manager->plan = *plan;
    manager->reserve = scoreboard->reserve = reserve;
    manager->manager_pid = scoreboard->manager_pid = (int)getpid();
    atomic_store(&manager->read_permits_allowed, plan->max_readers);
    atomic_store(&scoreboard->workers->read_permits_left, plan->max_readers);
    (void)ring_init(scoreboard->ring, plan->topic_count, plan->ring_messages, plan->ring_bytes);
    scoreboard->latch = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    scoreboard->questions = calloc((size_t)plan->worker_count, sizeof(struct question *));
    return scoreboard->questions && scoreboard->latch >= 0 &&
           topic_table_init(scoreboard->topics, plan->topic_count) &&
           access_memory_init(scoreboard->permissions, permission_count(plan), sizeof(bool)) &&
           access_memory_init(scoreboard->users, user_count(plan), SCOREBOARD_USER_SIZE) &&
           getrandom(&manager->client_seed, sizeof manager->client_seed, 0) == sizeof manager->client_seed;
}

struct scoreboard *scoreboard_new(int polls, int max_topics, size_t ring_messages, size_t ring_bytes,
                                  int readers)
{
    const int share = polls / 20 < 1 ? 1 : polls / 20;
    const int reserve = share > SCOREBOARD_RESERVE_MAX ? SCOREBOARD_RESERVE_MAX : share;
    const int workers = polls + reserve;
    const struct scoreboard_plan plan = { workers, max_topics,    2 * workers * max_topics,
                                          readers, ring_messages, ring_bytes };
    struct scoreboard *scoreboard = new_view();
    int error;

    if (scoreboard && !set_up(scoreboard, &plan, reserve)) {
        error = errno;
        scoreboard_free(scoreboard);
        errno = error;
        return NULL;
    }
    return scoreboard;
}

void scoreboard_free_question(struct question *question)
{
    if (!question)
        return;
    if (question->text)
        explicit_bzero(question->text, question->text_size);
    free(question->text);
    free(question);
}

struct question *scoreboard_release_question(struct scoreboard *scoreboard, int worker)
{
    struct question *question = scoreboard->questions[worker];

    scoreboard->questions[worker] = NULL;
    return question;
}

void scoreboard_drop_question(struct scoreboard *scoreboard, int worker)
{
    scoreboard_free_question(scoreboard_release_question(scoreboard, worker));
}

static void close_descriptor(int *fd)
{
    if (*fd >= 0)
        (void)close(*fd);
    *fd = -1;
}

static void unmap(void *memory, size_t size)
{
    if (memory)
        (void)munmap(memory, size);
}

void scoreboard_free(struct scoreboard *scoreboard)
{
    if (!scoreboard)
        return;
    for (int i = 0; scoreboard->questions && i < scoreboard->worker_count; i++)
        scoreboard_drop_question(scoreboard, i);
    free(scoreboard->questions);
    unmap(scoreboard->manager, scoreboard->manager_size);
    unmap(scoreboard->workers, scoreboard->workers_size);
    unmap(scoreboard->pids, scoreboard->pids_size);
    unmap(scoreboard->forked, scoreboard->pids_size);
    close_descriptor(&scoreboard->manager_fd);
    close_descriptor(&scoreboard->workers_fd);
    close_descriptor(&scoreboard->pids_fd);
    close_descriptor(&scoreboard->latch);
    free(scoreboard);
}

void scoreboard_descriptors(const struct scoreboard *scoreboard,
                            int descriptors[static SCOREBOARD_DESCRIPTORS])
{
    descriptors[MANAGER_MEMORY] = scoreboard->manager_fd;
    descriptors[WORKERS_MEMORY] = scoreboard->workers_fd;
    descriptors[PIDS] = scoreboard->pids_fd;
    descriptors[LATCH] = scoreboard->latch;
    descriptors[READ_QUEUE] = scoreboard->read_queue;
}

/*
 * Maps everything, and keeps from the workers what only the fork server may use. The fork server's writable
 * mapping of the process ids is not inherited (MADV_DONTFORK), and the descriptors of writable memory are
 * closed.
 */
static bool map_joined(struct scoreboard *scoreboard, const struct scoreboard_plan *plan)
{
    scoreboard->manager_size = lay_out_manager(plan).end;
    scoreboard->workers_size = lay_out_workers(plan).end;
    scoreboard->pids_size = (size_t)plan->worker_count * sizeof *scoreboard->pids;
    scoreboard->manager = map(scoreboard->manager_fd, scoreboard->manager_size, PROT_READ);
    scoreboard->workers = map(scoreboard->workers_fd, scoreboard->workers_size, READ_WRITE);
    scoreboard->pids = map(scoreboard->pids_fd, scoreboard->pids_size, PROT_READ);
    scoreboard->forked = map(scoreboard->pids_fd, scoreboard->pids_size, READ_WRITE);
    close_descriptor(&scoreboard->workers_fd);
    close_descriptor(&scoreboard->pids_fd);
    return scoreboard->manager && scoreboard->workers && scoreboard->pids && scoreboard->forked &&
           madvise(scoreboard->forked, scoreboard->pids_size, MADV_DONTFORK) == 0;
}

struct scoreboard *scoreboard_join(const int descriptors[static SCOREBOARD_DESCRIPTORS])
{
    struct scoreboard *scoreboard = new_view();
    struct manager_memory head;

    if (!scoreboard)
        return NULL;
    scoreboard->manager_fd = descriptors[MANAGER_MEMORY];
    scoreboard->workers_fd = descriptors[WORKERS_MEMORY];
    scoreboard->pids_fd = descriptors[PIDS];
    scoreboard->latch = descriptors[LATCH];
    scoreboard->read_queue = descriptors[READ_QUEUE];
    if (pread(scoreboard->manager_fd, &head, sizeof head, 0) != sizeof head ||
        strncmp(head.version, PGPOLL_VERSION, sizeof head.version) != 0 ||
        !map_joined(scoreboard, &head.plan)) {
        scoreboard_free(scoreboard);
        return NULL;
    }
    find_parts(scoreboard, &head.plan);
    scoreboard->reserve = head.reserve;
    scoreboard->manager_pid = head.manager_pid;
    return scoreboard;
}

void scoreboard_trim(struct scoreboard *scoreboard)
{
    /* This maps the same memory over itself. A worker cannot go on without it. */
    if (mmap(scoreboard->manager, scoreboard->manager_size, PROT_READ, MAP_SHARED | MAP_NORESERVE | MAP_FIXED,
             scoreboard->manager_fd, 0) != scoreboard->manager)
        _exit(EXIT_FAILURE);
}

void scoreboard_free_names(const struct scoreboard *scoreboard, struct slot *slot)
{
    char *names = scoreboard_names(scoreboard, slot);
    const size_t begin = whole_pages((uintptr_t)names) - (uintptr_t)names,
                 end = scoreboard_names_size(scoreboard->max_topics);

    /* The names are at the end of the slot, so the pages that begin within them hold nothing else. */
    if (begin < end)
        (void)madvise(names + begin, whole_pages(end - begin), MADV_REMOVE);
}

int scoreboard_topic_count(const struct scoreboard *scoreboard, const struct slot *slot)
{
    int count = atomic_load(&slot->topic_count);

    return count < 0 ? 0 : count > scoreboard->max_topics ? scoreboard->max_topics : count;
}

int scoreboard_topic(const struct scoreboard *scoreboard, const struct slot *slot, int index)
{
    int topic = atomic_load_explicit(&slot->topics[index].topic, memory_order_relaxed);

    return topic >= 0 && topic < scoreboard->topic_count ? topic : -1;
}

int scoreboard_idle(const struct scoreboard *scoreboard)
{
    int idle = atomic_load(&scoreboard->workers->idle);

    return idle < 0 ? 0 : idle > scoreboard->worker_count ? scoreboard->worker_count : idle;
}

struct question *scoreboard_question(const struct scoreboard *scoreboard, int worker)
{
    return scoreboard->questions[worker];
}

bool scoreboard_is_sound(const struct scoreboard *scoreboard, int worker)
{
    const struct slot *slot = scoreboard_slot(scoreboard, worker);
    const int state = atomic_load(&slot->state), count = atomic_load(&slot->topic_count);

    if (state < SLOT_EMPTY || state >= SLOT_STATES || count < 0 || count > scoreboard->max_topics)
        return false;
    for (int i = 0; i < count; i++)
        if (scoreboard_topic(scoreboard, slot, i) < 0)
            return false;
    return true;
}
