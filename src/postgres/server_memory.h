/*
 * What a process remembers of the database's servers, from one session to the next. timeline.c and
 * addresses.c own the parts, and say what they mean; no other module looks into them.
 *
 * The memory is one per process, without any preparation, or one for a manager and its readers: the manager
 * calls server_memory_share(), and gives the descriptor to its readers and, at a reload, to the new program.
 * There is no lock. Only a restart forgets.
 */
#ifndef PGPOLL_SERVER_MEMORY_H
#define PGPOLL_SERVER_MEMORY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum { SERVER_MEMORY_CLUSTERS = 16, SERVER_MEMORY_REPORTS = 16, SERVER_MEMORY_LISTS = 8 };

struct server_memory {
    uint32_t layout; /* server_memory.c sets it */

    /*
     * Of timeline.c. An entry of seen belongs to a cluster for ever once its identifier is set, and its
     * timeline only grows. Clusters that a process meets when all entries are taken are not fenced.
     */
    struct seen {
        _Atomic uint64_t cluster; /* 0: free */
        _Atomic uint32_t timeline;
    } seen[SERVER_MEMORY_CLUSTERS];
    _Atomic uint64_t primary; /* the cluster of the last primary that was admitted; 0: unknown */
    _Atomic uint32_t copy;    /* enum timeline_copy */
    _Atomic uint64_t reports[SERVER_MEMORY_REPORTS]; /* hashes of what was logged; 0: free */

    /*
     * Of addresses.c: where attempts begin, for more lists than a process has: the operator's, and the one of
     * PGPOLL_CATCH_UP_SERVICE.
     */
    struct begin {
        _Atomic uint64_t list; /* 0: free */
        _Atomic uint64_t id;   /* 0: the first address */
    } begins[SERVER_MEMORY_LISTS];
};

struct server_memory *server_memory(void);

/*
 * Makes the memory one that other processes can share. descriptor: the memory of another process, or of the
 * program that ran before a reload, which is taken over; -1: there is none. Returns false if this fails;
 * errno says why.
 */
bool server_memory_share(int descriptor);

/* Returns the descriptor of the shared memory, which stays open and is closed on exec. */
int server_memory_descriptor(void);

#endif
