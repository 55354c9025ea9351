"""All SQL of the PostgreSQL engine, by name.

Rows go in as arrays (`unnest`), one statement for a batch. `jobpipe.` stands for the schema that the URL names. Joins
to `tasks` are LATERAL with a row lock: such a subquery cannot be turned into a hash join over the whole table, which a
plan made while the table was small would do to a large one. `(SELECT now FROM t)` is the database's time, read once.
"""

from __future__ import annotations

from itertools import islice

from jobpipe.core.lifecycle import FREED
from jobpipe.core.steering import CANCELLED, MARKED, RETRIED
from jobpipe.storage.postgres.columns import (
    AT_END,
    ATTEMPT,
    BOTH,
    COLD,
    GIVEN,
    HOT,
    IMPORTED,
    READ,
    Settled,
    assigned,
    literals,
    names,
    nothing,
    types,
    unnest,
)
from jobpipe.storage.postgres.statements_once import freed

BEGIN = "BEGIN"
COMMIT = "COMMIT"
ROLLBACK = "ROLLBACK"

T = "t AS MATERIALIZED (SELECT jobpipe.now_ms() AS now)"

# $1-$2 ids and payloads in the order of acceptance; $3 the accept id of this writing; $4-$5 rises of queued tasks by
# queue, $6 the writer of counts. Either all are stored or, when an id is taken, none: then `seqs` is NULL, and
# what `ids` got is free for whoever asks, since no task stands behind it. Sorted by id, so that two servers that write
# the same ids wait for each other in one direction.
_INSERT = f"""
WITH {T},
new AS MATERIALIZED (
    SELECT nextval('jobpipe.seqs') AS seq, v.* FROM unnest({{arrays}}) WITH ORDINALITY AS v({{names}}, n)),
taken AS (
    INSERT INTO jobpipe.ids (id, seq, accept) SELECT id, seq, $3::bigint FROM new ORDER BY id
        ON CONFLICT (id) DO NOTHING RETURNING 1),
judged AS MATERIALIZED (SELECT (SELECT count(*) FROM taken) = cardinality($1::text[]) AS whole),
put AS (
    INSERT INTO jobpipe.tasks (seq, id, payload, status, attempts, failures, lost, created_at, run_at, {names(GIVEN)})
    SELECT seq, id, payload, 0, 0, 0, 0, t.now, t.now + greatest({{delay}}, 0), {{given}}
      FROM new, t WHERE (SELECT whole FROM judged){{put}}),
counted AS (
    INSERT INTO jobpipe.counts (writer, queue, status, priority, n)
    SELECT $6::bigint, c.queue, 0, 0, c.n
      FROM unnest($4::text[], $5::bigint[]) AS c(queue, n) WHERE (SELECT whole FROM judged))
SELECT CASE WHEN (SELECT whole FROM judged) THEN (SELECT array_agg(seq ORDER BY n) FROM new) END AS seqs,
       (SELECT now FROM t) AS now
"""
_ID, _PAYLOAD = "$1::text[]", "$2::bytea[]"
_VARIED = {"delay": "bigint", **GIVEN}
_BOUND = {name: f"${at}::{type_}" for at, (name, type_) in enumerate(_VARIED.items(), 7)}


def inserting(*, alike: bool, put: str = "") -> str:
    """INSERT. $7 and on, what else there is to each task: an array each, or one value each where all tasks share them,
    which takes a quarter less of the database's time and half of the server's. `put` is said of the new rows.
    """
    given = _BOUND if alike else {name: name for name in _VARIED}
    more = {} if alike else _BOUND
    return _INSERT.format(
        arrays=names([_ID, _PAYLOAD, *(f"{place}[]" for place in more.values())]),
        names=names(["id", "payload", *more]),
        delay=given["delay"],
        given=names({**given, "expires_at": f"t.now + {given['expires_at']}"}[name] for name in GIVEN),
        put=put,
    )


INSERT, INSERT_ALIKE = inserting(alike=False), inserting(alike=True)

# Who has each of the ids $1: a NULL status says that no task stands behind the id.
TAKEN = """
SELECT i.id, i.seq, k.status, k.digest
  FROM jobpipe.ids i
  LEFT JOIN LATERAL (SELECT status, digest FROM jobpipe.tasks WHERE seq = i.seq
                     UNION ALL SELECT status, digest FROM jobpipe.finished WHERE seq = i.seq LIMIT 1) k ON true
 WHERE i.id = ANY($1::text[])
"""
FREE = """
DELETE FROM jobpipe.ids i USING unnest($1::text[], $2::bigint[]) AS v(id, seq) WHERE i.id = v.id AND i.seq = v.seq
"""

# What a writing of unknown outcome left: the tasks of the accept id $2 among the ids $1. Then whether the
# backend $1 that wrote is still there; it is told to go.
WRITTEN = """
SELECT i.id, i.seq, k.run_at, k.created_at
  FROM jobpipe.ids i
 CROSS JOIN LATERAL (SELECT run_at, created_at FROM jobpipe.tasks WHERE seq = i.seq
                     UNION ALL SELECT run_at, created_at FROM jobpipe.finished WHERE seq = i.seq LIMIT 1) k
 WHERE i.id = ANY($1::text[]) AND i.accept = $2::bigint
"""
# In the list of columns, because the order of conditions is the planner's: it must not end anybody else. By its start
# too: a number comes again, and after a failover it is somebody else's.
STILL_THERE = """
SELECT CASE WHEN pid = $1::int AND backend_start = $2::timestamptz THEN pg_terminate_backend(pid) END
  FROM pg_stat_activity WHERE pid = $1::int AND backend_start = $2::timestamptz
"""

# The first waiting task of each queue and priority that has one, future ones too: two seeks each. $1-$3 levels that are
# known, each with a time before which none of its tasks is due: rows that are gone but cannot be vacuumed yet are not
# walked again. (A comparison of rows would walk through the whole level that it ends before: only its first column
# ends a scan.) Between two neighbours of them others are looked for, from one to the next, and behind the last as far
# as the level $4-$5; $6 of them at most.
LEVELS = """
WITH RECURSIVE known AS MATERIALIZED (
    SELECT queue, priority, floor, lead(queue, 1, $4::text) OVER w AS next_queue,
           lead(priority, 1, $5::bigint) OVER w AS next_priority
      FROM (SELECT queue COLLATE "C" AS queue, priority, floor
              FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS k(queue, priority, floor)) k
    WINDOW w AS (ORDER BY queue, priority)),
level AS (
    SELECT queue, priority, NULL::bigint AS run_at, NULL::bigint AS seq, next_queue, next_priority FROM known
    UNION ALL
    SELECT next.*, level.next_queue, level.next_priority FROM level CROSS JOIN LATERAL (
        (SELECT queue, priority, run_at, seq FROM jobpipe.tasks
          WHERE status = 0 AND queue = level.queue AND priority > level.priority
            AND priority <= CASE WHEN level.queue = next_queue THEN next_priority - 1 ELSE 9223372036854775807 END
          ORDER BY queue, priority, run_at, seq LIMIT 1)
        UNION ALL
        (SELECT queue, priority, run_at, seq FROM jobpipe.tasks
          WHERE status = 0 AND queue > level.queue AND queue < next_queue
          ORDER BY queue, priority, run_at, seq LIMIT 1)
        UNION ALL
        (SELECT queue, priority, run_at, seq FROM jobpipe.tasks
          WHERE status = 0 AND level.queue < next_queue AND queue = next_queue AND priority < next_priority
          ORDER BY queue, priority, run_at, seq LIMIT 1)
         LIMIT 1) next),
head AS (
    (SELECT queue, priority, run_at, seq FROM level WHERE run_at IS NOT NULL LIMIT $6::bigint)
    UNION ALL
    SELECT first.* FROM known CROSS JOIN LATERAL (
        SELECT queue, priority, run_at, seq FROM jobpipe.tasks k
         WHERE k.status = 0 AND k.queue = known.queue AND k.priority = known.priority AND k.run_at >= known.floor
         ORDER BY k.run_at, k.seq LIMIT 1) first)
SELECT array_agg(queue) AS queues, array_agg(priority) AS priorities, array_agg(run_at) AS heads,
       array_agg(seq) AS seqs, jobpipe.now_ms() AS now FROM head
"""

# Whole tasks, and what is kept of their latest claim.
BY_ID = f"""
SELECT k.* FROM jobpipe.ids i
 CROSS JOIN LATERAL (SELECT {HOT} FROM jobpipe.tasks WHERE seq = i.seq
                     UNION ALL SELECT {COLD} FROM jobpipe.finished WHERE seq = i.seq LIMIT 1) k
 WHERE i.id = ANY($1::text[])
"""
# The same, locked for steering, in the order of seq as every other lock of rows.
HOT_FOR_UPDATE = f"""
SELECT {HOT} FROM jobpipe.tasks WHERE seq = ANY(ARRAY(SELECT seq FROM jobpipe.ids WHERE id = ANY($1::text[])))
 ORDER BY seq FOR UPDATE
"""
COLD_FOR_UPDATE = f"""
SELECT {COLD} FROM jobpipe.finished WHERE seq = ANY(ARRAY(SELECT seq FROM jobpipe.ids WHERE id = ANY($1::text[])))
 ORDER BY seq FOR UPDATE
"""


def claimed(first: int) -> str:
    """What becomes of the rows `picked` (seq, n, bytes): $first and on are $5-$12 of CLAIM."""
    return f"""
claimed AS (
    UPDATE jobpipe.tasks SET status = 1, attempts = attempts + 1, started_at = (SELECT now FROM t),
           worker = (${first + 1}::text[])[p.call], lease_id = ${first + 5}::text || gen_random_uuid() || '.' || tasks.seq,
           lease_until = (SELECT now FROM t) + (${first + 2}::bigint[])[p.call], server = ${first + 6}::text,
           local = (${first + 3}::bool[])[p.call], settled = NULL, expires_at = NULL
      FROM (SELECT *, 1 + width_bucket(n - 1, ${first}::bigint[]) AS call FROM picked) p
     WHERE tasks.seq = p.seq AND (p.n = 1 OR p.bytes <= ${first + 7}::bigint)
    RETURNING p.n, tasks.*),
freed AS ({freed("claimed WHERE uniqueness IS NOT NULL", "at_start AND")}),
counted AS (
    INSERT INTO jobpipe.counts (writer, queue, status, priority, n)
    SELECT ${first + 4}::bigint, queue, to_status, 0, count(*) * rise
      FROM claimed, (VALUES (0, -1), (1, 1)) AS m(to_status, rise) GROUP BY queue, to_status, rise)
""".strip()


# $1-$3 the levels that come first of those that may be due, in the order of claims, each with a time before which none of its tasks is due: rows that are gone but
# cannot be vacuumed yet are not walked again. $4 how many in all; $5-$9 the calls, in order: up to which number each
# takes, worker, lease in ms (NULL: as long as the server lives), local; $10 what the lease ids begin with, $11 this
# server, $12 bytes at most; $13-$15 priority, run_at and seq of the place where other levels begin (NULL: there are
# none), behind which nothing is taken.
#
# `seen` reads of each level as many as it can give, and one, if every level before it gives one; where one of those is
# empty after all, nothing is taken from where reading ended on (`unread`). It decides without locks how many each level
# gives; `locked` takes that many of those nobody else has locked. Answers what was claimed (n > 0), the next row of each
# level (n = 0), and how many were locked for it of how many that were wanted, with 1 if due ones are unread (n = -1).
CLAIM = f"""
WITH {T},
level AS MATERIALIZED (
    SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[]) WITH ORDINALITY AS l(queue, priority, floor, place)),
seen AS MATERIALIZED (
    SELECT s.*, l.floor, nth = $4::bigint + 2 - l.place AS last FROM level l CROSS JOIN LATERAL (
        SELECT seq, queue, priority, run_at, row_number() OVER (ORDER BY k.run_at, k.seq) AS nth FROM jobpipe.tasks k
         WHERE k.status = 0 AND k.queue = l.queue AND k.priority = l.priority AND k.run_at >= l.floor
           AND (k.expires_at IS NULL OR k.expires_at > (SELECT now FROM t))
         ORDER BY k.run_at, k.seq LIMIT $4::bigint + 2 - l.place) s),
unread AS MATERIALIZED (  -- where what is due in levels was not read to its end, at the earliest
    SELECT -priority AS turn, run_at, seq FROM seen WHERE last AND run_at <= (SELECT now FROM t)
     ORDER BY turn, run_at, seq LIMIT 1),
wanted AS MATERIALIZED (
    SELECT queue, priority, floor, count(*) AS n FROM (
        SELECT queue, priority, floor FROM seen
         WHERE run_at <= (SELECT now FROM t)
           AND ($13::bigint IS NULL OR priority > $13::bigint
                OR (priority = $13::bigint AND (run_at, seq) <= ($14::bigint, $15::bigint)))
           AND NOT EXISTS (SELECT FROM unread u WHERE (-seen.priority, seen.run_at, seen.seq) >= (turn, u.run_at, u.seq))
         ORDER BY priority DESC, run_at, seq LIMIT $4::bigint) w
     GROUP BY queue, priority, floor),
locked AS MATERIALIZED (
    SELECT k.* FROM wanted w CROSS JOIN LATERAL (
        SELECT seq, priority, run_at, octet_length(payload) AS size FROM jobpipe.tasks k
         WHERE k.status = 0 AND k.queue = w.queue AND k.priority = w.priority AND k.run_at >= w.floor
           AND k.run_at <= (SELECT now FROM t) AND (k.expires_at IS NULL OR k.expires_at > (SELECT now FROM t))
         ORDER BY k.run_at, k.seq LIMIT w.n FOR UPDATE SKIP LOCKED) k),
picked AS MATERIALIZED (
    SELECT seq, row_number() OVER o AS n, sum(size) OVER o AS bytes FROM locked
    WINDOW o AS (ORDER BY priority DESC, run_at, seq ROWS UNBOUNDED PRECEDING)),
{claimed(5)}
SELECT n, {HOT}, (SELECT now FROM t) AS now FROM claimed
UNION ALL
SELECT 0, {
    nothing(READ, seq="h.seq", queue="h.queue", priority="h.priority", run_at="h.run_at")
}, (SELECT now FROM t)
  FROM (SELECT DISTINCT ON (queue, priority) queue, priority, run_at, seq FROM seen
         WHERE seq NOT IN (SELECT seq FROM claimed) ORDER BY queue, priority, run_at, seq) h
UNION ALL
SELECT -1, {
    nothing(
        READ,
        seq="(SELECT count(*) FROM locked)",
        priority="(SELECT sum(n)::bigint FROM wanted)",
        run_at="(SELECT count(*) FROM unread)",
    )
}, now FROM t
"""

# Claims that a lost connection left without a holder: $1 this server, $2 what their lease ids begin with.
DOUBTFUL = f"""
SELECT {HOT}, jobpipe.now_ms() AS now FROM jobpipe.tasks WHERE status = 1 AND server = $1::text AND starts_with(lease_id, $2::text)
"""

SETTLED = types(Settled)
FENCED = 4
"""So many columns of these, the first, are the fence."""
_ENDED = {
    "status": "to_status",
    "attempts": "to_attempts",
    "failures": "to_failures",
    "lost": "to_lost",
    "last_error": "coalesce(to_error, last_error)",
    "error_type": "coalesce(to_type, error_type)",
    "error_group": "coalesce(to_group, error_group)",
    "lease_id": "CASE WHEN keeps THEN lease_id END",
    "settled": "CASE WHEN keeps THEN to_status END",
}
# A row a settlement (columns.Settled), by seq; then the writer of counts. The condition on the lease is the fence against
# stale workers; it is judged again when the row was locked by somebody else meanwhile. Of several for one task, which
# differ in lease or flag, it lets one through at most.
_SETTLE = f"""
WITH {T},
held AS MATERIALIZED (
    SELECT k.*, v.*{{alike}} FROM {{settlements}}
    CROSS JOIN LATERAL (
        SELECT * FROM jobpipe.tasks WHERE seq = v.at_seq AND status = 1 AND lease_id = v.at_lease AND id = v.at_id
           AND cancel_requested = v.at_cancel FOR UPDATE) k),
gone AS (
    DELETE FROM jobpipe.tasks USING held WHERE tasks.seq = held.seq AND held.to_status >= 2),
finished AS (
    INSERT INTO jobpipe.finished ({names(BOTH)}, finished_at, result)
    SELECT {names(BOTH, **_ENDED)}, (SELECT now FROM t) + to_finished, to_result FROM held WHERE to_status >= 2),
freed AS ({freed("held WHERE to_status >= 2 AND uniqueness IS NOT NULL", "until IS NULL AND")}),
{{others}}counted AS (
    INSERT INTO jobpipe.counts (writer, queue, status, priority, n)
    SELECT ${len(SETTLED) + 1}::bigint, queue, s, 0, sum(rise)
      FROM held, LATERAL (VALUES (1::smallint, -1), (to_status, 1)) AS m(s, rise) GROUP BY queue, s)
SELECT seq, id, lease_id, cancel_requested, queue, priority, (SELECT now FROM t) AS now FROM held
"""
# The ends that leave the task in place, and the history.
_OTHERS = f"""
again AS (
    UPDATE jobpipe.tasks SET status = 0,  -- a delay of less than nothing is a place that is kept (rows.py)
           run_at = CASE WHEN to_delay < 0 THEN -1 - to_delay ELSE (SELECT now FROM t) + to_delay END, attempts = to_attempts,
           failures = to_failures, lost = to_lost, last_error = coalesce(to_error, tasks.last_error),
           error_type = coalesce(to_type, tasks.error_type), error_group = coalesce(to_group, tasks.error_group),
           lease_id = CASE WHEN keeps THEN tasks.lease_id END, settled = CASE WHEN keeps THEN to_status END,
           {assigned(FREED)}, lease_until = NULL, server = NULL, local = false
      FROM held WHERE tasks.seq = held.seq AND held.to_status = 0),
kept AS MATERIALIZED (
    SELECT seq, 1 + coalesce((SELECT max(n) FROM jobpipe.attempts a WHERE a.seq = held.seq), 0) AS n, attempt, outcome,
           started_at, (SELECT now FROM t) AS ended_at, worker, to_error FROM held WHERE outcome IS NOT NULL),
told AS (
    INSERT INTO jobpipe.attempts (seq, n, attempt, outcome, started_at, ended_at, worker, error) SELECT * FROM kept),
bounded AS (DELETE FROM jobpipe.attempts a USING kept WHERE a.seq = kept.seq AND a.n <= kept.n - 1000),
""".lstrip()


def settling(*, alike: bool) -> str:
    """SETTLE, or the same for runs that all ended alike, each for good and without a place in the history: what is
    alike of them ($5-$17) comes once, which spares the database and the server the most of what is not the fence.
    """
    rows = dict(islice(SETTLED.items(), FENCED)) if alike else SETTLED
    once = list(SETTLED.items())[len(rows) :]
    return _SETTLE.format(
        settlements=f"{unnest(rows)} AS v({names(rows)})",
        alike="".join(f", ${at}::{type_} AS {name}" for at, (name, type_) in enumerate(once, len(rows) + 1)),
        others="" if alike else _OTHERS,
    )


SETTLE, SETTLE_ALIKE = settling(alike=False), settling(alike=True)

# The latest lease of each of the ids $1, and what became of it.
SETTLED_AS = """
SELECT i.id, k.lease_id, k.settled, k.status FROM jobpipe.ids i
 CROSS JOIN LATERAL (SELECT lease_id, settled, status FROM jobpipe.tasks WHERE seq = i.seq
                     UNION ALL SELECT lease_id, settled, status FROM jobpipe.finished WHERE seq = i.seq LIMIT 1) k
 WHERE i.id = ANY($1::text[])
"""

# $1 seq, $2 id, $3 lease id, $4 new length in ms. A claim that lasts as long as its server has no end of its own.
EXTEND = f"""
WITH {T},
held AS MATERIALIZED (
    SELECT k.*, v.ms FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bigint[]) AS v(seq, id, lease_id, ms)
    CROSS JOIN LATERAL (
        SELECT seq, id, lease_id, lease_until IS NULL AS endless, cancel_requested FROM jobpipe.tasks k
         WHERE k.seq = v.seq AND status = 1 AND k.lease_id = v.lease_id AND k.id = v.id FOR UPDATE) k),
put AS (
    UPDATE jobpipe.tasks SET lease_until = (SELECT now FROM t) + held.ms FROM held
     WHERE tasks.seq = held.seq AND NOT held.endless)
SELECT id, lease_id, endless, cancel_requested FROM held
"""

# Claims whose holder is gone, the longest gone first; $1 this server, which lives, $2 how many.
_ENDS = """
SELECT k.seq, coalesce(k.lease_until, s.alive_until, 0) AS ends
  FROM jobpipe.tasks k LEFT JOIN jobpipe.servers s ON k.lease_until IS NULL AND s.server = k.server
 WHERE k.status = 1 AND (k.lease_until IS NOT NULL OR k.server <> $1::text)
"""
LOST = f"""
SELECT {HOT}, lease_until IS NULL AS orphaned, jobpipe.now_ms() - started_at AS ran FROM jobpipe.tasks
  JOIN ({_ENDS} ORDER BY ends, seq LIMIT $2::bigint) gone USING (seq)
 WHERE gone.ends <= jobpipe.now_ms() ORDER BY gone.ends, seq
"""
NEXT_EXPIRY = f"SELECT min(ends) - jobpipe.now_ms() FROM ({_ENDS}) e"

# $1 seqs. The first moves a waiting task out, the second marks a running one.
CANCEL_QUEUED = f"""
WITH {T},
moved AS (DELETE FROM jobpipe.tasks WHERE seq = ANY($1::bigint[]) RETURNING *),
freed AS ({freed("moved WHERE uniqueness IS NOT NULL", "until IS NULL AND")})
INSERT INTO jobpipe.finished ({names(BOTH)}, finished_at)
SELECT {names(BOTH, **literals(CANCELLED))}, (SELECT now FROM t) FROM moved RETURNING finished_at AS at
"""
CANCEL_RUNNING = f"UPDATE jobpipe.tasks SET {assigned(MARKED)} WHERE seq = ANY($1::bigint[])"

# $1 seqs, $2 the time.
RETRY = f"""
WITH moved AS (DELETE FROM jobpipe.finished WHERE seq = ANY($1::bigint[]) RETURNING *)
INSERT INTO jobpipe.tasks ({names(BOTH)}) SELECT {names(BOTH, **literals(RETRIED), run_at="$2::bigint")} FROM moved
"""
# A waiting task, $1, as it was changed.
REWRITE = """
UPDATE jobpipe.tasks SET payload = $2::bytea, priority = $3::bigint, run_at = $4::bigint, max_retries = $5::bigint,
       timeout = $6::float8, expires_at = $7::bigint
 WHERE seq = $1::bigint AND status = 0
"""

DELETE = f"""
WITH gone AS (DELETE FROM jobpipe.finished WHERE seq = ANY($1::bigint[]) RETURNING id, seq, uniqueness),
keys AS ({freed("gone WHERE uniqueness IS NOT NULL", "")}),
freed AS (DELETE FROM jobpipe.ids i USING gone WHERE i.id = gone.id AND i.seq = gone.seq)
DELETE FROM jobpipe.attempts WHERE seq = ANY($1::bigint[])
"""

# $1 status, $2 finished before, $3 how many at most; another server's pruner takes others.
PRUNABLE = """
SELECT seq, queue, priority FROM jobpipe.finished WHERE status = $1::smallint AND finished_at < $2::bigint
 ORDER BY finished_at LIMIT $3::bigint FOR UPDATE SKIP LOCKED
"""
PRUNABLE_REST = PRUNABLE.replace("jobpipe.finished ", "jobpipe.finished_rest ")
OLDEST_FINISHED = "SELECT min(finished_at) FROM jobpipe.finished WHERE status = $1::smallint"

NOW = "SELECT jobpipe.now_ms()"
AS_OWNER = """
SELECT format(' SET LOCAL ROLE %I;', pg_get_userbyid(relowner)) FROM pg_class
 WHERE oid = to_regclass('jobpipe.finished') AND pg_get_userbyid(relowner) <> current_user
 UNION ALL SELECT '' LIMIT 1
"""
PARTITIONS = """
SELECT c.relname::text AS name FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
 WHERE i.inhparent = 'jobpipe.finished_ended'::regclass AND c.relname LIKE 'ended\\_%'
"""
COUNT_PARTITION = "SELECT queue, status, count(*) AS n FROM jobpipe.{name} GROUP BY queue, status"
# Partitions that were taken out, and their size.
SWEPT = """
SELECT relname::text AS name, pg_relation_size(oid) / current_setting('block_size')::bigint AS blocks FROM pg_class
 WHERE relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'jobpipe.finished'::regclass)
   AND relkind = 'r' AND relname LIKE 'swept\\_%' ORDER BY relname LIMIT 1
"""
# The pages from $1 to before $2. Done twice it does nothing: an id that was taken again has another seq.
SWEEP = """
WITH old AS MATERIALIZED (
    SELECT id, seq, uniqueness FROM jobpipe.{name} WHERE ctid >= $1::text::tid AND ctid < $2::text::tid),
keys AS (
    DELETE FROM jobpipe.unique_keys WHERE seq = ANY(ARRAY(SELECT seq FROM old WHERE uniqueness IS NOT NULL))),
freed AS (DELETE FROM jobpipe.ids i USING old WHERE i.id = old.id AND i.seq = old.seq)
DELETE FROM jobpipe.attempts a USING old WHERE a.seq = old.seq
"""

ATTEMPTS = f"""
SELECT i.seq, {names(f"a.{name}" for name in ATTEMPT)}
  FROM jobpipe.ids i
 CROSS JOIN LATERAL (SELECT 1 FROM jobpipe.tasks WHERE seq = i.seq
                     UNION ALL SELECT 1 FROM jobpipe.finished WHERE seq = i.seq LIMIT 1) k
  LEFT JOIN LATERAL (SELECT * FROM jobpipe.attempts WHERE seq = i.seq ORDER BY n DESC LIMIT $2::bigint) a ON true
 WHERE i.id = $1::text ORDER BY a.n
"""

# By queue and status: the column `priority` is of earlier versions, and 0. $1 writer, $2-$4 rises.
KEEP_COUNTS = """
INSERT INTO jobpipe.counts (writer, queue, status, priority, n)
SELECT $1::bigint, v.queue, v.status, 0, v.n FROM unnest($2::text[], $3::smallint[], $4::bigint[]) AS v(queue, status, n)
"""
# What all but the writers $1 have counted.
OTHERS = """
SELECT queue, status, sum(n)::bigint AS n FROM jobpipe.counts WHERE writer <> ALL($1::bigint[])
 GROUP BY queue, status HAVING sum(n) <> 0
"""
# What the writer $1 has counted.
SHARE = """
SELECT queue, status, sum(n)::bigint AS n FROM jobpipe.counts WHERE writer = $1::bigint
 GROUP BY queue, status HAVING sum(n) <> 0
"""
# Folds the rows of the writers $1 into one a count, and those of writers that no living server has into writer 0.
FOLD = """
WITH old AS (DELETE FROM jobpipe.counts WHERE writer = ANY($1::bigint[]) RETURNING *)
INSERT INTO jobpipe.counts (writer, queue, status, priority, n)
SELECT writer, queue, status, 0, sum(n) FROM old GROUP BY writer, queue, status HAVING sum(n) <> 0
"""
FOLD_GONE = """
WITH old AS (
    DELETE FROM jobpipe.counts c WHERE NOT EXISTS (SELECT FROM jobpipe.servers s WHERE c.writer = ANY(s.writers))
    RETURNING *)
INSERT INTO jobpipe.counts (writer, queue, status, priority, n)
SELECT 0, queue, status, 0, sum(n) FROM old GROUP BY queue, status HAVING sum(n) <> 0
"""

# $1 server, $2 its writers, $3 ms that it is alive without another sign, $4 ms after which a silent one is forgotten,
# $5 the schema of its program.
BEAT = f"""
WITH {T},
gone AS (DELETE FROM jobpipe.servers WHERE alive_until < (SELECT now FROM t) - $4::bigint AND server <> $1::text),
mine AS (
    INSERT INTO jobpipe.servers (server, writers, alive_until, program)
    SELECT $1::text, $2::bigint[], now + $3::bigint, $5::int FROM t
        ON CONFLICT (server) DO UPDATE SET writers = excluded.writers, alive_until = excluded.alive_until)
SELECT count(*) FILTER (WHERE server <> $1::text) AS others, bool_or(server = $1::text) AS known
  FROM jobpipe.servers
"""
# In how many ms all others are forgotten as they stand now; NULL when there are none. $1 server, $2 ms of silence.
ALONE_IN = f"""
WITH {T} SELECT max(alive_until) + $2::bigint - (SELECT now FROM t) AS ms FROM jobpipe.servers WHERE server <> $1::text
"""
LEAVE = "DELETE FROM jobpipe.servers WHERE server = $1::text"
NEW_WRITER = "SELECT nextval('jobpipe.writers')"

# Claims of this server's whose cancelling was asked for.
CANCELLING = f"SELECT {HOT} FROM jobpipe.tasks WHERE status = 1 AND cancel_requested AND server = $1::text"

# The newest task below $1, and the sizes of those matching within a window of seqs; listing.py adds conditions.
NEWEST_BELOW = """
SELECT greatest((SELECT seq FROM jobpipe.tasks WHERE seq < $1::bigint ORDER BY seq DESC LIMIT 1),
                (SELECT seq FROM jobpipe.finished WHERE seq < $1::bigint ORDER BY seq DESC LIMIT 1))
"""
# How many ids are from $1 to before $2, of $3 at most.
MANY_IDS = """
SELECT count(*) FROM (SELECT FROM jobpipe.ids WHERE id >= $1::text AND id < $2::text LIMIT $3::bigint) few
"""
WINDOW = """
SELECT seq, size FROM (
    (SELECT seq, octet_length(payload) AS size FROM jobpipe.tasks
      WHERE seq < $1 AND seq >= $2 {hot} ORDER BY seq DESC LIMIT $3)
    UNION ALL
    (SELECT seq, octet_length(payload) + coalesce(octet_length(result), 0) FROM jobpipe.finished
      WHERE seq < $1 AND seq >= $2 {cold} ORDER BY seq DESC LIMIT $3)) w
 ORDER BY seq DESC LIMIT $3
"""
WINDOW_IDS = """
SELECT seq, id FROM (
    (SELECT seq, id FROM jobpipe.tasks WHERE seq < $1 AND seq >= $2 {hot} ORDER BY seq DESC LIMIT $3)
    UNION ALL
    (SELECT seq, id FROM jobpipe.finished WHERE seq < $1 AND seq >= $2 {cold} ORDER BY seq DESC LIMIT $3)) w
 ORDER BY seq DESC LIMIT $3
"""
BY_SEQ = f"""
SELECT {HOT} FROM jobpipe.tasks WHERE seq = ANY($1::bigint[])
UNION ALL SELECT {COLD} FROM jobpipe.finished WHERE seq = ANY($1::bigint[])
"""
# The same without the payloads and results, which may lie in tables of their own.
_SLIM = {"payload": "''::bytea AS payload", "result": "NULL::bytea AS result"}
SLIM_BY_SEQ = f"""
SELECT {names(READ, finished_at="NULL::bigint AS finished_at", **_SLIM)} FROM jobpipe.tasks WHERE seq = ANY($1::bigint[])
UNION ALL SELECT {names(READ, **_SLIM)} FROM jobpipe.finished WHERE seq = ANY($1::bigint[])
"""

# Since when the first task of each of the queues $1 is due, of its first $2 priorities.
# Of the queues $1, by at most $2 priorities each, those whose time has not come, $3 at most: past all that are due.
NOT_DUE = """
SELECT tried, count(*) AS n FROM (
    SELECT due.tried FROM unnest($1::text[]) AS q(queue) CROSS JOIN LATERAL (
        WITH RECURSIVE level AS (
            (SELECT priority FROM jobpipe.tasks WHERE status = 0 AND queue = q.queue
              ORDER BY queue, priority DESC, run_at DESC, seq DESC LIMIT 1)
            UNION ALL
            SELECT next.priority FROM level CROSS JOIN LATERAL (
                SELECT priority FROM jobpipe.tasks WHERE status = 0 AND queue = q.queue AND priority < level.priority
                 ORDER BY queue, priority DESC, run_at DESC, seq DESC LIMIT 1) next)
        SELECT found.tried FROM (SELECT priority FROM level LIMIT $2::bigint) l CROSS JOIN LATERAL (
            SELECT attempts > 0 AS tried FROM jobpipe.tasks t
             WHERE status = 0 AND t.queue = q.queue AND t.priority = l.priority AND t.run_at > jobpipe.now_ms()
             LIMIT $3::bigint) found) due
     LIMIT $3::bigint) w
 GROUP BY tried
"""
OLDEST_READY = """
SELECT q.queue, min(found.run_at) AS run_at FROM unnest($1::text[]) AS q(queue) CROSS JOIN LATERAL (
    WITH RECURSIVE level AS (
        (SELECT priority, run_at FROM jobpipe.tasks WHERE status = 0 AND queue = q.queue
          ORDER BY queue, priority DESC, run_at DESC, seq DESC LIMIT 1)
        UNION ALL
        SELECT next.* FROM level CROSS JOIN LATERAL (
            SELECT priority, run_at FROM jobpipe.tasks
             WHERE status = 0 AND queue = q.queue AND priority < level.priority
             ORDER BY queue, priority DESC, run_at DESC, seq DESC LIMIT 1) next)
    SELECT first.run_at FROM (SELECT priority FROM level LIMIT $2::bigint) l CROSS JOIN LATERAL (
        SELECT run_at FROM jobpipe.tasks t WHERE status = 0 AND t.queue = q.queue AND t.priority = l.priority
         ORDER BY t.run_at, t.seq LIMIT 1) first) found
 WHERE found.run_at <= jobpipe.now_ms() GROUP BY q.queue
"""

KEEP_SUMMARY = """
INSERT INTO jobpipe.summaries (minute, server, data) VALUES ($1, $2, $3)
    ON CONFLICT (minute, server) DO UPDATE SET data = excluded.data
"""
FORGET_SUMMARIES = "DELETE FROM jobpipe.summaries WHERE minute < $1"
SUMMARIES = """
SELECT minute, server, data FROM jobpipe.summaries WHERE minute >= $1 AND minute < $2 ORDER BY minute, server
"""

ANNOUNCE = """
INSERT INTO jobpipe.announced (server, at, data) VALUES ($1, jobpipe.now_ms(), $2)
    ON CONFLICT (server) DO UPDATE SET at = excluded.at, data = excluded.data
"""
FORGET_ANNOUNCED = "DELETE FROM jobpipe.announced WHERE at < jobpipe.now_ms() - $1::bigint"
ANNOUNCED = "SELECT data FROM jobpipe.announced WHERE at >= jobpipe.now_ms() - $1::bigint ORDER BY server"

# Whether a commit would not be taken now, and whether ours may take numbers.
PROBE = """
SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::bool AS read_only,
       has_sequence_privilege('jobpipe.seqs', 'USAGE, UPDATE')
       AND has_sequence_privilege('jobpipe.writers', 'USAGE, UPDATE') AS numbers
"""
# $1 channel, $2 payload.
NOTIFY = "SELECT pg_notify($1::text, $2::text)"

# A store on its way to another. $1 after which seq, $2 how many.
EXPORT_SIZES = """
SELECT seq, size FROM (
    (SELECT seq, octet_length(payload) AS size FROM jobpipe.tasks WHERE seq > $1::bigint ORDER BY seq LIMIT $2::bigint)
    UNION ALL
    (SELECT seq, octet_length(payload) + coalesce(octet_length(result), 0) FROM jobpipe.finished
      WHERE seq > $1::bigint ORDER BY seq LIMIT $2::bigint)) k
 ORDER BY seq LIMIT $2::bigint
"""
EXPORT = f"""
SELECT {HOT}, error_group FROM jobpipe.tasks WHERE seq = ANY($1::bigint[])
UNION ALL SELECT {COLD}, error_group FROM jobpipe.finished WHERE seq = ANY($1::bigint[])
"""
EXPORT_ATTEMPTS = (
    f"SELECT seq, {names(ATTEMPT)} FROM jobpipe.attempts WHERE seq = ANY($1::bigint[]) ORDER BY seq, n"
)
# $1 ids in the order of acceptance, $2 the accept id; answers those that were free, with their place in the order.
IMPORT_IDS = """
WITH new AS MATERIALIZED (
    SELECT nextval('jobpipe.seqs') AS seq, v.id FROM unnest($1::text[]) WITH ORDINALITY AS v(id, n) ORDER BY n)
INSERT INTO jobpipe.ids (id, seq, accept) SELECT id, seq, $2::bigint FROM new ORDER BY id
    ON CONFLICT (id) DO NOTHING RETURNING id, seq
"""
WAITING = IMPORTED
FINISHED = {**IMPORTED, **{name: READ[name] for name in AT_END}}
ATTEMPTED = {"seq": "bigint", "n": "bigint", **ATTEMPT}
IMPORT_WAITING = f"INSERT INTO jobpipe.tasks ({names(WAITING)}) SELECT * FROM {unnest(WAITING)}"
IMPORT_FINISHED = f"INSERT INTO jobpipe.finished ({names(FINISHED)}) SELECT * FROM {unnest(FINISHED)}"
IMPORT_ATTEMPTS = f"INSERT INTO jobpipe.attempts ({names(ATTEMPTED)}) SELECT * FROM {unnest(ATTEMPTED)}"
