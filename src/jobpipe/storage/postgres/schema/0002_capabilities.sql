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
