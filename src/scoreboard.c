#include "scoreboard.h"

#include "clock.h"
#include "topic.h"
#include "topic_table.h"
#include "utf8.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { BITS = 64, CACHE_LINE = 64, READ_WRITE = PROT_READ | PROT_WRITE };

/* Where the descriptors are that scoreboard_join() takes. */
enum { MANAGER_MEMORY, WORKERS_MEMORY, PIDS, DOORBELL, READ_QUEUE };

/* ---- where everything is */

static size_t round_up(size_t size, size_t unit)
{
    return (size + unit - 1) / unit * unit;
}

static size_t whole_pages(size_t size)
{
    return round_up(size, 4096);
}

/* Where the parts of the manager's memory begin, and its end. */
struct manager_layout {
    size_t topics, window, replies, reply_stride, end;
};

static struct manager_layout lay_out_manager(const struct scoreboard_plan *plan)
{
    struct manager_layout layout = { .topics = whole_pages(sizeof(struct manager_memory)) };

    layout.window = whole_pages(layout.topics + topic_table_memory(plan->topic_count));
    layout.replies =
        whole_pages(layout.window + window_memory(plan->topic_count, plan->window_messages, plan->window_bytes));
    layout.reply_stride =
        round_up(sizeof(struct reply) + (size_t)plan->max_topics * sizeof(struct reply_topic), CACHE_LINE);
    layout.end = layout.replies + (size_t)plan->worker_count * layout.reply_stride;
    return layout;
}

static size_t set_words(const struct scoreboard_plan *plan)
{
    return ((size_t)plan->worker_count + BITS - 1) / BITS;
}

/* Of a slot's names. */
static size_t names_size(int max_topics)
{
    return (size_t)max_topics * TOPIC_MAX_BYTES;
}

/* The same of the workers' memory. A slot has pages of its own. */
struct workers_layout {
    size_t sets, slots, slot_stride, end;
};

static struct workers_layout lay_out_workers(const struct scoreboard_plan *plan)
{
    struct workers_layout layout = { .sets = whole_pages(sizeof(struct workers_memory)) };

    /* Who waits for what, who asks, and whose place each poll has. */
    layout.slots = whole_pages(layout.sets + (SCOREBOARD_BUCKETS + 1 + BITS) * set_words(plan) * sizeof(uint64_t));
    layout.slot_stride = whole_pages(sizeof(struct slot) + (size_t)plan->max_topics * sizeof(struct slot_topic) +
                                     names_size(plan->max_topics));
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
    scoreboard->most_reads = plan->most_readers;
    scoreboard->words = (int)words;
    scoreboard->topics = (struct topic_table *)(void *)(manager_memory + manager.topics);
    scoreboard->window = (struct window *)(void *)(manager_memory + manager.window);
    scoreboard->replies = manager_memory + manager.replies;
    scoreboard->reply_stride = manager.reply_stride;
    scoreboard->askers = (_Atomic uint64_t *)(void *)(workers_memory + workers.sets);
    for (int i = 0; i < SCOREBOARD_BUCKETS; i++)
        scoreboard->waiting[i] = scoreboard->askers + (size_t)(i + 1) * words;
    scoreboard->clients = scoreboard->askers + (SCOREBOARD_BUCKETS + 1) * words;
    scoreboard->slots = workers_memory + workers.slots;
    scoreboard->slot_stride = workers.slot_stride;
}

struct slot *scoreboard_slot(const struct scoreboard *scoreboard, int number)
{
    return (struct slot *)(void *)(scoreboard->slots + (size_t)number * scoreboard->slot_stride);
}

struct reply *scoreboard_reply(const struct scoreboard *scoreboard, int number)
{
    return (struct reply *)(void *)(scoreboard->replies + (size_t)number * scoreboard->reply_stride);
}

char *scoreboard_names(const struct scoreboard *scoreboard, struct slot *slot)
{
    return (char *)(slot->topics + scoreboard->max_topics);
}

int scoreboard_pid(const struct scoreboard *scoreboard, int number)
{
    return atomic_load(&scoreboard->pids[number]);
}

/* ---- making and joining */

static struct scoreboard *new_view(void)
{
    struct scoreboard *scoreboard = calloc(1, sizeof *scoreboard);

    if (scoreboard) {
        scoreboard->manager_fd = scoreboard->workers_fd = scoreboard->pids_fd = -1;
        scoreboard->doorbell = scoreboard->read_queue = -1;
    }
    return scoreboard;
}

static void *map(int fd, size_t size, int protection)
{
    void *memory = mmap(NULL, size, protection, MAP_SHARED | MAP_NORESERVE, fd, 0);

    return memory == MAP_FAILED ? NULL : memory;
}

/* A file of that size in memory, which stays of that size whatever a worker does. NULL: errno says why. */
static void *new_memory(const char *name, size_t size, int *fd)
{
    *fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    return *fd >= 0 && ftruncate(*fd, (off_t)size) == 0 && fcntl(*fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) == 0
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
        scoreboard->manager ? new_memory("pgpoll-workers", scoreboard->workers_size, &scoreboard->workers_fd) : NULL;
    scoreboard->pids =
        scoreboard->workers ? new_memory("pgpoll-pids", scoreboard->pids_size, &scoreboard->pids_fd) : NULL;
    if (!scoreboard->pids)
        return false;
    /* The mapping that we have stays writable, no other will be. Before Linux 5.1 workers map it read-only all the same. */
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
    (void)strncpy(manager->version, PGPOLL_VERSION, sizeof manager->version - 1);
    manager->plan = *plan;
    manager->reserve = scoreboard->reserve = reserve;
    manager->manager_pid = scoreboard->manager_pid = (int)getpid();
    atomic_store(&scoreboard->workers->reads_left, plan->most_readers);
    (void)window_init(scoreboard->window, plan->topic_count, plan->window_messages, plan->window_bytes);
    scoreboard->doorbell = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    scoreboard->questions = calloc((size_t)plan->worker_count, sizeof(struct question *));
    return scoreboard->questions && scoreboard->doorbell >= 0 &&
           topic_table_init(scoreboard->topics, plan->topic_count) &&
           getrandom(&manager->client_seed, sizeof manager->client_seed, 0) == sizeof manager->client_seed;
}

struct scoreboard *scoreboard_new(int polls, int max_topics, int topics, size_t window_messages, size_t window_bytes,
                                  int readers)
{
    const int reserve = polls / 20 < 1 ? 1 : polls / 20 > 32 ? 32 : polls / 20;
    const struct scoreboard_plan plan = { polls + reserve, max_topics, topics, readers, window_messages, window_bytes };
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

static void free_question(struct question *question)
{
    if (question)
        free(question->text);
    free(question);
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
        free_question(scoreboard->questions[i]);
    free(scoreboard->questions);
    unmap(scoreboard->manager, scoreboard->manager_size);
    unmap(scoreboard->workers, scoreboard->workers_size);
    unmap(scoreboard->pids, scoreboard->pids_size);
    unmap(scoreboard->forked, scoreboard->pids_size);
    close_descriptor(&scoreboard->manager_fd);
    close_descriptor(&scoreboard->workers_fd);
    close_descriptor(&scoreboard->pids_fd);
    close_descriptor(&scoreboard->doorbell);
    free(scoreboard);
}

void scoreboard_descriptors(const struct scoreboard *scoreboard, int descriptors[static SCOREBOARD_DESCRIPTORS])
{
    descriptors[MANAGER_MEMORY] = scoreboard->manager_fd;
    descriptors[WORKERS_MEMORY] = scoreboard->workers_fd;
    descriptors[PIDS] = scoreboard->pids_fd;
    descriptors[DOORBELL] = scoreboard->doorbell;
    descriptors[READ_QUEUE] = scoreboard->read_queue;
}

/* What is for the nursery alone is not there in the workers: neither its mapping nor the descriptors. */
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
    scoreboard->doorbell = descriptors[DOORBELL];
    scoreboard->read_queue = descriptors[READ_QUEUE];
    if (pread(scoreboard->manager_fd, &head, sizeof head, 0) != sizeof head ||
        strncmp(head.version, PGPOLL_VERSION, sizeof head.version) != 0 || !map_joined(scoreboard, &head.plan)) {
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
    /* The same again in its place. Without it there is no worker. */
    if (mmap(scoreboard->manager, scoreboard->manager_size, PROT_READ, MAP_SHARED | MAP_NORESERVE | MAP_FIXED,
             scoreboard->manager_fd, 0) != scoreboard->manager)
        _exit(EXIT_FAILURE);
}

void scoreboard_forget_names(const struct scoreboard *scoreboard, struct slot *slot)
{
    char *names = scoreboard_names(scoreboard, slot);
    const size_t begin = whole_pages((uintptr_t)names) - (uintptr_t)names, end = names_size(scoreboard->max_topics);

    /* The slot's pages end with its names. */
    if (begin < end)
        (void)madvise(names + begin, whole_pages(end - begin), MADV_REMOVE);
}

/* ---- bells */

void scoreboard_ring(const struct scoreboard *scoreboard)
{
    /* Fails only when it has been rung 2^64 times and not been heard: it is ringing all the same. */
    (void)eventfd_write(scoreboard->doorbell, 1);
}

void scoreboard_wake_stats_writer(struct scoreboard *scoreboard)
{
    struct workers_memory *workers = scoreboard->workers;

    if (atomic_load(&workers->stats_writer_sleeps) && atomic_exchange(&workers->stats_writer_sleeps, 0))
        scoreboard_ring(scoreboard);
}

/* ---- reads */

/*
 * reads_left counts like a semaphore. It is no sem_t: glibc makes one of a sem_t's words a part of the operation that it asks
 * futex(2) for, so a broken worker could have the manager wait there.
 */
static void futex(_Atomic int *word, int operation, int value, const struct timespec *until)
{
    (void)syscall(SYS_futex, word, operation, value, until, NULL, FUTEX_BITSET_MATCH_ANY);
}

static void give_reads(struct scoreboard *scoreboard, int count)
{
    (void)atomic_fetch_add(&scoreboard->workers->reads_left, count);
    if (count > 0)
        futex(&scoreboard->workers->reads_left, FUTEX_WAKE, count, NULL);
}

/* How many are taken: as many as may be, at most. */
static int bounded(const struct scoreboard *scoreboard, int count, int least)
{
    return count < least ? least : count > scoreboard->most_reads ? scoreboard->most_reads : count;
}

int scoreboard_reads(const struct scoreboard *scoreboard)
{
    const int left = bounded(scoreboard, atomic_load(&scoreboard->workers->reads_left), 0);

    return scoreboard->most_reads - left;
}

bool scoreboard_take_read(struct scoreboard *scoreboard, int number, int64_t give_up_ms)
{
    const struct timespec until = { give_up_ms / 1000, give_up_ms % 1000 * 1000000 };
    _Atomic int *left = &scoreboard->workers->reads_left;
    struct timespec now;
    int seen = atomic_load(left);

    for (;;) {
        while (seen > 0)
            if (atomic_compare_exchange_weak(left, &seen, seen - 1)) {
                atomic_store(&scoreboard_slot(scoreboard, number)->reading, 1);
                return true;
            }
        if (clock_gettime(CLOCK_MONOTONIC, &now) != 0 || now.tv_sec > until.tv_sec ||
            (now.tv_sec == until.tv_sec && now.tv_nsec >= until.tv_nsec))
            return false;
        /* Returns at once when it is not what was seen. */
        futex(left, FUTEX_WAIT_BITSET, seen, &until);
        seen = atomic_load(left);
    }
}

void scoreboard_give_read(struct scoreboard *scoreboard, int number)
{
    if (atomic_exchange(&scoreboard_slot(scoreboard, number)->reading, 0))
        give_reads(scoreboard, 1);
}

void scoreboard_mend_reads(struct scoreboard *scoreboard)
{
    const int64_t before = scoreboard->astray_reads;
    int64_t astray = (int64_t)scoreboard->most_reads - atomic_load(&scoreboard->workers->reads_left), mended = 0;

    for (int i = 0; i < scoreboard->worker_count; i++)
        astray -= atomic_load(&scoreboard_slot(scoreboard, i)->reading) != 0;
    if (astray > 0 && before > 0)
        mended = astray < before ? astray : before;
    else if (astray < 0 && before < 0)
        mended = astray > before ? astray : before;
    /* Out of bounds is only what a broken worker wrote; then the next two looks mend the rest. */
    mended = mended > INT_MAX ? INT_MAX : mended < -INT_MAX ? -INT_MAX : mended;
    if (mended)
        give_reads(scoreboard, (int)mended);
    scoreboard->astray_reads = astray - mended;
}

/* ---- waiting */

static uint64_t bit_of(int number)
{
    return UINT64_C(1) << number % BITS;
}

static _Atomic uint64_t *wait_set(const struct scoreboard *scoreboard, int topic)
{
    return scoreboard->waiting[(unsigned)topic % SCOREBOARD_BUCKETS];
}

int scoreboard_topic_count(const struct scoreboard *scoreboard, const struct slot *slot)
{
    int count = atomic_load(&slot->topic_count);

    return count < 0 ? 0 : count > scoreboard->max_topics ? scoreboard->max_topics : count;
}

int scoreboard_topic(const struct scoreboard *scoreboard, const struct slot *slot, int index)
{
    int number = atomic_load_explicit(&slot->topics[index].number, memory_order_relaxed);

    return number >= 0 && number < scoreboard->topic_count ? number : -1;
}

void scoreboard_enter(struct scoreboard *scoreboard, int number)
{
    const struct slot *slot = scoreboard_slot(scoreboard, number);

    for (int i = 0; i < scoreboard_topic_count(scoreboard, slot); i++)
        atomic_fetch_or(&wait_set(scoreboard, scoreboard_topic(scoreboard, slot, i))[number / BITS], bit_of(number));
    atomic_thread_fence(memory_order_seq_cst); /* who waits, before what was appended is looked for */
}

void scoreboard_leave(struct scoreboard *scoreboard, int number)
{
    const struct slot *slot = scoreboard_slot(scoreboard, number);

    for (int i = 0; i < scoreboard_topic_count(scoreboard, slot); i++)
        atomic_fetch_and(&wait_set(scoreboard, scoreboard_topic(scoreboard, slot, i))[number / BITS], ~bit_of(number));
}

/* FNV-1a, begun with the seed, so that nobody can choose an address that shares another's places; a user is never an address. */
static uint64_t client_number(const struct scoreboard *scoreboard, const char *user, const char *address)
{
    uint64_t hash = scoreboard->manager->client_seed ^ (*user ? 'u' : 'a');

    for (const char *at = *user ? user : address; *at; at++)
        hash = (hash ^ (unsigned char)*at) * UINT64_C(0x100000001b3);
    return hash ? hash : 1;
}

/* A client's polls. */
struct client_polls {
    int count;
    int kept;   /* those that were not told to answer early */
    int oldest; /* of these, the worker's number; -1: there is none */
};

static struct client_polls find_polls(const struct scoreboard *scoreboard, uint64_t client)
{
    struct client_polls found = { .oldest = -1 };
    int64_t oldest_ms = INT64_MAX;

    for (int i = 0; i < scoreboard->worker_count; i++) {
        const struct slot *slot = scoreboard_slot(scoreboard, i);

        if (atomic_load(&scoreboard->clients[i]) != client)
            continue;
        found.count++;
        if (atomic_load(&slot->released))
            continue;
        found.kept++;
        if (atomic_load(&slot->since_ms) < oldest_ms) {
            oldest_ms = atomic_load(&slot->since_ms);
            found.oldest = i;
        }
    }
    return found;
}

bool scoreboard_take_place(struct scoreboard *scoreboard, int number, const char *user, const char *address, int places)
{
    const uint64_t client = client_number(scoreboard, user, address);
    struct client_polls polls;

    atomic_store(&scoreboard_slot(scoreboard, number)->since_ms, clock_monotonic_ms());
    atomic_store(&scoreboard->clients[number], client); /* before the others are counted: of two, one sees the other */
    polls = find_polls(scoreboard, client);
    if (polls.count > 2 * places + SCOREBOARD_HANDOVERS) {
        scoreboard_give_place(scoreboard, number);
        return false;
    }
    for (; polls.kept > places && polls.oldest >= 0; polls = find_polls(scoreboard, client))
        scoreboard_release(scoreboard, polls.oldest);
    return true;
}

void scoreboard_give_place(struct scoreboard *scoreboard, int number)
{
    atomic_store(&scoreboard->clients[number], 0);
}

/* ---- the manager */

int scoreboard_idle(const struct scoreboard *scoreboard)
{
    int idle = atomic_load(&scoreboard->workers->idle);

    return idle < 0 ? 0 : idle > scoreboard->worker_count ? scoreboard->worker_count : idle;
}

void scoreboard_wake(struct scoreboard *scoreboard, int number)
{
    int pid = scoreboard_pid(scoreboard, number);

    /* One signal is enough until it has been heard. The process is a child that was not waited for: its id is its own. */
    if (pid > 0 && atomic_exchange(&scoreboard_slot(scoreboard, number)->woken, 1) == 0)
        (void)kill(pid, SIGUSR2);
}

void scoreboard_release(struct scoreboard *scoreboard, int number)
{
    atomic_store(&scoreboard_slot(scoreboard, number)->released, 1);
    scoreboard_wake(scoreboard, number);
}

static bool waits_for(const struct scoreboard *scoreboard, const struct slot *slot, int topic)
{
    const int count = scoreboard_topic_count(scoreboard, slot);

    for (int i = 0; i < count; i++)
        if (atomic_load_explicit(&slot->topics[i].number, memory_order_relaxed) == topic)
            return true;
    return false;
}

void scoreboard_wake_topic(struct scoreboard *scoreboard, int topic)
{
    _Atomic uint64_t *set = wait_set(scoreboard, topic);

    atomic_thread_fence(memory_order_seq_cst); /* what was appended, before who is looked for */
    for (int word = 0; word < scoreboard->words; word++)
        for (uint64_t bits = atomic_load(&set[word]); bits; bits &= bits - 1) {
            int number = word * BITS + __builtin_ctzll(bits);

            if (number < scoreboard->worker_count && waits_for(scoreboard, scoreboard_slot(scoreboard, number), topic))
                scoreboard_wake(scoreboard, number);
        }
}

/* ---- questions */

int scoreboard_next_asker(struct scoreboard *scoreboard, int from)
{
    for (int number = from; number < scoreboard->worker_count; number = (number / BITS + 1) * BITS) {
        _Atomic uint64_t *word = &scoreboard->askers[number / BITS];
        const uint64_t bits = atomic_load(word) & (UINT64_MAX << number % BITS);
        const int first = bits ? number / BITS * BITS + __builtin_ctzll(bits) : scoreboard->worker_count;

        if (first < scoreboard->worker_count) {
            (void)atomic_fetch_and(word, ~bit_of(first));
            return first;
        }
    }
    return -1;
}

struct question *scoreboard_question(const struct scoreboard *scoreboard, int number)
{
    return scoreboard->questions[number];
}

/* Copies what has a fixed size, and of each name where it stands: number and length. NULL: no memory, or it is none. */
static struct question *copy_bounds(const struct scoreboard *scoreboard, const struct slot *slot, bool *sound)
{
    const int count = atomic_load_explicit(&slot->question_count, memory_order_relaxed);
    struct question *question;

    *sound = count > 0 && count <= scoreboard->max_topics;
    if (!*sound)
        return NULL;
    question = calloc(1, sizeof *question + (size_t)count * sizeof *question->topics);
    if (!question)
        return NULL;
    question->authorize = atomic_load_explicit(&slot->authorize, memory_order_relaxed) != 0;
    question->give_up_ms = atomic_load_explicit(&slot->give_up_ms, memory_order_relaxed);
    memcpy(question->user, slot->user, sizeof question->user);
    *sound = memchr(question->user, '\0', sizeof question->user) != NULL;
    question->topic_count = count;
    for (int i = 0; i < count; i++) {
        const uint32_t at = atomic_load_explicit(&slot->topics[i].name_at, memory_order_relaxed);
        const uint32_t length = atomic_load_explicit(&slot->topics[i].name_length, memory_order_relaxed);

        *sound = *sound && length <= TOPIC_MAX_BYTES && at <= names_size(scoreboard->max_topics) - length;
        question->topics[i] = (struct question_topic){ .length = length, .number = (int)at };
    }
    return question;
}

/* Copies the names; false: no memory. */
static bool copy_names(const struct scoreboard *scoreboard, struct slot *slot, struct question *question)
{
    const char *names = scoreboard_names(scoreboard, slot);
    size_t size = 1;
    char *text;

    for (int i = 0; i < question->topic_count; i++)
        size += question->topics[i].length + 1;
    text = question->text = calloc(1, size);
    for (int i = 0; text && i < question->topic_count; i++) {
        struct question_topic *topic = &question->topics[i];

        memcpy(text, names + topic->number, topic->length);
        topic->name = text;
        topic->number = -1;
        text += topic->length + 1;
    }
    return text != NULL;
}

/* One that the database refuses would be an error for all who ask at the same time. */
static bool are_names_sound(const struct question *question)
{
    for (int i = 0; i < question->topic_count; i++)
        if (utf8_valid_length(question->topics[i].name, question->topics[i].length) != question->topics[i].length ||
            topic_check(question->topics[i].name, question->topics[i].length) != TOPIC_OK)
            return false;
    return true;
}

enum question_taken scoreboard_take_question(struct scoreboard *scoreboard, int number)
{
    struct slot *slot = scoreboard_slot(scoreboard, number);
    struct reply *reply = scoreboard_reply(scoreboard, number);
    const uint32_t asked = atomic_load(&slot->asked);
    struct question *question;
    bool sound, copied;

    if (scoreboard->questions[number] || asked == atomic_load(&reply->answered))
        return QUESTION_NONE;
    question = copy_bounds(scoreboard, slot, &sound);
    copied = question && sound && copy_names(scoreboard, slot, question);
    sound = sound && asked == atomic_load(&reply->answered) + 1 && (!copied || are_names_sound(question));
    if (sound && copied) {
        scoreboard->questions[number] = question;
        return QUESTION_TAKEN;
    }
    free_question(question);
    if (!sound)
        return QUESTION_BROKEN;
    reply->error = ERROR_MEMORY;
    atomic_store(&reply->answered, asked);
    scoreboard_wake(scoreboard, number);
    return QUESTION_NONE;
}

void scoreboard_answer(struct scoreboard *scoreboard, int number, enum error answer)
{
    struct reply *reply = scoreboard_reply(scoreboard, number);

    if (!scoreboard->questions[number])
        return;
    free_question(scoreboard->questions[number]);
    scoreboard->questions[number] = NULL;
    reply->error = answer;
    (void)atomic_fetch_add(&reply->answered, 1);
    scoreboard_wake(scoreboard, number);
}

/* ---- workers that end, or should */

bool scoreboard_is_sound(const struct scoreboard *scoreboard, int number)
{
    const struct slot *slot = scoreboard_slot(scoreboard, number);
    const int state = atomic_load(&slot->state), count = atomic_load(&slot->topic_count);

    if (state < SLOT_EMPTY || state >= SLOT_STATES || count < 0 || count > scoreboard->max_topics)
        return false;
    for (int i = 0; i < count; i++)
        if (scoreboard_topic(scoreboard, slot, i) < 0)
            return false;
    return true;
}

void scoreboard_forget_worker(struct scoreboard *scoreboard, int number)
{
    struct slot *slot = scoreboard_slot(scoreboard, number);

    /* Whatever topics its slot says: it may be broken. */
    for (int i = 0; i < SCOREBOARD_BUCKETS; i++)
        (void)atomic_fetch_and(&scoreboard->waiting[i][number / BITS], ~bit_of(number));
    (void)atomic_fetch_and(&scoreboard->askers[number / BITS], ~bit_of(number));
    scoreboard_give_place(scoreboard, number);
    scoreboard_give_read(scoreboard, number);
    free_question(scoreboard->questions[number]);
    scoreboard->questions[number] = NULL;
    if (atomic_load(&slot->state) == SLOT_IDLE)
        (void)atomic_fetch_sub(&scoreboard->workers->idle, 1);
    atomic_store(&slot->asked, atomic_load(&scoreboard_reply(scoreboard, number)->answered));
    atomic_store(&slot->state, SLOT_EMPTY);
    atomic_store(&slot->woken, 0);
    atomic_store(&slot->released, 0);
    atomic_store(&slot->topic_count, 0);
    atomic_store(&scoreboard->pids[number], 0);
}
