-- What people and apps say of queues and keys, and what of it must outlive a restart.

CREATE TABLE rules (
    queue      TEXT NOT NULL,
    key        TEXT NOT NULL,                      -- '': of the queue itself
    app        TEXT NOT NULL,                      -- '': what people say
    said       TEXT NOT NULL,                      -- JSON of core.rules.Said
    changed_at INTEGER,
    changed_by TEXT,                               -- the name of an API key
    PRIMARY KEY (queue, key, app)
) STRICT, WITHOUT ROWID;

CREATE TABLE apps (
    app         TEXT    NOT NULL PRIMARY KEY,
    release     INTEGER NOT NULL,
    handlers    TEXT    NOT NULL,                  -- JSON: the payload's JSON Schema of each
    declared_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- When the next start of a rate is due (microseconds), and until when a hold lasts (milliseconds).
CREATE TABLE pace (
    queue      TEXT    NOT NULL,
    key        TEXT    NOT NULL,
    next_us    INTEGER NOT NULL,
    hold_until INTEGER NOT NULL,
    PRIMARY KEY (queue, key)
) STRICT, WITHOUT ROWID;

-- What waits by key: tasks without one have no part in it, and pay nothing.
CREATE INDEX tasks_lanes ON tasks (queue, key, priority, run_at, seq) WHERE status = 0 AND key IS NOT NULL;
