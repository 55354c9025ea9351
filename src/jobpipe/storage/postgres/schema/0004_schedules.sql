-- serves programs from schema 1 on
-- Stored rules that make tasks at times.
CREATE TABLE jobpipe.schedules (
    name        text COLLATE "C" PRIMARY KEY,
    data        text COLLATE "C" NOT NULL,       -- JSON: all of it (core.firing.Schedule)
    look_at     bigint,                          -- when there is something to do; NULL: never
    waits_since bigint                           -- for when its next task is to be made
);
CREATE INDEX schedules_due ON jobpipe.schedules (look_at, name) WHERE look_at IS NOT NULL;
