-- serves programs from schema 1 on
-- The first schema. `jobpipe.` stands for the schema that the URL names.
-- status: 0 queued, 1 running, 2 done, 3 failed, 4 cancelled. Times: milliseconds since the epoch, by the database's clock.

-- The one clock that judges. Constant within a statement, so that an index can be searched with it.
CREATE FUNCTION jobpipe.now_ms() RETURNS bigint LANGUAGE sql STABLE PARALLEL SAFE
    AS 'SELECT floor(extract(epoch FROM statement_timestamp()) * 1000)::bigint';

CREATE SEQUENCE jobpipe.seqs;     -- order of acceptance
CREATE SEQUENCE jobpipe.writers;  -- who writes counts

-- Which ids are taken, by which task. The one place of their uniqueness, whichever table the task is in. An id whose
-- task is in neither table any more is free.
CREATE TABLE jobpipe.ids (
    id     text COLLATE "C" PRIMARY KEY,
    seq    bigint NOT NULL,
    accept bigint NOT NULL          -- random for each writing: tells "mine was written" from "it exists"
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

-- Waiting and running tasks only: hot, and kept small.
CREATE TABLE jobpipe.tasks (
    seq              bigint PRIMARY KEY,
    id               text COLLATE "C" NOT NULL,
    handler          text COLLATE "C" NOT NULL,
    queue            text COLLATE "C" NOT NULL,
    payload          bytea NOT NULL,             -- the JSON bytes as they came
    priority         bigint NOT NULL,
    status           smallint NOT NULL,
    attempts         bigint NOT NULL,
    failures         bigint NOT NULL,
    lost             bigint NOT NULL,
    max_retries      bigint NOT NULL,
    timeout          double precision,           -- seconds
    run_at           bigint NOT NULL,
    created_at       bigint NOT NULL,
    started_at       bigint,
    cancel_requested boolean NOT NULL DEFAULT false,
    worker           text,
    last_error       text,                       -- JSON: type, message, traceback, attempt, at
    error_type       text COLLATE "C",
    error_group      text COLLATE "C",
    traceparent      text,
    lease_id         text COLLATE "C",           -- of the latest claim; NULL when its holder was found lost
    lease_until      bigint,                     -- NULL while `server` lives: a claim of its own workers
    server           text COLLATE "C",           -- the server start that claimed it
    local            boolean NOT NULL DEFAULT false, -- its worker dies with that server
    settled          smallint                    -- the status that `lease_id` was settled with, once it was
) WITH (fillfactor = 85, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
        autovacuum_vacuum_insert_scale_factor = 0.2, autovacuum_vacuum_cost_delay = 0,
        autovacuum_analyze_scale_factor = 0.05, autovacuum_analyze_threshold = 5000,
        toast.autovacuum_vacuum_scale_factor = 0, toast.autovacuum_vacuum_threshold = 5000,
        toast.autovacuum_vacuum_cost_delay = 0);

-- What may be claimed, in the order of claims within one queue and priority.
CREATE INDEX tasks_due ON jobpipe.tasks (queue, priority, run_at, seq) WHERE status = 0;
-- `lease_until` is in no index, so that a heartbeat rewrites no index.
CREATE INDEX tasks_running ON jobpipe.tasks (seq) WHERE status = 1;
CREATE INDEX tasks_cancelling ON jobpipe.tasks (server) WHERE status = 1 AND cancel_requested;
CREATE INDEX tasks_grouped ON jobpipe.tasks (error_group, seq) WHERE error_group IS NOT NULL;

-- Finished tasks, split by how long they are kept; those kept for a short time are split by time, and dropped whole.
CREATE TABLE jobpipe.finished (
    LIKE jobpipe.tasks INCLUDING DEFAULTS,
    finished_at bigint NOT NULL,
    result      bytea                            -- the JSON bytes as they came
) PARTITION BY LIST (status);
CREATE INDEX finished_seq ON jobpipe.finished (seq);
CREATE INDEX finished_age ON jobpipe.finished (status, finished_at);
CREATE TABLE jobpipe.finished_failed PARTITION OF jobpipe.finished FOR VALUES IN (3);
CREATE TABLE jobpipe.finished_ended PARTITION OF jobpipe.finished FOR VALUES IN (2, 4)
    PARTITION BY RANGE (finished_at);
CREATE TABLE jobpipe.finished_rest PARTITION OF jobpipe.finished_ended DEFAULT;
CREATE INDEX finished_cancelled ON jobpipe.finished_ended (seq) WHERE status = 4;
CREATE INDEX finished_grouped ON jobpipe.finished (error_group, seq) WHERE error_group IS NOT NULL;

-- Unsuccessful runs of tasks that still exist.
CREATE TABLE jobpipe.attempts (
    seq        bigint NOT NULL,
    n          bigint NOT NULL,                  -- order within the task; attempts repeat after a release or retry
    attempt    bigint NOT NULL,
    outcome    text NOT NULL,
    started_at bigint,
    ended_at   bigint NOT NULL,
    worker     text,
    error      text,
    PRIMARY KEY (seq, n)
) WITH (autovacuum_vacuum_scale_factor = 0.05);

-- Rises and falls of the counts by queue, status and priority: rows are only added, so that no server waits for
-- another, and folded together once a second by who wrote them.
CREATE TABLE jobpipe.counts (
    writer   bigint NOT NULL,                    -- 0: writers that are gone
    queue    text COLLATE "C" NOT NULL,
    status   smallint NOT NULL,
    priority bigint NOT NULL,
    n        bigint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);

-- Servers that are here, or were a moment ago. `alive_until` is the lease of all claims of a server's own workers.
CREATE TABLE jobpipe.servers (
    server      text COLLATE "C" PRIMARY KEY,
    writers     bigint[] NOT NULL,               -- under which it writes counts
    alive_until bigint NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 100);

-- What each server said of its workers last.
CREATE TABLE jobpipe.announced (
    server text COLLATE "C" PRIMARY KEY,
    at     bigint NOT NULL,
    data   bytea NOT NULL
) WITH (fillfactor = 50);

-- What each server did in each minute, for the charts.
CREATE TABLE jobpipe.summaries (
    minute bigint NOT NULL,
    server text COLLATE "C" NOT NULL,
    data   bytea NOT NULL,
    PRIMARY KEY (minute, server)
);
