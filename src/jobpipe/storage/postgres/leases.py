"""How long claims hold: extending, and finding those whose holder is gone.

A claim of a worker elsewhere ends with `lease_until`. One of this server's own workers ends with the server: its lease
is the server's own row, renewed by one small statement whatever number of tasks runs.
"""

from __future__ import annotations

from collections.abc import Sequence

from jobpipe.core.errors import LeaseLost
from jobpipe.storage.base import Extended, Extension, LostClaim
from jobpipe.storage.postgres import statements as sql
from jobpipe.storage.postgres.link import Link, Row, arrays
from jobpipe.storage.postgres.rows import task_of
from jobpipe.storage.postgres.shared import Shared
from jobpipe.storage.postgres.steps import keep_time


class Leases:
    """Leases on the database's clock."""

    def __init__(self, shared: Shared) -> None:
        self._s = shared

    async def extend(self, link: Link, extensions: Sequence[Extension]) -> list[Extended | LeaseLost]:
        """Prolong those that hold; of several for one claim the last counts."""
        wanted = {
            (seq_of(asked.lease_id), asked.id, asked.lease_id): round(asked.lease_s * 1000)
            for asked in extensions
            if "\0" not in asked.id
        }
        self._s.longest_lease_ms = max(self._s.longest_lease_ms, *wanted.values(), 0)
        rows = sorted((*key, ms) for key, ms in wanted.items() if key[0] >= 0)
        held = await link.rows(sql.EXTEND, *arrays(rows, 4)) if rows else []
        by_claim = {(row["id"], row["lease_id"]): row for row in held}
        return [self._extended(asked, by_claim.get((asked.id, asked.lease_id))) for asked in extensions]

    def _extended(self, asked: Extension, row: Row | None) -> Extended | LeaseLost:
        if row is None:
            return LeaseLost(f"task '{asked.id}' is no longer claimed with this lease")
        until = None if row["endless"] else self._s.clock.now() + round(asked.lease_s * 1000)
        return Extended(until, row["cancel_requested"])

    async def lost(self, link: Link, limit: int) -> list[LostClaim]:
        """Claims whose holder is gone, the longest gone first."""
        await keep_time(self._s, link)
        rows = await link.rows(sql.LOST, self._s.server, limit)
        return [LostClaim(task_of(row), row["lease_id"], row["orphaned"], row["ran"] / 1000) for row in rows]

    async def next_expiry(self, link: Link) -> float | None:
        """Seconds until a claim is lost."""
        ms = await link.value(sql.NEXT_EXPIRY, self._s.server)
        return None if ms is None else max(0.0, ms / 1000)


def seq_of(lease_id: str) -> int:
    """The seq that a lease id ends with; -1 for what is no lease id of ours."""
    tail = lease_id.rpartition(".")[2]
    return (
        int(tail) if tail.isascii() and tail.isdecimal() and len(tail) < 19 and "\0" not in lease_id else -1
    )
