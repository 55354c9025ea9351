"""The SQL of rules, lanes, and what is used up of them. As in statements.py."""

from __future__ import annotations

from jobpipe.storage.postgres import statements as sql
from jobpipe.storage.postgres.columns import HOT

NEVER = 1 << 62
"""A lane that opens then is opened by an event, not by time."""

# --- what is said ---

VERSIONS = "SELECT queue, version, obeyed, by_key FROM jobpipe.ruled"
SAID = """
SELECT r.queue, key, app, said, changed_at, changed_by FROM unnest($1::text[]) AS v(queue)
  JOIN jobpipe.rules r ON r.queue = v.queue
"""
KEEP_SAID = """
INSERT INTO jobpipe.rules (queue, key, app, said, changed_at, changed_by)
VALUES ($1::text, $2::text, $3::text, $4::text, $5::bigint, $6::text)
    ON CONFLICT (queue, key, app) DO UPDATE
   SET said = excluded.said, changed_at = excluded.changed_at, changed_by = excluded.changed_by
"""
FORGET_SAID = "DELETE FROM jobpipe.rules WHERE queue = $1::text AND key = $2::text AND app = ''"
FORGET_ALL_SAID = "DELETE FROM jobpipe.rules WHERE queue = $1::text AND app = ''"
DECLARED_BY = "SELECT queue FROM jobpipe.rules WHERE app = $1::text"
FORGET_DECLARED = "DELETE FROM jobpipe.rules WHERE app = $1::text"
APPS = "SELECT app, handlers FROM jobpipe.apps ORDER BY declared_at, app"
RELEASE = "SELECT max(release) FROM jobpipe.apps WHERE app = $1::text"
# Nothing where a higher release stands.
KEEP_APP = """
INSERT INTO jobpipe.apps AS a (app, release, handlers, declared_at)
VALUES ($1::text, $2::bigint, $3::text, jobpipe.now_ms())
    ON CONFLICT (app) DO UPDATE
   SET release = excluded.release, handlers = excluded.handlers, declared_at = excluded.declared_at
 WHERE a.release <= excluded.release
RETURNING 1
"""

# The rows of the queues $1, made where there are none, locked in one order.
RULE = """
INSERT INTO jobpipe.ruled AS r (queue, version, obeyed, by_key, since, rebuilt, held, turn)
SELECT queue, 0, false, false, 0, 0, 0, 0 FROM unnest($1::text[]) AS v(queue) ORDER BY queue
    ON CONFLICT (queue) DO UPDATE SET version = r.version
"""
UNRULE = "DELETE FROM jobpipe.ruled WHERE queue = $1::text"
# $1 queue, $2 version, $3 obeyed, $4 by key.
RULED = """
UPDATE jobpipe.ruled r SET version = $2::bigint, obeyed = $3::bool, by_key = $4::bool,
       since = jobpipe.now_ms(), rebuilt = 0,
       held = (SELECT coalesce(max(hold_until), 0) FROM jobpipe.pace p
                WHERE p.queue = r.queue AND p.hold_until > jobpipe.now_ms())
 WHERE queue = $1::text
"""
FORGET_LANES = """
WITH heard AS (DELETE FROM jobpipe.stirred WHERE queue = $1::text)
DELETE FROM jobpipe.lanes WHERE queue = $1::text
"""
# Whether the queue $1, and whether a key of it, is held.
HOLDS = """
SELECT coalesce(bool_or(key = ''), false) AS queue, coalesce(bool_or(key <> ''), false) AS keys
  FROM jobpipe.pace WHERE queue = $1::text AND hold_until > jobpipe.now_ms()
"""
# $1 queues, $2 keys, $3 in how many ms it ends.
HOLD = """
INSERT INTO jobpipe.pace AS p (queue, key, next_us, hold_until)
SELECT queue, key, 0, jobpipe.now_ms() + max(ms) FROM unnest($1::text[], $2::text[], $3::bigint[]) AS v(queue, key, ms)
 GROUP BY queue, key ORDER BY queue, key
    ON CONFLICT (queue, key) DO UPDATE SET hold_until = greatest(p.hold_until, excluded.hold_until)
"""
END_HOLD = "UPDATE jobpipe.pace SET hold_until = 0 WHERE queue = $1::text AND key = $2::text"
FORGET_RESTED = """
DELETE FROM jobpipe.pace WHERE ctid = ANY(ARRAY(
    SELECT p.ctid FROM jobpipe.ruled r JOIN jobpipe.pace p ON p.queue = r.queue
     WHERE p.hold_until <= jobpipe.now_ms() AND p.next_us <= jobpipe.now_ms() * 1000
       FOR UPDATE OF r SKIP LOCKED))
"""
# What each queue is held for, of those held.
HELD_QUEUES = "SELECT queue, hold_until FROM jobpipe.pace WHERE key = '' AND hold_until > jobpipe.now_ms()"

# What the queues $1 and their keys $2 ('': the queue) have used up.
GATES = """
SELECT v.queue, v.key, jobpipe.now_ms() AS now,
       coalesce(p.next_us, 0) AS next_us, coalesce(p.hold_until, 0) AS hold_until,
       CASE WHEN v.key = '' THEN (SELECT count(*) FROM jobpipe.tasks k WHERE k.status = 1 AND k.queue = v.queue)
            ELSE (SELECT count(*) FROM jobpipe.tasks k WHERE k.status = 1 AND k.queue = v.queue AND k.key = v.key)
       END AS running
  FROM unnest($1::text[], $2::text[]) AS v(queue, key)
  LEFT JOIN jobpipe.pace p ON p.queue = v.queue AND p.key = v.key
"""

# Keys of the queue $1 behind $2 that wait, run, or of which something is said: the first $3 of each.
KEYS = """
WITH RECURSIVE waiting AS (
    (SELECT key, 1 AS n FROM jobpipe.tasks
      WHERE status = 0 AND queue = $1::text AND key IS NOT NULL AND key > $2::text ORDER BY key LIMIT 1)
    UNION ALL
    SELECT next.key, n + 1 FROM waiting CROSS JOIN LATERAL (
        SELECT key FROM jobpipe.tasks
         WHERE status = 0 AND queue = $1::text AND key IS NOT NULL AND key > waiting.key ORDER BY key LIMIT 1) next
     WHERE n < $3::bigint),
found AS (
    SELECT key FROM waiting
    UNION SELECT key FROM jobpipe.tasks WHERE status = 1 AND queue = $1::text AND key IS NOT NULL AND key > $2::text
    UNION (SELECT key FROM jobpipe.rules WHERE queue = $1::text AND key > $2::text ORDER BY key LIMIT $3::bigint))
SELECT f.key, coalesce(p.hold_until, 0) AS hold_until, jobpipe.now_ms() AS now,
       (SELECT count(*) FROM jobpipe.tasks k WHERE k.status = 0 AND k.queue = $1::text AND k.key = f.key) AS queued,
       (SELECT count(*) FROM jobpipe.tasks k WHERE k.status = 1 AND k.queue = $1::text AND k.key = f.key) AS running
  FROM (SELECT key FROM found WHERE key <> '' ORDER BY key LIMIT $3::bigint) f
  LEFT JOIN jobpipe.pace p ON p.queue = $1::text AND p.key = f.key ORDER BY f.key
"""

# The key $2 of the queue $1.
KEY = """
SELECT v.key, coalesce(p.hold_until, 0) AS hold_until, jobpipe.now_ms() AS now,
       (SELECT count(*) FROM jobpipe.tasks k WHERE k.status = 0 AND k.queue = $1::text AND k.key = v.key) AS queued,
       (SELECT count(*) FROM jobpipe.tasks k WHERE k.status = 1 AND k.queue = $1::text AND k.key = v.key) AS running
  FROM (SELECT $2::text AS key) v LEFT JOIN jobpipe.pace p ON p.queue = $1::text AND p.key = v.key
"""
# How many keys have lanes, or are about to, in each of the queues $1: as far as $2.
WAITING_KEYS = """
SELECT v.queue, (SELECT count(*) FROM (
    SELECT key FROM jobpipe.lanes l WHERE l.queue = v.queue
    UNION SELECT key FROM jobpipe.stirred s WHERE s.queue = v.queue LIMIT $2::bigint) k) AS n
  FROM unnest($1::text[]) AS v(queue)
"""
# Which of the keys $2 in the queues $1 have waiting tasks.
KNOWN_KEYS = """
SELECT v.queue, v.key FROM unnest($1::text[], $2::text[]) AS v(queue, key)
 WHERE EXISTS (SELECT FROM jobpipe.lanes l WHERE l.queue = v.queue AND l.key = v.key)
    OR EXISTS (SELECT FROM jobpipe.stirred s WHERE s.queue = v.queue AND s.key = v.key)
"""

# --- claims ---

# Those of the queues $1 that no other server claims from at the moment.
LOCK = """
SELECT queue, version, obeyed, by_key, since, rebuilt, held, turn, jobpipe.now_ms() AS now
  FROM jobpipe.ruled WHERE queue = ANY($1::text[]) ORDER BY queue FOR UPDATE SKIP LOCKED
"""
_WAITS = "(k.expires_at IS NULL OR k.expires_at > jobpipe.now_ms())"
# The first $4 rows of each of the levels $1-$3 (as CLAIM).
PEEK = f"""
SELECT k.* FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS l(queue, priority, floor) CROSS JOIN LATERAL (
    SELECT seq, queue, key, priority, run_at, octet_length(payload) AS size FROM jobpipe.tasks k
     WHERE k.status = 0 AND k.queue = l.queue AND k.priority = l.priority AND k.run_at >= l.floor AND {_WAITS}
     ORDER BY k.run_at, k.seq LIMIT $4::bigint) k
"""
# Tasks that begin: their seqs in the order of the calls; $2-$9 as $5-$12 of CLAIM; $10 the time by which it was
# decided, so that what is stored of a start is what its rate was judged by.
CLAIM_THESE = f"""
WITH t AS MATERIALIZED (SELECT $10::bigint AS now),
picked AS MATERIALIZED (
    SELECT k.seq, v.n, 0 AS bytes FROM unnest($1::bigint[]) WITH ORDINALITY AS v(seq, n) CROSS JOIN LATERAL (
        SELECT seq FROM jobpipe.tasks k WHERE k.seq = v.seq AND k.status = 0 FOR UPDATE SKIP LOCKED) k),
{sql.claimed(2)}
SELECT n, {HOT}, (SELECT now FROM t) AS now FROM claimed
"""
# Next starts of rates: queue, key, next_us.
KEEP_PACES = """
INSERT INTO jobpipe.pace (queue, key, next_us, hold_until)
SELECT queue, key, next_us, 0 FROM unnest($1::text[], $2::text[], $3::bigint[]) AS v(queue, key, next_us)
    ON CONFLICT (queue, key) DO UPDATE SET next_us = excluded.next_us
"""
TURNED = "UPDATE jobpipe.ruled SET turn = $2::bigint WHERE queue = $1::text"

# --- lanes ---

STIRRED = """
WITH gone AS (DELETE FROM jobpipe.stirred WHERE queue = $1::text RETURNING key, priority, run_at)
SELECT key, CASE WHEN key = '' THEN priority END AS priority, min(run_at) AS run_at FROM gone GROUP BY 1, 2
"""
# All keys that may have lanes, and when the rows of each priority begin.
ALL_KEYS = """
WITH RECURSIVE found AS (
    (SELECT key FROM jobpipe.tasks WHERE status = 0 AND queue = $1::text AND key IS NOT NULL ORDER BY key LIMIT 1)
    UNION ALL
    SELECT next.key FROM found CROSS JOIN LATERAL (
        SELECT key FROM jobpipe.tasks WHERE status = 0 AND queue = $1::text AND key IS NOT NULL AND key > found.key
         ORDER BY key LIMIT 1) next)
SELECT key FROM found UNION SELECT key FROM jobpipe.lanes WHERE queue = $1::text AND key <> ''
"""
ALL_PRIORITIES = """
WITH RECURSIVE level AS (
    (SELECT priority, run_at FROM jobpipe.tasks WHERE status = 0 AND queue = $1::text
      ORDER BY queue, priority, run_at, seq LIMIT 1)
    UNION ALL
    SELECT next.* FROM level CROSS JOIN LATERAL (
        SELECT priority, run_at FROM jobpipe.tasks WHERE status = 0 AND queue = $1::text AND priority > level.priority
         ORDER BY queue, priority, run_at, seq LIMIT 1) next)
SELECT priority, run_at FROM level
"""
# Makes the lanes of the keys $2 of the queue $1 true. $3 whether they take turns, $4 the turn before that of new ones:
# what lies behind it is no turn but a time, from when the queue's keys took none.
FIND_LANES = """
WITH RECURSIVE level AS (
    SELECT v.key, first.* FROM unnest($2::text[]) AS v(key) CROSS JOIN LATERAL (
        SELECT priority, run_at, seq FROM jobpipe.tasks k
         WHERE k.status = 0 AND k.queue = $1::text AND k.key = v.key ORDER BY k.priority, k.run_at, k.seq LIMIT 1) first
    UNION ALL
    SELECT level.key, next.* FROM level CROSS JOIN LATERAL (
        SELECT priority, run_at, seq FROM jobpipe.tasks k
         WHERE k.status = 0 AND k.queue = $1::text AND k.key = level.key AND k.priority > level.priority
         ORDER BY k.priority, k.run_at, k.seq LIMIT 1) next),
found AS MATERIALIZED (SELECT * FROM level),
turns AS MATERIALIZED (
    SELECT key, coalesce((SELECT max(place) FROM jobpipe.lanes l
                          WHERE l.queue = $1::text AND l.key = f.key AND l.place <= $4::bigint),
                         $4::bigint + row_number() OVER (ORDER BY min(run_at), min(seq))) AS turn
      FROM found f GROUP BY key),
gone AS (
    DELETE FROM jobpipe.lanes l WHERE l.queue = $1::text AND l.key = ANY($2::text[])
       AND NOT EXISTS (SELECT FROM found f WHERE f.key = l.key AND f.priority = l.priority))
INSERT INTO jobpipe.lanes (queue, key, priority, run_at, seq, place, opens)
SELECT $1::text, f.key, priority, run_at, seq, CASE WHEN $3::bool THEN turn ELSE run_at END,
       CASE WHEN run_at > jobpipe.now_ms() THEN run_at ELSE 0 END FROM found f JOIN turns ON turns.key = f.key
    ON CONFLICT (queue, key, priority) DO UPDATE
   SET run_at = excluded.run_at, seq = excluded.seq, opens = excluded.opens, place = excluded.place
"""
# The lane of tasks without a key begins no later than so: $2 priorities, $3 run_at; $4-$5 as $3-$4 of FIND_LANES.
FIND_KEYLESS = """
INSERT INTO jobpipe.lanes AS l (queue, key, priority, run_at, seq, place, opens)
SELECT $1::text, '', priority, run_at, 0, CASE WHEN $4::bool THEN $5::bigint ELSE run_at END,
       CASE WHEN run_at > jobpipe.now_ms() THEN run_at ELSE 0 END
  FROM unnest($2::bigint[], $3::bigint[]) AS v(priority, run_at)
    ON CONFLICT (queue, key, priority) DO UPDATE
   SET run_at = least(l.run_at, excluded.run_at), seq = 0, opens = least(l.opens, excluded.opens),
       place = CASE WHEN $4::bool THEN least(l.place, $5::bigint) ELSE least(l.run_at, excluded.run_at) END
"""
REBUILT = "UPDATE jobpipe.ruled SET rebuilt = jobpipe.now_ms() WHERE queue = $1::text"
RIPEN = (
    "UPDATE jobpipe.lanes SET opens = 0 WHERE queue = $1::text AND opens > 0 AND opens <= jobpipe.now_ms()"
)
# The first $2 open lanes of the queue $1, in the order of claims, with what their keys have used up.
LANES = """
SELECT l.key, l.priority, l.run_at, l.seq, l.place,
       coalesce(p.next_us, 0) AS next_us, coalesce(p.hold_until, 0) AS hold_until,
       (SELECT count(*) FROM jobpipe.tasks k WHERE k.status = 1 AND k.queue = $1::text AND k.key = l.key) AS running
  FROM (SELECT * FROM jobpipe.lanes WHERE queue = $1::text AND opens = 0
         ORDER BY queue, priority DESC, place, seq LIMIT $2::bigint) l
  LEFT JOIN jobpipe.pace p ON p.queue = $1::text AND p.key = l.key AND l.key <> ''
 ORDER BY l.priority DESC, l.place, l.seq
"""
# The first rows of some lanes of the queue $1: key, priority, from which run_at on, how many.
PEEK_LANES = f"""
SELECT v.key, k.* FROM unnest($2::text[], $3::bigint[], $4::bigint[], $5::bigint[]) AS v(key, priority, floor, most)
 CROSS JOIN LATERAL (
    (SELECT seq, priority, run_at, octet_length(payload) AS size FROM jobpipe.tasks k
      WHERE v.key <> '' AND k.status = 0 AND k.queue = $1::text AND k.key = v.key AND k.priority = v.priority
        AND k.run_at >= v.floor AND {_WAITS} ORDER BY k.run_at, k.seq LIMIT v.most)
    UNION ALL
    (SELECT seq, priority, run_at, octet_length(payload) FROM jobpipe.tasks k
      WHERE v.key = '' AND k.status = 0 AND k.queue = $1::text AND k.key IS NULL AND k.priority = v.priority
        AND k.run_at >= v.floor AND {_WAITS} ORDER BY k.run_at, k.seq LIMIT v.most)) k
"""
# Lanes as a claim leaves them: key, priority, run_at, seq, place, opens; those without a run_at are empty.
KEEP_LANES = """
WITH v AS MATERIALIZED (
    SELECT * FROM unnest($2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[])
        AS v(key, priority, run_at, seq, place, opens)),
gone AS (
    DELETE FROM jobpipe.lanes l USING v
     WHERE l.queue = $1::text AND l.key = v.key AND l.priority = v.priority AND v.run_at IS NULL)
UPDATE jobpipe.lanes l SET run_at = v.run_at, seq = v.seq, place = v.place, opens = v.opens FROM v
 WHERE l.queue = $1::text AND l.key = v.key AND l.priority = v.priority AND v.run_at IS NOT NULL
"""
# Keys that had their turn: of all their lanes.
TAKE_TURNS = """
UPDATE jobpipe.lanes l SET place = v.turn FROM unnest($2::text[], $3::bigint[]) AS v(key, turn)
 WHERE l.queue = $1::text AND l.key = v.key
"""
# When time opens the next closed lane of the queue $1; 0 when one is open.
NEXT_OPEN = f"""
SELECT CASE WHEN EXISTS (SELECT FROM jobpipe.lanes WHERE queue = $1::text AND opens = 0) THEN 0
            ELSE (SELECT opens FROM jobpipe.lanes WHERE queue = $1::text AND opens > 0 AND opens < {NEVER}
                   ORDER BY opens LIMIT 1) END
"""

# --- what stirs lanes, beside what does it ---

_BY_KEY = "queue = ANY(ARRAY(SELECT queue FROM jobpipe.ruled WHERE by_key))"


def _stirring(statement: str, rows: str) -> str:
    """The same statement, and the lanes of those of its rows whose queues tell keys apart are stirred."""
    before, counted, behind = statement.partition("counted AS (")
    return f"""{before}stirred AS (
    INSERT INTO jobpipe.stirred (queue, key, priority, run_at)
    SELECT queue, coalesce(key, ''), priority, min(run_at) FROM {rows} WHERE {_BY_KEY} GROUP BY 1, 2, 3),
{counted}{behind}"""


INSERT, INSERT_ALIKE = (
    _stirring(sql.inserting(alike=alike, put=" RETURNING queue, key, priority, run_at"), "put")
    for alike in (False, True)
)
SETTLE = _stirring(sql.SETTLE, "held")
# Lanes of the queues $1: keys, priorities, run_at.
STIR = """
INSERT INTO jobpipe.stirred (queue, key, priority, run_at)
SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[]) AS v(queue, key, priority, run_at)
"""
