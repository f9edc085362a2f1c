#include "hive.h"

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

/* A cell has its topics and names behind it, and pages of its own. */
static size_t cell_stride(int max_topics)
{
    return whole_pages(sizeof(struct cell) + (size_t)max_topics * sizeof(struct cell_topic) + HIVE_NAMES_SIZE);
}

struct cell *hive_cell(const struct hive *hive, int number)
{
    return (struct cell *)(void *)(hive->cells + (size_t)number * cell_stride(hive->max_topics));
}

static void init_cells(struct hive *hive)
{
    for (int i = 0; i < hive->worker_count; i++) {
        struct cell *cell = hive_cell(hive, i);

        cell->topics = (struct cell_topic *)(void *)(cell + 1);
        cell->names = (char *)(cell->topics + hive->max_topics);
    }
}

static size_t set_words(int workers)
{
    return ((size_t)workers + BITS - 1) / BITS;
}

/* Who waits for what, who asks, and whose place each poll has. */
static size_t sets_size(int workers)
{
    return (HIVE_BUCKETS + 1 + BITS) * set_words(workers) * sizeof(uint64_t);
}

static void init_sets(struct hive *hive, _Atomic uint64_t *memory)
{
    size_t words = set_words(hive->worker_count);

    hive->words = (int)words;
    hive->askers = memory;
    for (int i = 0; i < HIVE_BUCKETS; i++)
        hive->waiting[i] = memory + (size_t)(i + 1) * words;
    hive->clients = memory + (HIVE_BUCKETS + 1) * words;
}

/*
 * A file of that size in memory, mapped. Whoever joins maps it at the same address, so that address should be free there: the hint
 * is far from where programs and their libraries are put, and taken if it can be.
 */
static struct hive *map_new(size_t size)
{
    void *const hint = (void *)((uintptr_t)1 << 32);
    int fd = memfd_create("pgpoll-hive", MFD_CLOEXEC);
    struct hive *hive = MAP_FAILED;

    if (fd >= 0 && ftruncate(fd, (off_t)size) == 0)
        hive = mmap(hint, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (hive == MAP_FAILED) {
        (void)close(fd);
        return NULL;
    }
    hive->size = size;
    hive->fd = fd;
    hive->self = hive;
    return hive;
}

struct hive *hive_new(int polls, int max_topics, int topics, size_t window_messages, size_t window_bytes, int readers)
{
    const int reserve = polls / 20 < 1 ? 1 : polls / 20 > 32 ? 32 : polls / 20, workers = polls + reserve;
    const size_t sets_at = whole_pages(sizeof(struct hive));
    const size_t table_at = whole_pages(sets_at + sets_size(workers));
    const size_t window_at = whole_pages(table_at + topic_table_memory(topics));
    const size_t cells_at = whole_pages(window_at + window_memory(topics, window_messages, window_bytes));
    struct hive *hive = map_new(cells_at + (size_t)workers * cell_stride(max_topics));
    char *memory = (char *)hive;

    if (!hive)
        return NULL;
    (void)strncpy(hive->version, PGPOLL_VERSION, sizeof hive->version - 1);
    hive->worker_count = workers;
    hive->max_topics = max_topics;
    hive->manager_pid = (int)getpid();
    hive->reserve = reserve;
    hive->most_reads = readers;
    hive->cells = memory + cells_at;
    init_cells(hive);
    init_sets(hive, (_Atomic uint64_t *)(void *)(memory + sets_at));
    hive->window = window_init(memory + window_at, topics, window_messages, window_bytes);
    hive->topics = topic_table_init(memory + table_at, topics);
    hive->doorbell = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (!hive->topics || hive->doorbell < 0 ||
        getrandom(&hive->client_seed, sizeof hive->client_seed, 0) != sizeof hive->client_seed ||
        sem_init(&hive->reads, 1, (unsigned)readers) != 0) {
        hive_free(hive);
        return NULL;
    }
    return hive;
}

void hive_free(struct hive *hive)
{
    if (!hive)
        return;
    (void)close(hive->doorbell);
    (void)close(hive->fd);
    (void)munmap(hive, hive->size);
}

struct hive *hive_join(int fd)
{
    struct hive head, *hive;

    if (pread(fd, &head, sizeof head, 0) != sizeof head || strcmp(head.version, PGPOLL_VERSION) != 0)
        return NULL;
    hive = mmap(head.self, head.size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED_NOREPLACE, fd, 0);
    return hive == MAP_FAILED ? NULL : hive;
}

void hive_trim(struct hive *hive)
{
    /* The same again in its place. Without it there is no worker. */
    if (mmap(hive, hive->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, hive->fd, 0) != hive)
        _exit(EXIT_FAILURE);
}

int hive_reads(const struct hive *hive)
{
    int left = hive->most_reads;

    (void)sem_getvalue((sem_t *)(uintptr_t)&hive->reads, &left);
    return hive->most_reads - left;
}

void hive_ring(const struct hive *hive)
{
    /* Fails only when it has been rung 2^64 times and not been heard: it is ringing all the same. */
    (void)eventfd_write(hive->doorbell, 1);
}

void hive_wake_book(struct hive *hive)
{
    if (atomic_load(&hive->book_sleeps) && atomic_exchange(&hive->book_sleeps, 0))
        hive_ring(hive);
}

static uint64_t bit_of(int number)
{
    return UINT64_C(1) << number % BITS;
}

void hive_enter(struct hive *hive, int number)
{
    const struct cell *cell = hive_cell(hive, number);

    for (int i = 0; i < atomic_load(&cell->topic_count); i++)
        atomic_fetch_or(&hive->waiting[atomic_load(&cell->topics[i].number) % HIVE_BUCKETS][number / BITS],
                        bit_of(number));
    atomic_thread_fence(memory_order_seq_cst); /* who waits, before what was appended is looked for */
}

void hive_leave(struct hive *hive, int number)
{
    const struct cell *cell = hive_cell(hive, number);

    for (int i = 0; i < atomic_load(&cell->topic_count); i++)
        atomic_fetch_and(&hive->waiting[atomic_load(&cell->topics[i].number) % HIVE_BUCKETS][number / BITS],
                         ~bit_of(number));
}

/* FNV-1a, begun with the seed; a user is never an address. */
static uint64_t client_number(const struct hive *hive, const char *user, const char *address)
{
    uint64_t hash = hive->client_seed ^ (*user ? 'u' : 'a');

    for (const char *at = *user ? user : address; *at; at++)
        hash = (hash ^ (unsigned char)*at) * UINT64_C(0x100000001b3);
    return hash ? hash : 1;
}

bool hive_take_place(struct hive *hive, int number, const char *user, const char *address, int places)
{
    const uint64_t client = client_number(hive, user, address);
    int taken = 0;

    atomic_store(&hive->clients[number], client); /* before the others are counted: of two, one sees the other */
    for (int i = 0; i < hive->worker_count; i++)
        taken += atomic_load(&hive->clients[i]) == client;
    if (taken > places)
        hive_give_place(hive, number);
    return taken <= places;
}

void hive_give_place(struct hive *hive, int number)
{
    atomic_store(&hive->clients[number], 0);
}

void hive_wake(struct cell *cell)
{
    /* One signal is enough until it has been heard. The process is a child that was not waited for: its id is its own. */
    if (atomic_exchange(&cell->woken, 1) == 0 && atomic_load(&cell->pid) > 0)
        (void)kill(atomic_load(&cell->pid), SIGUSR2);
}

void hive_answer(struct cell *cell, enum error answer)
{
    cell->answer = answer;
    atomic_store(&cell->answered, atomic_load(&cell->asked));
    hive_wake(cell);
}

static bool waits_for(const struct cell *cell, int topic)
{
    for (int i = 0; i < atomic_load(&cell->topic_count); i++)
        if (atomic_load_explicit(&cell->topics[i].number, memory_order_relaxed) == topic)
            return true;
    return false;
}

void hive_wake_topic(struct hive *hive, int topic)
{
    _Atomic uint64_t *set = hive->waiting[topic % HIVE_BUCKETS];

    atomic_thread_fence(memory_order_seq_cst); /* what was appended, before who is looked for */
    for (int word = 0; word < hive->words; word++)
        for (uint64_t bits = atomic_load(&set[word]); bits; bits &= bits - 1) {
            struct cell *cell = hive_cell(hive, word * BITS + __builtin_ctzll(bits));

            if (waits_for(cell, topic))
                hive_wake(cell);
        }
}
