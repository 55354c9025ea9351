-- What people and apps say of queues and keys, and what of it must be known by all servers.
-- serves programs from schema 1 on

CREATE TABLE jobpipe.rules (
    queue      text COLLATE "C" NOT NULL,
    key        text COLLATE "C" NOT NULL,            -- '': of the queue itself
    app        text COLLATE "C" NOT NULL,            -- '': what people say
    said       text NOT NULL,                        -- JSON of core.rules.Said
    changed_at bigint,
    changed_by text,                                 -- the name of an API key
    PRIMARY KEY (queue, key, app)
);
CREATE TABLE jobpipe.apps (
    app         text COLLATE "C" PRIMARY KEY,
    release     bigint NOT NULL,
    handlers    text NOT NULL,                       -- JSON: the payload's JSON Schema of each
    declared_at bigint NOT NULL
);

-- Each queue of which something is said, or that is held. Whoever changes that locks the row, and so does whoever claims from a
-- queue whose claims obey it: of one queue they take turns, and none goes by rules that are over.
CREATE TABLE jobpipe.ruled (
    queue   text COLLATE "C" PRIMARY KEY,
    version bigint NOT NULL,                         -- random, another one with each change
    obeyed  boolean NOT NULL,                        -- whether claims must look at it
    by_key  boolean NOT NULL,                        -- whether keys are told apart
    since   bigint NOT NULL,                         -- when it was changed last,
    rebuilt bigint NOT NULL,                         -- when its lanes were looked for last (0: never),
    held    bigint NOT NULL,                         -- and until when anything in it is held: ms
    turn    bigint NOT NULL                          -- numbers the starts of keys that take turns
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 100);

-- When the next start of a rate is due (microseconds), and until when a hold lasts (milliseconds).
CREATE TABLE jobpipe.pace (
    queue      text COLLATE "C" NOT NULL,
    key        text COLLATE "C" NOT NULL,
    next_us    bigint NOT NULL,
    hold_until bigint NOT NULL,
    PRIMARY KEY (queue, key)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500);

-- Where the waiting tasks of queues are that tell keys apart: a hint for claims, changed under the queue's row alone, and true
-- enough when no task comes before (run_at, seq). One that may not start is closed, and not met by claims.
CREATE TABLE jobpipe.lanes (
    queue    text COLLATE "C" NOT NULL,
    key      text COLLATE "C" NOT NULL,              -- '': tasks without one
    priority bigint NOT NULL,
    run_at   bigint NOT NULL,
    seq      bigint NOT NULL,
    place    bigint NOT NULL,                        -- in the order of claims: run_at, or its turn
    opens    bigint NOT NULL,                        -- 0: it is open; else when time opens it
    PRIMARY KEY (queue, key, priority)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500,
        autovacuum_vacuum_cost_delay = 0);
CREATE INDEX lanes_open ON jobpipe.lanes (queue, priority DESC, place, seq) WHERE opens = 0;
CREATE INDEX lanes_closed ON jobpipe.lanes (queue, opens) WHERE opens > 0;

-- Lanes to which something happened, written in the commit that did it: rows are only added, so that nobody waits for a claim.
CREATE TABLE jobpipe.stirred (
    queue    text COLLATE "C" NOT NULL,
    key      text COLLATE "C" NOT NULL,
    priority bigint NOT NULL,
    run_at   bigint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX stirred_queue ON jobpipe.stirred (queue);

-- What waits and what runs by key: tasks without one have no part in it, and pay nothing.
CREATE INDEX tasks_lanes ON jobpipe.tasks (queue, key, priority, run_at, seq) WHERE status = 0 AND key IS NOT NULL;
CREATE INDEX tasks_running_keys ON jobpipe.tasks (queue, key) WHERE status = 1 AND key IS NOT NULL;
