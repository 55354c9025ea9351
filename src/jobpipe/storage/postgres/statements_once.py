"""SQL of what only some tasks have: unique keys and expiry; and who would not honour them. As in statements.py."""

from __future__ import annotations

from jobpipe.core.steering import CANCELLED
from jobpipe.storage.postgres.columns import BOTH, COLD, HOT, literals, names


def freed(rows: str, where: str) -> str:
    """The keys that some rows of tasks had: not looked at where none had one. By an array, so that it is no join."""
    return f"DELETE FROM jobpipe.unique_keys WHERE {where} seq = ANY(ARRAY(SELECT seq FROM {rows}))"


# Who has each of the unique keys $1-$2: a NULL id says that the key is free all the same. (A server of an earlier
# version that ends a task leaves its key behind.)
KEY_HOLDERS = f"""
SELECT u.handler AS of_handler, u.key AS name, u.seq AS holder, k.*
  FROM unnest($1::text[], $2::text[]) AS v(handler, key)
  JOIN jobpipe.unique_keys u ON u.handler = v.handler AND u.key = v.key
  LEFT JOIN LATERAL (SELECT {HOT}
                       FROM jobpipe.tasks WHERE seq = u.seq
                     UNION ALL SELECT {COLD} FROM jobpipe.finished WHERE seq = u.seq AND u.until IS NOT NULL
                     LIMIT 1) k
    ON u.until IS NULL OR u.until > jobpipe.now_ms()
"""
# The waiting tasks that have them, for nobody else to begin until the commit.
LOCK_HOLDERS = """
SELECT seq FROM jobpipe.tasks
 WHERE status = 0 AND seq = ANY(ARRAY(
    SELECT u.seq FROM unnest($1::text[], $2::text[]) AS v(handler, key)
      JOIN jobpipe.unique_keys u ON u.handler = v.handler AND u.key = v.key))
 ORDER BY seq FOR UPDATE
"""
FREE_KEYS = """
DELETE FROM jobpipe.unique_keys u USING unnest($1::text[], $2::text[], $3::bigint[]) AS v(handler, key, seq)
 WHERE u.handler = v.handler AND u.key = v.key AND u.seq = v.seq
"""
# In this order, as the ids. Answers how many have their keys now; a retry may find its own.
TAKE_KEYS = """
WITH taken AS (
    INSERT INTO jobpipe.unique_keys AS u (handler, key, seq, until, at_start)
    SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bool[])
        ON CONFLICT (handler, key) DO UPDATE SET until = excluded.until, at_start = excluded.at_start
        WHERE u.seq = excluded.seq
    RETURNING 1)
SELECT count(*) FROM taken
"""


# Whether a server is here whose program is older than that of schema $1.
OLDER = """
SELECT EXISTS (SELECT FROM jobpipe.servers
                WHERE coalesce(program, 0) < $1::int AND alive_until >= jobpipe.now_ms())
"""

# Up to $1 waiting tasks that must not be claimed any more; another server's alarm takes others.
EXPIRED = f"""
SELECT {HOT}, jobpipe.now_ms() AS now FROM jobpipe.tasks
 WHERE status = 0 AND expires_at IS NOT NULL AND expires_at <= jobpipe.now_ms()
 ORDER BY expires_at LIMIT $1::bigint FOR UPDATE SKIP LOCKED
"""
_EXPIRED = literals(CANCELLED) | {"last_error": "v.error", "error_type": "v.type", "error_group": "v.grouped"}
# $1 their seqs, $2-$4 error, its type and group, $5 the time.
EXPIRE = f"""
WITH moved AS (DELETE FROM jobpipe.tasks WHERE seq = ANY($1::bigint[]) RETURNING *),
freed AS ({freed("moved WHERE uniqueness IS NOT NULL", "until IS NULL AND")})
INSERT INTO jobpipe.finished ({names(BOTH)}, finished_at)
SELECT {names(BOTH, **_EXPIRED)}, $5::bigint
  FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[]) AS v(at_seq, error, type, grouped)
  JOIN moved ON moved.seq = v.at_seq
"""
NEXT_EXPIRING = "SELECT min(expires_at) FROM jobpipe.tasks WHERE status = 0 AND expires_at IS NOT NULL"
