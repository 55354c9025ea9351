-- History: unsuccessful attempts beside their tasks, groups of errors, and a summary of each minute for the charts.

CREATE TABLE attempts (
    task       INTEGER NOT NULL,                   -- the task's seq
    n          INTEGER NOT NULL,                   -- order within the task; attempts repeat after a release or retry
    attempt    INTEGER NOT NULL,
    outcome    TEXT    NOT NULL,
    started_at INTEGER,
    ended_at   INTEGER NOT NULL,
    worker     TEXT,
    error      TEXT,                               -- JSON as in tasks.last_error
    PRIMARY KEY (task, n)
) STRICT;

-- A task that fails or is released for ever keeps its newest thousand.
CREATE TRIGGER attempts_bounded AFTER INSERT ON attempts WHEN new.n > 1000
BEGIN
    DELETE FROM attempts WHERE task = new.task AND n <= new.n - 1000;
END;

ALTER TABLE tasks ADD COLUMN error_group TEXT;     -- of last_error; NULL also for errors of before this schema
CREATE INDEX tasks_grouped ON tasks (error_group, seq) WHERE error_group IS NOT NULL;

CREATE TABLE summaries (
    minute INTEGER NOT NULL,                       -- minutes since the epoch
    server TEXT    NOT NULL,
    data   BLOB    NOT NULL,                       -- JSON of the engine
    PRIMARY KEY (minute, server)
) STRICT;
