-- Stored rules that make tasks at times.
CREATE TABLE schedules (
    name        TEXT PRIMARY KEY,
    data        TEXT NOT NULL,                       -- JSON: all of it (core.firing.Schedule)
    look_at     INTEGER,                             -- when there is something to do; NULL: never
    waits_since INTEGER                              -- for when its next task is to be made
) STRICT, WITHOUT ROWID;
CREATE INDEX schedules_due ON schedules (look_at, name) WHERE look_at IS NOT NULL;
