#include "manager/read_pace.h"

#include "core/log.h"

enum {
    INTERVAL_MS = 100, /* minimum length of an interval, after which the number is judged */
    ENOUGH = 5,        /* minimum number of cycles in an interval */
    RARE_MS = 1000,    /* if an interval has not got them after this time, cycles are rare */
    ENOUGH_MS = 300,   /* unless they took this long together */
    FIXED_WORK = 64,   /* what a cycle costs without messages is what so many messages cost */
    /* Fewer readers may work if cycles cost more than 2.5 times as much as usual, more below 1.6 times. */
    SLOW_TENTHS = 25,
    FAST_TENTHS = 16,
    MOST_PATIENCE = 32,
    LEARN = 8,         /* what is usual follows the cycles without reads by an eighth of the difference */
    RISE = 512,        /* and with the fewest reads by this part: half of the way in 36 s */
    LEAST_SHARE = 8,   /* at least one eighth of all permits is allowed */
    LOG_MS = 10 * 1000 /* a change is logged when it has lasted for this long */
};

void read_pace_init(struct read_pace *pace, int max)
{
    *pace = (struct read_pace){
        .max = max, .allowed = max, .patience = 1, .reads_ms = INT64_MIN / 2, .judged_ms = INT64_MIN / 2
    };
}

static int least(const struct read_pace *pace)
{
    return (pace->max + LEAST_SHARE - 1) / LEAST_SHARE;
}

static void begin_interval(struct read_pace *pace, int64_t now_ms)
{
    pace->sample_count = 0;
    pace->busy_us = 0;
    pace->reads = false;
    pace->since_ms = now_ms;
}

/* Allows so many from now on, as if none had been too many before. */
static void restart(struct read_pace *pace, int allowed, int64_t now_ms)
{
    pace->allowed = allowed;
    pace->fast_intervals = 0;
    pace->patience = 1;
    begin_interval(pace, now_ms);
}

static bool has_enough(const struct read_pace *pace)
{
    return pace->sample_count >= ENOUGH || pace->busy_us >= ENOUGH_MS * 1000;
}

static bool is_rare(const struct read_pace *pace, int64_t now_ms)
{
    return !has_enough(pace) && now_ms - pace->since_ms >= RARE_MS;
}

static void sort(int64_t *samples, int count)
{
    for (int i = 1; i < count; i++) {
        const int64_t sample = samples[i];
        int at = i;

        for (; at > 0 && samples[at - 1] > sample; at--)
            samples[at] = samples[at - 1];
        samples[at] = sample;
    }
}

static void lower(struct read_pace *pace)
{
    const int half = pace->allowed / 2;

    pace->fast_intervals = 0;
    pace->begins = false;
    if (pace->allowed == least(pace))
        return;
    pace->allowed = half < least(pace) ? least(pace) : half;
    pace->patience = pace->patience < MOST_PATIENCE ? pace->patience * 2 : MOST_PATIENCE;
    pace->raised = false;
}

/*
 * Allows one more, after a while that is longer if this has turned out to be too many before. When reads have
 * just begun, allows twice as many.
 */
static void raise(struct read_pace *pace)
{
    const int more = pace->begins && pace->reads ? pace->allowed : 1;

    if (pace->allowed == pace->max)
        return;
    pace->fast_intervals++;
    if (pace->fast_intervals < pace->patience)
        return;
    pace->fast_intervals = 0;
    pace->allowed = more < pace->max - pace->allowed ? pace->allowed + more : pace->max;
    if (pace->raised && pace->patience > 1)
        pace->patience /= 2;
    pace->raised = true;
}

/* Learns what a cycle usually costs, and returns that. cost_ns: the median of this interval. */
static int64_t learn(struct read_pace *pace, int64_t cost_ns)
{
    int64_t *usual_ns = &pace->usual_ns[pace->follows];

    if (*usual_ns == 0)
        *usual_ns = pace->reads ? pace->samples[0] : cost_ns;
    else if (!pace->reads)
        *usual_ns += (cost_ns - *usual_ns) / LEARN;
    else if (cost_ns < *usual_ns)
        *usual_ns = cost_ns;
    else if (pace->allowed == least(pace))
        *usual_ns += (cost_ns - *usual_ns) / RISE;
    return *usual_ns;
}

static void judge(struct read_pace *pace)
{
    int64_t cost_ns, usual_ns;

    sort(pace->samples, pace->sample_count);
    cost_ns = pace->samples[pace->sample_count / 2];
    usual_ns = learn(pace, cost_ns);
    if (pace->reads && cost_ns * 10 > usual_ns * SLOW_TENTHS)
        lower(pace);
    else if (cost_ns * 10 < usual_ns * FAST_TENTHS)
        raise(pace);
    else
        pace->fast_intervals = 0;
}

/* Logs when readers have been held back for LOG_MS, and when none has been for as long. */
static void report(struct read_pace *pace, int64_t now_ms)
{
    const bool is_held_back = pace->allowed < pace->max;

    if (is_held_back != pace->is_held_back) {
        pace->is_held_back = is_held_back;
        pace->changed_ms = now_ms;
    }
    if (is_held_back == pace->logged || now_ms - pace->changed_ms < LOG_MS)
        return;
    pace->logged = is_held_back;
    if (is_held_back)
        log_write(
            LOG_LEVEL_INFO,
            "the database is slow while clients read old messages: %d of %d readers (PGPOLL_CONNECTIONS) "
            "may work at a time",
            pace->allowed, pace->max);
    else
        log_write(LOG_LEVEL_INFO, "all %d readers may work again", pace->max);
}

void read_pace_take(struct read_pace *pace, int64_t cycle_us, int64_t work, bool reads, int64_t now_ms)
{
    if (is_rare(pace, now_ms))
        begin_interval(pace, now_ms);
    pace->samples[pace->sample_count++] = cycle_us * 1000 * FIXED_WORK / (FIXED_WORK + work);
    pace->busy_us += cycle_us;
    pace->reads = pace->reads || reads;
    if (pace->sample_count < READ_PACE_SAMPLES && now_ms - pace->since_ms < INTERVAL_MS)
        return;
    if (!has_enough(pace))
        return;
    pace->judged_ms = now_ms;
    judge(pace);
    begin_interval(pace, now_ms);
    report(pace, now_ms);
}

int64_t read_pace_due_ms(const struct read_pace *pace)
{
    return pace->allowed < pace->max || pace->logged ? pace->since_ms + RARE_MS : INT64_MAX;
}

void read_pace_begin(struct read_pace *pace, int64_t now_ms)
{
    restart(pace, least(pace), now_ms);
    pace->begins = true;
    pace->raised = false;
}

/* Notes that readers work. If they have just begun to, and cycles are not rare, allows the fewest. */
static void note_reads(struct read_pace *pace, int64_t now_ms)
{
    if (now_ms - pace->reads_ms >= RARE_MS && now_ms - pace->judged_ms < RARE_MS)
        read_pace_begin(pace, now_ms);
    pace->reads_ms = now_ms;
}

void read_pace_step(struct read_pace *pace, bool reads, int64_t now_ms)
{
    if (reads)
        note_reads(pace, now_ms);
    if (now_ms < read_pace_due_ms(pace))
        return;
    restart(pace, pace->max, now_ms);
    report(pace, now_ms);
}
