/*
 * A report to pgpoll.write_statistics(): which polls of a process have begun or stopped waiting, how many
 * workers it has, and what it has counted. A manager reports for its workers (stats_writer.h), a lone worker
 * for itself (source_direct.h). The owner embeds a struct stats_report, zeroed at first, makes one report
 * after another in it, and releases it at the end. The struct holds the counts until they are written. If it
 * is unknown whether a write succeeded, the counts are written again, because counting twice is better than
 * losing them.
 */
#ifndef PGPOLL_STATS_REPORT_H
#define PGPOLL_STATS_REPORT_H

#include "shared/counters.h"

#include <stdbool.h>
#include <stdint.h>

struct json_object;

struct stats_report {
    struct counters counters;          /* what was counted and not written yet; the owner adds to it */
    bool counters_began;               /* whether every counter has a row in pgpoll.counters */
    struct json_object *began, *ended; /* the lists of the report that is being made; NULL: empty */
    struct json_object *json;          /* the finished report */
};

/* What a manager reports about its workers. A lone worker reports only that it is one worker. */
struct stats_gauges {
    int workers, idle;
    bool listen_works;
    bool is_quiet; /* this is the last report until there is a poll */
};

/*
 * Adds a poll that has begun to wait. pid: of its worker. topics: an array, taken. client: the client's
 * address, copied; characters that no address has are replaced. user: copied; "" if not authenticated or not
 * UTF-8. waited_ms and left_ms: how long the poll has waited and will still wait at most. Returns false if
 * out of memory; then the report is empty.
 */
bool stats_report_add_began(struct stats_report *report, int pid, struct json_object *topics,
                            const char *client, const char *user, int64_t waited_ms, int64_t left_ms);

/* Adds a poll that no longer waits. Returns false if out of memory; then the report is empty. */
bool stats_report_add_ended(struct stats_report *report, int pid);

/*
 * Finishes the report for this process. gauges: NULL for a lone worker. ends: whether the process ends, so
 * that its rows are to be deleted. Returns the report as JSON text, valid until stats_report_release() or the
 * next report, or NULL if out of memory; then the report is empty.
 */
const char *stats_report_finish(struct stats_report *report, const struct stats_gauges *gauges, bool ends);

/* Notes that the report was written, and forgets its counts. */
void stats_report_written(struct stats_report *report);

/* Frees the report, which is then empty. Keeps the counts. */
void stats_report_release(struct stats_report *report);

#endif
