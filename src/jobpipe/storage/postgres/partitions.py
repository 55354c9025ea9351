"""The partitions of finished tasks: made ahead of time, taken out whole, swept up in batches.

Each covers four hours of the database's time and is named after their beginning. Locks that would hold others up are
asked for a moment only: what does not get them tries again later.
"""

from __future__ import annotations

import logging

from jobpipe.core.errors import StorageError
from jobpipe.storage.postgres import statements as sql
from jobpipe.storage.postgres.link import Gone, Link, Refused, Row

log = logging.getLogger("jobpipe.storage")

WIDTH_MS = 4 * 3600 * 1000
AHEAD = 3
"""So many are made from the current one on."""
COUNT_S = 600.0
"""Counting a large partition may take so long; it holds nobody up."""
SWEPT_BLOCKS = 100
"""Pages of a partition that was taken out whose ids are freed in one commit."""


class Partitions:
    """What is known of them; the catalogue alone is the truth."""

    def __init__(self) -> None:
        self._made_until = 0
        self._swept: dict[str, int] = {}

    async def prepare(self, link: Link, now: int) -> None:
        """Have partitions for now and the next hours. Without one, finished tasks lie in the rest: slower to prune."""
        first = now // WIDTH_MS * WIDTH_MS
        if self._made_until > first + WIDTH_MS:
            return
        there = await self._names(link)
        for start in range(first, first + AHEAD * WIDTH_MS, WIDTH_MS):
            if f"ended_{start}" not in there:
                await self._make(link, start)
        self._made_until = first + AHEAD * WIDTH_MS

    async def oldest_end(self, link: Link) -> int | None:
        """When the time of the oldest partition is over."""
        starts = [_start(name) for name in await self._names(link)]
        return min(starts) + WIDTH_MS if starts else None

    async def take_out(self, link: Link, before: int) -> list[Row] | None:
        """Within a transaction: take the oldest out if its time ended before `before`; the counts that went with it.

        None when there is none. Raises StorageError when others would not let go of it for a moment.
        """
        old = [name for name in await self._names(link) if _start(name) + WIDTH_MS <= before]
        if not old:
            return None
        name = min(old, key=_start)
        await link.script(
            f"SET LOCAL lock_timeout = 200; SET LOCAL statement_timeout = {int(COUNT_S * 1000)};"
            f"{await _as_owner(link)}"
            f" SET LOCAL enable_seqscan = on; LOCK TABLE jobpipe.{name} IN SHARE ROW EXCLUSIVE MODE"
        )
        counted = await link.rows(sql.COUNT_PARTITION.format(name=name), timeout=COUNT_S)
        await link.script(
            f"ALTER TABLE jobpipe.finished_ended DETACH PARTITION jobpipe.{name};"
            f" ALTER TABLE jobpipe.{name} RENAME TO swept_{_start(name)}"
        )
        return counted

    async def sweep(self, link: Link) -> bool:
        """Free the ids of one batch of what was taken out; whether there was anything to do."""
        names = await link.rows(sql.SWEPT)
        if not names:
            return False
        name = str(names[0]["name"])
        at = self._swept.get(name, 0)
        if at < names[0]["blocks"]:
            await link.rows(sql.SWEEP.format(name=name), f"({at},0)", f"({at + SWEPT_BLOCKS},0)")
            self._swept[name] = at + SWEPT_BLOCKS
        else:
            async with link.transaction():
                await link.script(f"{await _as_owner(link)} DROP TABLE IF EXISTS jobpipe.{name}")
            self._swept.pop(name, None)
        return True

    async def _names(self, link: Link) -> set[str]:
        return {str(row["name"]) for row in await link.rows(sql.PARTITIONS)}

    async def _make(self, link: Link, start: int) -> None:
        try:
            async with link.transaction():
                await link.script(
                    f"SET LOCAL lock_timeout = 200;{await _as_owner(link)}"
                    f" CREATE TABLE IF NOT EXISTS jobpipe.ended_{start} PARTITION OF jobpipe.finished_ended"
                    f" FOR VALUES FROM ({start}) TO ({start + WIDTH_MS})"
                )
        except Gone:
            raise
        except (StorageError, Refused) as error:
            # Another server makes it, somebody reads the table for long, or tasks of that time lie in the rest already.
            log.debug("no partition from %d on: %s", start, error)


async def _as_owner(link: Link) -> str:
    """SQL by which a role that is not the owner, but one of its members, leaves the partitions to the owner."""
    return str(await link.value(sql.AS_OWNER) or "")


def _start(name: str) -> int:
    return int(name.rpartition("_")[2])
