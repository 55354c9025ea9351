-- What tasks may have beside the plain fields; NULL where a task does not use it.
-- serves programs from schema 1 on

ALTER TABLE jobpipe.tasks
    ADD COLUMN key text COLLATE "C",                 -- what it belongs to within its queue
    ADD COLUMN uniqueness text COLLATE "C",          -- JSON: its unique key and the rules of that
    ADD COLUMN expires_at bigint,
    ADD COLUMN schedule text COLLATE "C",            -- the schedule that made it,
    ADD COLUMN scheduled_for bigint,                 -- and for which time
    ADD COLUMN digest text COLLATE "C";              -- of the request with an Idempotency-Key that it came with
ALTER TABLE jobpipe.finished
    ADD COLUMN key text COLLATE "C",
    ADD COLUMN uniqueness text COLLATE "C",
    ADD COLUMN expires_at bigint,
    ADD COLUMN schedule text COLLATE "C",
    ADD COLUMN scheduled_for bigint,
    ADD COLUMN digest text COLLATE "C";

-- Found by what few tasks have.
CREATE INDEX tasks_keyed ON jobpipe.tasks (key, seq) WHERE key IS NOT NULL;
CREATE INDEX finished_keyed ON jobpipe.finished (key, seq) WHERE key IS NOT NULL;
CREATE INDEX tasks_scheduled ON jobpipe.tasks (schedule, seq) WHERE schedule IS NOT NULL;
CREATE INDEX finished_scheduled ON jobpipe.finished (schedule, seq) WHERE schedule IS NOT NULL;

-- The unique keys that are taken. Whoever is not alive any more leaves; what stays behind, of a task that is in neither table any
-- more or for seconds that are over, is free.
CREATE TABLE jobpipe.unique_keys (
    handler  text COLLATE "C" NOT NULL,
    key      text COLLATE "C" NOT NULL,
    seq      bigint NOT NULL,                        -- the task's
    until    bigint,                                 -- it lives until then; NULL: by its task's status
    at_start boolean NOT NULL,                       -- the first claim frees it
    PRIMARY KEY (handler, key)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX unique_keys_task ON jobpipe.unique_keys (seq);

-- What expires next.
CREATE INDEX tasks_expiring ON jobpipe.tasks (expires_at) WHERE status = 0 AND expires_at IS NOT NULL;

-- The schema of each server's program; NULL for those that know of none of the above.
ALTER TABLE jobpipe.servers ADD COLUMN program int;
