"""Forgetting finished tasks: by whole partitions where they are kept for long, else row by row in small batches.

A partition that is wholly too old is taken out of the table in one short commit; the ids and attempts of its tasks are
swept up afterwards in batches, and until then an id of it counts as free, because no task stands behind it.
"""

from __future__ import annotations

from collections import Counter

from jobpipe.core.errors import StorageError
from jobpipe.core.steering import Standing
from jobpipe.core.task import Status
from jobpipe.storage.postgres import statements as sql
from jobpipe.storage.postgres.counts import columns
from jobpipe.storage.postgres.link import Gone, Link
from jobpipe.storage.postgres.partitions import WIDTH_MS, Partitions
from jobpipe.storage.postgres.rows import NUMBER, STATUSES
from jobpipe.storage.postgres.shared import Shared

LANE = "upkeep"
WHOLE_FROM_MS = 3 * WIDTH_MS
"""Kept at least so long, tasks go by whole partitions, and so up to one width later than asked."""


class Pruning:
    """The pruner's side of the store. Times are the caller's wall clock."""

    def __init__(self, shared: Shared, partitions: Partitions) -> None:
        self._s = shared
        self._partitions = partitions
        self._whole = False
        """Whether the latest call was about tasks that go by whole partitions."""

    async def prune(
        self, link: Link, finished_before: int | None, failed_before: int | None, limit: int
    ) -> int:
        """As the contract says; a partition counts as many as a full batch, so that the next call comes soon."""
        time = self._s.time
        time.observe(await link.value(sql.NOW))
        finished, failed = time.there(finished_before), time.there(failed_before)
        self._whole = finished is not None and time.now() - finished >= WHOLE_FROM_MS
        whole = finished if self._whole else None
        if whole is not None and (await self._drop(link, whole) or await self._partitions.sweep(link)):
            return limit
        return await self._delete_rows(link, finished, failed, limit)

    async def next_prunable(self, link: Link) -> tuple[int | None, int | None]:
        """As the contract says; for a partition that goes whole, when its time is over."""
        oldest = [await link.value(sql.OLDEST_FINISHED, NUMBER[s]) for s in (Status.DONE, Status.CANCELLED)]
        done = min((at for at in oldest if at is not None), default=None)
        if self._whole and done is not None:
            done = max(done, await self._partitions.oldest_end(link) or done)
        failed = await link.value(sql.OLDEST_FINISHED, NUMBER[Status.FAILED])
        return self._s.time.here(done), self._s.time.here(failed)

    async def _delete_rows(self, link: Link, finished: int | None, failed: int | None, limit: int) -> int:
        moved: Counter[Standing] = Counter()
        seqs: list[int] = []
        async with link.transaction():
            for status in (Status.DONE, Status.CANCELLED, Status.FAILED):
                before = failed if status is Status.FAILED else finished
                if before is None or len(seqs) >= limit:
                    continue
                statement = sql.PRUNABLE_REST if self._whole and status is not Status.FAILED else sql.PRUNABLE
                for row in await link.rows(statement, NUMBER[status], before, limit - len(seqs)):
                    seqs.append(row["seq"])
                    moved[(row["queue"], row["priority"], status)] -= 1
            if seqs:
                await link.rows(sql.DELETE, seqs)
                await link.rows(sql.KEEP_COUNTS, self._s.counts.writer(LANE), *columns(moved))
        if seqs:
            self._s.counts.add_all(LANE, moved)
        return len(seqs)

    async def _drop(self, link: Link, before: int) -> bool:
        """Take the oldest partition out if it is wholly too old; whether there was one."""
        moved: Counter[Standing] = Counter()
        try:
            async with link.transaction():
                rows = await self._partitions.take_out(link, before)
                for row in rows or ():
                    moved[(row["queue"], 0, STATUSES[row["status"]])] -= row["n"]
                if moved:
                    await link.rows(sql.KEEP_COUNTS, self._s.counts.writer(LANE), *columns(moved))
        except Gone:
            raise
        except StorageError:
            return False  # somebody reads the table for long: a later call tries again
        self._s.counts.add_all(LANE, moved)
        return rows is not None
