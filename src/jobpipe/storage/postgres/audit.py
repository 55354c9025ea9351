"""Kept counts beside the rows that they count: a bounded look while a server works, all of them for people who ask.

Rows and counts change in the same commit, so that one statement, which sees one moment, compares them exactly while
everybody goes on. What is missing is added as any other rise; a lock keeps two from adding it twice.
"""

from __future__ import annotations

from jobpipe.storage.base import AUDITED_LEVELS, AUDITED_ROWS, Miscount
from jobpipe.storage.postgres.link import Link, Row
from jobpipe.storage.postgres.rows import STATUSES

COMPARE_S = 900.0
"""Reading every row may take so long."""
_LOCK = "SELECT pg_advisory_xact_lock(hashtext('jobpipe.counts'), 0)"
_TRY = "SELECT pg_try_advisory_xact_lock(hashtext('jobpipe.counts'), 0)"
_SUMS = "SELECT queue, status, sum(n)::bigint AS n FROM jobpipe.counts GROUP BY 1, 2 HAVING sum(n) <> 0"
_PUT = """
put AS (
    INSERT INTO jobpipe.counts (writer, queue, status, priority, n)
    SELECT 0, queue, status, 0, there - counted FROM wrong)
"""
_TOLD = "SELECT queue, status, counted, there FROM wrong ORDER BY 1, 2"

# $1 after which queue to begin, $2 how many, $3 how many rows of each. The queues that rows have are found by one seek
# each, from one to the next; those that are only counted come along as far as these reach.
_LOOK = f"""
WITH RECURSIVE found AS (
    (SELECT queue, 1 AS k FROM jobpipe.tasks WHERE status = 0 AND queue > $1::text ORDER BY queue LIMIT 1)
    UNION ALL
    SELECT next.queue, found.k + 1 FROM found CROSS JOIN LATERAL (
        SELECT queue FROM jobpipe.tasks WHERE status = 0 AND queue > found.queue ORDER BY queue LIMIT 1) next
     WHERE found.k < $2::bigint),
last AS MATERIALIZED (SELECT queue FROM found WHERE k = $2::bigint),
counted AS MATERIALIZED ({_SUMS}),
named AS (
    SELECT queue FROM found
    UNION SELECT queue FROM counted c WHERE status = 0 AND queue > $1::text
             AND NOT EXISTS (SELECT FROM last WHERE c.queue > last.queue)),
waiting AS (
    SELECT l.queue, 0::smallint AS status, coalesce(c.n, 0) AS counted, there.n AS there
      FROM named l LEFT JOIN counted c ON c.status = 0 AND c.queue = l.queue
     CROSS JOIN LATERAL (SELECT count(*) AS n FROM (
        SELECT FROM jobpipe.tasks k WHERE k.status = 0 AND k.queue = l.queue LIMIT $3::bigint + 1) r) there),
run AS MATERIALIZED (SELECT queue FROM jobpipe.tasks WHERE status = 1 LIMIT $3::bigint + 1),
running AS (
    SELECT coalesce(c.queue, r.queue) AS queue, 1::smallint AS status, coalesce(c.n, 0) AS counted,
           coalesce(r.n, 0) AS there
      FROM (SELECT * FROM counted WHERE status = 1) c
      FULL JOIN (SELECT queue, count(*) AS n FROM run GROUP BY queue) r USING (queue)
     WHERE (SELECT count(*) FROM run) <= $3::bigint),
gone AS (
    SELECT queue, status, n AS counted, 0::bigint AS there FROM counted
     WHERE status >= 2 AND NOT EXISTS (SELECT FROM jobpipe.finished)),
wrong AS MATERIALIZED (
    SELECT * FROM waiting WHERE counted <> there AND (there <= $3::bigint OR counted < there)
    UNION ALL SELECT * FROM running WHERE counted <> there
    UNION ALL SELECT * FROM gone),
{_PUT}
SELECT queue, status, counted, there, false AS reached FROM wrong
UNION ALL SELECT queue, 0, 0, 0, true FROM last
"""
_ALL = """
WITH wrong AS MATERIALIZED (
    SELECT queue, status, sum(c)::bigint AS counted, sum(t)::bigint AS there FROM (
        SELECT queue, status, n AS c, 0 AS t FROM jobpipe.counts
        UNION ALL SELECT queue, status, 0, count(*) FROM jobpipe.tasks GROUP BY 1, 2
        UNION ALL SELECT queue, status, 0, count(*) FROM jobpipe.finished GROUP BY 1, 2) every
     WHERE $1::boolean OR status < 2
     GROUP BY 1, 2 HAVING sum(c) <> sum(t))
"""
_COMPARE = f"{_ALL} {_TOLD}"
_REPAIR = f"{_ALL}, {_PUT} {_TOLD}"
_MANY = "SELECT count(*) FROM (SELECT FROM jobpipe.{table} LIMIT $1::bigint + 1) r"


class Audit:
    """A look at some queues at a time, the next ones at the next call."""

    def __init__(self) -> None:
        self._after = ""

    async def look(self, link: Link) -> list[Miscount]:
        """Compare, and put right what cannot be; what it was. Nothing while another server does so."""
        async with link.transaction():
            if not await link.value(_TRY):
                return []
            rows = await link.rows(_LOOK, self._after, AUDITED_LEVELS, AUDITED_ROWS)
        reached = [row for row in rows if row["reached"]]
        self._after = reached[0]["queue"] if reached else ""
        wrong = [row for row in rows if not row["reached"]]
        return [_miscount(row) for row in sorted(wrong, key=lambda row: (row["status"], row["queue"]))]


async def is_small(link: Link, table: str, limit: int) -> bool:
    """Whether a table has no more than `limit` rows."""
    return bool(await link.value(_MANY.format(table=table), limit) <= limit)


async def compare(link: Link, *, finished: bool) -> list[Miscount]:
    """The counts that are not what the rows say, of finished tasks too or not; reads every row of them."""
    return [_miscount(row) for row in await link.rows(_COMPARE, finished, timeout=COMPARE_S)]


async def repair(link: Link) -> list[Miscount]:
    """Make all counts true, beside servers that work; what was wrong."""
    async with link.transaction():
        await link.rows(_LOCK)
        return [_miscount(row) for row in await link.rows(_REPAIR, True, timeout=COMPARE_S)]


def _miscount(row: Row) -> Miscount:
    return Miscount(row["queue"], STATUSES[row["status"]], None, row["counted"], row["there"])
