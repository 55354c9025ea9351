"""The kept counts over all servers: how many tasks each queue and status has, without ever counting rows.

Each writing connection is a writer of its own, whose share it knows exactly; the others' shares are read when they are
older than a tenth of a second. A connection that is lost takes its writer along: what that wrote, and whether, is read
from then on like everybody else's, so that no outcome must be guessed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import TypeVar

from jobpipe.core.steering import Standing
from jobpipe.core.task import Status
from jobpipe.storage.postgres import statements as sql
from jobpipe.storage.postgres.link import Link
from jobpipe.storage.postgres.rows import NUMBER, STATUSES

log = logging.getLogger("jobpipe.storage")

FRESH_S = 0.1
"""The others' share is read anew when it is older."""
READS = 3
"""A connection that is made anew meanwhile makes what was read useless; another read follows, so many at most."""

NOBODY = -1
"""No writer: of a lane between two connections."""

_K = TypeVar("_K")
Kept = tuple[str, Status]
"""Queue and status of tasks that are counted together here."""


class Counts:
    """The sums, and what of them each writer of this server added."""

    def __init__(self) -> None:
        self._mine: dict[int, dict[Kept, int]] = {}
        self._lanes: dict[str, int] = {}
        self._read_at = float("-inf")
        self._n: dict[Kept, int] = {}
        self._queued: dict[str, int] = {}
        self._total: dict[str, int] = {}
        self.written = 0
        """Rows that were added since they were folded."""

    @property
    def writers(self) -> list[int]:
        """The writers of this server's connections."""
        return list(self._lanes.values())

    def writer(self, lane: str) -> int:
        """Under which a lane writes."""
        return self._lanes[lane]

    def enter(self, lane: str, writer: int) -> None:
        """A lane has a new connection; what its last one wrote is the others' from now on."""
        self._mine.pop(self._lanes.get(lane, 0), None)
        self._lanes[lane] = writer
        self._mine[writer] = {}
        self._read_at = float("-inf")

    def leave(self) -> None:
        """All connections were ended: what they wrote is read like the others' share from now on."""
        self._mine.clear()
        self._lanes = dict.fromkeys(self._lanes, NOBODY)
        self._read_at = float("-inf")

    async def freshen(self, link: Link) -> None:
        """Read the others' share unless it is fresh: once a call, however old it is when it arrives."""
        now = asyncio.get_running_loop().time()
        if now - self._read_at <= FRESH_S:
            return None
        for _ in range(READS):
            writers = self.writers
            rows = await link.rows(sql.OTHERS, writers)
            if writers == self.writers:
                self._read_at = now
                return self._load([((row["queue"], STATUSES[row["status"]]), row["n"]) for row in rows])
        return None

    async def correct_own(self, lane: str, link: Link) -> None:
        """Have a lane's share be what the database holds; asked over the lane, nothing of which is under way then.

        Somebody may have deleted it, and whoever put the sums right counted it as the others'.
        """
        writer = self._lanes[lane]
        rows = await link.rows(sql.SHARE, writer)
        there = {(row["queue"], STATUSES[row["status"]]): row["n"] for row in rows}
        if self._mine.get(writer, there) != there:
            log.warning("counts that this server had written are gone; it goes by what is there")
            self._mine[writer] = there
            self._read_at = float("-inf")

    def add_all(self, lane: str, rises: Mapping[Standing, int]) -> None:
        """A commit of this lane changed so many tasks."""
        mine = self._mine.get(self._lanes[lane])
        if mine is None:  # its connection was ended meanwhile: what it wrote is read
            return
        summed = by_queue(rises)
        for standing, n in summed.items():
            _bump(mine, standing, n)
            self._add(standing, n)
        self.written += len(summed)

    def queued(self, queue: str) -> int:
        """How many tasks of `queue` are queued, future ones included."""
        return self._queued.get(queue, 0)

    @property
    def queues(self) -> dict[str, int]:
        """All queue names that hold tasks, with the number of their tasks of any status."""
        return self._total

    def by_status(self) -> dict[Status, int]:
        """The sums by status, over all queues. What this server claimed of tasks that another one accepted since the
        last reading is taken from a sum that they are not in yet: no sum is below 0."""
        sums = dict.fromkeys(STATUSES, 0)
        for (_, status), n in self._n.items():
            sums[status] += max(0, n)
        return sums

    def by_queue(self) -> dict[str, dict[Status, int]]:
        """The sums by status of every queue; none is below 0, as in `by_status`."""
        sums = {queue: dict.fromkeys(STATUSES, 0) for queue in sorted(self._total)}
        for (queue, status), n in self._n.items():
            if queue in sums:
                sums[queue][status] += max(0, n)
        return sums

    def _load(self, others: Iterable[tuple[Kept, int]]) -> None:
        self._n, self._queued, self._total = {}, {}, {}
        for standing, n in others:
            self._add(standing, n)
        for mine in self._mine.values():
            for standing, n in mine.items():
                self._add(standing, n)

    def _add(self, standing: Kept, n: int) -> None:
        queue, status = standing
        _bump(self._n, standing, n)
        _bump(self._total, queue, n)
        if status is Status.QUEUED:
            _bump(self._queued, queue, n)


def by_queue(rises: Mapping[Standing, int]) -> dict[Kept, int]:
    """Rises without regard to priority: of those there may be as many as tasks."""
    summed: dict[Kept, int] = {}
    for (queue, _, status), n in rises.items():
        summed[queue, status] = summed.get((queue, status), 0) + n
    return summed


def columns(rises: Mapping[Standing, int]) -> tuple[list[str], list[int], list[int]]:
    """Rises as the arguments of KEEP_COUNTS."""
    summed = by_queue(rises)
    return [queue for queue, _ in summed], [NUMBER[status] for _, status in summed], list(summed.values())


def _bump(counter: dict[_K, int], key: _K, n: int) -> None:
    left = counter.get(key, 0) + n
    if left:
        counter[key] = left
    else:
        counter.pop(key, None)
