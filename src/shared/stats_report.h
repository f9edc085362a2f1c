/*
 * A report to pgpoll.write_statistics(): the polls of a process that began and ended to wait, its workers,
 * and what it has counted. A manager reports for its workers (stats_writer.h), a lone worker for itself
 * (source_direct.h). The owner embeds a struct stats_report, zeroed at first, makes one report after another
 * in it, and releases it at the end. It holds the counts until they are written: if the success of a write is
 * unknown, they are written again, that is, counted twice rather than lost.
 */
#ifndef PGPOLL_STATS_REPORT_H
#define PGPOLL_STATS_REPORT_H

#include "shared/counters.h"

#include <stdbool.h>
#include <stdint.h>

struct json_object;

struct stats_report {
    struct counters counters;          /* counted and not written yet; the owner adds to it */
    bool counters_began;               /* every counter has a row in pgpoll.counters */
    struct json_object *began, *ended; /* the lists of the report that is being made; NULL: empty */
    struct json_object *json;          /* the finished report */
};

/* What a manager reports of its workers. A lone worker is one worker, and reports neither of the others. */
struct stats_gauges {
    int workers, idle;
    bool listen_works;
    bool is_quiet; /* this is the last report until there is a poll */
};

/*
 * Adds a poll that began to wait: the process id of its worker, its topics (an array, taken), the client's
 * address (copied; characters that no address has are replaced), the user (copied; "": not authenticated, or
 * no UTF-8), and how long it has waited and will wait at most. false: out of memory; the report is empty.
 */
bool stats_report_add_began(struct stats_report *report, int pid, struct json_object *topics,
                            const char *client, const char *user, int64_t waited_ms, int64_t left_ms);

/* Adds a poll that no longer waits. false: out of memory; the report is empty. */
bool stats_report_add_ended(struct stats_report *report, int pid);

/*
 * Finishes the report for this process. gauges: NULL for a lone worker. ends: the process ends, so its rows
 * are to be deleted. Returns the report as JSON text, valid until stats_report_release() or the next report.
 * NULL: out of memory; the report is empty.
 */
const char *stats_report_finish(struct stats_report *report, const struct stats_gauges *gauges, bool ends);

/* The report was written: forgets its counts. */
void stats_report_written(struct stats_report *report);

/* Frees the report, which is then empty, but keeps the counts. */
void stats_report_release(struct stats_report *report);

#endif
