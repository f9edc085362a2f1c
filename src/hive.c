#include "hive.h"

#include "topic_table.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

enum { BITS = 64 };

static void *share(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return memory == MAP_FAILED ? NULL : memory;
}

/* The cells stand behind the hive, each with its topics and names behind it, in pages of its own. */
static size_t cell_stride(int max_topics)
{
    size_t size = sizeof(struct cell) + (size_t)max_topics * sizeof(struct cell_topic) + HIVE_NAMES_SIZE;

    return (size + 4095) & ~(size_t)4095;
}

static const size_t CELLS_AT = 4096;

struct cell *hive_cell(const struct hive *hive, int number)
{
    return (struct cell *)(void *)((char *)(uintptr_t)hive + CELLS_AT + (size_t)number * cell_stride(hive->max_topics));
}

static void init_cells(struct hive *hive)
{
    for (int i = 0; i < hive->worker_count; i++) {
        struct cell *cell = hive_cell(hive, i);

        cell->topics = (struct cell_topic *)(void *)(cell + 1);
        cell->names = (char *)(cell->topics + hive->max_topics);
    }
}

static bool init_sets(struct hive *hive)
{
    size_t words = ((size_t)hive->worker_count + BITS - 1) / BITS;
    _Atomic uint64_t *memory = share((HIVE_BUCKETS + 1 + BITS) * words * sizeof *memory);

    if (!memory || getrandom(&hive->client_seed, sizeof hive->client_seed, 0) != sizeof hive->client_seed)
        return false;
    hive->words = (int)words;
    hive->askers = memory;
    for (int i = 0; i < HIVE_BUCKETS; i++)
        hive->waiting[i] = memory + (size_t)(i + 1) * words;
    hive->clients = memory + (HIVE_BUCKETS + 1) * words;
    return true;
}

struct hive *hive_new(int polls, int max_topics, int topics, size_t window_messages, size_t window_bytes,
                      int connections)
{
    int reserve = polls / 20 < 1 ? 1 : polls / 20 > 32 ? 32 : polls / 20, workers = polls + reserve;
    struct hive *hive = share(CELLS_AT + (size_t)workers * cell_stride(max_topics));

    _Static_assert(sizeof(struct hive) <= 4096, "the cells stand behind the hive's page");
    if (!hive)
        return NULL;
    hive->worker_count = workers;
    hive->max_topics = max_topics;
    hive->manager_pid = (int)getpid();
    hive->doorbell = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    hive->window = window_new(topics, window_messages, window_bytes);
    hive->topics = topic_table_new(topics);
    hive->reserve = reserve;
    init_cells(hive);
    /* A manager without this much at its start ends; nothing is undone. */
    if (hive->doorbell < 0 || !hive->window || !hive->topics || !init_sets(hive) ||
        sem_init(&hive->connections, 1, (unsigned)connections) != 0)
        return NULL;
    return hive;
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
