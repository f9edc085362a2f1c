#include "shared/stats_report.h"

#include "core/json_build.h"
#include "core/utf8.h"

#include <json-c/json.h>
#include <unistd.h>

/* Adds item, which is taken, to a list. The list is created when it gets its first item. */
static bool add(struct json_object **list, struct json_object *item)
{
    if (!*list)
        *list = json_object_new_array();
    return json_build_add_item(*list, item);
}

static struct json_object *clean_address(const char *client)
{
    char clean[64]; /* addresses are shorter */
    size_t length = 0;

    for (; length < sizeof clean && client[length]; length++)
        clean[length] = (char)(client[length] < ' ' || client[length] > '~' ? '?' : client[length]);
    return json_object_new_string_len(clean, (int)length);
}

bool stats_report_add_began(struct stats_report *report, int pid, struct json_object *topics,
                            const char *client, const char *user, int64_t waited_ms, int64_t left_ms)
{
    struct json_object *poll = json_object_new_object();
    const bool has_topics = json_build_add_member(poll, "topics", topics);

    if (add(&report->began, poll) && has_topics &&
        json_build_add_member(poll, "pid", json_object_new_int(pid)) &&
        json_build_add_member(poll, "client", clean_address(client)) &&
        json_build_add_member(poll, "remote_user", json_object_new_string(utf8_or_empty(user))) &&
        json_build_add_member(poll, "waited_ms", json_object_new_int64(waited_ms)) &&
        json_build_add_member(poll, "left_ms", json_object_new_int64(left_ms)))
        return true;
    stats_report_release(report);
    return false;
}

bool stats_report_add_ended(struct stats_report *report, int pid)
{
    if (add(&report->ended, json_object_new_int(pid)))
        return true;
    stats_report_release(report);
    return false;
}

/* Moves a list of the report that is being made into the finished one. */
static bool put_list(struct json_object *json, const char *key, struct json_object **list)
{
    struct json_object *taken = *list;

    *list = NULL;
    return !taken || json_build_add_member(json, key, taken);
}

static bool put_gauges(struct json_object *json, const struct stats_gauges *gauges)
{
    if (!gauges)
        return json_build_add_member(json, "workers", json_object_new_int(1));
    return json_build_add_member(json, "workers", json_object_new_int(gauges->workers)) &&
           json_build_add_member(json, "free_workers", json_object_new_int(gauges->idle)) &&
           json_build_add_member(json, "hears", json_object_new_boolean(gauges->listen_works)) &&
           json_build_add_member(json, "quiet", json_object_new_boolean(gauges->is_quiet));
}

const char *stats_report_finish(struct stats_report *report, const struct stats_gauges *gauges, bool ends)
{
    json_object_put(report->json);
    report->json = json_object_new_object();
    if (json_build_add_member(report->json, "pid", json_object_new_int((int)getpid())) &&
        put_gauges(report->json, gauges) && put_list(report->json, "began", &report->began) &&
        put_list(report->json, "ended", &report->ended) &&
        json_build_add_member(report->json, "counts",
                              counters_json(&report->counters, !report->counters_began)) &&
        json_build_add_member(report->json, "ends", json_object_new_boolean(ends)))
        return json_object_to_json_string_ext(report->json, JSON_C_TO_STRING_PLAIN);
    stats_report_release(report);
    return NULL;
}

void stats_report_written(struct stats_report *report)
{
    counters_clear(&report->counters);
    report->counters_began = true;
}

void stats_report_release(struct stats_report *report)
{
    json_object_put(report->began);
    json_object_put(report->ended);
    json_object_put(report->json);
    report->began = report->ended = report->json = NULL;
}
