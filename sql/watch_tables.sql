-- The processes that LISTEN: one row per manager, which stands for all its workers, and one per worker
-- without a manager. Unlogged, like waiters.
CREATE UNLOGGED TABLE IF NOT EXISTS pgpoll.listeners (
    host         text NOT NULL,
    pid          integer NOT NULL,      -- of the process, on that host
    backend_pid  integer NOT NULL,      -- of the session that writes the row
    workers      integer NOT NULL,
    free_workers integer,               -- workers that can accept a poll; NULL: derive it from waiters
    hears        boolean,               -- whether LISTEN was found to deliver; NULL for a worker
    seen_at      timestamptz NOT NULL,
    quiet        boolean,               -- true: a manager that does not report again until there is a poll
    PRIMARY KEY (host, pid)
);

-- Counters for metrics(). Each value is the sum over all processes of a host. A histogram has one row per
-- bucket, labelled by its upper bound, and one for the sum, in milliseconds. Each manager updates its rows at
-- most once a second; the fill factor leaves room for the new row versions.
CREATE UNLOGGED TABLE IF NOT EXISTS pgpoll.counters (
    host       text COLLATE "C" NOT NULL,
    metric     text COLLATE "C" NOT NULL,
    label      text COLLATE "C" NOT NULL,
    value      bigint NOT NULL,
    changed_at timestamptz NOT NULL,
    PRIMARY KEY (host, metric, label)
) WITH (fillfactor = 50);
