"""The SQL of rules, lanes, and what is used up of rates. As in statements.py, each hands out one row at most."""

from __future__ import annotations

from jobpipe.storage.sqlite.statements import PEEK

ALL_SAID = """
SELECT json_group_array(json_array(queue, key, app, said, changed_at, changed_by)) FROM rules
"""
KEEP_SAID = """
INSERT INTO rules (queue, key, app, said, changed_at, changed_by) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
    ON CONFLICT (queue, key, app) DO UPDATE
   SET said = excluded.said, changed_at = excluded.changed_at, changed_by = excluded.changed_by
"""
FORGET_SAID = "DELETE FROM rules WHERE queue = ?1 AND key = ?2 AND app = ''"
FORGET_DECLARED = "DELETE FROM rules WHERE app = ?1"

APPS = """
SELECT json_group_array(json_array(app, handlers)) FROM (SELECT app, handlers FROM apps ORDER BY declared_at, app)
"""
RELEASE = "SELECT release FROM apps WHERE app = ?1"
KEEP_APP = """
INSERT INTO apps (app, release, handlers, declared_at) VALUES (?1, ?2, ?3, ?4)
    ON CONFLICT (app) DO UPDATE
   SET release = excluded.release, handlers = excluded.handlers, declared_at = excluded.declared_at
"""

# Rows of (queue, key, next_us, hold_until) as JSON.
KEEP_PACES = """
INSERT INTO pace (queue, key, next_us, hold_until)
SELECT value->>0, value->>1, value->>2, value->>3 FROM json_each(?1) WHERE true
    ON CONFLICT (queue, key) DO UPDATE SET next_us = excluded.next_us, hold_until = excluded.hold_until
"""
HOLD = """
INSERT INTO pace (queue, key, next_us, hold_until) VALUES (?1, ?2, 0, ?3)
    ON CONFLICT (queue, key) DO UPDATE SET hold_until = max(hold_until, excluded.hold_until)
"""
END_HOLD = "UPDATE pace SET hold_until = 0 WHERE queue = ?1 AND key = ?2"
# What of the queue ?1 still counts at ?2 (milliseconds), ?3 (microseconds).
PACES = """
SELECT json_group_array(json_array(key, next_us, hold_until)) FROM pace
 WHERE queue = ?1 AND (hold_until > ?2 OR next_us > ?3)
"""
HELD = "SELECT json_group_array(json_array(queue, key)) FROM pace WHERE hold_until > ?1"
FORGET_RESTED = "DELETE FROM pace WHERE next_us <= ?1 AND hold_until <= ?2"

# The lanes of the queue ?1: how many tasks wait in each, and from when on.
LANES = """
SELECT json_group_array(json_array(key, priority, n, run_at)) FROM (
    SELECT key, priority, count(*) AS n, min(run_at) AS run_at FROM tasks INDEXED BY tasks_lanes
     WHERE status = 0 AND queue = ?1 AND key IS NOT NULL GROUP BY key, priority)
"""
# The first ?3 rows of each lane (key, priority) of ?1, of the queue ?2.
PEEK_LANES = """
SELECT json_group_array(json((
    SELECT json_group_array(json_array(run_at, seq, octet_length(payload))) FROM (
        SELECT run_at, seq, payload FROM tasks INDEXED BY tasks_lanes
         WHERE status = 0 AND queue = ?2 AND key = lane.value->>0 AND priority = lane.value->>1
         ORDER BY run_at, seq LIMIT ?3)))) FROM json_each(?1) AS lane
"""
# The same for all tasks of one priority, and for those without a key.
PEEK_ALL = PEEK
PEEK_KEYLESS = PEEK.replace("priority = ?2", "priority = ?2 AND key IS NULL")

WAITING_OF_KEY = """
SELECT count(*) FROM tasks INDEXED BY tasks_lanes WHERE status = 0 AND queue = ?1 AND key = ?2
"""
# Keys of the queue ?1 behind ?2 that have waiting tasks.
WAITING_KEYS = """
SELECT json_group_array(json_array(key, n)) FROM (
    SELECT key, count(*) AS n FROM tasks INDEXED BY tasks_lanes
     WHERE status = 0 AND queue = ?1 AND key IS NOT NULL AND key > ?2 GROUP BY key ORDER BY key LIMIT ?3)
"""
