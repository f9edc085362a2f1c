#include "shared/poll_quota.h"

#include "core/fnv1a.h"
#include "shared/latch.h"

#include <string.h>

/*
 * Returns the client's hash: FNV-1a that starts with the scoreboard's seed, so that nobody can choose a name
 * that shares another client's quota. A user and an address of the same text have different hashes. Never 0.
 */
static uint64_t client_hash(const struct scoreboard *scoreboard, const char *user, const char *address)
{
    const char *client = *user ? user : address;
    const uint64_t hash =
        fnv1a(scoreboard->manager->client_seed ^ (*user ? 'u' : 'a'), client, strlen(client));

    return hash ? hash : 1;
}

/* The since_ms of a poll that may yet be refused. */
static const int64_t UNDECIDED = INT64_MAX;

/* What find_polls() says about a client's polls. */
struct client_polls {
    int count;
    int kept;   /* polls that are not being drained and will not be refused */
    int oldest; /* the worker that serves the oldest of the kept polls; -1: none */
};

static struct client_polls find_polls(const struct scoreboard *scoreboard, uint64_t client)
{
    struct client_polls found = { .oldest = -1 };
    int64_t oldest_ms = INT64_MAX;

    for (int i = 0; i < scoreboard->worker_count; i++) {
        const struct slot *slot = scoreboard_slot(scoreboard, i);
        int64_t since_ms;

        if (atomic_load(&scoreboard->clients[i]) != client)
            continue;
        since_ms = atomic_load(&slot->since_ms); /* after the claim, or it may be an earlier poll's */
        found.count++;
        if (atomic_load(&slot->drain) || since_ms == UNDECIDED)
            continue;
        found.kept++;
        if (since_ms < oldest_ms) {
            oldest_ms = since_ms;
            found.oldest = i;
        }
    }
    return found;
}

bool poll_quota_claim(struct scoreboard *scoreboard, int worker, const char *user, const char *address,
                      int64_t started_ms, int quota)
{
    struct slot *slot = scoreboard_slot(scoreboard, worker);
    const uint64_t client = client_hash(scoreboard, user, address);
    struct client_polls polls;

    /*
     * Each poll stores what others must see, and counts then: of two polls that start together, at least one
     * sees the other. While this one may be refused, nobody drains another poll because of it.
     */
    atomic_store(&slot->since_ms, UNDECIDED);
    atomic_store(&scoreboard->clients[worker], client);
    if (find_polls(scoreboard, client).count > 2 * quota + SCOREBOARD_HANDOVERS) {
        poll_quota_return(scoreboard, worker);
        return false;
    }
    atomic_store(&slot->since_ms, started_ms);
    for (polls = find_polls(scoreboard, client); polls.kept > quota && polls.oldest >= 0;
         polls = find_polls(scoreboard, client))
        latch_drain(scoreboard, polls.oldest, POLL_QUOTA_SHORTEST_MS);
    return true;
}

void poll_quota_return(struct scoreboard *scoreboard, int worker)
{
    atomic_store(&scoreboard->clients[worker], 0);
}
