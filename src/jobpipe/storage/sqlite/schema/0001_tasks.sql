-- The first schema: tasks, and the counts that are kept beside them.
-- status: 0 queued, 1 running, 2 done, 3 failed, 4 cancelled. Times: milliseconds since the epoch.

CREATE TABLE tasks (
    seq              INTEGER PRIMARY KEY,          -- order of acceptance
    id               TEXT    NOT NULL UNIQUE,
    handler          TEXT    NOT NULL,
    queue            TEXT    NOT NULL,
    payload          BLOB    NOT NULL,             -- the JSON bytes as they came
    priority         INTEGER NOT NULL,
    status           INTEGER NOT NULL,
    attempts         INTEGER NOT NULL,
    failures         INTEGER NOT NULL,
    lost             INTEGER NOT NULL,
    max_retries      INTEGER NOT NULL,
    timeout          REAL,                         -- seconds
    run_at           INTEGER NOT NULL,
    created_at       INTEGER NOT NULL,
    started_at       INTEGER,
    finished_at      INTEGER,
    cancel_requested INTEGER NOT NULL DEFAULT 0,
    worker           TEXT,
    result           BLOB,                         -- the JSON bytes as they came
    last_error       TEXT,                         -- JSON: type, message, traceback, attempt, at
    traceparent      TEXT,
    lease_id         TEXT,                         -- of the latest claim; NULL when its holder was found lost
    lease_ms         INTEGER,                      -- length of its lease; NULL: it does not expire
    boot             TEXT,                         -- the server start that its worker dies with; NULL: a remote one
    settled          INTEGER                       -- the status that `lease_id` was settled with, once it was
) STRICT;

-- What may be claimed, in the order of claims within one queue and priority.
CREATE INDEX tasks_due ON tasks (queue, priority, run_at, seq) WHERE status = 0;
-- The statuses that few tasks have at a time: found at once for listings, and at start for recovery.
CREATE INDEX tasks_rare ON tasks (status, seq) WHERE status IN (1, 3, 4);
-- What may be pruned, oldest first.
CREATE INDEX tasks_finished ON tasks (status, finished_at) WHERE status >= 2;

CREATE TABLE counts (
    queue    TEXT    NOT NULL,
    status   INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    n        INTEGER NOT NULL,
    PRIMARY KEY (queue, status, priority)
) STRICT, WITHOUT ROWID;
