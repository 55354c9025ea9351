"""Steps of the database's clock: told apart from the passing of time by this server's monotonic clock, and made good.

The database's clock judges, so that a step of it would end leases whose workers are well, and make wait what is due.
The first server that sees a step gives leases what they had left, at most a whole one, and moves what waits; the others
wait for that, and find it done.
"""

from __future__ import annotations

import logging

from jobpipe.storage.postgres import statements as sql
from jobpipe.storage.postgres.link import Link
from jobpipe.storage.postgres.shared import Shared

log = logging.getLogger("jobpipe.storage")

SAME_MS = 30_000
"""Servers see the same step within so long of each other."""

# $1 the database's time, $2 the step, both in ms, $3 what a lease has at most. Those that had ended before are left.
_LEASES = """
UPDATE jobpipe.tasks SET lease_until = CASE WHEN $2::bigint > 0
       THEN greatest(lease_until, least(lease_until + $2::bigint, $1::bigint + $3::bigint))
       ELSE least(lease_until, $1::bigint + $3::bigint) END
 WHERE status = 1 AND lease_until > $1::bigint - greatest($2::bigint, 0)
"""
_SERVERS = """
UPDATE jobpipe.servers SET alive_until = CASE WHEN $2::bigint > 0
       THEN greatest(alive_until, least(alive_until + $2::bigint, $1::bigint + $3::bigint))
       ELSE least(alive_until, $1::bigint + $3::bigint) END
 WHERE alive_until > $1::bigint - greatest($2::bigint, 0)
"""
_FIRST = """
UPDATE jobpipe.lineage SET stepped_at = $1::bigint, step = $2::bigint
 WHERE abs(stepped_at - $1::bigint) > $3::bigint OR abs(step - $2::bigint) > 5000 RETURNING 1
"""
# After a step back: what was due stays so, what was not waits as long as before.
_WAITING = """
UPDATE jobpipe.tasks
   SET run_at = CASE WHEN run_at > $1::bigint - $2::bigint THEN run_at + $2::bigint ELSE $1::bigint END
 WHERE status = 0 AND run_at > $1::bigint
"""


async def keep_time(shared: Shared, link: Link) -> None:
    """Ask the database for its time, and make good what a step of it would do: before anything is judged by it."""
    began = shared.clock.monotonic()
    now = await link.value(sql.NOW)
    step = shared.time.measured(began, shared.clock.monotonic(), now)
    if step:
        log.warning(
            "the database's clock went %+.1f s against this server's: it was set, it is another machine's, or this"
            " one slept; leases keep what they had left", step / 1000,
        )  # fmt: skip
        await _make_good(shared, link, now, step)


async def _make_good(shared: Shared, link: Link, now: int, step: int) -> None:
    async with link.transaction():
        if await link.rows(_FIRST, now, step, SAME_MS):
            await link.rows(_SERVERS, now, step, shared.alive_ms)
            await link.rows(_LEASES, now, step, shared.longest_lease_ms)
            if step < 0:
                await link.rows(_WAITING, now, step)
    shared.levels.forget()
