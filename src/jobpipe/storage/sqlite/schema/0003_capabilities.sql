-- What tasks may have beside the plain fields; NULL where a task does not use it.

ALTER TABLE tasks ADD COLUMN key TEXT;               -- what it belongs to within its queue
ALTER TABLE tasks ADD COLUMN uniqueness TEXT;        -- JSON: its unique key and the rules of that
ALTER TABLE tasks ADD COLUMN expires_at INTEGER;
ALTER TABLE tasks ADD COLUMN schedule TEXT;          -- the schedule that made it,
ALTER TABLE tasks ADD COLUMN scheduled_for INTEGER;  -- and for which time
ALTER TABLE tasks ADD COLUMN digest TEXT;            -- of the request with an Idempotency-Key that it came with

-- Found by what few tasks have.
CREATE INDEX tasks_keyed ON tasks (key, seq) WHERE key IS NOT NULL;
CREATE INDEX tasks_scheduled ON tasks (schedule, seq) WHERE schedule IS NOT NULL;

-- The unique keys that are taken. Whoever is not alive any more leaves; one that lives for some seconds may stay behind.
CREATE TABLE unique_keys (
    handler TEXT    NOT NULL,
    key     TEXT    NOT NULL,
    seq     INTEGER NOT NULL,                        -- the task's
    until   INTEGER,                                 -- it lives until then; NULL: by its task's status
    PRIMARY KEY (handler, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX unique_keys_task ON unique_keys (seq);

-- What expires next.
CREATE INDEX tasks_expiring ON tasks (expires_at) WHERE status = 0 AND expires_at IS NOT NULL;
