#include "scoreboard.h"

#include "clock.h"
#include "topic_table.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

enum { BITS = 64 };

static size_t whole_pages(size_t size)
{
    return (size + 4095) & ~(size_t)4095;
}

/* A slot has its topics and names behind it, and pages of its own. */
static size_t slot_stride(int max_topics)
{
    return whole_pages(sizeof(struct slot) + (size_t)max_topics * sizeof(struct slot_topic) + SCOREBOARD_NAMES_SIZE);
}

struct slot *scoreboard_slot(const struct scoreboard *scoreboard, int number)
{
    return (struct slot *)(void *)(scoreboard->slots + (size_t)number * slot_stride(scoreboard->max_topics));
}

static void init_slots(struct scoreboard *scoreboard)
{
    for (int i = 0; i < scoreboard->worker_count; i++) {
        struct slot *slot = scoreboard_slot(scoreboard, i);

        slot->topics = (struct slot_topic *)(void *)(slot + 1);
        slot->names = (char *)(slot->topics + scoreboard->max_topics);
    }
}

static size_t set_words(int workers)
{
    return ((size_t)workers + BITS - 1) / BITS;
}

/* Who waits for what, who asks, and whose place each poll has. */
static size_t sets_size(int workers)
{
    return (SCOREBOARD_BUCKETS + 1 + BITS) * set_words(workers) * sizeof(uint64_t);
}

static void init_sets(struct scoreboard *scoreboard, _Atomic uint64_t *memory)
{
    size_t words = set_words(scoreboard->worker_count);

    scoreboard->words = (int)words;
    scoreboard->askers = memory;
    for (int i = 0; i < SCOREBOARD_BUCKETS; i++)
        scoreboard->waiting[i] = memory + (size_t)(i + 1) * words;
    scoreboard->clients = memory + (SCOREBOARD_BUCKETS + 1) * words;
}

/*
 * A file of that size in memory, mapped. Whoever joins maps it at the same address, so that address should be free there: the hint
 * is far from where programs and their libraries are put, and taken if it can be.
 */
static struct scoreboard *map_new(size_t size)
{
    void *const hint = (void *)((uintptr_t)1 << 32);
    int fd = memfd_create("pgpoll-scoreboard", MFD_CLOEXEC);
    struct scoreboard *scoreboard = MAP_FAILED;

    if (fd >= 0 && ftruncate(fd, (off_t)size) == 0)
        scoreboard = mmap(hint, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (scoreboard == MAP_FAILED) {
        if (fd >= 0) /* or errno would tell of that */
            (void)close(fd);
        return NULL;
    }
    scoreboard->size = size;
    scoreboard->fd = fd;
    scoreboard->self = scoreboard;
    return scoreboard;
}

struct scoreboard *scoreboard_new(int polls, int max_topics, int topics, size_t window_messages, size_t window_bytes,
                                  int readers)
{
    const int reserve = polls / 20 < 1 ? 1 : polls / 20 > 32 ? 32 : polls / 20, workers = polls + reserve;
    const size_t sets_at = whole_pages(sizeof(struct scoreboard));
    const size_t table_at = whole_pages(sets_at + sets_size(workers));
    const size_t window_at = whole_pages(table_at + topic_table_memory(topics));
    const size_t slots_at = whole_pages(window_at + window_memory(topics, window_messages, window_bytes));
    struct scoreboard *scoreboard = map_new(slots_at + (size_t)workers * slot_stride(max_topics));
    char *memory = (char *)scoreboard;

    if (!scoreboard)
        return NULL;
    (void)strncpy(scoreboard->version, PGPOLL_VERSION, sizeof scoreboard->version - 1);
    scoreboard->worker_count = workers;
    scoreboard->max_topics = max_topics;
    scoreboard->manager_pid = (int)getpid();
    scoreboard->reserve = reserve;
    scoreboard->most_reads = readers;
    scoreboard->slots = memory + slots_at;
    init_slots(scoreboard);
    init_sets(scoreboard, (_Atomic uint64_t *)(void *)(memory + sets_at));
    scoreboard->window = window_init(memory + window_at, topics, window_messages, window_bytes);
    scoreboard->topics = topic_table_init(memory + table_at, topics);
    scoreboard->doorbell = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (!scoreboard->topics || scoreboard->doorbell < 0 ||
        getrandom(&scoreboard->client_seed, sizeof scoreboard->client_seed, 0) != sizeof scoreboard->client_seed ||
        sem_init(&scoreboard->reads, 1, (unsigned)readers) != 0) {
        scoreboard_free(scoreboard);
        return NULL;
    }
    return scoreboard;
}

void scoreboard_free(struct scoreboard *scoreboard)
{
    if (!scoreboard)
        return;
    if (scoreboard->doorbell >= 0)
        (void)close(scoreboard->doorbell);
    (void)close(scoreboard->fd);
    (void)munmap(scoreboard, scoreboard->size);
}

struct scoreboard *scoreboard_join(int fd)
{
    struct scoreboard head, *scoreboard;

    if (pread(fd, &head, sizeof head, 0) != sizeof head || strcmp(head.version, PGPOLL_VERSION) != 0)
        return NULL;
    scoreboard =
        mmap(head.self, head.size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED_NOREPLACE, fd, 0);
    return scoreboard == MAP_FAILED ? NULL : scoreboard;
}

void scoreboard_trim(struct scoreboard *scoreboard)
{
    /* The same again in its place. Without it there is no worker. */
    if (mmap(scoreboard, scoreboard->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED,
             scoreboard->fd, 0) != scoreboard)
        _exit(EXIT_FAILURE);
}

int scoreboard_reads(const struct scoreboard *scoreboard)
{
    int left = scoreboard->most_reads;

    (void)sem_getvalue((sem_t *)(uintptr_t)&scoreboard->reads, &left);
    return scoreboard->most_reads - left;
}

void scoreboard_mend_reads(struct scoreboard *scoreboard)
{
    int before = scoreboard->astray_reads, astray = scoreboard_reads(scoreboard);

    for (int i = 0; i < scoreboard->worker_count; i++)
        astray -= atomic_load(&scoreboard_slot(scoreboard, i)->reading);
    for (; astray > 0 && before > 0; astray--, before--)
        (void)sem_post(&scoreboard->reads);
    for (; astray < 0 && before < 0; astray++, before++)
        (void)sem_trywait(&scoreboard->reads);
    scoreboard->astray_reads = astray;
}

void scoreboard_ring(const struct scoreboard *scoreboard)
{
    /* Fails only when it has been rung 2^64 times and not been heard: it is ringing all the same. */
    (void)eventfd_write(scoreboard->doorbell, 1);
}

void scoreboard_wake_stats_writer(struct scoreboard *scoreboard)
{
    if (atomic_load(&scoreboard->stats_writer_sleeps) && atomic_exchange(&scoreboard->stats_writer_sleeps, 0))
        scoreboard_ring(scoreboard);
}

static uint64_t bit_of(int number)
{
    return UINT64_C(1) << number % BITS;
}

void scoreboard_enter(struct scoreboard *scoreboard, int number)
{
    const struct slot *slot = scoreboard_slot(scoreboard, number);

    for (int i = 0; i < atomic_load(&slot->topic_count); i++)
        atomic_fetch_or(&scoreboard->waiting[atomic_load(&slot->topics[i].number) % SCOREBOARD_BUCKETS][number / BITS],
                        bit_of(number));
    atomic_thread_fence(memory_order_seq_cst); /* who waits, before what was appended is looked for */
}

void scoreboard_leave(struct scoreboard *scoreboard, int number)
{
    const struct slot *slot = scoreboard_slot(scoreboard, number);

    for (int i = 0; i < atomic_load(&slot->topic_count); i++)
        atomic_fetch_and(&scoreboard->waiting[atomic_load(&slot->topics[i].number) % SCOREBOARD_BUCKETS][number / BITS],
                         ~bit_of(number));
}

/* FNV-1a, begun with the seed; a user is never an address. */
static uint64_t client_number(const struct scoreboard *scoreboard, const char *user, const char *address)
{
    uint64_t hash = scoreboard->client_seed ^ (*user ? 'u' : 'a');

    for (const char *at = *user ? user : address; *at; at++)
        hash = (hash ^ (unsigned char)*at) * UINT64_C(0x100000001b3);
    return hash ? hash : 1;
}

/* A client's polls. */
struct client_polls {
    int count;
    int kept;            /* those that were not told to answer early */
    struct slot *oldest; /* of these */
};

static struct client_polls find_polls(const struct scoreboard *scoreboard, uint64_t client)
{
    struct client_polls found = { 0 };

    for (int i = 0; i < scoreboard->worker_count; i++) {
        struct slot *slot = scoreboard_slot(scoreboard, i);

        if (atomic_load(&scoreboard->clients[i]) != client)
            continue;
        found.count++;
        if (atomic_load(&slot->released))
            continue;
        found.kept++;
        if (!found.oldest || atomic_load(&slot->since_ms) < atomic_load(&found.oldest->since_ms))
            found.oldest = slot;
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
    for (; polls.kept > places; polls = find_polls(scoreboard, client))
        scoreboard_release(polls.oldest);
    return true;
}

void scoreboard_give_place(struct scoreboard *scoreboard, int number)
{
    atomic_store(&scoreboard->clients[number], 0);
}

void scoreboard_wake(struct slot *slot)
{
    /* One signal is enough until it has been heard. The process is a child that was not waited for: its id is its own. */
    if (atomic_exchange(&slot->woken, 1) == 0 && atomic_load(&slot->pid) > 0)
        (void)kill(atomic_load(&slot->pid), SIGUSR2);
}

void scoreboard_release(struct slot *slot)
{
    atomic_store(&slot->released, 1);
    scoreboard_wake(slot);
}

void scoreboard_answer(struct slot *slot, enum error answer)
{
    slot->answer = answer;
    atomic_store(&slot->answered, atomic_load(&slot->asked));
    scoreboard_wake(slot);
}

static bool waits_for(const struct slot *slot, int topic)
{
    for (int i = 0; i < atomic_load(&slot->topic_count); i++)
        if (atomic_load_explicit(&slot->topics[i].number, memory_order_relaxed) == topic)
            return true;
    return false;
}

void scoreboard_wake_topic(struct scoreboard *scoreboard, int topic)
{
    _Atomic uint64_t *set = scoreboard->waiting[topic % SCOREBOARD_BUCKETS];

    atomic_thread_fence(memory_order_seq_cst); /* what was appended, before who is looked for */
    for (int word = 0; word < scoreboard->words; word++)
        for (uint64_t bits = atomic_load(&set[word]); bits; bits &= bits - 1) {
            struct slot *slot = scoreboard_slot(scoreboard, word * BITS + __builtin_ctzll(bits));

            if (waits_for(slot, topic))
                scoreboard_wake(slot);
        }
}
