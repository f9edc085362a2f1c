#include "shared/poll_quota.h"

#include "core/clock.h"
#include "shared/latch.h"

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

bool poll_quota_claim(struct scoreboard *scoreboard, int number, const char *user, const char *address,
                      int places)
{
    const uint64_t client = client_number(scoreboard, user, address);
    struct client_polls polls;

    atomic_store(&scoreboard_slot(scoreboard, number)->since_ms, clock_monotonic_ms());
    atomic_store(&scoreboard->clients[number],
                 client); /* before the others are counted: of two, one sees the other */
    polls = find_polls(scoreboard, client);
    if (polls.count > 2 * places + SCOREBOARD_HANDOVERS) {
        poll_quota_return(scoreboard, number);
        return false;
    }
    for (; polls.kept > places && polls.oldest >= 0; polls = find_polls(scoreboard, client))
        latch_drain(scoreboard, polls.oldest);
    return true;
}

void poll_quota_return(struct scoreboard *scoreboard, int number)
{
    atomic_store(&scoreboard->clients[number], 0);
}
