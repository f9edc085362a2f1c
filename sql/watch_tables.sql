-- Who LISTENs: one row per manager, for all its workers, and per worker that stands alone. Not logged, like waiters.
CREATE UNLOGGED TABLE IF NOT EXISTS pgpoll.listeners (
    host         text NOT NULL,
    pid          integer NOT NULL,      -- on that host
    backend_pid  integer NOT NULL,      -- of the connection that writes this
    workers      integer NOT NULL,
    free_workers integer,               -- that can accept a poll; NULL: see waiters
    hears        boolean,               -- whether LISTEN was found to deliver; NULL: not a manager, nobody looked
    seen_at      timestamptz NOT NULL,
    PRIMARY KEY (host, pid)
);

-- What was counted, all processes of a host together, for pgpoll.metrics(). Histograms have one row per bucket, labelled by its upper
-- bound, and one for the sum, in milliseconds. Updated at most once a second by each manager: room is left for that.
CREATE UNLOGGED TABLE IF NOT EXISTS pgpoll.counters (
    host       text COLLATE "C" NOT NULL,
    metric     text COLLATE "C" NOT NULL,
    label      text COLLATE "C" NOT NULL,
    value      bigint NOT NULL,
    changed_at timestamptz NOT NULL,
    PRIMARY KEY (host, metric, label)
) WITH (fillfactor = 50);
