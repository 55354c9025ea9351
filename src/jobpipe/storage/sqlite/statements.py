"""All SQL of the SQLite engine, by name.

Every statement hands out at most one row: apsw gives the GIL up at every row and must win it back from busy Python
threads, so that a batch of 256 rows takes fifty times as long as one row that holds them all. So batches go in as one
JSON array (`json_each`) and come out as one (`json_group_array`). Rows of many columns go through `jsonb_each`, which
parses a row once instead of once a column: 3.4 instead of 4.8 us a row. Payloads and results travel beside the JSON, as one
blob with offsets, because JSON inside SQLite would lose bytes (1.10 becomes 1.1).
"""

from __future__ import annotations

from collections.abc import Sequence

from jobpipe.core.lifecycle import FREED
from jobpipe.core.steering import CANCELLED, MARKED, RETRIED
from jobpipe.storage.sqlite.columns import (
    ALIKE,
    ATTEMPT,
    BYTES,
    GIVEN,
    MOVED,
    PLAIN,
    READ,
    TASK,
    Attempted,
    Claimed,
    Finished,
    Settled,
    Succeeded,
    assigned,
    literal,
    names,
    values,
)

BEGIN = "BEGIN IMMEDIATE"
COMMIT = "COMMIT"
ROLLBACK = "ROLLBACK"

_SEQS = "(SELECT value FROM json_each(?1))"

_NEW = "INSERT INTO tasks ({given}, payload, status, attempts, failures, lost)"


def _insert(given: Sequence[str]) -> str:
    return f"""
{_NEW.format(given=names(given))}
SELECT {names(f"value->>{place}" for place in range(len(given)))},
       substr(?2, value->>{len(given)}, value->>{len(given) + 1}), 0, 0, 0, 0
  FROM jsonb_each(?1) WHERE true
    ON CONFLICT (id) DO NOTHING
"""


# ?1 rows of GIVEN, place and length of the payload as JSON, ?2 all payloads in one blob. An id that is taken is skipped:
# compare changes() with what was sent. For plain tasks a statement of their own: each value taken out costs 0.1 us.
INSERT = _insert(GIVEN)
INSERT_PLAIN = _insert(PLAIN)


def _insert_alike(digest: str) -> str:
    own = {"seq": "value->>0", "id": "value->>1", "digest": digest}
    own |= {name: f"?{at}" for at, name in enumerate(ALIKE, 3)}
    return f"""
{_NEW.format(given=names(GIVEN))}
SELECT {names(own[name] for name in GIVEN)}, substr(?2, value->>2, value->>3), 0, 0, 0, 0
  FROM jsonb_each(?1) WHERE true
    ON CONFLICT (id) DO NOTHING
"""


# The same for tasks that differ in little: ?1 rows of seq, id, place and length (and the digest) as JSON, ?2 as there,
# then what they have in common (ALIKE). Two thirds of the cost: SQLite takes a JSON row apart once for each of its values.
INSERT_ALIKE = _insert_alike("NULL")
INSERT_ALIKE_DIGESTS = _insert_alike("value->>4")

# Which of the ids ?1 are taken by tasks accepted before ?2.
TAKEN = """
SELECT json_group_array(json_array(id, status, digest)) FROM tasks
 WHERE id IN (SELECT value FROM json_each(?1)) AND seq < ?2
"""

# ?1 rows of (handler, key, seq, until) as JSON. Who lives no more is replaced.
KEEP_KEYS = """
INSERT OR REPLACE INTO unique_keys (handler, key, seq, until)
SELECT value->>0, value->>1, value->>2, value->>3 FROM json_each(?1)
"""
# Which of the names ?1, pairs of handler and key, are taken at ?2.
LIVING_KEYS = """
SELECT json_group_array(json_array(u.handler, u.key, u.seq))
  FROM json_each(?1) AS v JOIN unique_keys AS u ON u.handler = v.value->>0 AND u.key = v.value->>1
 WHERE u.until IS NULL OR u.until > ?2
"""
ANY_KEY = "SELECT EXISTS (SELECT 1 FROM unique_keys)"
FREE_KEYS = f"DELETE FROM unique_keys WHERE until IS NULL AND seq IN {_SEQS}"
FORGET_KEYS = f"DELETE FROM unique_keys WHERE seq IN {_SEQS}"

LAST_SEQ = "SELECT coalesce(max(seq), 0) FROM tasks"

# The head of one queue and priority: ?3 rows in the order of claims, future ones too.
PEEK = """
SELECT json_group_array(json_array(run_at, seq, octet_length(payload))) FROM (
    SELECT run_at, seq, payload FROM tasks INDEXED BY tasks_due
     WHERE status = 0 AND queue = ?1 AND priority = ?2 ORDER BY run_at, seq LIMIT ?3)
"""

# The same of many at once: ?1 pairs of queue and priority as JSON, ?2 rows of each at most.
PEEK_EACH = """
SELECT json_group_array(json((
    SELECT json_group_array(json_array(run_at, seq, octet_length(payload))) FROM (
        SELECT run_at, seq, payload FROM tasks INDEXED BY tasks_due
         WHERE status = 0 AND queue = v.value->>0 AND priority = v.value->>1 ORDER BY run_at, seq LIMIT ?2))))
  FROM json_each(?1) AS v
"""

LEVELS = "SELECT json_group_array(json_array(queue, status, priority, n)) FROM counts WHERE n > 0"

# Whole tasks by seq: the columns of READ as JSON, payloads and results concatenated in that order.
_COLUMNS = names(f"octet_length({name})" if name in BYTES else name for name in READ)
_WHOLE = f"""
SELECT json_group_array(json_array({_COLUMNS})),
       CAST(group_concat(CAST(payload AS TEXT), '') AS BLOB), CAST(group_concat(CAST(result AS TEXT), '') AS BLOB)
"""
BY_SEQ = f"{_WHOLE} FROM tasks WHERE seq IN {_SEQS}"
# The same of tasks that wait, without a result: what they cannot have is not looked for.
_UNSET = {
    "status": "0",
    "finished_at": "NULL",
    "result": "NULL",
    **{name: literal(no) for name, no in FREED.items()},
}
_OF_WAITING = names("octet_length(payload)" if name == "payload" else _UNSET.get(name, name) for name in TASK)
WAITING = f"""
SELECT json_group_array(json_array({_OF_WAITING})), CAST(group_concat(CAST(payload AS TEXT), '') AS BLOB)
  FROM tasks WHERE seq IN {_SEQS} AND status = 0
"""
BY_ID = f"{_WHOLE} FROM tasks WHERE id IN (SELECT value FROM json_each(?1))"
# The same without the pages that payloads and results lie on.
_SLIM = names({"payload": "0", "result": "NULL"}.get(name, name) for name in READ)
SLIM_BY_SEQ = f"SELECT json_group_array(json_array({_SLIM})), NULL, NULL FROM tasks WHERE seq IN {_SEQS}"

# ?1 claims as JSON. The writer alone hands tasks out, so fewer changes than claims mean that memory and file disagree.
CLAIM = f"""
UPDATE tasks SET status = 1, attempts = attempts + 1, started_at = v.started_at, worker = v.worker, expires_at = NULL,
                 lease_id = v.lease_id, lease_ms = v.lease_ms, boot = v.boot, settled = NULL
  FROM (SELECT {values(Claimed)} FROM jsonb_each(?1)) AS v
 WHERE tasks.seq = v.seq AND tasks.status = 0
"""

# CLAIM and SETTLE_DONE in one, for runs that succeeded before their claim was written. ?1 as JSON, ?2 all results in one blob.
FINISH = f"""
UPDATE tasks SET status = 2, attempts = attempts + 1, started_at = v.started_at, worker = v.worker, expires_at = NULL,
                 lease_id = v.lease_id, finished_at = v.finished_at,
                 result = substr(?2, v.result_at, v.result_len), settled = 2
  FROM (SELECT {values(Finished)} FROM jsonb_each(?1)) AS v
 WHERE tasks.seq = v.seq AND tasks.status = 0
"""

# ?1 rows as JSON, ?2 all results in one blob. The condition on the lease is the fence against stale workers: the
# caller has checked it, so fewer changes than rows mean that memory and file disagree.
SETTLE = f"""
UPDATE tasks SET status = v.status, run_at = v.run_at, attempts = v.attempts, failures = v.failures, lost = v.lost,
                 finished_at = v.finished_at, result = substr(?2, v.result_at, v.result_len),
                 last_error = coalesce(v.error, last_error),
                 error_group = coalesce(v.error_group, tasks.error_group), settled = v.settled,
                 {names(f"{name} = CASE WHEN v.status = 0 THEN {literal(no)} ELSE {name} END" for name, no in FREED.items())}
  FROM (SELECT {values(Settled)} FROM jsonb_each(?1)) AS v
 WHERE tasks.seq = v.seq AND tasks.status = 1 AND tasks.lease_id = v.lease_id AND tasks.cancel_requested = v.cancel
"""

# What SETTLE does, for runs that succeeded: they change little, and are most. ?1 and ?2 as there.
SETTLE_DONE = f"""
UPDATE tasks SET status = 2, finished_at = v.finished_at, result = substr(?2, v.result_at, v.result_len), settled = 2
  FROM (SELECT {values(Succeeded)} FROM jsonb_each(?1)) AS v
 WHERE tasks.seq = v.seq AND tasks.status = 1 AND tasks.lease_id = v.lease_id AND tasks.cancel_requested = v.cancel
"""

# ?1 unsuccessful ends as JSON. Before SETTLE, which clears when and where the
# run began. A task ends once a commit at most, so that `n` counts right.
KEEP_ATTEMPTS = f"""
INSERT INTO attempts (task, n, attempt, outcome, started_at, ended_at, worker, error)
SELECT v.seq, 1 + coalesce((SELECT max(n) FROM attempts WHERE task = v.seq), 0), v.attempt, v.outcome, tasks.started_at,
       v.ended_at, tasks.worker, v.error
  FROM (SELECT {values(Attempted)} FROM jsonb_each(?1)) AS v
  JOIN tasks ON tasks.seq = v.seq
"""

# The history of the task with the id ?1, oldest first; no row for an unknown task.
ATTEMPTS = f"""
SELECT (SELECT json_group_array(json_array({names(ATTEMPT)})) FROM (
            SELECT {names(ATTEMPT)} FROM attempts WHERE task = tasks.seq ORDER BY n))
  FROM tasks WHERE id = ?1
"""

# The latest lease of each of the ids ?1, and the status that it was settled with.
SETTLED_AS = """
SELECT json_group_array(json_array(id, lease_id, settled)) FROM tasks
 WHERE id IN (SELECT value FROM json_each(?1))
"""

# All running tasks, at start.
RUNNING = """
SELECT json_group_array(json_array(seq, id, queue, priority, key, lease_id, lease_ms, boot, cancel_requested)) FROM tasks INDEXED BY tasks_rare
 WHERE status IN (1, 3, 4) AND status = 1
"""

# A queued task with the seq ?7 as it was changed.
REWRITE = """
UPDATE tasks SET payload = ?1, priority = ?2, run_at = ?3, max_retries = ?4, timeout = ?5, expires_at = ?6
 WHERE seq = ?7 AND status = 0
"""

# What must not be claimed any more at ?1, at most ?2; and how one of them ends: ?1 seq, ?2 when, ?3 error, ?4 its group.
EXPIRED = """
SELECT json_group_array(seq) FROM (
    SELECT seq FROM tasks INDEXED BY tasks_expiring
     WHERE status = 0 AND expires_at IS NOT NULL AND expires_at <= ?1 ORDER BY expires_at LIMIT ?2)
"""
EXPIRE = """
UPDATE tasks SET status = 4, finished_at = ?2, last_error = ?3, error_group = ?4 WHERE seq = ?1 AND status = 0
"""
NEXT_EXPIRING = """
SELECT min(expires_at) FROM tasks INDEXED BY tasks_expiring WHERE status = 0 AND expires_at IS NOT NULL
"""

CANCEL_QUEUED = f"UPDATE tasks SET {assigned(CANCELLED)}, finished_at = ?2 WHERE seq IN {_SEQS}"
CANCEL_RUNNING = f"UPDATE tasks SET {assigned(MARKED)} WHERE seq IN {_SEQS}"
RETRY = f"UPDATE tasks SET {assigned(RETRIED)}, run_at = ?2 WHERE seq IN {_SEQS}"

DELETE = f"DELETE FROM tasks WHERE seq IN {_SEQS}"
FORGET_ATTEMPTS = f"DELETE FROM attempts WHERE task IN {_SEQS}"

# ?1 status, ?2 finished before, ?3 how many at most. `status >= 2` is what makes the index usable.
PRUNABLE = """
SELECT json_group_array(json_array(seq, queue, priority)) FROM (
    SELECT seq, queue, priority FROM tasks INDEXED BY tasks_finished
     WHERE status >= 2 AND status = ?1 AND finished_at < ?2 ORDER BY finished_at LIMIT ?3)
"""
OLDEST_FINISHED = """
SELECT min(finished_at) FROM tasks INDEXED BY tasks_finished WHERE status >= 2 AND status = ?1
"""

# ?1 rows of (queue, status, priority, n) as JSON.
KEEP_COUNTS = """
INSERT INTO counts (queue, status, priority, n)
SELECT value->>0, value->>1, value->>2, value->>3 FROM json_each(?1) WHERE true
    ON CONFLICT (queue, status, priority) DO UPDATE SET n = excluded.n
"""
FORGET_EMPTY_COUNTS = "DELETE FROM counts WHERE n = 0"

# The newest task below ?1, and the sizes of those matching within a window of seqs; listing.py adds conditions.
NEWEST_BELOW = "SELECT max(seq) FROM tasks WHERE seq < ?1"
# How many ids are from the first to before the second, of the third at most.
MANY_IDS = "SELECT count(*) FROM (SELECT 1 FROM tasks WHERE id >= ? AND id < ? LIMIT ?)"
# Not due at ?1, at most ?2 of them: one seek for each queue and priority, past all that are due.
NOT_DUE = """
SELECT json_array(count(*) - total(tried), total(tried)) FROM (
    SELECT t.attempts > 0 AS tried FROM counts c CROSS JOIN tasks t INDEXED BY tasks_due
     WHERE c.status = 0 AND c.n > 0 AND t.status = 0 AND t.queue = c.queue AND t.priority = c.priority AND t.run_at > ?1
     LIMIT ?2)
"""
WINDOW = """
SELECT json_group_array(json_array(seq, octet_length(payload) + coalesce(octet_length(result), 0))) FROM (
    SELECT seq, payload, result FROM tasks WHERE seq < ? AND seq >= ? {conditions} ORDER BY seq DESC LIMIT ?)
"""
WINDOW_IDS = """
SELECT json_group_array(json_array(seq, id)) FROM (
    SELECT seq, id FROM tasks WHERE seq < ? AND seq >= ? {conditions} ORDER BY seq DESC LIMIT ?)
"""

# ?1 minute, ?2 server, ?3 data.
KEEP_SUMMARY = """
INSERT INTO summaries (minute, server, data) VALUES (?1, ?2, ?3)
    ON CONFLICT (minute, server) DO UPDATE SET data = excluded.data
"""
FORGET_SUMMARIES = "DELETE FROM summaries WHERE minute < ?1"
# The minutes from ?1 to before ?2: their keys and sizes as JSON, and all data in that order.
SUMMARIES = """
SELECT json_group_array(json_array(minute, server, octet_length(data))),
       CAST(group_concat(CAST(data AS TEXT), '') AS BLOB)
  FROM (SELECT minute, server, data FROM summaries WHERE minute >= ?1 AND minute < ?2 ORDER BY minute, server)
"""

# Writes a page and changes nothing: proof that the store takes a commit.
VERSION = "PRAGMA user_version"
SET_VERSION = "PRAGMA user_version = {version}"

# A store on its way to another: ?1 after which seq, ?2 how many; then the attempts of the seqs after ?1 up to ?2.
EXPORT = f"SELECT {names(MOVED)} FROM tasks WHERE seq > ?1 ORDER BY seq LIMIT ?2"
EXPORT_ATTEMPTS = (
    f"SELECT task, {names(ATTEMPT)} FROM attempts WHERE task > ?1 AND task <= ?2 ORDER BY task, n"
)
IMPORT = f"INSERT INTO tasks ({names(MOVED)}) VALUES ({names(f':{name}' for name in MOVED)})"
IMPORT_ATTEMPT = f"""
INSERT INTO attempts (task, n, {names(ATTEMPT)}) VALUES (:task, :n, {names(f":{name}" for name in ATTEMPT)})
"""
